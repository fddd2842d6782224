"""explore(): a figure with sliders that needs no kernel, and a still in print."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files

import contourpy
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from optcore.claims import readable
from optcore.figures import PALETTE

KINDS = ("line", "dots", "line+dots")
SCALES = ("linear", "log")

# Pixels of a picture as wide as a phone: its text stays readable there, and two fit on a desktop.
WIDTH, HEIGHT = 360, 285
TOP, BOTTOM = 28, 42
# How far a line is followed beyond its axes, in tenths of a pixel: until its cut end is hidden, or,
# when the start is dragged, until it is hidden for small starts as well, which shrink the line.
BLEED, FAR = 60, 10**6


@dataclass(frozen=True)
class Slider:
    """A setting that the reader moves over a grid: every picture is computed in advance.

    Args:
        name: the keyword by which `draw` receives the value.
        values: the grid, in the order of the slider.
        start: the first value shown, one of `values`.
        label: what the reader sees, plain Unicode (`"η"`), not TeX; the name if not given.
        format: a format specification for the value shown.

    Raises:
        ValueError: no values, or `start` is not one of them.
    """

    name: str
    values: Sequence[float]
    start: float
    label: str | None = None
    format: str = "g"

    def __post_init__(self):
        values = np.asarray(self.values).tolist()
        if not isinstance(values, list) or not values:
            raise ValueError(f"values of {self.name!r} must be a list of numbers, got {values!r}.")
        if not np.isclose(values, self.start, atol=0).any():
            raise ValueError(f"start of {self.name!r} must be one of {values}, got {self.start!r}.")
        object.__setattr__(self, "values", tuple(values))
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def start_index(self) -> int:
        """The place of `start` among the values."""
        return int(np.argmax(np.isclose(self.values, self.start, atol=0)))

    def text(self, value: float) -> str:
        """The value as the reader sees it."""
        return format(value, self.format).replace("-", "−")


@dataclass(frozen=True)
class Choice:
    """A setting that the reader picks by name, with a button for each.

    Args:
        name: the keyword by which `draw` receives the value.
        values: the names, which are also what `draw` receives.
        start: the first value shown, one of `values`.
        label: what the reader sees before the buttons; the name if not given.

    Raises:
        ValueError: no values, or `start` is not one of them.
    """

    name: str
    values: Sequence[str]
    start: str
    label: str | None = None

    def __post_init__(self):
        if isinstance(self.values, str) or not all(isinstance(v, str) for v in self.values):
            raise ValueError(f"values of {self.name!r} must be names, got {self.values!r}.")
        if self.start not in self.values:
            raise ValueError(
                f"start of {self.name!r} must be one of {self.values}, got {self.start!r}."
            )
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def start_index(self) -> int:
        """The place of `start` among the values."""
        return self.values.index(self.start)

    def text(self, value: str) -> str:
        """The value as the reader sees it."""
        return value


@dataclass(frozen=True, eq=False)
class Line:
    """One curve, or a row of dots. It never widens the axes: what lies outside is not drawn.

    Args:
        x: abscissas; NaN or an infinity breaks the line, and so does a value ≤ 0 on a log axis.
        y: ordinates, as many.
        label: its entry in the legend, plain Unicode.
        kind: `"line"`, `"dots"` or `"line+dots"`.
        color: an index into the book's palette, 0 … 5.
        dashed: whether the line is dashed.

    Raises:
        ValueError: x and y are not two vectors of one length; `kind` or `color` is not known.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str | None = None
    kind: str = "line"
    color: int = 0
    dashed: bool = False

    def __post_init__(self):
        x, y = np.asarray(self.x, dtype=float), np.asarray(self.y, dtype=float)
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"x and y must be vectors of one length, got {x.shape} and {y.shape}.")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}.")
        if self.color not in range(len(PALETTE)):
            raise ValueError(f"color must be 0 … {len(PALETTE) - 1}, got {self.color!r}.")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)


