"""The executed claims: their lines on a chapter's page, and the table of all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .crossrefs import linked
from .domain import anchor, note_target, stem
from .ledger import LEDGER

logger = logging.getLogger(__name__)


def mark(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the output of each `check` by a line with an anchor and the measured number.

    The doctree has lost the outputs' metadata, so they are read from the executed notebook, which
    myst-nb has just written. Outputs and nodes are matched by cell and order.
    """
    docname = app.env.docname
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    path = Path(app.env.mystnb_config.output_folder, f"{docname}.ipynb")
    notebook = nbformat.read(path, as_version=4)
    cells = {
        node["cell_index"]: node
        for node in doctree.findall(nodes.container)
        if node.get("nb_element") == "cell_code"
    }
    parts: Counter[str] = Counter()
    found = []
    for index, cell in enumerate(notebook.cells):
        displays = [out for out in cell.get("outputs", []) if "data" in out and out.data]
        lines = _bundles(cells[index]) if index in cells else []
        for i, output in enumerate(displays):
            if "claim" not in output.metadata:
                continue
            claim = dict(output.metadata["claim"])
            if i >= len(lines):
                logger.warning("claim %s has no visible line", claim["id"], location=docname)
                continue
            parts[claim["id"]] += 1
            part = parts[claim["id"]]
            claim["anchor"] = anchor("claim", claim["id"]) + (f"-{part}" if part > 1 else "")
            lines[i].replace_self(_line(claim))
            note_target(app.env, claim["anchor"], f"Claim {claim['id']}")
            found.append(claim)
    if found:
        app.env.get_domain("book").claims[docname] = found


def _bundles(cell: nodes.container) -> list[nodes.container]:
    return [n for n in cell.findall(nodes.container) if n.get("nb_element") == "mime_bundle"]


def _line(claim: dict) -> nodes.container:
    numbers = f"measured {_number(claim['measured'])}, bound {claim['bound']}"
    return nodes.container(
        "",
        nodes.paragraph(
            "",
            "",
            nodes.inline("", "✓", classes=["claim-tick"]),
            nodes.Text(" "),
            nodes.strong("", f"Claim {claim['id']}", classes=["claim-id"]),
            nodes.Text(f" {claim['sentence']} "),
            nodes.inline("", numbers, classes=["claim-numbers"]),
        ),
        classes=["claim-line"],
        ids=[claim["anchor"]],
    )


def _number(measured: float) -> str:
    return f"{measured:.4g}"


class ClaimsTable(nodes.General, nodes.Element):
    """Stands where the table goes until every page has been read."""


class VerifiedClaims(SphinxDirective):
    """`verified-claims`: all claims by chapter, with the chapters' run times."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # other pages fill it
        return [ClaimsTable()]


class FillTables(SphinxPostTransform):
    """Put the claims where the directive stands."""

    default_priority = 5  # before Sphinx resolves the references, which the sentences may hold

    def run(self, **kwargs) -> None:
        for placeholder in list(self.document.findall(ClaimsTable)):
            placeholder.replace_self(_report(self.app, self.env.docname))


def _report(app: Sphinx, fromdocname: str) -> list[nodes.Node]:
    claims = app.env.get_domain("book").claims
    pages = {stem(docname): docname for docname in claims}
    seconds = {docname: _seconds(app, docname) for docname in claims}
    checks = [claim for page in claims.values() for claim in page]
    total = (
        f"{len({claim['id'] for claim in checks})} claims in {len(checks)} checks, "
        f"executed on {len(claims)} pages in {sum(seconds.values()):.0f} s."
    )
    report: list[nodes.Node] = [nodes.paragraph("", total, classes=["claims-total"])]
    for name, chapter in LEDGER.items():
        if name not in pages:
            continue
        number = str(chapter["number"])
        of_chapter = [
            (claim, docname)
            for docname in sorted(claims, key=lambda docname: stem(docname) != name)
            for claim in claims[docname]
            if claim["id"].split(".")[0] == number
        ]
        report.append(
            nodes.section(
                "",
                nodes.title("", f"{number} {chapter['title']}"),
                nodes.paragraph("", f"Executed in {seconds[pages[name]]:.1f} s."),
                _table(app, of_chapter, fromdocname),
                ids=[f"chapter-{number}"],
            )
        )
    return report


def _seconds(app: Sphinx, docname: str) -> float:
    data = app.env.nb_metadata[docname].get("exec_data") or {}
    return data.get("runtime") or 0.0


def _table(app: Sphinx, claims: list[tuple[dict, str]], fromdocname: str) -> nodes.table:
    group = nodes.tgroup("", cols=4)
    group += [nodes.colspec(colwidth=width) for width in (8, 62, 15, 15)]
    group += nodes.thead("", _row(*(_entry(h) for h in ("Claim", "Sentence", "Measured", "Bound"))))
    body = nodes.tbody()
    for claim, docname in sorted(claims, key=lambda row: int(row[0]["id"].split(".")[1])):
        uri = app.builder.get_relative_uri(fromdocname, docname)
        link = nodes.reference("", claim["id"], internal=True, refuri=f"{uri}#{claim['anchor']}")
        body += _row(
            nodes.entry("", nodes.paragraph("", "", link)),
            nodes.entry("", nodes.paragraph("", "", *linked(claim["sentence"], fromdocname))),
            _entry(_number(claim["measured"])),
            _entry(claim["bound"]),
        )
    group += body
    return nodes.table("", group, classes=["claims-table"])


def _entry(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", text))


def _row(*entries: nodes.entry) -> nodes.row:
    return nodes.row("", *entries)
