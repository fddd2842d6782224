"""On a phone a table of text becomes cards, a row each: its cells then need their column's name."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx


def stack_wide(app: Sphinx, doctree: nodes.document) -> None:
    """Mark the tables of three or more columns that hold text; tables of numbers stay tables."""
    for table in doctree.findall(nodes.table):
        titles, *rows = table.findall(nodes.row)
        longest = max((len(entry.astext()) for row in rows for entry in row), default=0)
        if len(titles) > 2 and longest > 30:
            stack(table)


def stack(table: nodes.table) -> None:
    """Have a table stacked: from the third column on, a cell says what it is."""
    table["classes"].append("stacked")
    titles, *rows = table.findall(nodes.row)
    for row in rows:
        for title, entry in list(zip(titles, row, strict=True))[2:]:
            if entry.astext():
                name = nodes.inline("", f"{title.astext()}: ", classes=["cell-title"])
                entry[0].insert(0, name)