@dataclass(frozen=True, eq=False)
class Scene:
    """What does not move: the axes, the curves behind, the contours of an objective.

    Args:
        xlim: the ends (low, high) of the x axis.
        ylim: the ends of the y axis.
        xlabel: plain Unicode, not TeX.
        ylabel: likewise; it stands above the axis.
        title: likewise.
        xscale: `"linear"` or `"log"`.
        yscale: likewise.
        background: lines drawn behind the moving ones.
        contours: (X, Y, Z, levels) as for matplotlib's `contour`.

    Raises:
        ValueError: an axis is empty or not finite, its scale is not known, or a log axis reaches 0.
    """

    xlim: tuple[float, float]
    ylim: tuple[float, float]
    xlabel: str
    ylabel: str
    title: str = ""
    xscale: str = "linear"
    yscale: str = "linear"
    background: Sequence[Line] = ()
    contours: tuple | None = None

    def __post_init__(self):
        for axis in "xy":
            (low, high), scale = getattr(self, f"{axis}lim"), getattr(self, f"{axis}scale")
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"{axis}lim must be finite, low < high, got {(low, high)}.")
            if scale not in SCALES:
                raise ValueError(f"{axis}scale must be one of {SCALES}, got {scale!r}.")
            if scale == "log" and low <= 0:
                raise ValueError(f"{axis}lim must be positive on a log axis, got {(low, high)}.")


def explore(
    draw: Callable,
    scene: Scene | Sequence[Scene],
    *sliders: Slider | Choice,
    alt: str,
    caption_start: str = "",
    drag: bool = False,
    start: tuple[float, float] | None = None,
) -> None:
    """Display a figure that follows its sliders, in a notebook and on a page.

    One output with two faces: HTML that holds the picture of every slider position and needs
    neither a kernel nor the network; a PNG of the start for PDF and GitHub.

    Args:
        draw: called as `draw(**{slider.name: value})`. For one scene it returns a list of `Line`,
            or (list, note); for two, (list, list) or (list, list, note). The note is one line of
            text below the figure. Lines keep their number, order and look from call to call.
        scene: one scene, or two to be shown side by side.
        sliders: one or two sliders or choices.
        alt: the figure in words, for those who do not see it.
        caption_start: a line below the still picture; the slider values if not given.
        drag: whether the reader may drag the start in the first scene. `draw` must then run from
            the start (1, 1), and the first scene's lines must be linear in the start, coordinate
            by coordinate: (x·start_x, y·start_y) is drawn. So it is for gradient methods on a
            quadratic ½ Σ λ_i x_i², and not in general. A second scene does not follow the drag.
        start: the first position of the dragged start.

    Raises:
        ValueError: an argument, or what `draw` returns, is not as described above.
    """
    scenes = [scene] if isinstance(scene, Scene) else list(scene)
    _check(scenes, sliders, alt, drag, start)
    frames = {}
    for values in itertools.product(*(slider.values for slider in sliders)):
        settings = {slider.name: value for slider, value in zip(sliders, values, strict=True)}
        frames[values] = _frame(draw(**settings), len(scenes), settings)
    first = tuple(slider.values[slider.start_index] for slider in sliders)
    for values, (lines, _) in frames.items():
        if _looks(lines) != _looks(frames[first][0]):
            raise ValueError(
                "draw must return the same lines (label, kind, color, dashed) for all values, "
                f"got {_looks(lines)} at {values} and {_looks(frames[first][0])} at {first}."
            )
    still = caption_start or ", ".join(
        f"{slider.label} = {slider.text(value)}"
        for slider, value in zip(sliders, first, strict=True)
    )
    display(
        {
            "text/html": _page(frames, first, scenes, sliders, alt, still, start),
            "image/png": _png(*frames[first], scenes, still, start),
            "text/plain": f"[interactive figure: {alt}]",
        },
        raw=True,
    )


