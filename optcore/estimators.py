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

import math
from typing import NamedTuple

import torch
from torch import Tensor

from optcore.problems import Problem, Stream
from optcore.schedules import Schedule

MAX_TABLE_BYTES = 2 * 2**30


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
            memory: of the last estimate, `None` at the first step. It is used up: a large table is
                changed in place.
            t: number of the step.
        """
        raise NotImplementedError

    def columns(self, memory, w: Tensor) -> dict:
        """Return what a history records of the memory, by name; `None` is that of the start."""
        return {}

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


class SVRG(MiniBatch):
    r"""The mini-batch gradient, corrected by what the same batch gives at a snapshot w̃.

    $$z_t = \nabla f_{\mathcal B}(w_t)
      - \alpha_t \bigl( \nabla f_{\mathcal B}(\tilde w) - \nabla F(\tilde w) \bigr)$$

    Unbiased for every α_t. The snapshot becomes the iterate at the first step and then either at
    every m-th or, loopless, at each step with probability p; all rows of w renew theirs together.
    A step costs B evaluations a place and B more at the snapshot, a snapshot n.
    Sources: Johnson and Zhang (2013), NeurIPS 26; loopless: Kovalev, Horváth and Richtárik (2020),
    arXiv:1901.08689; α_t: Yin et al. (2023), arXiv:2311.05589.

    Args:
        problem: a finite sum.
        size: B, with `replace`, `shared` and `seed` as for `MiniBatch`.
        every: m, steps between two snapshots.
        probability: p, in the place of `every`.
        coefficient: α, a number, a tensor like w, or a schedule t → α_t.

    Raises:
        ValueError: `size` as for `MiniBatch`; both or none of `every` and `probability` are given;
            `every` is below 1, or `probability` not in (0, 1].
    """

    def __init__(
        self,
        problem: Problem,
        size: int | None = None,
        *,
        every: int | None = None,
        probability: float | None = None,
        coefficient: float | Tensor | Schedule = 1.0,
        **batch,
    ):
        if (every is None) == (probability is None):
            raise ValueError("a snapshot needs either every or probability, and not both.")
        if every is not None:
            _check_every(every)
        elif not 0 < probability <= 1:
            raise ValueError(f"probability must lie in (0, 1], got {probability}.")
        super().__init__(problem, size, **batch)
        self.every = every
        self.probability = probability
        self.coefficient = coefficient

    def draw(self, t, like):
        """Draw a batch, and whether this step renews the snapshot."""
        if self.every is None:
            renew = torch.rand((), generator=self.generator).item() < self.probability
        else:
            renew = (t - 1) % self.every == 0
        return super().draw(t, like), renew

    def at(self, places, sample, memory, t) -> Estimate:
        """Return the estimates; the memory holds the snapshot and its gradient."""
        batch, renew = sample
        spent = 0
        if renew or memory is None:
            memory = places[0], self.problem.gradient(places[0])
            spent = self.problem.evaluations()
        snapshot, full = memory
        (*there, at_snapshot), _, cost = super().at((*places, snapshot), batch, None, t)
        correction = _now(self.coefficient, t) * (at_snapshot - full)
        return Estimate(tuple(g - correction for g in there), memory, spent + cost)


class SARAH(MiniBatch):
    r"""The last estimate, moved by what the same batch says of the last step.

    $$z_t = z_{t-1} + \nabla f_{\mathcal B}(w_t) - \nabla f_{\mathcal B}(w_{t-1})$$

    At the first step, and at every m-th after it, z_t = ∇F(w_t), which costs n evaluations a place;
    the others cost B a place and B at the last iterate. Between two full gradients the estimate is
    biased, given the past.
    Source: Nguyen, Liu, Scheinberg and Takáč (2017), ICML, arXiv:1703.00102.

    Args:
        problem: a finite sum.
        size: B, with `replace`, `shared` and `seed` as for `MiniBatch`.
        every: m, steps between two full gradients.

    Raises:
        ValueError: `size` as for `MiniBatch`; `every` is below 1.
    """

    def __init__(self, problem: Problem, size: int | None = None, *, every: int, **batch):
        _check_every(every)
        super().__init__(problem, size, **batch)
        self.every = every

    def at(self, places, sample, memory, t) -> Estimate:
        """Return the estimates; the memory holds the iterate and its estimate."""
        if memory is None or (t - 1) % self.every == 0:
            z, _, cost = FullBatch(self.problem).at(places, None, None, t)
        else:
            last, z = memory
            (*there, at_last), _, cost = super().at((*places, last), sample, None, t)
            z = tuple(z + (g - at_last) for g in there)
        return Estimate(z, (places[0], z[0]), cost)


class STORM(MiniBatch):
    r"""A moving average of gradients whose past is moved to the new iterate.

    $$z_t = \beta_t z_{t-1} + (1-\beta_t)\, \nabla f_{\mathcal B}(w_t)
      + \gamma \beta_t \bigl( \nabla f_{\mathcal B}(w_t) - \nabla f_{\mathcal B}(w_{t-1}) \bigr)$$

    With γ = 1 it is STORM, whose 1 − β_t is the paper's a; with γ = 0 the moving average, γ = 1 − β
    Nesterov's momentum with two gradients, and other γ are MARS's. z_1 is the mini-batch gradient.
    No full gradient is needed: a step costs B evaluations a place, and B at the last iterate.
    Sources: Cutkosky and Orabona (2019), NeurIPS 32, arXiv:1905.10018; Yuan et al. (2024),
    arXiv:2411.10438.

    Args:
        problem: where the gradients come from; a `Stream` will do.
        size: B, with `replace`, `shared` and `seed` as for `MiniBatch`.
        beta: β in [0, 1], or a schedule t → β_t.
        correction: γ.

    Raises:
        ValueError: `size` as for `MiniBatch`; `beta` is not in [0, 1].
    """

    def __init__(
        self,
        problem: Problem,
        size: int | None = None,
        *,
        beta: float | Schedule = 0.9,
        correction: float = 1.0,
        **batch,
    ):
        if not callable(beta) and not 0 <= beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], got {beta}.")
        super().__init__(problem, size, **batch)
        self.beta = beta
        self.correction = correction

    def at(self, places, sample, memory, t) -> Estimate:
        """Return the estimates; the memory holds the iterate and its estimate."""
        if memory is None:
            z, _, cost = super().at(places, sample, None, t)
        else:
            last, z = memory
            beta = _now(self.beta, t)
            (*there, at_last), _, cost = super().at((*places, last), sample, None, t)
            z = tuple(
                beta * z + (1 - beta) * g + self.correction * beta * (g - at_last) for g in there
            )
        return Estimate(z, (places[0], z[0]), cost)


class SAGA(MiniBatch):
    r"""The mini-batch gradient, corrected by a table g of the last gradient of each example.

    $$z_t = \frac1B \sum_{i \in \mathcal B} \bigl( \nabla f_i(w_t) - g_i \bigr)
      + \frac1n \sum_{j=1}^n g_j, \qquad g_i \leftarrow \nabla f_i(w_t) \; (i \in \mathcal B)$$

    Unbiased. The table starts at zero, so a step costs B evaluations a place, and nothing else is
    ever computed. What it holds of an example is the problem's `contributions`: for a linear model
    its residuals, one number a class.
    Source: Defazio, Bach and Lacoste-Julien (2014), NeurIPS 27, arXiv:1407.0202.

    Args:
        problem: a finite sum.
        size: B, with `replace`, `shared` and `seed` as for `MiniBatch`.
        max_bytes: the largest table allowed.

    Raises:
        ValueError: `size` as for `MiniBatch`; the problem is no finite sum.
        MemoryError: from `at`, before anything is allocated, if the table takes more than
            `max_bytes`.
    """

    def __init__(self, problem: Problem, size: int, *, max_bytes: int = MAX_TABLE_BYTES, **batch):
        if problem.n is None:
            raise ValueError("SAGA needs a finite sum: it keeps a table of the examples.")
        super().__init__(problem, size, **batch)
        self.max_bytes = max_bytes

    def at(self, places, sample, memory, t) -> Estimate:
        """Return the estimates; the memory holds the table and the mean of its gradients."""
        problem = self.problem
        new = problem.contributions(places[0], sample)
        table, mean = memory or (self._empty_table(new), torch.zeros_like(places[0]))
        indices = sample.view(*sample.shape, *(1,) * (new.ndim - sample.ndim))
        own = indices.expand_as(new)
        old = table.gather(0, own)
        change = problem.average(new - old, sample)
        z = [change + mean + problem.l2 * places[0]]
        for w in places[1:]:
            there = problem.contributions(w, sample)
            z.append(problem.average(there - old, sample) + mean + problem.l2 * w)
        table.scatter_(0, own, new)
        fresh = _first_of_each(sample)  # an example drawn twice changes the table once
        if not fresh.all():
            change = problem.average((new - old) * fresh.view(indices.shape), sample)
        mean = mean + change * (len(sample) / problem.n)
        return Estimate(tuple(z), (table, mean), problem.evaluations(sample) * len(places))

    def _empty_table(self, new: Tensor) -> Tensor:
        shape = (self.problem.n, *new.shape[1:])
        size = math.prod(shape) * new.element_size()
        if size > self.max_bytes:
            raise MemoryError(
                f"SAGA's table of {' × '.join(map(str, shape))} numbers would take {size:,} bytes, "
                f"max_bytes is {self.max_bytes:,}."
            )
        return new.new_zeros(shape)


def _check_every(every: int) -> None:
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")


def _now(value, t: int):
    return value(t) if callable(value) else value


def _first_of_each(sample: Tensor) -> Tensor:
    """Return, of indices along the first dimension, which ones have not come before."""
    ordered, order = sample.sort(stable=True, dim=0)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(first).scatter_(0, order, first)
