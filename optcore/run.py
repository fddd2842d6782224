"""The meta-algorithm: an estimator, a rule and a schedule become a history."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import trange

from optcore.schedules import Schedule

PROGRESS_AFTER_S = 10


class History:
    """What a run recorded: columns by name, and the last iterate.

    `history["t"]` holds the numbers of updates made before each record, 0 for the start;
    `history["evaluations"]` the gradient evaluations spent by then; `history["loss"]` F(w); and
    every name in `run`'s `record` its values. Each is an array with one row a record.

    Attributes:
        w: the last iterate.
    """

    def __init__(self, w: Tensor):
        self.w = w
        self._columns: dict[str, list[np.ndarray]] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(f"{name!r} was not recorded; there are {', '.join(self._columns)}.")
        return np.stack(self._columns[name])

    def _append(self, row: Mapping[str, object]) -> None:
        for name, value in row.items():
            value = value.detach().cpu().numpy().copy() if isinstance(value, Tensor) else value
            self._columns.setdefault(name, []).append(np.asarray(value))


class NotFinite(FloatingPointError):
    """A loss or a gradient that is infinite or NaN stopped a run.

    Attributes:
        history: everything recorded until then.
    """

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history


def run(
    estimator,
    rule,
    *,
    lr: float | Tensor | Schedule,
    steps: int,
    w: Tensor | None = None,
    every: int | None = 1,
    record: Mapping[str, Callable[[Tensor], object]] | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
    **hyper,
) -> History:
    r"""Run the meta-algorithm of the book.

    $$\text{for } t = 1, \dots, T: \quad z_t = \text{estimator}(w_t), \qquad
      w_{t+1} = \text{rule}(w_t, z_t;\, \eta_t)$$

    Args:
        estimator: of `optcore.estimators`; it carries the problem.
        rule: of `optcore.rules`.
        lr: η, or a schedule t → η_t. A tensor broadcasts against `w`.
        steps: T ≥ 1.
        w: first iterate; the problem's `start` if not given.
        every: record the start, every `every`-th iterate and the last one; `None` records the
            start, the last iterate and those at 2^(k/4), which are even on a logarithmic axis.
        record: more columns: name → function of the iterate.
        project: applied to every new iterate, for constrained problems.
        **hyper: the rule's other hyper-parameters, such as `beta`.

    Returns:
        The `History`. A run of more than ten seconds shows a progress bar, unless the environment
        has `TQDM_DISABLE`.

    Raises:
        NotFinite: a gradient, or a recorded loss, is infinite or NaN; `.history` holds the records
            until then.
        ValueError: `steps` or `every` is below 1, `w` does not end in the shape of `start`
            or is not floating point.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, or None, got {every}.")
    problem = estimator.problem
    w = problem.start.clone() if w is None else w
    if not w.is_floating_point():
        raise ValueError(f"w must be floating point, got {w.dtype}.")
    if w.shape[w.ndim - problem.start.ndim :] != problem.start.shape:
        raise ValueError(
            f"w has shape {tuple(w.shape)}: it must end in the problem's "
            f"{tuple(problem.start.shape)}."
        )
    schedule = lr if callable(lr) else (lambda t: lr)
    recorded = _record_times(steps, every)
    history, spent, state = History(w), problem.evaluations, None

    def note(t):
        loss = problem.loss(w)
        if not loss.isfinite().all():
            raise NotFinite(
                f"The loss after {t} steps is {_worst(loss)}: try a smaller lr.", history
            )
        history.w = w
        history._append(
            {
                "t": t,
                "evaluations": problem.evaluations - spent,
                "loss": loss,
                **{name: function(w) for name, function in (record or {}).items()},
            }
        )

    note(0)
    # In a notebook tqdm overlooks its own variable.
    quiet = bool(os.environ.get("TQDM_DISABLE"))
    for t in trange(1, steps + 1, delay=PROGRESS_AFTER_S, leave=False, disable=quiet):
        hyper["lr"] = schedule(t)
        points = getattr(rule, "points", None)
        z = estimator.at(points(w, state, **hyper)) if points else estimator(w)
        _check_gradient(z, t, problem, history)
        w, state = rule(w, z, state, **hyper)
        w = w if project is None else project(w)
        if t in recorded:
            note(t)
    return history


def _record_times(steps: int, every: int | None) -> set[int]:
    if every is not None:
        return {*range(every, steps + 1, every), steps}
    octaves = math.log2(steps)
    return {round(2 ** (k / 4)) for k in range(math.floor(4 * octaves) + 1)} | {steps}


def _check_gradient(z, t, problem, history) -> None:
    for gradient in z if isinstance(z, tuple) else (z,):
        # A sum is one reading and no temporaries, and finite only if every term is.
        if not (gradient.sum().isfinite() or gradient.isfinite().all()):
            bad = ~torch.atleast_1d(gradient).isfinite()
            entry = bad.nonzero()[0, -1].item()
            raise NotFinite(
                f"The gradient at step {t} is {_worst(gradient)} in {problem.parameter_at(entry)}: "
                "try a smaller lr, or look for a NaN in the data.",
                history,
            )


def _worst(values: Tensor) -> str:
    bad = values[~torch.isfinite(values)]
    return "NaN" if bad.isnan().any() else "infinite"