def _check(scenes, sliders, alt, drag, start) -> None:
    if len(scenes) not in (1, 2):
        raise ValueError(f"scene must be one Scene or a list of two, got {len(scenes)}.")
    if len(sliders) not in (1, 2):
        raise ValueError(f"sliders must be one or two, got {len(sliders)}.")
    if len({slider.name for slider in sliders}) < len(sliders):
        raise ValueError(f"sliders must have different names, got {sliders[0].name!r} twice.")
    if not alt.strip():
        raise ValueError(f"alt must describe the figure in words, got {alt!r}.")
    if not drag:
        if start is not None:
            raise ValueError(f"start is allowed only with drag=True, got {start!r}.")
        return
    scales, limits = (scenes[0].xscale, scenes[0].yscale), (scenes[0].xlim, scenes[0].ylim)
    if scales != ("linear", "linear"):
        raise ValueError(f"drag=True needs linear axes in the first scene, got {scales}.")
    if start is None or not all(a <= s <= b for s, (a, b) in zip(start, limits, strict=True)):
        raise ValueError(f"start must be a point inside {limits} with drag=True, got {start!r}.")


def _frame(result, n_scenes: int, settings: dict) -> tuple[list[list[Line]], str]:
    """What `draw` returned, as (the lines of each scene, note)."""
    parts = list(result) if isinstance(result, tuple) else [result]
    note = parts.pop() if len(parts) == n_scenes + 1 else ""
    good = isinstance(note, str) and "\n" not in note and len(parts) == n_scenes
    good = good and all(isinstance(part, list) for part in parts)
    if not good or not all(isinstance(line, Line) for part in parts for line in part):
        lists = ", ".join(["list of Line"] * n_scenes)
        raise ValueError(
            f"draw must return ({lists}) or ({lists}, note of one line), "
            f"got {result!r} at {settings}."
        )
    return parts, readable(note)


def _looks(lines: list[list[Line]]) -> list[list[tuple]]:
    return [[(line.label, line.kind, line.color, line.dashed) for line in part] for part in lines]


def _started(lines: list[list[Line]], start: Sequence[float] | None) -> list[list[Line]]:
    """The lines, the first scene's run from `start` in place of (1, 1)."""
    if start is None:
        return lines
    moved = [replace(line, x=line.x * start[0], y=line.y * start[1]) for line in lines[0]]
    return [moved, *lines[1:]]


# ------------------------------------------------------------------------------------- the drawing


class _Axes:
    """A scene's axes in the picture: the plot's box, the ticks, data → tenths of a pixel.

    Tenths are counted from the plot's upper left corner or, when the start can be dragged, from the
    data's origin, so that to scale a path is to scale its data.
    """

    def __init__(self, scene: Scene, draggable: bool):
        self.scene, self.draggable = scene, draggable
        self.xticks = _ticks(scene.xlim, scene.xscale)
        self.yticks = _ticks(scene.ylim, scene.yscale)
        self.left = 10 + 8 * max(len(text) for _, text in self.yticks)
        right = 4 + 4 * len(self.xticks[-1][1])  # half of the last text stands out
        self.width, self.height = WIDTH - right - self.left, HEIGHT - TOP - BOTTOM
        self.origin = np.zeros(2)
        if draggable:
            self.origin = self.tenths([0.0], [0.0])[0]

    def tenths(self, x, y) -> np.ndarray:
        u = 10 * self.width * _fraction(x, self.scene.xlim, self.scene.xscale)
        v = 10 * self.height * (1 - _fraction(y, self.scene.ylim, self.scene.yscale))
        return np.stack([u, v], axis=1) - self.origin

    def pieces(self, line: Line) -> list[list[list[int]]]:
        """The visible pieces of a line, each a list of rounded points."""
        margin = FAR if self.draggable else BLEED
        low = -self.origin - margin
        high = low + 2 * margin + [10 * self.width, 10 * self.height]
        path = Path(self.tenths(line.x, line.y))
        path.simplify_threshold = 1  # leaves out points within a tenth of a pixel of the line
        path = path.cleaned(remove_nans=True, clip=(*low, *high), simplify=line.kind == "line")
        points, begins = np.rint(path.vertices[:-1]).astype(int), path.codes[:-1] == Path.MOVETO
        new = begins | np.diff(points, axis=0, prepend=-1).any(axis=1)
        pieces = np.split(points[new], np.flatnonzero(begins[new])[1:])
        return [piece.tolist() for piece in pieces if len(piece) > (line.kind == "line")]


