"""What a search engine and a link's preview say about a page."""

from __future__ import annotations

from html import escape

from docutils import nodes
from sphinx.application import Sphinx

from . import repository

PICTURE = "_static/card.png"


def add(app: Sphinx, pagename: str, template: str, context: dict, doctree: nodes.document) -> None:
    """Add a description and a preview card, with a picture where the site's address is known."""
    if doctree is None:
        return
    text = _description(doctree)
    tags = [("name", "description", text), ("property", "og:description", text)]
    title = app.env.titles[pagename].astext()
    tags += [("property", "og:title", title), ("property", "og:type", "article")]
    tags += [("property", "og:site_name", app.config.project)]
    if site := repository.site_url(app.srcdir):
        tags += [("property", "og:url", f"{site}{pagename}.html")]
        tags += [("property", "og:image", f"{site}{PICTURE}")]
        tags += [("name", "twitter:card", "summary_large_image")]
    for key, name, content in tags:
        if content:
            context["metatags"] += f'<meta {key}="{name}" content="{escape(content)}" />\n'


def _description(doctree: nodes.document) -> str:
    """The first sentences of a paragraph that stand before any formula, about two lines of them."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = ""
        for child in paragraph.children:
            if isinstance(child, nodes.math):
                text = text[: text.rfind(". ") + 1]
                break
            text += child.astext()
        text = " ".join(text.split())
        if isinstance(paragraph.parent, nodes.section) and len(text) >= 60:
            return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"
    return ""
