"""The schedules: their values from t = 1 on, torch's schedulers as a second opinion, bad input."""

import copy
import inspect
import io
import math
import pickle

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from optcore import optim
from optcore.schedules import (
    compose,
    constant,
    cosine,
    inverse_time,
    lambda_lr,
    linear,
    multiply,
    power,
    step_decay,
    warm_up,
    warm_up_stable_decay,
)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (constant(), [1, 1, 1, 1]),
        (constant(0.3), [0.3, 0.3, 0.3, 0.3]),
        (constant(0), [0, 0, 0, 0]),
        (power(1), [1, 1 / 2, 1 / 3, 1 / 4]),
        (power(0.5), [1, 1 / 2**0.5, 1 / 3**0.5, 0.5]),
        (power(0), [1, 1, 1, 1]),
        (inverse_time(0.5), [2.0, 4 / 3, 1.0, 0.8]),
        (inverse_time(0.5, offset=7), [0.5, 4 / 9, 0.4, 4 / 11]),
        (inverse_time(2.0, offset=0), [1.0, 1 / 2, 1 / 3, 1 / 4]),
        (linear(2), [1, 0.5, 0, 0]),
        (linear(2, start=0, end=3), [0, 1.5, 3, 3]),
        (linear(1, end=0.1), [1, 0.1, 0.1, 0.1]),
        (warm_up(0), [1, 1, 1, 1]),
        (warm_up(1), [1, 1, 1, 1]),
        (warm_up(3), [1 / 3, 2 / 3, 1, 1]),
        (cosine(2), [1, 0.5, 0, 0]),
        (cosine(3, end=0.2), [1, 0.8, 0.4, 0.2]),
        (cosine(1, end=1), [1, 1, 1, 1]),
        (step_decay(1), [1, 0.1, 0.01, 0.001]),
        (step_decay(2), [1, 1, 0.1, 0.1]),
        (step_decay(3, factor=0.5), [1, 1, 1, 0.5]),
        (step_decay(2, factor=0), [1, 1, 0, 0]),
        (warm_up_stable_decay(4, warm_up=2, decay=2), [0.5, 1, 1, 0.5]),
        (warm_up_stable_decay(3, warm_up=0, decay=3), [1, 2 / 3, 1 / 3, 0]),
        (warm_up_stable_decay(3, warm_up=0, decay=2, end=0.5), [1, 1, 0.75, 0.5]),
        (warm_up_stable_decay(3, warm_up=3, decay=0), [1 / 3, 2 / 3, 1, 1]),
        (warm_up_stable_decay(3, warm_up=0, decay=0), [1, 1, 1, 1]),
        (compose([constant(2), power(1)], [2]), [2, 2, 1, 1 / 2]),
        (compose([constant(2), power(1), constant(7)], [1, 3]), [2, 1, 1 / 2, 7]),
        (compose([constant(2), constant(3), power(1)], [1, 2]), [2, 3, 1, 1 / 2]),
        (compose([constant(2), power(1)], [0]), [1, 1 / 2, 1 / 3, 1 / 4]),
        (compose([power(1)], []), [1, 1 / 2, 1 / 3, 1 / 4]),
        (multiply(), [1, 1, 1, 1]),
        (multiply(6, power(1), 0.5), [3, 3 / 2, 1, 3 / 4]),
        (multiply(power(1), warm_up(2)), [1 / 2, 1 / 2, 1 / 3, 1 / 4]),
    ],
)
def test_values(schedule, values):
    assert [schedule(t) for t in (1, 2, 3, 4)] == pytest.approx(values, rel=1e-14, abs=1e-16)


def test_a_warm_up_ends_at_exactly_one():
    for steps in range(1, 200):
        assert warm_up(steps)(steps) == 1
        assert warm_up_stable_decay(200, warm_up=steps, decay=0)(steps) == 1


def test_offset_that_suits_a_smooth_objective():
    mu, smoothness = 0.1, 4.0
    assert inverse_time(mu, offset=2 * smoothness / mu - 1)(1) == pytest.approx(1 / smoothness)