def _fraction(values, limits: tuple[float, float], scale: str) -> np.ndarray:
    """0 at the low limit, 1 at the high one; not finite if the value has no place there."""
    transform = np.log10 if scale == "log" else np.asarray
    with np.errstate(all="ignore"):
        low, high = transform(limits)
        return (transform(np.asarray(values, dtype=float)) - low) / (high - low)


def _ticks(limits: tuple[float, float], scale: str) -> list[tuple[float, str]]:
    """A handful of positions and their texts, in plain Unicode."""
    low, high = limits

    def inside(ticks):
        slack = 1e-9 * (high - low)
        return [tick for tick in ticks if low - slack <= tick[0] <= high + slack]

    def written(values):
        return inside([(value, f"{value:g}".replace("-", "−")) for value in values])

    if scale == "log":
        bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
        superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        stride = math.ceil((top - bottom) / 6)
        exponents = [e for e in range(bottom, top + 1) if e % stride == 0]
        decades = inside([(10.0**e, "10" + str(e).translate(superscript)) for e in exponents])
        if len(decades) > 2:
            return decades
        halves = written([m * 10.0**e for e in range(bottom, top + 1) for m in (1, 2, 5)])
        if len(halves) > 2:
            return halves
    for bins in (6, 5, 4, 3, 2):
        ticks = written(MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        if len(" ".join(text for _, text in ticks)) < 34:  # fits below the picture
            break
    return ticks


def _encode(pieces: list[list[list[int]]]) -> str:
    """Google's polyline encoding (differences, five bits a character), a space between pieces."""
    words, (x, y) = [], (0, 0)
    for piece in pieces:
        word = ""
        for u, v in piece:
            for step in (u - x, v - y):
                bits = step << 1 if step >= 0 else ~(step << 1)
                while bits >= 32:
                    word += chr(63 + (bits & 31 | 32))
                    bits >>= 5
                word += chr(63 + bits)
            x, y = u, v
        words.append(word)
    return " ".join(words)


def _d(pieces: list[list[list[int]]], dots: bool = False) -> str:
    """The d of an SVG path. A dot is a line of length zero with round ends."""
    if dots:
        return "".join(f"M{u} {v}h0" for piece in pieces for u, v in piece)
    return "".join("M" + "L".join(f"{u} {v}" for u, v in piece) for piece in pieces)


def _paths(pieces: list[list[list[int]]], line: Line, number: int | None = None) -> str:
    """The path elements of a line; `number` lets the script find them."""
    data = "" if number is None else f' data-line="{number}"'
    style = f'fill="none" stroke="{PALETTE[line.color]}" stroke-linecap="round"'
    html = ""
    if "line" in line.kind:
        dash = ' stroke-dasharray="50 60"' if line.dashed else ""
        html += f'<path{data} {style} stroke-width="20"{dash} d="{_d(pieces)}"/>'
    if "dots" in line.kind:
        html += f'<path{data} data-dots {style} stroke-width="55" d="{_d(pieces, dots=True)}"/>'
    return html


def _svg(axes: _Axes, lines: list[Line], number: int, description: str) -> str:
    """One scene; `number` is its first line's. The inner svg clips, scales and moves the origin."""
    scene, left, width, height = axes.scene, axes.left, axes.width, axes.height
    right, bottom = left + width, TOP + height
    grid, texts = "", f'<text x="2" y="15">{escape(scene.ylabel)}</text>'
    for value, text in axes.xticks:
        x = left + width * _fraction(value, scene.xlim, scene.xscale)
        grid += f"M{x:.1f} {TOP}V{bottom}"
        texts += f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>'
    for value, text in axes.yticks:
        y = bottom - height * _fraction(value, scene.ylim, scene.yscale)
        grid += f"M{left} {y:.1f}H{right}"
        texts += f'<text x="{left - 5}" y="{y + 4.5:.1f}" text-anchor="end">{text}</text>'
    texts += (
        f'<text x="{(left + right) / 2:.1f}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(scene.xlabel)}</text>"
    )
    contours = "".join(_d(axes.pieces(curve)) for curve in _contours(scene))
    back = "".join(_paths(axes.pieces(line), line) for line in scene.background)
    front = "".join(_paths(axes.pieces(line), line, number + i) for i, line in enumerate(lines))
    u, v = np.rint(-axes.origin).astype(int)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}" '
        f'fill="none" stroke-linejoin="round">{texts}'
        f'<path stroke="currentColor" stroke-opacity="0.15" d="{grid}"/>'
        f'<path stroke="currentColor" stroke-opacity="0.6" d="M{left} {TOP}V{bottom}H{right}"/>'
        f'<svg x="{left}" y="{TOP}" width="{width}" height="{height}" overflow="hidden" '
        f'viewBox="{u} {v} {10 * width:.0f} {10 * height:.0f}">'
        f'<path stroke="{PALETTE[5]}" stroke-opacity="0.7" stroke-width="9" d="{contours}"/>'
        f"{back}{front}</svg></svg>"
    )


