r"""Learning-rate schedules: pure functions of the step number t = 1, 2, … of the meta-algorithm.

Most are factors, 1 at their peak; `multiply(lr, schedule)` makes a rate of one. `inverse_time` is a
rate by itself. At step t a schedule that decays has seen t − 1 updates, as in torch, whose epoch
is e = t − 1; a warm-up is at t / W, so that no step is lost on a rate of zero.
"""

from __future__ import annotations

import bisect
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Callable[[int], float]


class _FromStepOne:
    """A formula of t that is pickled and copied as the call that made it.

    It refuses t < 1: a schedule handed to torch by mistake would be asked for epoch 0.
    """

    def __init__(self, formula: Schedule, call: Callable[[], Schedule]):
        self.formula, self.call = formula, call

    def __call__(self, t: int) -> float:
        if not t >= 1:
            raise ValueError(
                f"t must be a step number from 1 on, got {t}; for torch use lambda_lr(optimizer, "
                "schedule)."
            )
        return self.formula(t)

    def __reduce__(self):
        return operator.call, (self.call,)


def _schedule(make: Callable[..., Schedule]) -> Callable[..., Schedule]:
    """Decorate a function that returns a formula. Its arguments must not change afterwards."""

    @functools.wraps(make)
    def made(*args, **kwargs):
        return _FromStepOne(make(*args, **kwargs), functools.partial(made, *args, **kwargs))

    return made


@_schedule
def constant(value: float = 1.0) -> Schedule:
    r"""The same value at every step.

    Raises:
        ValueError: `value` is negative or not finite.
    """
    _nonnegative("value", value)
    return lambda t: value


@_schedule
def power(exponent: float) -> Schedule:
    r"""A power law: $t^{-p}$; `power(0.5)` is the 1/√t of convex optimization.

    As steps, Robbins and Monro's conditions, Σ η_t = ∞ and Σ η_t² < ∞, hold for ½ < p ≤ 1.
    Source: Robbins and Monro (1951), doi:10.1214/aoms/1177729586.

    Args:
        exponent: p ≥ 0.

    Raises:
        ValueError: `exponent` is negative or not finite.
    """
    _nonnegative("exponent", exponent)
    return lambda t: t**-exponent


@_schedule
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


@_schedule
def linear(steps: int, *, start: float = 1.0, end: float = 0.0) -> Schedule:
    r"""A straight line: $s + (e - s)\min((t-1)/N, 1)$.

    This is torch's `LinearLR(start_factor=s, end_factor=e, total_iters=N)`, which refuses s = 0.

    Args:
        steps: N ≥ 1; the value is `end` from t = N + 1 on.
        start: s ≥ 0, the value at t = 1.
        end: e ≥ 0.

    Raises:
        ValueError: `steps` is not an integer ≥ 1, or an end is negative or not finite.
    """
    _whole("steps", steps, 1)
    _nonnegative("start", start)
    _nonnegative("end", end)
    return lambda t: start + (end - start) * min((t - 1) / steps, 1.0)


@_schedule
def warm_up(steps: int) -> Schedule:
    r"""Rise to 1 in W equal steps: $\min(t/W, 1)$.

    The first step has 1/W, step W the full rate. In torch: `LinearLR(start_factor=1 / W,
    total_iters=W - 1)`.
    Source: Goyal et al. (2017), section 2.2, arXiv:1706.02677, whose first step has the rate
    1/k for k workers: that is `linear(W, start=1 / k, end=1)`.

    Args:
        steps: W ≥ 0; 0 is no warm-up.

    Raises:
        ValueError: `steps` is not an integer ≥ 0.
    """
    _whole("steps", steps, 0)
    return lambda t: t / steps if t < steps else 1.0


@_schedule
def cosine(steps: int, *, end: float = 0.0) -> Schedule:
    r"""Half a cosine, from 1 to e: $e + \tfrac12(1 - e)(1 + \cos(\pi\min((t-1)/N, 1)))$.

    For t ≤ N + 1 this is torch's `CosineAnnealingLR(T_max=N, eta_min=e * lr)`; torch's then rises
    again, this one stays.
    Source: Loshchilov and Hutter (2017), equation 5, arXiv:1608.03983.

    Args:
        steps: N ≥ 1; the value is `end` from t = N + 1 on.
        end: e from 0 to 1.

    Raises:
        ValueError: `steps` is not an integer ≥ 1, or `end` is not between 0 and 1.
    """
    _whole("steps", steps, 1)
    _share("end", end)
    return lambda t: end + (1 - end) * (1 + math.cos(math.pi * min((t - 1) / steps, 1.0))) / 2


