"""Slides of a chapter: its title, figures and claims, and nothing from another host."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import slides  # noqa: E402

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def claim(number):
    data = {"text/plain": f"✓ 3.{number}", "text/html": f"<b>✓ 3.{number}</b>"}
    return new_output("display_data", data, metadata={"claim": {"id": f"3.{number}"}})


def figure():
    return new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})


@pytest.fixture
def chapter():
    printed = new_output("stream", name="stdout", text="printed")
    cells = [
        new_markdown_cell("# 3 Momentum\n\nA point, and [a link](muon.ipynb#x).\n\nMore."),
        new_code_cell("draw()", outputs=[figure(), printed]),
        new_markdown_cell(
            "**Figure 3.1.** A ball with $\\beta = 0$. See [there](adam.ipynb).\n\nMore."
        ),
        new_markdown_cell("## First\n\nText."),
        new_code_cell("check()", outputs=[claim(1)]),
        new_code_cell("draw()", outputs=[figure()]),
        new_markdown_cell("Text that is no caption."),
        new_markdown_cell("## Second"),
        new_code_cell("check()", outputs=[claim(n) for n in range(2, 10)]),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_what_is_on_the_slides(chapter):
    shown = [[]]
    for cell in slides.slides(chapter).cells:
        if cell.metadata.get("slideshow", {}).get("slide_type") == "slide":
            shown.append([])
        shown[-1] += [cell.source] if cell.cell_type == "markdown" else cell.outputs
    caption = "**Figure 3.1.** A ball with $\\beta = 0$. See there."
    assert shown[1:] == [
        ["# 3 Momentum", "A point, and a link."],
        ["### 3 Momentum", figure(), caption],
        ["### First", figure()],
        ["### First", claim(1)],
        ["### Second", *[claim(n) for n in range(2, 8)]],
        ["### Second", *[claim(n) for n in range(8, 10)]],
    ]


def test_a_page_needs_no_network(chapter):
    text = slides.html(slides.slides(chapter), "momentum")
    page = BeautifulSoup(text, "html.parser")
    assert page.title.get_text() == "momentum slides"
    assert len(page.select(".slides > section")) == 6
    assert [tag["src"] for tag in page.find_all("script", src=True)] == [
        "mathjax/tex-chtml.js",
        "dist/reveal.js",
    ]
    loaded = [tag["href"] for tag in page.find_all("link", href=True)]
    assert loaded and all((slides.PARTS / address).exists() for address in loaded)
    assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import|\bimport\s.*https?:", text)
    assert "draw()" not in text and "printed" not in text and page.find("b", string="✓ 3.1")
