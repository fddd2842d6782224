"""Figures: SVG where the site asks for it, with crowds of marks as one bitmap."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from traitlets.config import Config

from optcore import figures


@pytest.fixture
def formatters():
    with plt.rc_context():
        shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
        yield shell.display_formatter.formatters
        InteractiveShell.clear_instance()


def test_the_site_gets_svg_too_and_a_notebook_does_not(formatters, monkeypatch):
    monkeypatch.delenv("OPTCORE_FIGURES", raising=False)
    figures.style()
    assert Figure not in formatters["image/svg+xml"]
    formatters["image/png"].for_type(Figure, lambda figure: b"")
    monkeypatch.setenv("OPTCORE_FIGURES", "svg")
    figures.style()
    assert Figure in formatters["image/svg+xml"] and Figure in formatters["image/png"]


@pytest.mark.parametrize(
    ("draw", "bitmaps"),
    [
        (lambda ax, x: ax.scatter(x, x), 1),
        (lambda ax, x: ax.plot(x, x, "o"), 1),
        (lambda ax, x: ax.plot(x, x), 0),
        (lambda ax, x: ax.plot(x[:1000], x[:1000], "o"), 0),
        (lambda ax, x: ax.scatter(x[:1000], x[:1000]), 0),
    ],
)
def test_a_crowd_of_marks_is_a_bitmap(formatters, draw, bitmaps):
    figures.style()
    figure, ax = plt.subplots()
    draw(ax, np.random.default_rng(0).normal(size=10_000))
    ax.set_xlabel("a label")
    svg = figures._svg(figure)
    plt.close(figure)
    assert svg.count("<image") == bitmaps
    assert ">a label</text>" in svg
    assert "<style" not in svg  # its rules would be the whole page's
    assert "<svg style=" in svg
    assert len(svg) < 400_000


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("figures.py", "def style("): [
        ('"svg.fonttype": "none"', '"svg.fonttype": "path"'),
        ('== "svg"', '!= "svg"'),
        ("*{{{rules}}}", "+{{{rules}}}"),
    ],
    ("figures.py", "def _svg("): [
        ("set_rasterized(True)", "set_rasterized(False)"),
    ],
    ("figures.py", "def _is_crowd("): [
        ("get_offsets()) > 1000", "get_offsets()) > 999"),
        ("marked and ", ""),
        ("get_xdata()) > 1000", "get_xdata()) > 999"),
    ],
}
