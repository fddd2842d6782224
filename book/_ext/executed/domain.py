"""Where equations and claims are, and what is wrong with them when all pages have been read."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from docutils.nodes import Element, reference
from sphinx.addnodes import pending_xref
from sphinx.builders import Builder
from sphinx.domains import Domain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

from .ledger import LEDGER, problems

logger = logging.getLogger(__name__)


def anchor(kind: str, number: str) -> str:
    """The id of a numbered thing on its page: `anchor("eq", "3.2")` is `eq-3-2`."""
    return f"{kind}-{number.replace('.', '-')}"


def note_target(env: BuildEnvironment, id: str, text: str) -> None:
    """Let `[text](page.ipynb#id)` lead to an id of this page, as MyST does for headings."""
    env.metadata[env.docname].setdefault("myst_slugs", {})[id] = (None, id, text)


def stem(docname: str) -> str:
    """The last part of a page's name, which is how the ledger names a chapter."""
    return PurePosixPath(docname).name


class BookDomain(Domain):
    """Equations by their tag, figures by their number and claims by their id, on all pages."""

    name = "book"
    label = "Optimization, Executed"
    # The tables go from a page's name to what is on it, so that a page can be forgotten.
    initial_data = {"equations": {}, "figures": {}, "claims": {}}
    dangling_warnings = {
        "equation": "there is no equation (%(target)s)",
        "figure": "there is no figure %(target)s",
        "claim": "there is no claim %(target)s",
    }

    @property
    def equations(self) -> dict[str, list[str]]:
        return self.data["equations"]

    @property
    def figures(self) -> dict[str, list[str]]:
        return self.data["figures"]

    @property
    def claims(self) -> dict[str, list[dict]]:
        return self.data["claims"]

    def clear_doc(self, docname: str) -> None:
        for table in self.initial_data:
            self.data[table].pop(docname, None)

    def merge_domaindata(self, docnames: set[str], otherdata: dict) -> None:
        for table in self.initial_data:
            for docname in docnames & otherdata[table].keys():
                self.data[table][docname] = otherdata[table][docname]

    def resolve_xref(
        self,
        env: BuildEnvironment,
        fromdocname: str,
        builder: Builder,
        typ: str,
        target: str,
        node: pending_xref,
        contnode: Element,
    ) -> reference | None:
        id = anchor("eq" if typ == "equation" else typ, target)
        pages = {
            "equation": self.equations,
            "figure": self.figures,
            "claim": {name: [c["id"] for c in page] for name, page in self.claims.items()},
        }[typ]
        # Of two pages with parts of one claim the chapter, and not an appendix, is meant.
        for docname in sorted(pages, key=lambda docname: stem(docname) not in LEDGER):
            if target in pages[docname]:
                return make_refnode(builder, fromdocname, docname, id, contnode)
        return None

    def resolve_any_xref(self, *args) -> list:
        return []  # an equation or a claim is only ever referred to as such

    def check_consistency(self) -> None:
        for name, table in {"equation tag (%s)": self.equations, "figure %s": self.figures}.items():
            uses = Counter(number for page in table.values() for number in page)
            for docname, page in table.items():
                for number in sorted({number for number in page if uses[number] > 1}):
                    logger.warning(f"{name} is used more than once", number, location=docname)
        pages = {stem(name): name for name in self.env.found_docs}
        named = Counter(map(stem, self.env.found_docs))
        for chapter in (name for name in LEDGER if named[name] > 1):
            logger.warning("two pages have a chapter's name, %s", chapter, location=pages[chapter])
        checked = {stem(name): {c["id"] for c in page} for name, page in self.claims.items()}
        for chapter, problem in problems(LEDGER, set(pages), checked):
            logger.warning(problem, location=pages[chapter])
