"""A quote that begins with a bold lead becomes a box: `> **Theorem 3.1 (Polyak).** …`."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

from .domain import anchor, note_target

LEADS = (
    *("Note", "Warning", "Definition", "Theorem", "Lemma", "Proposition", "Corollary"),
    *("Algorithm", "Proof", "Exercise", "Claim"),
)
LEAD = re.compile(rf"({'|'.join(LEADS)})(?: (\d+\.\d+))?(?=[ .(,:]|$)")


def from_quotes(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the quotes that have a lead; the others stay quotes."""
    for quote in list(doctree.findall(nodes.block_quote)):
        box = _box(quote)
        if box is not None:
            quote.replace_self(box)
            for id in box["ids"]:
                note_target(app.env, id, box[0].astext())


def _box(quote: nodes.block_quote) -> nodes.admonition | None:
    paragraph = quote.children[0] if quote.children else None
    if not isinstance(paragraph, nodes.paragraph):
        return None
    # The Markdown parser leaves empty texts around a bold one.
    paragraph.children = [child for child in paragraph.children if child.astext()]
    strong = paragraph.children[0] if paragraph.children else None
    match = LEAD.match(strong.astext()) if isinstance(strong, nodes.strong) else None
    if match is None:
        return None
    kind, number = match[1].lower(), match[2]

    title = nodes.title("", "", *strong.children)
    if isinstance(title[-1], nodes.Text):
        title[-1] = nodes.Text(title[-1].removesuffix("."))
    paragraph.remove(strong)
    if paragraph.children and isinstance(paragraph[0], nodes.Text):
        paragraph[0] = nodes.Text(paragraph[0].lstrip())
    body = quote.children if paragraph.astext().strip() else quote.children[1:]

    box = nodes.admonition("", title, *body, classes=["box", kind])
    # The anchor of a claim is on the line that checks it, not on the box that states it.
    if number and kind != "claim":
        box["ids"].append(anchor(kind, number))
    return box
