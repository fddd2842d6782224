"""A page loads what it shows: without this, more than half of it would be icons."""

from __future__ import annotations

import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

FONT = "vendor/fontawesome/webfonts/fa-solid-900.ttf"
SCRIPT = "scripts/fontawesome.js"
# The theme's own style names this family; of two faces alike the later one is taken.
STYLE = """@font-face { font-family: "Font Awesome 6 Free"; font-style: normal; font-weight: 900;
  src: url("icons.woff") format("woff"); }
"""


def add_style(app: Sphinx) -> None:
    """Have every page load the style that `replace_icons` writes."""
    app.add_css_file("icons.css")


def replace_icons(app: Sphinx, exception: Exception | None) -> None:
    """Put a font of the icons in use in the place of Font Awesome's script (540 kB, gzipped)."""
    static = Path(app.outdir, "_static")
    if exception is not None or not (static / FONT).exists():
        return  # another theme, or another builder
    pages = " ".join(page.read_text(encoding="utf-8") for page in Path(app.outdir).rglob("*.html"))
    styles = " ".join(style.read_text(encoding="utf-8") for style in static.rglob("*.css"))
    names = set(re.findall(r"\bfa-([a-z0-9-]+)", pages))
    codes = {int(code, 16) for code in re.findall(r'--pst-icon[a-z-]*: *"\\([0-9a-f]+)"', styles)}

    font = TTFont(static / FONT)
    # Font Awesome names its glyphs as its classes.
    codes |= {code for code, glyph in font.getBestCmap().items() if glyph in names}
    subsetter = subset.Subsetter(subset.Options(layout_features=[]))
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    font.flavor = "woff"
    font.save(static / "icons.woff")
    (static / "icons.css").write_text(STYLE, encoding="utf-8")
    (static / SCRIPT).write_text("// The icons in use are a font: icons.css.\n", encoding="utf-8")
