r"""Learning-rate schedules: pure functions t → η_t, with t = 1, 2, … as in the meta-algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    r"""The same rate at every step: $\eta_t = \eta$.

    Raises:
        ValueError: `lr` is negative or not finite.
    """
    _nonnegative("lr", lr)
    return lambda t: lr


def power(lr: float, exponent: float) -> Schedule:
    r"""A power law: $\eta_t = \eta\, t^{-p}$.

    Robbins and Monro's conditions, Σ η_t = ∞ and Σ η_t² < ∞, hold for ½ < p ≤ 1.
    Source: Robbins and Monro (1951), doi:10.1214/aoms/1177729586.

    Args:
        lr: η, the rate at t = 1.
        exponent: p ≥ 0.

    Raises:
        ValueError: `lr` or `exponent` is negative or not finite.
    """
    _nonnegative("lr", lr)
    _nonnegative("exponent", exponent)
    return lambda t: lr * t**-exponent


def inverse_time(mu: float, offset: float = 1.0) -> Schedule:
    r"""The schedule for μ-strongly convex objectives: $\eta_t = 2 / (\mu\,(t + t_0))$.

    With t₀ = 1 it is the schedule of Lacoste-Julien, Schmidt and Bach (2012), arXiv:1212.2002. A
    smooth objective wants η_1 ≤ 1/L, hence t₀ ≥ 2L/μ − 1; the rate in T stays the same.

    Args:
        mu: strong convexity μ > 0.
        offset: t₀ > -1.

    Raises:
        ValueError: `mu` is not a positive number, or `offset` ≤ -1.
    """
    if not 0 < mu < math.inf:
        raise ValueError(f"mu must be a finite number > 0, got {mu}.")
    if not -1 < offset < math.inf:
        raise ValueError(f"offset must be a finite number > -1, got {offset}.")
    return lambda t: 2 / (mu * (t + offset))


def _nonnegative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number ≥ 0, got {value}.")