def test_the_transformer_schedule_is_a_product():  # Vaswani et al. (2017), equation 3
    W = 40
    schedule = multiply(W**-0.5, warm_up(W), lambda t: max(t / W, 1) ** -0.5)
    for t in range(1, 400):
        assert schedule(t) == pytest.approx(min(t**-0.5, t * W**-1.5), rel=1e-14)


def test_a_tensor_of_rates_is_a_schedule_for_each():
    rates = torch.tensor([[0.1], [0.2]])
    schedule = pickle.loads(pickle.dumps(multiply(rates, warm_up(4))))
    assert torch.equal(schedule(1), rates / 4)


def sgd(rates=(0.3,)):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in rates]
    return torch.optim.SGD(groups)


def rates_of(scheduler, steps):
    """The rates of the first group in steps 1 … `steps`."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def stable(optimizer, steps, W, D, end):
    pieces = [
        torchs.LinearLR(optimizer, 1 / W, total_iters=W - 1),
        torchs.ConstantLR(optimizer, 1.0, total_iters=1),
        torchs.LinearLR(optimizer, 1.0, end, total_iters=D),
    ]
    return torchs.SequentialLR(optimizer, pieces, [W, steps - D])


def warm_cosine(optimizer, W, N, end):
    pieces = [
        torchs.LinearLR(optimizer, 1 / W, total_iters=W - 1),
        torchs.CosineAnnealingLR(optimizer, N, eta_min=end * 0.3),
    ]
    return torchs.SequentialLR(optimizer, pieces, [W])


@pytest.mark.parametrize(
    ("schedule", "torchs_scheduler", "steps"),
    [
        (linear(7, start=0.5, end=0.2), lambda o: torchs.LinearLR(o, 0.5, 0.2, total_iters=7), 20),
        (linear(500), lambda o: torchs.LinearLR(o, 1.0, 0.0, total_iters=500), 520),
        (warm_up(9), lambda o: torchs.LinearLR(o, 1 / 9, total_iters=8), 20),
        (warm_up(2), lambda o: torchs.LinearLR(o, 1 / 2, total_iters=1), 5),
        (cosine(500), lambda o: torchs.CosineAnnealingLR(o, 500), 501),
        (cosine(7, end=0.1), lambda o: torchs.CosineAnnealingLR(o, 7, eta_min=0.03), 8),
        (cosine(1, end=0.1), lambda o: torchs.CosineAnnealingLR(o, 1, eta_min=0.03), 2),
        (step_decay(3), lambda o: torchs.StepLR(o, 3), 20),
        (step_decay(1, factor=0.9), lambda o: torchs.StepLR(o, 1, 0.9), 200),
        (power(0.5), lambda o: torchs.LambdaLR(o, lambda e: (e + 1) ** -0.5), 200),
        (inverse_time(2.0), lambda o: torchs.LambdaLR(o, lambda e: 1 / (e + 2)), 200),
        (
            compose([warm_up(5), cosine(40, end=0.1)], [5]),
            lambda o: warm_cosine(o, 5, 40, 0.1),
            46,
        ),
        (
            warm_up_stable_decay(60, warm_up=6, decay=12, end=0.1),
            lambda o: stable(o, 60, 6, 12, 0.1),
            80,
        ),
        (
            warm_up_stable_decay(40, warm_up=10, decay=30),
            lambda o: stable(o, 40, 10, 30, 0.0),
            60,
        ),
    ],
)
def test_torchs_schedulers_give_the_same_rates(schedule, torchs_scheduler, steps):
    theirs = rates_of(torchs_scheduler(sgd()), steps)
    assert rates_of(lambda_lr(sgd(), schedule), steps) == pytest.approx(theirs, abs=1e-12)
    assert [0.3 * schedule(t) for t in range(1, steps + 1)] == pytest.approx(theirs, abs=1e-12)


def test_one_schedule_for_all_groups_or_one_for_each():
    scheduler = lambda_lr(sgd((0.3, 2.0)), power(1))
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.15, 1.0])
    scheduler = lambda_lr(sgd((0.3, 2.0)), [power(1), constant(0.1)])
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.15, 0.2])
    with pytest.raises(ValueError, match="one for each of the 2 groups, got 3"):
        lambda_lr(sgd((0.3, 2.0)), [power(1)] * 3)


def training(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    if name == "Muon.for_model":
        optimizer = optim.Muon.for_model(model, lr=0.02)
    else:
        optimizer = getattr(optim, name)(model.parameters(), lr=0.02)
    schedule = compose([warm_up(4), cosine(16, end=0.1)], [4])
    return model, optimizer, lambda_lr(optimizer, schedule)


def go_on(model, optimizer, scheduler, steps):
    for t in steps:
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(t))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("stop", [1, 4, 13])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RMSprop", "AdamW", "Lion", "Muon.for_model"])
def test_a_run_resumed_from_a_checkpoint_is_the_same_to_the_bit(name, stop):
    whole = go_on(*training(name), range(20))
    first = training(name)
    go_on(*first, range(stop))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    resumed = training(name)
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert torch.equal(go_on(*resumed, range(stop, 20)), whole)


def test_a_tensor_rate_keeps_its_place():
    """A compiled step reads the rate from this tensor: a new one would compile it again."""
    rate = torch.tensor(0.3)
    scheduler = lambda_lr(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=rate), power(1))
    place = scheduler.optimizer.param_groups[0]["lr"]
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.optimizer.param_groups[0]["lr"] is place
    assert place.item() == pytest.approx(0.15)


@pytest.mark.parametrize("module", [optim, torch.optim])
def test_groups_that_share_a_tensor_as_rate_are_told_apart(module):
    rate = torch.tensor(0.3)
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(2)]
    optimizer = module.AdamW(groups, lr=rate)
    lambda_lr(optimizer, [constant(1.0), constant(0.1)])
    assert [g["lr"].item() for g in optimizer.param_groups] == pytest.approx([0.3, 0.03])
    assert rate.item() == pytest.approx(0.3)


ONE_OF_EACH = [
    constant(0.3),
    power(0.5),
    inverse_time(1.0, offset=3),
    linear(3, start=0.5, end=0.1),
    warm_up(3),
    cosine(3, end=0.1),
    step_decay(3, factor=0.5),
    warm_up_stable_decay(9, warm_up=3, decay=3, end=0.1),
    compose([power(0.5)], []),
    compose([warm_up(2), multiply(0.5, cosine(3)), compose([power(1), constant(2)], [1])], [2, 5]),
    multiply(2.0),
    multiply(0.1, warm_up(3), step_decay(2)),
]
COPIES = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("schedule", ONE_OF_EACH)
@pytest.mark.parametrize("t", [0, -1, math.nan])
def test_steps_are_counted_from_one(schedule, t):
    with pytest.raises(ValueError, match="t must be a step number from 1 on, got .*lambda_lr"):
        schedule(t)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("schedule", ONE_OF_EACH)
def test_a_copy_is_the_same_schedule(schedule, copied):
    again = copied(copied(schedule))
    assert again is not schedule
    assert [again(t) for t in range(1, 15)] == [schedule(t) for t in range(1, 15)]
    with pytest.raises(ValueError, match="t must be a step number"):
        again(0)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_is_of_what_was_composed_not_of_the_callers_list(copied):
    schedules, milestones = [constant(1), constant(2)], [1]
    schedule = compose(schedules, milestones)
    schedules[1], milestones[0] = constant(7), 3
    assert [schedule(t) for t in (1, 2, 3)] == [1, 2, 2]
    assert [copied(schedule)(t) for t in (1, 2, 3)] == [1, 2, 2]


class Falling:
    """A user's schedule that changes."""

    start = 1.0

    def __call__(self, t):
        return self.start / t


