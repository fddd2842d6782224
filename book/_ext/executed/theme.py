"""Light or dark from the first moment on."""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.config import Config

# The theme decides when the page has loaded. Until then "auto" is neither: both logos are shown,
# one above the other, and a dark page is white.
DECIDE = """{
  const chosen = document.documentElement.dataset;
  if (chosen.theme === "auto")
    chosen.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}"""


def decide_early(app: Sphinx, config: Config) -> None:
    """Have every page decide before its body is read."""
    app.add_js_file(None, body=DECIDE)
