"""The executed claims: their lines on a chapter's page, and the table of all of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from optcore.claims import typeset

from .crossrefs import linked
from .domain import anchor, note_target, stem
from .ledger import LEDGER
from .tables import stack

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
        bundles = _bundles(cells[index]) if index in cells else []
        box = None
        for i, output in enumerate(displays):
            if "claim" not in output.metadata:
                box = None
                continue
            claim = dict(output.metadata["claim"])
            if i >= len(bundles):
                logger.warning("claim %s has no visible line", claim["id"], location=docname)
                continue
            parts[claim["id"]] += 1
            part = parts[claim["id"]]
            claim["anchor"] = anchor("claim", claim["id"]) + (f"-{part}" if part > 1 else "")
            # The claims of one cell are rows of one box, an id stands before its first part.
            if box is None:
                box = nodes.container("", classes=["claims"])
                bundles[i].replace_self(box)
                above = None
            else:
                bundles[i].parent.remove(bundles[i])
            box += line(claim, named=claim["id"] != above)
            above = claim["id"]
            note_target(app.env, claim["anchor"], f"Claim {claim['id']}")
            found.append(claim)
    if found:
        app.env.get_domain("book").claims[docname] = found


def find_figures(app: Sphinx, doctree: nodes.document) -> None:
    """Note with each claim the figure that stands nearest to it in its section."""
    figures = [
        (id.removeprefix("figure-").replace("-", "."), *_place(node))
        for node in doctree.findall(nodes.figure)
        for id in node["ids"]
        if id.startswith("figure-")
    ]
    for claim in app.env.get_domain("book").claims.get(app.env.docname, []):
        line = next(n for n in doctree.findall(nodes.container) if claim["anchor"] in n["ids"])
        section, place = _place(line)
        # Of two as near it is the one below: a claim comes before its picture.
        beside = [
            (abs(its_place - place), its_place < place, number)
            for number, its_section, its_place in figures
            if its_section is section
        ]
        if beside:
            claim["figure"] = min(beside)[-1]


def _place(node: nodes.Node) -> tuple[nodes.Node, int]:
    """The innermost section of a node, and where in it the node stands."""
    while not isinstance(node.parent, (nodes.section, nodes.document)):
        node = node.parent
    return node.parent, node.parent.index(node)


def _bundles(cell: nodes.container) -> list[nodes.container]:
    return [n for n in cell.findall(nodes.container) if n.get("nb_element") == "mime_bundle"]


def line(claim: dict, named: bool) -> nodes.container:
    """A claim's row: its id if it is named, the sentence, what was measured, the bound."""
    name = [nodes.strong("", f"Claim {claim['id']}", classes=["claim-id"])] if named else []
    tick = nodes.inline("", "✓", classes=["claim-tick"])
    return nodes.container(
        "",
        nodes.paragraph("", "", tick, nodes.Text(" "), *name, classes=["claim-name"]),
        nodes.paragraph("", "", *_typeset(claim["sentence"]), classes=["claim-sentence"]),
        nodes.paragraph(
            "",
            "",
            nodes.inline("", f"measured {claim['rounded']}", classes=["claim-measured"]),
            nodes.Text(" "),
            nodes.inline("", "", *_typeset(f"bound {claim['bound']}"), classes=["claim-bound"]),
            classes=["claim-numbers"],
        ),
        classes=["claim-line"],
        ids=[claim["anchor"]],
    )


SCRIPTS = {"sub": nodes.subscript, "sup": nodes.superscript}


def _typeset(text: str) -> list[nodes.Node]:
    return [
        SCRIPTS[kind]("", piece) if kind else nodes.Text(piece) for kind, piece in typeset(text)
    ]


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
    built = {stem(docname): docname for docname in app.env.found_docs}
    seconds = {name: _seconds(app, docname) for name, docname in built.items()}
    checks = [claim for page in claims.values() for claim in page]
    chapters = [name for name in LEDGER if name in built]
    total = (
        f"{len({claim['id'] for claim in checks})} claims in {len(checks)} checks, "
        f"{len(chapters)} chapters, executed in {sum(seconds.values()):.0f} s."
    )
    report: list[nodes.Node] = [nodes.paragraph("", total, classes=["claims-total"])]
    for name in chapters:
        chapter = LEDGER[name]
        # A claim of the chapter may stand on another page.
        rows = [
            (claim, docname)
            for docname, page in claims.items()
            for claim in page
            if claim["id"] in chapter["claims"]
        ]
        report.append(
            nodes.section(
                "",
                nodes.title("", f"{chapter['number']} {chapter['title']}"),
                nodes.paragraph("", f"Executed in {seconds[name]:.1f} s."),
                _table(app, rows, name, fromdocname),
                ids=[f"chapter-{chapter['number']}"],
            )
        )
    return report


def _seconds(app: Sphinx, docname: str) -> float:
    data = app.env.nb_metadata[docname].get("exec_data") or {}
    return data.get("runtime") or 0.0


def _table(app: Sphinx, rows: list[tuple[dict, str]], home: str, fromdocname: str) -> nodes.table:
    group = nodes.tgroup("", cols=4)
    group += [nodes.colspec(colwidth=width) for width in (10, 60, 15, 15)]
    group += nodes.thead("", _row(*(_entry(h) for h in ("Claim", "Sentence", "Measured", "Bound"))))
    body = nodes.tbody()
    for claim, docname in sorted(rows, key=lambda row: int(row[0]["id"].split(".")[1])):
        uri = app.builder.get_relative_uri(fromdocname, docname)
        link = nodes.reference("", claim["id"], internal=True, refuri=f"{uri}#{claim['anchor']}")
        sentence = []
        for piece in linked(claim["sentence"], fromdocname):
            sentence += _typeset(piece) if isinstance(piece, nodes.Text) else [piece]
        sentence += _where(claim, docname, home, app, fromdocname)
        body += _row(
            nodes.entry("", nodes.paragraph("", "", link)),
            nodes.entry("", nodes.paragraph("", "", *sentence)),
            nodes.entry("", nodes.paragraph("", "", *_aligned(claim["rounded"]))),
            _entry(claim["bound"]),
        )
    group += body
    table = nodes.table("", group, classes=["claims-table"])
    stack(table)
    return table


def _entry(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", *_typeset(text)))


def _where(claim: dict, docname: str, home: str, app: Sphinx, fromdocname: str) -> list[nodes.Node]:
    """In parentheses the page, if it is not the chapter's own, and the figure beside the claim."""
    links: list[nodes.Node] = []
    if stem(docname) != home:
        title = app.env.titles[docname].astext()
        uri = app.builder.get_relative_uri(fromdocname, docname)
        links += [nodes.Text("in "), nodes.reference("", title, internal=True, refuri=uri)]
    if "figure" in claim:
        links += [nodes.Text(", ")] if links else []
        links += linked(f"Figure {claim['figure']}", fromdocname)
    if not links:
        return []
    links = [nodes.Text("("), *links, nodes.Text(")")]
    return [nodes.Text(" "), nodes.inline("", "", *links, classes=["claim-where"])]


def _aligned(number: str) -> list[nodes.Node]:
    """A number whose units stand below those of the others in its column."""
    whole, rest = re.fullmatch(r"(−?\d+)(.*)", number).groups()
    return [nodes.inline("", whole, classes=["claim-whole"]), nodes.Text(rest)]


def _row(*entries: nodes.entry) -> nodes.row:
    return nodes.row("", *entries)