def test_a_deep_copy_shares_nothing_with_the_original():
    mine = Falling()
    schedule = multiply(2.0, mine)
    shallow, deep = copy.copy(schedule), copy.deepcopy(schedule)
    mine.start = 10.0
    assert [s(2) for s in (schedule, shallow, deep)] == [10.0, 10.0, 1.0]


def test_a_users_lambda_cannot_be_pickled_but_copied():
    schedule = multiply(2.0, lambda t: 1 / t)
    assert copy.deepcopy(schedule)(4) == 0.5
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(schedule)


@pytest.mark.parametrize("copied", [COPIES["pickle"], COPIES["deepcopy"]])
def test_a_copied_scheduler_goes_on_as_the_original(copied):
    scheduler = lambda_lr(sgd((0.3, 2.0)), [compose([warm_up(3), cosine(7)], [3]), power(1)])
    rates_of(scheduler, 2)
    again = copied(scheduler)
    assert again.optimizer is not scheduler.optimizer
    assert rates_of(again, 10) == rates_of(scheduler, 10)
    assert again.get_last_lr() == scheduler.get_last_lr()


def test_a_schedulers_state_holds_no_code():
    scheduler = lambda_lr(sgd((0.3, 2.0)), [cosine(7), multiply(2.0, lambda t: 1 / t)])
    rates_of(scheduler, 2)
    file = io.BytesIO()
    torch.save(scheduler.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert pickle.loads(pickle.dumps(state)) == state
    again = lambda_lr(sgd((0.3, 2.0)), [cosine(7), power(1)])
    again.load_state_dict(state)
    # The schedules are those that it was made with; the step comes from the state.
    again.optimizer.step()
    again.step()
    assert again.get_last_lr() == pytest.approx([0.3 * cosine(7)(4), 2.0 / 4])


def test_a_schedule_shows_its_arguments():
    assert list(inspect.signature(cosine).parameters) == ["steps", "end"]
    with pytest.raises(TypeError, match="cosine"):
        cosine(3, 0.1)


def test_torchs_own_adapter_would_ask_for_step_0():
    with pytest.raises(ValueError, match="for torch use lambda_lr"):
        torchs.LambdaLR(sgd(), cosine(10))


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (constant, "value must be a finite number ≥ 0, got"),
        (power, "exponent must be a finite number ≥ 0, got"),
        (inverse_time, "mu must be a finite number > 0, got"),
        (lambda bad: inverse_time(1, offset=bad - 1), "offset must be a finite number > -1, got"),
        (lambda bad: linear(3, start=bad), "start must be a finite number ≥ 0, got"),
        (lambda bad: linear(3, end=bad), "end must be a finite number ≥ 0, got"),
        (lambda bad: cosine(3, end=bad), "end must be a number from 0 to 1, got"),
        (lambda bad: step_decay(3, factor=bad), "factor must be a number from 0 to 1, got"),
        (
            lambda bad: warm_up_stable_decay(3, warm_up=1, decay=1, end=bad),
            "end must be a number from 0 to 1, got",
        ),
        (multiply, "value must be a finite number ≥ 0, got"),
    ],
)
def test_bad_numbers(make, text, bad):
    with pytest.raises(ValueError, match=text):
        make(bad)


