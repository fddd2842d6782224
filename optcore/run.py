"""The meta-algorithm: an estimator, a rule and a schedule become a history."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.serialization import add_safe_globals
from torch.utils._pytree import tree_map_only
from tqdm import trange

from optcore.estimators import Estimator
from optcore.rules.compose import is_of_matrices, points_of
from optcore.schedules import Schedule, values_at

PROGRESS_AFTER_S = 10


class Checkpoint(NamedTuple):
    """All that a run needs to be continued to the bit, on the same machine.

    Save it with `torch.save`, load it with `torch.load(file, weights_only=True)`. A rule or an
    estimator of your own may keep tensors in tuples, lists and dicts; a class of yours has to be
    named to `torch.serialization.add_safe_globals` before it is loaded.

    Attributes:
        t: number of updates made.
        w: the iterate.
        state: the rule's.
        memory: the estimator's.
        draws: where the estimator's draws stand.
        evaluations: gradient evaluations spent.
        records: the columns of the history.
    """

    t: int
    w: Tensor
    state: object
    memory: object
    draws: dict
    evaluations: int
    records: dict[str, Tensor]


add_safe_globals([Checkpoint])


class History:
    """What a run recorded: columns by name, and the last iterate.

    `history["t"]` holds the numbers of updates made before each record, 0 for the start;
    `history["evaluations"]` the gradient evaluations that the estimator spent by then; every name
    in `run`'s `record` its values, and every column of the estimator its own. Each is an array with
    one row a record.

    Attributes:
        w: the last iterate.
        checkpoint: where the run ended, for `run(…, resume=…)`; `None` if it did not get there.
    """

    def __init__(self, w: Tensor):
        self.w = w
        self.checkpoint: Checkpoint | None = None
        self._columns: dict[str, list[np.ndarray]] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(f"{name!r} was not recorded; there are {', '.join(self._columns)}.")
        return np.stack(self._columns[name])

    def _append(self, row: Mapping[str, object]) -> None:
        for name, value in row.items():
            if isinstance(value, Tensor):
                value = value.float() if value.dtype is torch.bfloat16 else value  # NumPy has none
                value = value.detach().cpu().numpy().copy()
            value = np.asarray(value)
            if value.dtype.kind not in "biufc":
                raise ValueError(f"record[{name!r}] must return numbers, got {value.dtype}.")
            column = self._columns.setdefault(name, [])
            if column and value.shape != column[0].shape:
                raise ValueError(
                    f"record[{name!r}] must return one shape, got {value.shape} after "
                    f"{column[0].shape}."
                )
            column.append(value)


class NotFinite(FloatingPointError):
    """A loss or a gradient that is infinite or NaN, in every row of w, stopped a run.

    Attributes:
        history: everything recorded until then.
    """

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history


def run(
    estimator: Estimator,
    rule: Callable,
    *,
    lr: float | Tensor | Schedule,
    steps: int,
    w: Tensor | None = None,
    every: int | None = 1,
    record: Mapping[str, Callable[[Tensor], object]] | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
    resume: Checkpoint | None = None,
    **hyper,
) -> History:
    r"""Run the meta-algorithm of the book.

    $$\text{for } t = 1, \dots, T: \quad z_t = \text{estimator}(w_t), \qquad
      w_{t+1} = \text{rule}(w_t, z_t;\, \eta_t)$$

    Args:
        estimator: of `optcore.estimators`; it carries the problem. A run that does not resume
            another begins with its first sample: the same run twice is the same.
        rule: of `optcore.rules`.
        lr: η, or a schedule t → η_t. A tensor broadcasts against `w`.
        steps: T ≥ 1.
        w: first iterate; the problem's `start` if not given. Dimensions in front of those of
            `start` are rows: repetitions, or values of hyper-parameters, that run side by side.
        every: record the start, every `every`-th iterate and the last one; `None` records the
            start, the last iterate and those at 2^(k/4), which are even on a logarithmic axis.
        record: more columns: name → function of the iterate that returns numbers. Gradients that
            it computes are not the run's, but an estimator that it calls must be another: it would
            take the run's samples. A problem that is no sum over examples records "loss",
            F(w), unasked; elsewhere that takes n evaluations a record: ask for it by
            `record={"loss": problem.loss}`.
        project: applied to every new iterate, for constrained problems.
        resume: `history.checkpoint` of a shorter run. With the same other arguments and more
            `steps` the history becomes that of the run that was never interrupted. Of these
            arguments it knows little: that problem, rule and rates are the same is up to you.
        **hyper: the rule's other hyper-parameters, such as `beta`; each may be a schedule, and so
            may those in a mapping (see `by_layer`).

    Returns:
        The `History`. A run of more than ten seconds shows a progress bar, unless the environment
        has `TQDM_DISABLE`.

    Raises:
        NotFinite: a gradient, or the column "loss", is infinite or NaN in every row of w;
            `.history` holds the records until then. As long as one row is finite, the others are
            recorded as they are.
        ValueError: `steps` or `every` is below 1; `w` does not end in the shape of `start`, or is
            not floating point; `resume` comes with `w`, has made `steps` steps already, or is of
            another estimator or `record`; a rule of matrices meets a flat `w`.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, or None, got {every}.")
    problem = estimator.problem
    columns = {"loss": problem.loss} if problem.n is None and problem.loss else {}
    columns |= record or {}
    if resume is not None:
        _check_resume(resume, columns.keys() | estimator.columns(None, resume.w).keys(), estimator)
    _check_start(problem, w, resume, steps)
    if is_of_matrices(rule) and problem.start.ndim < 2:  # it would take rows of w for a matrix
        raise ValueError("the rule is one of matrices, and the problem's w is flat: use by_layer.")
    recorded = _record_times(steps, every)
    hyper["lr"] = lr
    points = points_of(rule)

    if resume is None:
        estimator.restart()
        w = problem.start.clone() if w is None else w
        start, state, memory, spent = 0, None, None, 0
        history = History(w)
    else:
        start, w, state, memory, draws, spent, records = copy.deepcopy(resume)
        estimator.load_state_dict(draws)
        history = History(w)
        # Where the shorter run ended there is a record that the whole one may not have.
        kept = [t == 0 or t in recorded for t in records["t"].tolist()]
        history._columns = {
            name: list(values[kept].cpu().numpy()) for name, values in records.items()
        }

    def note(t):
        values = estimator.columns(memory, w) | {name: f(w) for name, f in columns.items()}
        _check_loss(values.get("loss"), t, history)
        history.w = w
        history._append({"t": t, "evaluations": spent, **values})

    if resume is None:
        note(0)
    for t in trange(start + 1, steps + 1, delay=PROGRESS_AFTER_S, leave=False):
        now = values_at(t, hyper)
        places = points(w, state, **now) if points else (w,)
        z, memory, cost = estimator.at(places, estimator.draw(t, like=w), memory, t)
        _check_gradients(z, t, problem, history)
        w, state = rule(w, z if points else z[0], state, **now)
        w = w if project is None else project(w)
        spent += cost
        if t in recorded:
            note(t)
    records = {name: torch.from_numpy(history[name]) for name in history._columns}
    ended = Checkpoint(int(steps), w, state, memory, estimator.state_dict(), spent, records)
    # Without the graph that a rate which requires its gradient leaves behind: it cannot be copied.
    history.checkpoint = copy.deepcopy(tree_map_only(Tensor, Tensor.detach, ended))
    return history


