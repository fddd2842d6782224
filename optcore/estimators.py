r"""Gradient estimators: the first half of the meta-algorithm, an equation and a memory.

    sample = estimator.draw(t, like=w)                               the only impure line
    z, memory, evaluations = estimator.at(places, sample, memory, t)
    w, state = rule(w, z, state, **hyper)

The estimate is as pure as the rule: what an estimator remembers (a snapshot, a table, its last
estimate) goes in and comes out. So any estimator goes with any rule, one estimator serves any
number of runs, and a run can be stopped and continued. A new estimator says how it draws, in
`draw`, and what it makes of the sample, in `at`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optcore.problems import Problem, Stream


class Estimate(NamedTuple):
    """What `Estimator.at` returns.

    Attributes:
        z: the gradient estimates, one for each place.
        memory: of the estimator, for its next call: tensors, in tuples or dicts, or `None`.
        evaluations: gradients of single samples that were computed, for one row of w.
    """

    z: tuple[Tensor, ...]
    memory: object
    evaluations: int


class Estimator:
    """What `run` asks of an estimator; this one knows how to draw nothing.

    Attributes:
        problem: where the gradients come from.
    """

    def __init__(self, problem: Problem):
        self.problem = problem

    def draw(self, t: int, like: Tensor):
        """Draw the sample of step t = 1, 2, …, for an iterate like `like`."""

    def at(self, places: tuple[Tensor, ...], sample, memory, t: int) -> Estimate:
        """Estimate the gradient at each place, all on one sample; a pure function.

        Args:
            places: the first is the iterate, or the point in its place, of which the memory keeps
                track.
            sample: of `draw`.
            memory: of the last estimate; `None` at the first step.
            t: number of the step.
        """
        raise NotImplementedError

    def restart(self) -> None:
        """Begin the draws anew; a run that does not resume another one does."""

    def state_dict(self) -> dict:
        """Return where the draws stand."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Continue the draws from where they stood."""

    def __call__(self, w: Tensor) -> Tensor:
        """Return the estimate at `w` on a fresh sample.

        Raises:
            TypeError: the estimator keeps a memory, which would be lost here.
        """
        estimate = self.at((w,), self.draw(1, like=w), None, 1)
        if estimate.memory is not None:
            raise TypeError(
                f"{type(self).__name__} keeps a memory from step to step: use `run`, or `at`."
            )
        return estimate.z[0]


class FullBatch(Estimator):
    """The exact gradient ∇F(w): n evaluations a place for a finite sum, one otherwise."""

    def at(self, places, sample, memory, t) -> Estimate:
        """Return ∇F at each place."""
        z = tuple(self.problem.gradient(w) for w in places)
        return Estimate(z, None, self.problem.evaluations() * len(places))


class MiniBatch(Estimator):
    r"""The average gradient over a random batch.

    $$z = \frac1B \sum_{i \in \mathcal B} \nabla f_i(w)$$

    Unbiased. With tr Σ the variance of one example's gradient, E‖z − ∇F‖² is tr Σ / B for a batch
    drawn with replacement, and tr Σ / B · (n−B)/(n−1) without. It costs B evaluations a place.
    Source: Cochran (1977), Sampling Techniques, 3rd ed., theorem 2.2.

    Args:
        problem: where the gradients come from.
        size: B, from 1 to n (without an upper end where n is infinite or draws are replaced). Left
            out for a `Stream`, whose loader decides.
        replace: draw with replacement, or B different examples.
        shared: the rows of w see one batch, as when step sizes are compared. Otherwise each row
            draws its own: rows are independent repetitions.
        seed: of the estimator's own generator, on the CPU, so that the batches are the same on
            every device.

    Raises:
        ValueError: `size` is below 1, above n without replacement, missing, or given for a stream.
    """

    def __init__(
        self,
        problem: Problem,
        size: int | None = None,
        *,
        replace: bool = True,
        shared: bool = False,
        seed: int = 0,
    ):
        super().__init__(problem)
        if isinstance(problem, Stream):
            if size is not None:
                raise ValueError(f"size of a Stream's batches is its loader's, got {size}.")
        elif size is None or size < 1:
            raise ValueError(f"size must be at least 1, got {size}.")
        elif not replace and problem.n is not None and size > problem.n:
            raise ValueError(
                f"size must be at most n = {problem.n} without replacement, got {size}."
            )
        self.size = size
        self.replace = replace
        self.shared = shared
        self.seed = seed
        self.generator = torch.Generator()
        self.restart()

    def draw(self, t, like):
        """Draw a batch: one for all rows of w, or one for each."""
        one = like[(0,) * (like.ndim - self.problem.start.ndim)] if self.shared else like
        return self.problem.draw(self.size, self.generator, like=one, replace=self.replace)

    def at(self, places, sample, memory, t) -> Estimate:
        """Return the gradients at each place, averaged over one and the same batch."""
        z = tuple(self.problem.gradient(w, sample) for w in places)
        return Estimate(z, None, self.problem.evaluations(sample) * len(places))

    def restart(self) -> None:
        """Go back to the first batch."""
        self.generator.manual_seed(self.seed)
        self.problem.seek(None)

    def state_dict(self) -> dict:
        """Return the state of the generator, and the place in the epoch of a `Stream`."""
        return {"generator": self.generator.get_state(), "place": self.problem.place}

    def load_state_dict(self, state: dict) -> None:
        """Continue with the batch that would have come next."""
        self.generator.set_state(state["generator"].cpu())  # wherever it was loaded
        self.problem.seek(state["place"])
