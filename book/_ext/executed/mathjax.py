"""Mathematics without the network: MathJax is served from the site itself."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

# The package holds 24 MB; these are what the pages may ask for. It is not used as an extension,
# since it would copy all of it.
PACKAGE = "sphinx-mathjax-offline"
FONTS = "output/chtml/fonts/woff-v2"
PARTS = ("tex-chtml.js", FONTS, "input/tex/extensions")


def use_local_files(app: Sphinx, config: Config) -> None:
    """Load MathJax from the site's own files, and before it what has it typeset in pieces."""
    config.mathjax_path = "mathjax/tex-chtml.js"
    app.add_js_file("typeset.js", loading_method="defer", priority=400)


def preload_fonts(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Load the fonts of every formula with the page: coming late, they would make lines jump."""
    if not app.env.get_domain("math").has_equations(page):
        return
    for font in ("Main-Regular", "Math-Italic"):
        address = context["pathto"](f"_static/mathjax/{FONTS}/MathJax_{font}.woff", resource=True)
        context["metatags"] += (
            f'<link rel="preload" as="font" type="font/woff" crossorigin href="{address}" />\n'
        )


def copy_files(app: Sphinx, exception: Exception | None) -> None:
    """Copy the needed part of MathJax into the site."""
    if exception is not None or app.builder.format != "html":
        return
    (package,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    source = Path(package, "static", "mathjax")
    target = Path(app.outdir, "_static", "mathjax")
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / part, target / part)
