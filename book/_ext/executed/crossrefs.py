"""Equations get an anchor; "(3.2)", "claim 3.2" and "Figure 3.2" in running text become links."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging

from optcore.claims import unbroken

from .domain import anchor, note_target

logger = logging.getLogger(__name__)

TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
REFERENCE = re.compile(
    r"\((?P<equation>[1-9]\d*\.[1-9]\d*)\)|\b[Cc]laim\s(?P<claim>[1-9]\d*\.[1-9]\d*)"
    r"|\b[Ff]igure\s(?P<figure>[1-9]\d*\.[1-9]\d*)"
)
VERBATIM = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
LINKS = (nodes.reference, pending_xref)
NAMES = {"claim-id", "figure-number"}  # where the thing itself is named


def anchor_equations(app: Sphinx, doctree: nodes.document) -> None:
    """Give every equation with a tag its anchors, and note them."""
    tags: list[str] = []
    for block in doctree.findall(nodes.math_block):
        found = TAG.findall(block.astext())
        block["ids"] += [anchor("eq", tag) for tag in found]
        tags += found
        for tag in found:
            note_target(app.env, anchor("eq", tag), f"({tag})")
        if found and r"\\" in block.astext() and not block.get("nowrap"):
            # Sphinx would wrap it into `split`, where MathJax refuses a tag.
            logger.warning(
                r"equation (%s): lines with \\ need \begin{align*}, not $$",
                found[0],
                location=block,
            )
    if tags:
        app.env.get_domain("book").equations[app.env.docname] = tags


def link(app: Sphinx, doctree: nodes.document) -> None:
    """Turn the references in running text into links, which Sphinx resolves later."""
    for text in list(doctree.findall(nodes.Text)):
        if REFERENCE.search(text) and not _is_excluded(text):
            text.parent.replace(text, linked(text, app.env.docname))


def join_thousands(app: Sphinx, doctree: nodes.document) -> None:
    """Keep 40 000 on one line."""
    for text in list(doctree.findall(nodes.Text)):
        joined = unbroken(text)
        if joined != text and not isinstance(text.parent, VERBATIM):
            text.parent.replace(text, nodes.Text(joined))


def _is_excluded(text: nodes.Text) -> bool:
    node = text.parent
    while node is not None:
        if isinstance(node, (*VERBATIM, *LINKS)) or NAMES & set(node.get("classes", ())):
            return True
        if isinstance(node, nodes.title) and isinstance(node.parent, nodes.section):
            return True  # headings are copied into the tables of contents, which are links
        node = node.parent
    return False


def linked(text: str, docname: str) -> list[nodes.Node]:
    """The text, with its references as nodes that Sphinx resolves for the page `docname`."""
    pieces: list[nodes.Node] = []
    end = 0
    for match in REFERENCE.finditer(text):
        kind = match.lastgroup
        pieces.append(nodes.Text(text[end : match.start()]))
        pieces.append(
            pending_xref(
                "",
                nodes.inline("", match[0], classes=["std", "std-ref"]),
                refdomain="book",
                reftype=kind,
                reftarget=match[kind],
                refdoc=docname,
                refwarn=True,
            )
        )
        end = match.end()
    pieces.append(nodes.Text(text[end:]))
    return [piece for piece in pieces if piece.astext()]
