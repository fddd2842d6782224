"""Pictures: the book's palette and style, contours of an objective, the line of a power law."""

from __future__ import annotations

import io
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Each colour has a contrast of at least 3 : 1 on white and on #121212, and any two stay apart under
# the three common colour deficiencies.
PALETTE = ("#2868e0", "#d9711a", "#189c6c", "#c767c4", "#c23040", "#5f6b76")


def style() -> None:
    """Make the book's look the default of matplotlib: palette, light grid, readable sizes.

    A notebook shows PNGs. For the site, which sets the variable `OPTCORE_FIGURES`, a figure is an
    SVG as well: the page takes that, the published notebook the PNG.
    """
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.figsize": (6.2, 3.5),
            "figure.dpi": 128,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "svg.fonttype": "none",  # text is text, in the page's typeface
            "svg.hashsalt": "optcore",  # the same figure, the same file
        }
    )
    shell = get_ipython()
    if shell and os.environ.get("OPTCORE_FIGURES") == "svg":
        plt.switch_backend(plt.get_backend())  # it registers its own formatter when first loaded
        formatters = shell.display_formatter.formatters
        formatters["image/svg+xml"].for_type(Figure, _svg)


def _svg(figure: Figure) -> str:
    """The figure as SVG. Many marks are one bitmap in it, or else the page would be heavy."""
    for artist in figure.findobj(_is_crowd):
        artist.set_rasterized(True)
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", dpi=220)
    # Inlined, the file's rule for all elements would be one for the whole page: it would take the
    # dots off the interactive figures. On the root its elements inherit it.
    svg, rules = file.getvalue(), "stroke-linejoin: round; stroke-linecap: butt"
    svg = svg.replace(f'<style type="text/css">*{{{rules}}}</style>', "")
    return svg.replace("<svg ", f'<svg style="{rules}" ', 1)


def _is_crowd(artist) -> bool:
    if isinstance(artist, PathCollection):
        return len(artist.get_offsets()) > 1000
    marked = isinstance(artist, Line2D) and artist.get_marker() not in ("", " ", "None", None)
    return marked and len(artist.get_xdata()) > 1000


def contours(
    ax: Axes, loss, xlim: tuple[float, float], ylim: tuple[float, float], levels=12
) -> None:
    """Draw the contour lines of `loss`, a function of batched points (…, 2), over a box.

    Args:
        ax: axes to draw into.
        loss: maps a tensor (…, 2) to (…).
        xlim, ylim: the box.
        levels: a number of lines, or their values.
    """
    X, Y, Z = grid(loss, xlim, ylim)
    ax.contour(X, Y, Z, levels, colors=PALETTE[5], linewidths=0.7, alpha=0.7)
    ax.set(xlim=xlim, ylim=ylim)


def grid(loss, xlim, ylim, points: int = 121) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (X, Y, Z) of `loss`, a function of batched points (…, 2), on a grid over a box."""
    x, y = (torch.linspace(*lim, points, dtype=torch.float64) for lim in (xlim, ylim))
    W = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return W[..., 0].numpy(), W[..., 1].numpy(), loss(W).numpy()


def power_law(ax: Axes, x, y_at_start: float, exponent: float, label: str) -> None:
    """Draw theory over a measurement: the dashed line y ∝ x^exponent through (x[0], y_at_start)."""
    x = np.asarray(x, dtype=float)
    ax.plot(x, y_at_start * (x / x[0]) ** exponent, "--", color="0.35", lw=1.2, label=label)
