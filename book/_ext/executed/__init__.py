"""The book's Sphinx extension: what turns plain notebooks into the pages of the site.

The chapters are written so that they read well in Jupyter and Colab, where MyST directives do not
render (CONTRIBUTING, *How to write a chapter*). This extension adds the rest at build time: boxes,
links between equations, claims, and the page of verified claims.
"""

from sphinx.application import Sphinx

from . import (
    boxes,
    cards,
    claims,
    crossrefs,
    docstrings,
    figures,
    front,
    images,
    mathjax,
    repository,
    slim,
    tables,
    theme,
)
from .domain import BookDomain


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect everything."""
    app.add_domain(BookDomain)
    app.add_node(claims.ClaimsTable)
    app.add_directive("verified-claims", claims.VerifiedClaims)
    app.add_node(front.Excerpt)
    for name in ("figure-of", "claim-line", "begin"):
        app.add_directive(name, front.ExcerptDirective)
    # The order matters: a claim's line is replaced before its text is searched for references.
    app.connect("doctree-read", claims.mark, priority=600)
    app.connect("doctree-read", figures.arrange, priority=601)
    app.connect("doctree-read", boxes.from_quotes, priority=601)
    app.connect("doctree-read", tables.stack_wide, priority=601)
    app.connect("doctree-read", claims.find_figures, priority=602)
    app.connect("doctree-read", crossrefs.anchor_equations, priority=602)
    app.connect("doctree-read", crossrefs.join_thousands, priority=603)
    app.connect("doctree-read", crossrefs.link, priority=604)
    app.add_post_transform(claims.FillTables)
    app.add_post_transform(front.FillExcerpts)
    app.connect("builder-inited", figures.draw_as_svg)
    app.connect("html-page-context", cards.add)
    app.connect("html-page-context", mathjax.preload_fonts)
    app.connect("doctree-resolved", images.check_alt_texts)
    app.connect("doctree-resolved", figures.inline, priority=501)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)
    app.connect("autodoc-skip-member", docstrings.skip_field)
    app.connect("config-inited", repository.set_buttons)
    app.connect("config-inited", mathjax.use_local_files)
    app.connect("config-inited", theme.decide_early)
    app.connect("build-finished", mathjax.copy_files)
    app.connect("builder-inited", slim.add_style)
    app.connect("build-finished", slim.replace_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