def _check_start(problem, w, resume, steps) -> None:
    if resume is not None:
        if w is not None:
            raise ValueError("w comes with the checkpoint: give resume or w, not both.")
        if steps <= resume.t:
            raise ValueError(f"steps must exceed the {resume.t} made already, got {steps}.")
        w = resume.w
    w = problem.start if w is None else w
    if not w.is_floating_point():
        raise ValueError(f"w must be floating point, got {w.dtype}.")
    if w.shape[w.ndim - problem.start.ndim :] != problem.start.shape:
        raise ValueError(
            f"w has shape {tuple(w.shape)}: it must end in the problem's "
            f"{tuple(problem.start.shape)}."
        )


def _check_resume(resume, columns, estimator) -> None:
    if not isinstance(resume, Checkpoint):
        raise TypeError(f"resume must be a history's checkpoint, got a {type(resume).__name__}.")
    names = resume.records.keys() - {"t", "evaluations"}
    if names != columns:
        before, now = (", ".join(sorted(x)) or "nothing" for x in (names, columns))
        raise ValueError(f"record must be that of the checkpoint, {before}: it is {now}.")
    if resume.draws.keys() != estimator.state_dict().keys():
        raise ValueError(f"resume was not made by an estimator such as {type(estimator).__name__}.")


def _record_times(steps: int, every: int | None) -> set[int]:
    if every is not None:
        return {*range(every, steps + 1, every), steps}
    octaves = math.log2(steps)
    return {round(2 ** (k / 4)) for k in range(math.floor(4 * octaves) + 1)} | {steps}


def _check_loss(loss, t: int, history: History) -> None:
    if loss is None:
        return
    loss = torch.as_tensor(loss)
    if not loss.isfinite().any():
        raise NotFinite(f"The loss after {t} steps is {_worst(loss)}: try a smaller lr.", history)


def _check_gradients(z: tuple[Tensor, ...], t: int, problem, history: History) -> None:
    for gradient in z:
        # A sum is one reading and no temporaries, and finite only if every term is.
        if gradient.sum().isfinite():
            continue
        finite, inner = gradient.isfinite(), problem.start.ndim
        if (finite.flatten(-inner).all(-1) if inner else finite).any():
            continue
        entry = torch.atleast_1d(~finite).nonzero()[0, -1].item()
        raise NotFinite(
            f"The gradient at step {t} is {_worst(gradient)} in {problem.parameter_at(entry)}: "
            "try a smaller lr, or look for a NaN in the data.",
            history,
        )


def _worst(values: Tensor) -> str:
    bad = values[~torch.isfinite(values)]
    return "NaN" if bad.isnan().any() else "infinite"