@pytest.mark.parametrize("bad", [-1, 2.5, math.nan, math.inf])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (linear, "steps must be an integer ≥ 1, got"),
        (warm_up, "steps must be an integer ≥ 0, got"),
        (cosine, "steps must be an integer ≥ 1, got"),
        (step_decay, "every must be an integer ≥ 1, got"),
        (
            lambda bad: warm_up_stable_decay(bad, warm_up=0, decay=0),
            "steps must be an integer ≥ 1, got",
        ),
        (
            lambda bad: warm_up_stable_decay(3, warm_up=bad, decay=0),
            "warm_up must be an integer ≥ 0, got",
        ),
        (
            lambda bad: warm_up_stable_decay(3, warm_up=0, decay=bad),
            "decay must be an integer ≥ 0, got",
        ),
        (
            lambda bad: compose([constant(), constant()], [bad]),
            "a milestone must be an integer ≥ 0, got",
        ),
    ],
)
def test_bad_numbers_of_steps(make, text, bad):
    with pytest.raises(ValueError, match=text):
        make(bad)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: inverse_time(0), "mu must be a finite number > 0, got 0"),
        (lambda: inverse_time(1, offset=-1), "offset must be a finite number > -1, got -1"),
        (lambda: linear(0), "steps must be an integer ≥ 1, got 0"),
        (lambda: cosine(0), "steps must be an integer ≥ 1, got 0"),
        (lambda: cosine(1, end=1.1), "end must be a number from 0 to 1, got 1.1"),
        (lambda: step_decay(0), "every must be an integer ≥ 1, got 0"),
        (
            lambda: warm_up_stable_decay(9, warm_up=5, decay=5),
            "warm_up . decay must be at most steps = 9, got 10",
        ),
        (lambda: compose([constant()], [3]), "one fewer than the 1 schedules, got 1"),
        (lambda: compose([], []), "one fewer than the 0 schedules, got 0"),
        (lambda: compose([constant()] * 3, [4, 4]), "milestones must rise, got .4, 4."),
        (lambda: compose([constant()] * 3, [4, 2]), "milestones must rise, got .4, 2."),
    ],
)
def test_the_ends_that_are_excluded(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("schedules.py", "class _FromStepOne"): [
        ("if not t >= 1", "if t < 1"),
        ("if not t >= 1", "if not t >= 0"),
        ("operator.call, (self.call,)", "self.call, ()"),
        ("operator.call, (self.call,)", "type(self), (self.formula, self.call)"),
    ],
    ("schedules.py", "def _schedule("): [
        ("functools.partial(made, *args, **kwargs)", "functools.partial(made, *args)"),
        ("functools.partial(made, ", "functools.partial(make, "),
        ("    @functools.wraps(make)\n", ""),
    ],
    ("schedules.py", "def constant("): [
        ("lambda t: value", "lambda t: value / t"),
    ],
    ("schedules.py", "def power("): [
        ("t**-exponent", "(t + 1) ** -exponent"),
        ("t**-exponent", "t**exponent"),
        ('    _nonnegative("exponent", exponent)\n', ""),
    ],
    ("schedules.py", "def inverse_time("): [
        ("2 / (mu * (t + offset))", "2 / (mu * t + offset)"),
        ("2 / (mu", "1 / (mu"),
        ("if not 0 < mu", "if not 0 <= mu"),
        ("-1 < offset", "-1 <= offset"),
    ],
    ("schedules.py", "def linear("): [
        ("(t - 1) / steps", "t / steps"),
        ("min((t - 1) / steps, 1.0)", "(t - 1) / steps"),
        ("end - start", "start - end"),
    ],
    ("schedules.py", "def warm_up("): [
        ("t / steps", "(t - 1) / steps"),
        ("if t < steps", "if t <= steps + 1"),
    ],
    ("schedules.py", "def cosine("): [
        ("(t - 1) / steps", "t / steps"),
        ("min((t - 1) / steps, 1.0)", "(t - 1) / steps"),
        ("end + (1 - end)", "end + 1"),
    ],
    ("schedules.py", "def step_decay("): [
        ("(t - 1) // every", "t // every"),
    ],
    ("schedules.py", "def warm_up_stable_decay("): [
        ("steps - decay", "steps - decay - 1"),
        ("if warm_up + decay > steps", "if warm_up + decay >= steps"),
        ("linear(max(decay, 1), end=end)", "linear(max(decay, 1))"),
        ("max(warm_up, 1), 1.0)", "max(warm_up, 1), 2.0)"),
    ],
    ("schedules.py", "def compose("): [
        ("list(schedules), list(milestones)", "schedules, milestones"),
        ("t - milestones[k - 1] if k", "t - milestones[0] if k"),
        ("bisect_left", "bisect_right"),
        ("t - milestones[k - 1] if k else t", "t"),
        ("if any(a >= b", "if any(a > b"),
    ],
    ("schedules.py", "def multiply("): [
        ("math.prod(schedule(t) for", "sum(schedule(t) for"),
    ],
    ("schedules.py", "def lambda_lr("): [
        ('group["lr"].clone()', 'group["lr"]'),
        ("schedule(epoch + 1)", "schedule(epoch)"),
        ("functools.partial(_at_epoch, s)", "functools.partial(_at_epoch, schedules[0])"),
        ("functools.partial(_at_epoch, s)", "lambda epoch, s=s: s(epoch + 1)"),
    ],
    ("schedules.py", "def _nonnegative("): [
        ("not isinstance(value, Tensor) and ", ""),
    ],
}
