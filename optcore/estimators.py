"""Gradient estimators: callables w → z_t, the first half of the meta-algorithm.

An estimator draws one sample a step and evaluates the gradient on it at every place it is asked
for: `estimator(w)` returns z, `estimator.at(places)` a tuple with one gradient a place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optcore.problems import Problem


class FullBatch:
    """The exact gradient ∇F(w): n evaluations a call for a finite sum, one otherwise."""

    def __init__(self, problem: Problem):
        self.problem = problem

    def __call__(self, w: Tensor) -> Tensor:
        """Return ∇F(w)."""
        return self.problem.gradient(w)

    def at(self, places: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return ∇F at each place."""
        return tuple(self.problem.gradient(w) for w in places)


class MiniBatch:
    r"""The average gradient over a random batch.

    $$z = \frac1B \sum_{i \in \mathcal B} \nabla f_i(w)$$

    Unbiased. With tr Σ the variance of one example's gradient, E‖z − ∇F‖² is tr Σ / B for a batch
    drawn with replacement, and tr Σ / B · (n−B)/(n−1) without. A call costs B evaluations.
    Source: Cochran (1977), Sampling Techniques, 3rd ed., theorem 2.2.

    Args:
        problem: where the gradients come from.
        size: B, from 1 to n (without an upper end where n is infinite or draws are replaced).
        replace: draw with replacement, or B different examples.
        seed: of the estimator's own generator, on the CPU, so that the batches are the same on
            every device.

    Raises:
        ValueError: `size` is below 1, or above n without replacement.
    """

    def __init__(self, problem: Problem, size: int, *, replace: bool = True, seed: int = 0):
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}.")
        if not replace and problem.n is not None and size > problem.n:
            raise ValueError(
                f"size must be at most n = {problem.n} without replacement, got {size}."
            )
        self.problem = problem
        self.size = size
        self.replace = replace
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, w: Tensor) -> Tensor:
        """Return the gradient at `w` averaged over a fresh batch."""
        return self.at((w,))[0]

    def at(self, places: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the gradients at each place, averaged over one and the same fresh batch."""
        sample = self.problem.draw(self.size, self.generator, like=places[0], replace=self.replace)
        return tuple(self.problem.gradient(w, sample) for w in places)
