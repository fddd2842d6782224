"""Figures: the picture first, then its caption, then one fold with all the code behind it."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from html import escape, unescape
from logging import ERROR, getLogger
from pathlib import Path

from docutils import nodes
from fontTools.pens.svgPathPen import SVGPathPen
from fontTools.ttLib import TTFont
from matplotlib.font_manager import FontProperties, findfont
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.util import logging

from .domain import anchor, note_target

logger = logging.getLogger(__name__)
getLogger("fontTools").setLevel(ERROR)  # it does not like the age of some fonts

LEAD = re.compile(r"Figure (\d+\.\d+)\.?")
# A formula in matplotlib's SVG: an element `text` without a style, with a `tspan` for each glyph.
FORMULA = re.compile(r"<text>\s*(?:<tspan[^>]*>[^<]*</tspan>\s*)+</text>")
GLYPH = re.compile(r'<tspan x="([^"]*)" y="([^"]*)" style="([^"]*)">([^<]*)</tspan>')


def draw_as_svg(app: Sphinx) -> None:
    """Have the chapters' figures drawn as SVG: `optcore.figures.style` asks for this variable."""
    if app.builder.format == "html":
        os.environ["OPTCORE_FIGURES"] = "svg"


def arrange(app: Sphinx, doctree: nodes.document) -> None:
    """Give outputs their captions, and put code that is hidden below what it draws."""
    numbers = []
    for cell in list(doctree.findall(lambda n: _is(n, "cell_code"))):
        output = cell.children[-1] if cell.children else None
        if not _is(output, "cell_code_output") or cell.get("hide_mode") not in (None, "input"):
            continue
        if number := _add_caption(cell, output):
            numbers.append(number)
            note_target(app.env, anchor("figure", number), f"Figure {number}")
        if cell.get("hide_mode") == "input":
            _fold(cell)
    if numbers:
        app.env.get_domain("book").figures[app.env.docname] = numbers
    for paragraph in doctree.findall(nodes.paragraph):
        if number := _caption_number(paragraph):
            logger.warning("the caption of figure %s follows no output", number, location=paragraph)


def _is(node: nodes.Node | None, element: str) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == element


def _caption_number(node: nodes.Node | None) -> str | None:
    if not isinstance(node, nodes.paragraph):
        return None
    # The Markdown parser leaves empty texts around a bold one.
    lead = next((child for child in node.children if child.astext()), None)
    match = LEAD.fullmatch(lead.astext()) if isinstance(lead, nodes.strong) else None
    return match and match[1]


def _add_caption(cell: nodes.container, output: nodes.container) -> str | None:
    """Move the caption below the output; return its number."""
    paragraph = cell.next_node(descend=False, siblings=True)
    number = _caption_number(paragraph)
    if number is None:
        return None
    paragraph.parent.remove(paragraph)
    lead = next(child for child in paragraph.children if child.astext())
    lead["classes"].append("figure-number")  # not a link to itself
    figure = nodes.figure("", ids=[anchor("figure", number)])
    output.replace_self(figure)
    figure += [output, nodes.caption("", "", *paragraph.children)]
    return number


def _fold(cell: nodes.container) -> None:
    """One fold below the output: the code of this cell and of the hidden ones just above it."""
    parent, place = cell.parent, cell.parent.index(cell)
    first = place
    while first and _is_setup(parent[first - 1]):
        first -= 1
    source, output = cell.children
    fold = HideCodeCellNode(
        prompt_show=cell["prompt_show"], prompt_hide=cell["prompt_hide"], classes=["below-output"]
    )
    fold += [*(setup[0] for setup in parent[first:place]), source]
    cell.children = []
    cell += [output, fold]
    del cell["hide_mode"]
    del parent[first:place]


def _is_setup(node: nodes.Node) -> bool:
    return _is(node, "cell_code") and node.get("hide_mode") == "input" and len(node.children) == 1


def inline(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put SVG pictures into the page itself, where they take its colours and its typeface."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            svg = Path(app.srcdir, image["uri"]).read_text(encoding="utf-8")
            page = in_page_colors(svg, image.get("alt", ""))
            image.replace_self(nodes.raw("", page, format="html"))


def in_page_colors(svg: str, alt: str) -> str:
    """The SVG of matplotlib as a part of a page: black is the page's text, white its background."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"#([0-9a-f]{2})\1\1\b", _grey, svg)
    svg = FORMULA.sub(_drawn, svg)
    svg = re.sub(r"(font(?:-family)?: [^';\"]*)'[^;\"]*", r"\1system-ui, sans-serif", svg)
    # Another figure of the page may use the same ids. Most of them nothing refers to.
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(href=\"|url\()#", rf"\1#{prefix}-", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)[1]
    head = f'<svg class="figure" role="img" aria-label="{escape(alt)}" viewBox="{box}" '
    head += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + svg[svg.index(">") + 1 :]


def _drawn(match: re.Match) -> str:
    """A formula's glyphs as paths: matplotlib has placed each of them as its own font needs."""
    paths = ""
    for x, y, style, character in GLYPH.findall(match[0]):
        size, family = re.search(r"font-size: ([\d.]+)", style)[1], re.search(r"'(.*?)'", style)[1]
        slope = re.search(r"font-style: (\w+)|$", style)[1] or "normal"
        weight = re.search(r"font-weight: (\w+)|$", style)[1] or "normal"
        outline, units = _glyph(unescape(character), family, slope, weight)
        scale = float(size) / units
        fill = "".join(re.findall(r"fill: [^;]+", style))
        paths += f'<path transform="translate({x} {y}) scale({scale:.5f} {-scale:.5f})" '
        paths += f'style="{fill}" d="{outline}"/>' if fill else f'd="{outline}"/>'
    return paths


@cache
def _glyph(character: str, family: str, slope: str, weight: str) -> tuple[str, int]:
    font = TTFont(findfont(FontProperties(family=family, style=slope, weight=weight)))
    names = font.getBestCmap() or next(iter(font["cmap"].tables)).cmap
    pen = SVGPathPen(font.getGlyphSet(), ntos=lambda number: f"{number:g}")
    font.getGlyphSet()[names[ord(character)]].draw(pen)
    return pen.getCommands(), font["head"].unitsPerEm


def _grey(match: re.Match) -> str:
    share = round(100 - int(match[1], 16) / 2.55)
    background = "var(--pst-color-background, white)"
    if share in (0, 100):
        return "currentColor" if share else background
    return f"color-mix(in srgb, currentColor {share}%, {background})"
