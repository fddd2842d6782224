"""A claim: a numbered sentence, the number that was measured, the bound it must meet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display


class ClaimFailed(AssertionError):
    """A claim's measured number lies outside its bound."""


@dataclass(frozen=True)
class Claim:
    id: str
    sentence: str
    measured: float
    rounded: str
    bound: str
    passed: bool

    def __str__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.id}  {self.sentence}  [{self.bound}]"

    def _repr_html_(self) -> str:
        # A notebook has no style sheet of the book's. This green is readable on white and on black.
        green = "#189c6c"
        tick = f'<b style="color: {green}">{"✓" if self.passed else "✗"} {self.id}</b>'
        measured = f'<span style="white-space: nowrap">measured <b>{self.rounded}</b></span>'
        bound = f'<span style="white-space: nowrap">bound {html(self.bound)}</span>'
        return (
            f'<div style="border-left: 4px solid {green}; padding: 0.2em 0.8em">'
            f"{tick} {html(self.sentence)} – {measured}, {bound}</div>"
        )


def check(
    id: str,
    sentence: str,
    measured: float | Iterable[float],
    bound: float | tuple[float, float],
) -> None:
    """Execute a claim: print one stable line if `measured` meets `bound`, raise otherwise.

    A claim in several parts calls `check` once a part. The arguments are those of `measure`.

    The plain text that a notebook keeps shows the bound, which is stable, and not the measured
    number, which moves in its last digits from one machine to the next. What a reader sees, in
    HTML or printed by a script, shows both.

    Raises:
        ClaimFailed: a number measured is outside the bound, or is not finite.
        ValueError: the id or the bound is malformed, or nothing was measured.
    """
    claim = measure(id, sentence, measured, bound)
    if not claim.passed:
        raise ClaimFailed(
            f"{id}: measured {claim.measured:.6g}, but the bound is {claim.bound}. {sentence}"
        )
    if InteractiveShell.initialized():
        display(
            {"text/plain": str(claim), "text/html": claim._repr_html_()},
            raw=True,
            metadata={"claim": asdict(claim)},
        )
    else:
        print(claim, "measured", claim.rounded)


def measure(
    id: str,
    sentence: str,
    measured: float | Iterable[float],
    bound: float | tuple[float, float],
) -> Claim:
    """Return the claim, which has `passed` if what was measured is finite and meets `bound`.

    Args:
        id: `"chapter.number"` as in the ledger.
        sentence: what is claimed, as one plain sentence.
        measured: the number that was computed, or several that must all meet the bound. Of several
            the nearest to the bound is the claim's number. (Python's `max` would not do: it passes
            over a NaN unless that comes first.)
        bound: an upper bound `b` (`measured <= b`) or an interval `(low, high)`, ends included;
            an end may be infinite.

    Raises:
        ValueError: the id or the bound is malformed, or nothing was measured.
    """
    if not re.fullmatch(r"\d+\.\d+", id):
        raise ValueError(f"id must look like '3.2', got {id!r}.")
    try:
        low, high = bound if isinstance(bound, tuple) else (-math.inf, bound)
        usable = low <= high and not (math.isinf(low) and math.isinf(high))
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise ValueError(f"bound must be a number or an interval (low, high), got {bound!r}.")
    number = _nearest(measured, low, high)
    passed = math.isfinite(number) and bool(low <= number <= high)
    rounded = _rounded(number, low, high) if passed else f"{number:.6g}"
    return Claim(id, sentence, number, rounded, _bound_text(low, high), passed)


def _nearest(measured: float | Iterable[float], low: float, high: float) -> float:
    # The number that is farthest outside, or else nearest to an end. Arrays and tensors without
    # dimensions claim to be iterable.
    several = hasattr(measured, "__iter__") and getattr(measured, "ndim", 1) > 0
    numbers = [float(x) for x in measured] if several else [float(measured)]
    if not numbers:
        raise ValueError("measured holds no number: nothing was measured.")
    return max(numbers, key=lambda x: max(low - x, x - high) if math.isfinite(x) else math.inf)


