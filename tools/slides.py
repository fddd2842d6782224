"""Slides of each chapter's figures and claims, which show without the network.

    python tools/slides.py    _build/slides, of the notebooks as the site executed them

`make slides` builds the site first. reveal.js is in tools/slides; MathJax is the site's.
"""

import re
import shutil
import sys

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from publish import EXECUTED, ROOT, SITE, without_relative_links

TARGET = ROOT / "_build" / "slides"
PARTS = ROOT / "tools" / "slides"
CLAIMS = 6  # on a slide
CAPTION = re.compile(r"\*\*Figure \d+\.\d+\.\*\*.*")


def slides(executed: NotebookNode) -> NotebookNode:
    """A notebook of slides: the title, then of each section the figures and the claims."""
    result, claims, heading, cells = nbformat.v4.new_notebook(), [], "", executed.cells

    def add(outputs: list, *texts: str) -> None:
        made = [nbformat.v4.new_markdown_cell(text) for text in texts if text]
        made.insert(1, nbformat.v4.new_code_cell(outputs=outputs))
        made[0].metadata["slideshow"] = {"slide_type": "slide"}
        result.cells += made

    def add_claims() -> None:
        for i in range(0, len(claims), CLAIMS):
            add(claims[i : i + CLAIMS], f"### {heading}")
        claims.clear()

    for cell, after in zip(cells, [*cells[1:], nbformat.v4.new_markdown_cell()], strict=True):
        if cell.cell_type == "code":
            claims += [output for output in cell.outputs if "claim" in output.get("metadata", {})]
            if figures := [
                output for output in cell.outputs if "image/png" in output.get("data", {})
            ]:
                caption = CAPTION.match(after.source)
                add(
                    figures,
                    f"### {heading}",
                    without_relative_links(caption[0], "") if caption else "",
                )
        elif cell.source.startswith("# "):
            title, _, rest = cell.source.partition("\n\n")
            heading = title[2:]
            add([], title, without_relative_links(rest.partition("\n\n")[0], ""))
        elif cell.source.startswith("## "):
            add_claims()
            heading = cell.source.partition("\n")[0][3:]
    add_claims()
    return result


def html(notebook: NotebookNode, name: str) -> str:
    """The page of a notebook of slides."""
    exporter = SlidesExporter(
        extra_template_basedirs=[str(PARTS.parent)],
        template_name=PARTS.name,
        reveal_url_prefix=".",
        reveal_theme="book",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    return exporter.from_notebook_node(notebook, {"metadata": {"name": name}})[0]


def write() -> None:
    """Write the folder."""
    chapters = sorted(EXECUTED.glob("*.ipynb"))
    if not chapters:
        sys.exit("The site has executed no chapter: run `make book` first.")
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.copytree(PARTS / "dist", TARGET / "dist")
    shutil.copytree(SITE / "_static" / "mathjax", TARGET / "mathjax")
    for path in chapters:
        notebook = slides(nbformat.read(path, as_version=4))
        page = html(notebook, path.stem)
        (TARGET / f"{path.stem}.html").write_text(page, encoding="utf-8")
    print(f"The slides of {len(chapters)} chapters are in {TARGET}.")


if __name__ == "__main__":
    write()
