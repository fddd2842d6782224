"""Every picture has a description for those who do not see it."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif)")


def check_alt_texts(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Warn about a picture whose alternative text is missing or only a file name."""
    for image in doctree.findall(nodes.image):
        alt = image.get("alt", "").strip()
        if not alt or FILE_NAME.fullmatch(alt):
            logger.warning(
                'an image has no alternative text; for a cell: mystnb={"image": {"alt": "…"}}',
                location=image if image.line else docname,
            )