def _bound_text(low: float, high: float) -> str:
    if low == -math.inf:
        return f"≤ {high:g}"
    if high == math.inf:
        return f"≥ {low:g}"
    return f"in [{low:g}, {high:g}]"


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _rounded(x: float, low: float, high: float) -> str:
    """Two digits, or more where two would seem to miss the bound; tiny numbers, a power of ten."""
    if x == round(x) and abs(x) < 100:
        return f"{x:.0f}".replace("-", "−")
    if abs(x) < 1e-4:
        power = "10" + str(round(math.log10(abs(x)))).translate(SUPERSCRIPT)
        return "−" * (x < 0) + power
    digits = 2
    while not low <= float(f"{x:.{digits - 1}e}") <= high:
        digits += 1
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    if int(exponent) >= 4:
        text = f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"
    else:
        text = f"{float(f'{mantissa}e{exponent}'):.{max(0, digits - 1 - int(exponent))}f}"
    return text.replace("-", "−")


# A letter, a number, a norm or a bracket, then indices and exponents: σ_min, ‖G‖_F, T^(−1/2). A
# letter stands alone: state_dict and polar_express are names.
SCRIPTED = re.compile(
    r"(?P<base>(?<![\w.])(?:[^\W\d_]|\d[\d.]*)|[‖)\]])"
    r"(?P<scripts>(?:[_^](?:\{[^{}]+\}|\([^()]+\)|[A-Za-z]{1,5}(?![\w=])|[-−]?\d+(?:\.\d+)?|[*∞]))+)"
)
SCRIPT = re.compile(r"([_^])([{(]?)([^_^]+?)[})]?(?=[_^]|$)")
POWER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e([-+]?\d+)\b")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\.?\d)")
LONG = re.compile(r"(?<![\w.,/])\d{5,}(?!\w|[.,]\d)")
ONE_NUMBER = re.compile(r"\bin \[(\S+), \1\]")


def unbroken(text: str) -> str:
    """Return the text with narrow spaces in 40 000 and its like, at which no line breaks."""
    return THOUSANDS.sub(lambda match: match[0].replace(" ", "\u202f"), text)


def readable(text: str) -> str:
    """Return plain text such as `-1e-12` or `20000` as one would print it: −10⁻¹², 20 000."""

    def power(match: re.Match) -> str:
        factor = "" if match[1] == "1" else f"{match[1]} × "
        return f"{factor}10{str(int(match[2])).translate(SUPERSCRIPT)}"

    text = re.sub(r"(?<![\w)\]])-(?=\d)", "−", POWER.sub(power, text))
    return unbroken(LONG.sub(lambda match: f"{int(match[0]):,}".replace(",", " "), text))


def typeset(text: str) -> list[tuple[str, str]]:
    """Return the text in pieces, each with what it is: `""`, `"sub"` or `"sup"`.

    Plain text such as `σ_min ≤ 1e-12` is what a claim's sentence and bound are written in.
    """
    text = readable(ONE_NUMBER.sub(r"= \1", text))
    pieces, end = [], 0
    for match in SCRIPTED.finditer(text):
        pieces.append(("", text[end : match.end("base")]))
        for mark, _, script in SCRIPT.findall(match["scripts"]):
            pieces.append(("sub" if mark == "_" else "sup", script))
        end = match.end()
    return [piece for piece in [*pieces, ("", text[end:])] if piece[1]]


def html(text: str) -> str:
    """Return the text as HTML, its indices and exponents set as such."""
    return "".join(
        f"<{tag}>{escape(piece)}</{tag}>" if tag else escape(piece) for tag, piece in typeset(text)
    )


def loglog_slope(x, y) -> float:
    """Return the exponent p of the power law y ∝ x^p that fits best.

    The fit is least squares of log y on log x.

    Args:
        x, y: positive numbers, one length ≥ 2.

    Raises:
        ValueError: an entry is not positive and finite: a power law has none.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not (np.all((x > 0) & (x < math.inf)) and np.all((y > 0) & (y < math.inf))):
        raise ValueError("x and y must hold positive finite numbers only.")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