@_schedule
def step_decay(every: int, *, factor: float = 0.1) -> Schedule:
    r"""Multiply by γ after every N steps: $\gamma^{\lfloor (t-1)/N \rfloor}$; torch's `StepLR`.

    Args:
        every: N ≥ 1.
        factor: γ from 0 to 1.

    Raises:
        ValueError: `every` is not an integer ≥ 1, or `factor` is not between 0 and 1.
    """
    _whole("every", every, 1)
    _share("factor", factor)
    return lambda t: factor ** ((t - 1) // every)


@_schedule
def warm_up_stable_decay(steps: int, *, warm_up: int, decay: int, end: float = 0.0) -> Schedule:
    r"""Rise for W steps, stay at 1, fall along a line in the last D of T steps.

    $$\min\Bigl(\frac tW,\ 1,\ 1 - (1 - e)\,\frac{t - 1 - (T - D)}{D}\Bigr),$$

    and e from t = T + 1 on. The last step, t = T, is still above e: with e = 0 it is not lost.
    Source: Hu et al. (2024), arXiv:2404.06395, whose decay is exponential; linear: Hägele et al.
    (2024), arXiv:2405.18392.

    Args:
        steps: T.
        warm_up: W ≥ 0.
        decay: D ≥ 0, with W + D ≤ T.
        end: e from 0 to 1.

    Raises:
        ValueError: a number of steps is not an integer in its range, or `end` is not between 0
            and 1.
    """
    _whole("steps", steps, 1)
    _whole("warm_up", warm_up, 0)
    _whole("decay", decay, 0)
    _share("end", end)
    if warm_up + decay > steps:
        raise ValueError(f"warm_up + decay must be at most steps = {steps}, got {warm_up + decay}.")
    fall = compose([constant(), linear(max(decay, 1), end=end)], milestones=[steps - decay])
    return lambda t: min(t / max(warm_up, 1), 1.0) * (fall(t) if decay else 1.0)


def compose(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    r"""One schedule after another, each with a clock of its own; torch's `SequentialLR`.

    Schedule k + 1 takes over after step `milestones[k]`, and counts from 1 again.

    Args:
        schedules: at least one.
        milestones: rising step numbers, one fewer than schedules.

    Raises:
        ValueError: the numbers of schedules and milestones do not fit, or the milestones do not
            rise from 0 on.
    """
    schedules, milestones = list(schedules), list(milestones)
    if len(schedules) != len(milestones) + 1:
        raise ValueError(
            f"milestones must be one fewer than the {len(schedules)} schedules, "
            f"got {len(milestones)}."
        )
    for milestone in milestones:
        _whole("a milestone", milestone, 0)
    if any(a >= b for a, b in zip(milestones, milestones[1:], strict=False)):
        raise ValueError(f"milestones must rise, got {milestones}.")
    return _one_after_another(schedules, milestones)


@_schedule
def _one_after_another(schedules: list[Schedule], milestones: list[int]) -> Schedule:
    def formula(t):
        k = bisect.bisect_left(milestones, t)
        return schedules[k](t - milestones[k - 1] if k else t)

    return formula


@_schedule
def multiply(*factors: float | Tensor | Schedule) -> Schedule:
    r"""Multiply schedules and numbers: `multiply(lr, warm_up(100), power(0.5))`.

    With a tensor of rates it is a schedule for each, as `run` takes them for rows of w.

    Raises:
        ValueError: a number is negative or not finite.
    """
    schedules = [factor if callable(factor) else constant(factor) for factor in factors]
    return lambda t: math.prod(schedule(t) for schedule in schedules)


def lambda_lr(optimizer: Optimizer, schedule: Schedule | Sequence[Schedule]) -> LambdaLR:
    r"""The schedule as a torch scheduler: step t of `optimizer` has the rate lr · schedule(t).

    Call its `step()` after each step of the optimizer. To resume a run, make both objects, then
    load both `state_dict`s. A scheduler sets the rate of the first step when it is made: made after
    the optimizer was loaded, it overwrites the rate. The peak is the rate at which the optimizer
    was made; add groups before.

    Args:
        optimizer: any; its groups keep their own rates, the schedule multiplies each. A rate that
            is a tensor becomes a tensor of the group's own, which is then written into.
        schedule: one for all groups, or one for each.

    Raises:
        ValueError: the number of schedules is not that of the groups.
    """
    schedules = [schedule] * len(optimizer.param_groups) if callable(schedule) else list(schedule)
    if len(schedules) != len(optimizer.param_groups):
        raise ValueError(
            f"schedule must be one, or one for each of the {len(optimizer.param_groups)} groups, "
            f"got {len(schedules)}."
        )
    for group in optimizer.param_groups:
        # A rate that is a tensor is one tensor for all groups, and schedulers write into it.
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()
    return LambdaLR(optimizer, [functools.partial(_at_epoch, s) for s in schedules])


def values_at(t: int, hyper: Mapping) -> dict:
    """Return the hyper-parameters of step t: schedules, in mappings too, become values."""
    return {
        name: value(t)
        if callable(value)
        else values_at(t, value)
        if isinstance(value, dict)
        else value
        for name, value in hyper.items()
    }


def _at_epoch(schedule: Schedule, epoch: int) -> float:
    return schedule(epoch + 1)


def _nonnegative(name: str, value: float) -> None:
    if not isinstance(value, Tensor) and not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number ≥ 0, got {value}.")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value}.")


def _whole(name: str, value: int, least: int) -> None:
    if not (value >= least and value % 1 == 0):
        raise ValueError(f"{name} must be an integer ≥ {least}, got {value}.")
