"""What the front page shows of the chapters: a figure to move, a claim's line, where to begin."""

from __future__ import annotations

from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from . import claims, repository
from .domain import stem

logger = logging.getLogger(__name__)


class Excerpt(nodes.General, nodes.Element):
    """Stands where an excerpt goes until every page has been read."""


class ExcerptDirective(SphinxDirective):
    """`figure-of` and `begin` with the name of a chapter, `claim-line` with a claim's id."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # other pages fill it
        return [Excerpt(kind=self.name, of=self.arguments[0])]


class FillExcerpts(SphinxPostTransform):
    """Put the excerpts where the directives stand."""

    default_priority = 5

    def run(self, **kwargs) -> None:
        fill = {"figure-of": _figure, "claim-line": _claim, "begin": _begin}
        for place in list(self.document.findall(Excerpt)):
            found = fill[place["kind"]](self.app, place["of"], self.env.docname)
            if not found:
                logger.warning("there is no %s %s", place["kind"], place["of"], location=place)
            place.replace_self(found)


def _page(app: Sphinx, name: str) -> str | None:
    return next((docname for docname in app.env.found_docs if stem(docname) == name), None)


def _link(app: Sphinx, fromdocname: str, docname: str, text: str, id: str = "") -> nodes.reference:
    uri = app.builder.get_relative_uri(fromdocname, docname) + (f"#{id}" if id else "")
    return nodes.reference("", text, internal=True, refuri=uri)


def _figure(app: Sphinx, name: str, fromdocname: str) -> list[nodes.Node]:
    """The chapter's first figure with controls."""
    docname = _page(app, name)
    if docname is None:
        return []
    path = Path(app.env.mystnb_config.output_folder, f"{docname}.ipynb")
    for cell in nbformat.read(path, as_version=4).cells if path.exists() else []:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if 'class="explore"' in html:
                return [nodes.raw("", html, format="html")]
    return []


def _claim(app: Sphinx, id: str, fromdocname: str) -> list[nodes.Node]:
    """The line of the claim's first part, which leads to where it is checked."""
    for docname, page in app.env.get_domain("book").claims.items():
        for claim in page:
            if claim["id"] == id:
                line = claims.line(claim, named=True)
                line["ids"] = []  # those are on the chapter's page
                name = next(line.findall(nodes.strong))
                link = _link(app, fromdocname, docname, name.astext(), claim["anchor"])
                name.children = []
                name += link
                return [nodes.container("", line, classes=["claims"])]
    return []


def _begin(app: Sphinx, name: str, fromdocname: str) -> list[nodes.Node]:
    """Buttons: the chapter's page, and its notebook in Colab where that is possible."""
    docname = _page(app, name)
    if docname is None:
        return []
    number, title = app.env.titles[docname].astext().split(" ", 1)
    text = f"Begin with chapter {number}: {title}"
    buttons = [_link(app, fromdocname, docname, text)]
    if colab := repository.colab_address(app.config, docname):
        buttons.append(nodes.reference("", "Run it in Colab", internal=False, refuri=colab))
    return [nodes.paragraph("", "", *buttons, classes=["begin"])]
