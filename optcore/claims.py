"""A claim: a numbered sentence, the number that was measured, the bound it must meet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

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
    bound: str
    passed: bool

    def __str__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.id}  {self.sentence}  [{self.bound}]"


def check(
    id: str,
    sentence: str,
    measured: float | Iterable[float],
    bound: float | tuple[float, float],
) -> None:
    """Execute a claim: print one stable line if `measured` meets `bound`, raise otherwise.

    A claim in several parts calls `check` once a part. The arguments are those of `measure`.

    The line shows the bound, which is stable, and not the measured number, which moves in its last
    digits from one machine to the next. The number travels in the output's metadata; the book's
    page *Verified claims* shows it.

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
        display({"text/plain": str(claim)}, raw=True, metadata={"claim": asdict(claim)})
    else:
        print(claim)


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
    return Claim(id, sentence, number, _bound_text(low, high), passed)


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
