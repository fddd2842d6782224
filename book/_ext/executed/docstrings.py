"""The package's docstrings are Markdown, as the chapters are; autodoc wants reStructuredText."""

from __future__ import annotations

import re
from textwrap import indent

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

DISPLAY = re.compile(r"^(?P<margin> *)\$\$(?P<formula>.+?)\$\$ *$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(
    r"(?P<keep>``.+?``|:\w+:`[^`]+`|\*\*\S[^*]*\*\*|(?<!\w)\*\w[^*]*\w\*(?!\w))"
    r"|`(?P<code>[^`]+)`|\$(?P<math>[^$\n]+)\$|(?P<star>\*)",
    re.DOTALL,
)


def from_markdown(text: str) -> str:
    """Formulas and code in the notation of reStructuredText; a bare star is only a star."""
    parts = []
    end = 0
    for match in DISPLAY.finditer(text):
        parts += [INLINE.sub(_inline, text[end : match.start()])]
        formula = indent(match["formula"].strip(), match["margin"] + "    ")
        parts += [f"\n{match['margin']}.. math::\n\n{formula}\n"]
        end = match.end()
    return "".join([*parts, INLINE.sub(_inline, text[end:])])


def _inline(match: re.Match) -> str:
    after = match.string[match.end() : match.end() + 1]
    end = "\\ " if after.isalnum() else ""  # the plural of a name
    if match["code"]:
        return f"``{match['code']}``{end}"
    if match["math"]:
        return f":math:`{match['math']}`{end}"
    return r"\*" if match["star"] else match[0]


def process(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Handle autodoc's event, before napoleon reads the sections."""
    text = from_markdown("\n".join(lines))
    # A formula broken across lines, or one whose backslashes Python has read.
    if re.search(r"\$|[\x07\x08\x0b\x0c\r]", re.sub(r"``.+?``", "", text, flags=re.DOTALL)):
        logger.warning("a formula in the docstring of %s is broken", name)
    lines[:] = text.split("\n")


def skip_field(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out a named tuple's fields, whose docstring only says "Alias for field number 0"."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None