def _contours(scene: Scene) -> list[Line]:
    """The contours, found by matplotlib's generator."""
    if scene.contours is None:
        return []
    x, y, z, levels = scene.contours
    generator = contourpy.contour_generator(x, y, z)
    return [Line(*curve.T) for level in levels for curve in generator.lines(level)]


def _picture(lines, note: str, axes: list[_Axes], alt: str) -> str:
    """The scenes side by side, each with title and legend, and the note."""
    html, number = "", 0
    swatch = '<svg viewBox="0 0 300 100" width="30" height="10" aria-hidden="true">{}</svg>'
    for i, (ax, part) in enumerate(zip(axes, lines, strict=True)):
        scene = ax.scene
        description = alt if i == 0 else scene.title or f"{scene.ylabel} against {scene.xlabel}"
        svg = _svg(ax, part, number, description)
        legend = "".join(
            f"<span>{swatch.format(_paths([[[30, 50], [150, 50], [270, 50]]], line))}"
            f"{escape(line.label)}</span>"
            for line in [*part, *scene.background]
            if line.label
        )
        html += (
            f'<div class="explore-scene"><div class="explore-title">{escape(scene.title)}</div>'
            f'<div class="explore-plot">{svg}</div><div class="explore-legend">{legend}</div></div>'
        )
        number += len(part)
    note = f'<p class="explore-note" aria-live="polite">{escape(note)}</p>'
    return f'<style>{_asset("widgets.css")}</style><div class="explore-scenes">{html}</div>{note}'


def _asset(name: str) -> str:
    text = files("optcore").joinpath(name).read_text(encoding="utf-8")
    return text.replace("ACCENT", PALETTE[0]).strip()


# ----------------------------------------------------------------------------------- the two faces


def _page(frames: dict, first: tuple, scenes, sliders, alt: str, still: str, start) -> str:
    """The HTML face. Its start frame is drawn here: there is a picture without a script, too."""
    draggable = start is not None
    axes = [_Axes(scene, draggable and i == 0) for i, scene in enumerate(scenes)]
    controls = "".join(
        _buttons(slider) if isinstance(slider, Choice) else _range(slider) for slider in sliders
    )
    data, reach = {}, None
    if draggable:
        controls += '<div class="explore-hint">Drag the ring, or move it with the arrow keys.</div>'
        # Coded for the farthest start, a path only ever shrinks, and with it its rounding.
        reach = np.abs([scenes[0].xlim, scenes[0].ylim]).max(axis=1).tolist()
        box = axes[0].left / WIDTH, TOP / HEIGHT, axes[0].width / WIDTH, axes[0].height / HEIGHT
        data["drag"] = {
            "start": start,
            "reach": reach,
            "lim": [scenes[0].xlim, scenes[0].ylim],
            "names": [scenes[0].xlabel, scenes[0].ylabel],
            "box": [round(part, 5) for part in box],
        }
    data["frames"] = [
        [
            _encode(ax.pieces(line))
            for ax, part in zip(axes, _started(lines, reach), strict=True)
            for line in part
        ]
        + [note]
        for lines, note in frames.values()
    ]
    lines, note = frames[first]
    payload = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    body = (
        f'<div class="explore-controls" hidden>{controls}</div>'
        f"{_picture(_started(lines, start), note, axes, alt)}"
        f'<p class="explore-still">{escape(still)}</p>'
    )
    name = hashlib.sha256((body + payload).encode()).hexdigest()[:12]
    script = f'<script>{_asset("widgets.js")}("{name}", {payload});</script>'
    return f'<div class="explore" data-explore="{name}">{body}{script}</div>'


def _range(slider: Slider) -> str:
    texts = [slider.text(value) for value in slider.values]
    shown, labels = texts[slider.start_index], json.dumps(texts, ensure_ascii=False)
    return (
        f'<div class="explore-slider"><label>{escape(slider.label)} <input type="range" '
        f'min="0" max="{len(texts) - 1}" value="{slider.start_index}" autocomplete="off" '
        f'aria-valuetext="{escape(shown)}" data-labels="{escape(labels)}"></label>'
        f"<output>{escape(shown)}</output></div>"
    )


def _buttons(choice: Choice) -> str:
    buttons = "".join(
        f'<label><input type="radio" value="{i}" autocomplete="off"'
        f"{' checked' if i == choice.start_index else ''}>{escape(value)}</label>"
        for i, value in enumerate(choice.values)
    )
    label = escape(choice.label)
    return (
        f'<div class="explore-choice" role="radiogroup" aria-label="{label}">'
        f"<span>{label}</span>{buttons}</div>"
    )


def _png(lines, note: str, scenes, still: str, start) -> str:
    """The still face, by matplotlib, in base64."""
    figure = Figure(figsize=(4.2 * len(scenes), 3.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(scenes), squeeze=False)[0]
    for ax, scene, part in zip(panels, scenes, _started(lines, start), strict=True):
        for curve in _contours(scene):
            ax.plot(curve.x, curve.y, color=PALETTE[5], alpha=0.7, linewidth=0.7)
        for line in [*scene.background, *part]:
            ax.plot(
                line.x,
                line.y,
                color=PALETTE[line.color],
                linestyle=("--" if line.dashed else "-") if "line" in line.kind else "none",
                marker="o" if "dots" in line.kind else "none",
                markersize=4,
                label=_plain(line.label or "_"),  # "_": not in the legend
            )
        # As in the HTML, a value ≤ 0 on a log axis breaks the line.
        for set_scale, scale in ((ax.set_xscale, scene.xscale), (ax.set_yscale, scene.yscale)):
            set_scale(scale, **({"nonpositive": "mask"} if scale == "log" else {}))
        ax.set(xlim=scene.xlim, ylim=scene.ylim, title=_plain(scene.title))
        ax.set(xlabel=_plain(scene.xlabel), ylabel=_plain(scene.ylabel))
        if ax.get_legend_handles_labels()[1]:
            ax.legend(fontsize="small", frameon=False)
    figure.supxlabel(_plain("\n".join(filter(None, [note, still]))), fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def _plain(text: str) -> str:
    """Text in which matplotlib finds no mathematics."""
    return text.replace("$", r"\$")
