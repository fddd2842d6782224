"""The momentum rules against their printed equations, against torch and against one another."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optcore.data import digits
from optcore.estimators import FullBatch, MiniBatch
from optcore.problems import Network, Quadratic
from optcore.rules.momentum import (
    heavy_ball,
    heavy_ball_average,
    heavy_ball_sum,
    nesterov,
    nesterov_gradient_correction,
    nesterov_look_ahead,
    nesterov_one_line,
    nesterov_two_gradients,
    sgd,
)
from optcore.run import run
from optcore.schedules import multiply, power

WITH_MOMENTUM = (
    heavy_ball,
    heavy_ball_average,
    heavy_ball_sum,
    nesterov,
    nesterov_one_line,
    nesterov_gradient_correction,
    nesterov_look_ahead,
    nesterov_two_gradients,
)
RULES = (sgd, *WITH_MOMENTUM)
HEAVY_BALLS = (heavy_ball, heavy_ball_average, heavy_ball_sum)
NESTEROVS = (nesterov, nesterov_one_line, nesterov_gradient_correction)

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)
every_momentum_rule = pytest.mark.parametrize("rule", WITH_MOMENTUM, ids=lambda r: r.__name__)
seldom = settings(deadline=None, derandomize=True, max_examples=25)


def hyper(rule, lr, beta=0.9):
    return {"lr": lr} if rule is sgd else {"lr": lr, "beta": beta}


def handed_to(rule, *gradients):
    """What `rule` takes as z: a tuple where it has points, else the gradient itself."""
    return gradients if hasattr(rule, "points") else gradients[0]


def second_step(rule, z, z_at_previous):
    both = rule is nesterov_two_gradients
    return (z, z_at_previous) if both else handed_to(rule, z)


def same(a, b, tolerance=1e-12):
    """Equal up to `tolerance`, relative to the largest number on the path."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-300))


# --- the printed equations, unrolled: no velocity is carried from step to step


def discounted(beta, terms):
    """β^{t-1} terms_1 + … + β terms_{t-1} + terms_t."""
    return sum((beta ** (len(terms) - 1 - r) * x for r, x in enumerate(terms)), start=0.0)


def rates_times(lr, z):
    return [a * b for a, b in zip(lr, z, strict=True)]


# (w_1 … w_t, z_1 … z_t, η_1 … η_t, β) → w_{t+1}; each z_t is the tuple of gradients at the points.
EQUATIONS = {
    sgd: lambda w, z, lr, beta: w[-1] - lr[-1] * z[-1][0],
    heavy_ball: lambda w, z, lr, beta: (
        w[-1] - lr[-1] * z[-1][0] + beta * (w[-1] - (w[-2] if len(w) > 1 else w[-1]))
    ),
    heavy_ball_average: lambda w, z, lr, beta: (
        w[-1] - lr[-1] * (1 - beta) * discounted(beta, [g for (g,) in z])
    ),
    heavy_ball_sum: lambda w, z, lr, beta: w[-1] - lr[-1] * discounted(beta, [g for (g,) in z]),
    # u_{t+1} − u_t is the discounted sum of the steps −η_r z_r.
    nesterov: lambda w, z, lr, beta: (
        w[-1] - lr[-1] * z[-1][0] - beta * discounted(beta, rates_times(lr, [g for (g,) in z]))
    ),
    nesterov_one_line: lambda w, z, lr, beta: (
        (1 + beta) * (w[-1] - lr[-1] * z[-1][0])
        - beta * (w[-2] - lr[-1] * z[-2][0] if len(w) > 1 else w[-1])
    ),
    nesterov_gradient_correction: lambda w, z, lr, beta: (
        w[-1] - lr[-1] * (z[-1][0] + beta * discounted(beta, [g for (g,) in z]))
    ),
    nesterov_look_ahead: lambda w, z, lr, beta: (
        w[-1] - lr[-1] * discounted(beta, [g for (g,) in z])
    ),
    nesterov_two_gradients: lambda w, z, lr, beta: (
        w[-1]
        - lr[-1]
        * discounted(beta, [(1 + beta) * g[0] - (beta * g[1] if len(g) > 1 else 0) for g in z])
    ),
}

POINTS = {
    nesterov_look_ahead: lambda w, z, lr, beta: (
        w[-1] - lr[-1] * beta * discounted(beta, [g for (g,) in z]),
    ),
    nesterov_two_gradients: lambda w, z, lr, beta: (w[-1], w[-2]) if len(w) > 1 else (w[-1],),
}


def gradient_at(place, t, weight_decay=0.05):
    """A gradient with weight decay; every seventh is tiny."""
    generator = torch.Generator().manual_seed(t)
    scale = 1e-8 if t % 7 == 0 else 1.0
    noise = torch.randn(place.shape, generator=generator, dtype=torch.float64)
    return scale * noise + weight_decay * place


@every_rule
@pytest.mark.parametrize("shape", [(), (3, 2)], ids=str)
def test_rule_is_the_printed_equation_for_200_steps_of_a_schedule(rule, shape):
    beta, state = 0.9, None
    w, z, lr = [torch.ones(shape, dtype=torch.float64)], [], []
    ours = w[0]
    for t in range(1, 201):
        lr.append(0.1 / math.sqrt(t))
        places = POINTS[rule](w, z, lr, beta) if rule in POINTS else (w[-1],)
        if rule in POINTS:
            for ours_place, place in zip(
                rule.points(ours, state, lr=lr[-1], beta=beta), places, strict=True
            ):
                torch.testing.assert_close(ours_place, place, rtol=1e-11, atol=1e-12)
        z.append(tuple(gradient_at(place, t) for place in places))
        ours, state = rule(ours, handed_to(rule, *z[-1]), state, **hyper(rule, lr[-1], beta))
        w.append(EQUATIONS[rule](w, z, lr, beta))
        torch.testing.assert_close(ours, w[-1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "torch_rate", "options"),
    [
        (sgd, 0.1, {}),
        (heavy_ball, 0.1, {"momentum": 0.9}),
        (heavy_ball_sum, 0.1, {"momentum": 0.9}),
        (heavy_ball_average, 0.01, {"momentum": 0.9}),
        (nesterov, 0.1, {"momentum": 0.9, "nesterov": True}),
        (nesterov_one_line, 0.1, {"momentum": 0.9, "nesterov": True}),
        (nesterov_gradient_correction, 0.1, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_rule_is_torch_for_200_steps_with_weight_decay(rule, torch_rate, options):
    w, state = torch.linspace(-1, 1, 5, dtype=torch.float64), None
    p = w.clone().requires_grad_()
    theirs = torch.optim.SGD([p], lr=torch_rate, weight_decay=0.05, **options)
    for t in range(1, 201):
        p.grad = gradient_at(p.detach(), t, weight_decay=0.0)
        theirs.step()
        w, state = rule(w, gradient_at(w, t), state, **hyper(rule, 0.1))
        torch.testing.assert_close(w, p.detach(), rtol=1e-11, atol=1e-12)


# --- the forms of one method


@st.composite
def noisy_runs(draw):
    """A noisy quadratic with a random spectrum, and arguments of a stable run on it."""
    spectrum = draw(st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
    problem = Quadratic(
        spectrum, rotation_seed=draw(st.integers(0, 99)), noise=draw(st.floats(0, 2))
    )
    return problem, {
        "seed": draw(st.integers(0, 99)),
        "lr": draw(st.floats(0.01, 1)) / max(spectrum),
        "beta": draw(st.floats(0, 0.95)),
    }


def small_network():
    data = digits()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10))
    x, y = data.x[:50].double(), data.y[:50]
    return Network(module.double(), x, y, torch.nn.functional.cross_entropy)


def path(problem, rule, *, seed, steps=60, **arguments):
    """The iterates w_1 … w_{T+1} of a run on mini-batches of four."""
    estimator = MiniBatch(problem, 4, seed=seed)
    return run(estimator, rule, steps=steps, record={"w": lambda w: w}, **arguments)["w"]


def heavy_ball_paths(problem, *, lr, beta, **others):
    rates = {heavy_ball: lr, heavy_ball_sum: lr, heavy_ball_average: lr / (1 - beta)}
    return [path(problem, rule, lr=rates[rule], beta=beta, **others) for rule in HEAVY_BALLS]


@seldom
@given(noisy_runs())
def test_heavy_ball_forms_agree_on_noisy_quadratics(case):
    problem, arguments = case
    position, average, summed = heavy_ball_paths(problem, **arguments)
    assert same(average, position)
    assert same(summed, position)


@seldom
@given(noisy_runs())
def test_nesterov_forms_agree_on_noisy_quadratics(case):
    problem, arguments = case
    u_form, *others = (path(problem, rule, **arguments) for rule in NESTEROVS)
    for other in others:
        assert same(other, u_form)


@seldom
@given(noisy_runs())
def test_look_ahead_iterates_are_u_and_its_points_are_w(case):
    problem, arguments = case
    lr, beta, seed = arguments["lr"], arguments["beta"], arguments["seed"]
    estimators = [MiniBatch(problem, 4, seed=seed) for _ in range(2)]
    w = theta = u = problem.start
    state = state_ahead = None
    for _ in range(60):
        (point,) = nesterov_look_ahead.points(theta, state_ahead, lr=lr, beta=beta)
        assert same(theta, u, 1e-11)
        assert same(point, w, 1e-11)
        w, state = nesterov(w, estimators[0](w), state, lr=lr, beta=beta)
        u = state.w
        z = (estimators[1](point),)
        theta, state_ahead = nesterov_look_ahead(theta, z, state_ahead, lr=lr, beta=beta)


def test_forms_agree_on_a_network():
    problem, arguments = small_network(), {"seed": 3, "lr": 0.1, "beta": 0.9}
    position, average, summed = heavy_ball_paths(problem, **arguments)
    assert same(average, position)
    assert same(summed, position)
    u_form, *others = (path(problem, rule, **arguments) for rule in NESTEROVS)
    assert all(same(other, u_form) for other in others)
    assert not same(u_form, position, 1e-3)


@pytest.mark.parametrize("forms", [HEAVY_BALLS, NESTEROVS], ids=["heavy ball", "nesterov"])
def test_with_a_schedule_the_forms_part(forms):
    problem = Quadratic([1.0, 0.1], noise=0.1)
    paths = [path(problem, rule, seed=0, lr=multiply(0.3, power(0.5)), beta=0.9) for rule in forms]
    for i, one in enumerate(paths):
        assert not any(same(one, other, 1e-3) for other in paths[:i])


# --- two gradients


@seldom
@given(noisy_runs())
def test_two_gradients_without_noise_are_nesterov(case):
    problem, arguments = case
    problem = Quadratic(problem.spectrum, rotation_seed=1)
    assert same(
        path(problem, nesterov_two_gradients, **arguments), path(problem, nesterov, **arguments)
    )


def test_two_gradients_with_noise_are_another_method():
    problem, arguments = Quadratic([1.0, 0.1], noise=0.5), {"seed": 0, "lr": 0.1, "beta": 0.9}
    two, one = (path(problem, rule, **arguments) for rule in (nesterov_two_gradients, nesterov))
    assert same(two[1], one[1])
    assert not same(two[2:], one[2:], 1e-2)


@every_rule
def test_evaluations_of_a_step(rule):
    problem = Quadratic([1.0, 0.1], noise=0.5)
    history = run(MiniBatch(problem, 4), rule, steps=5, **hyper(rule, 0.1))
    per_step = [4] + 4 * [8] if rule is nesterov_two_gradients else 5 * [4]
    assert history["evaluations"].tolist() == [sum(per_step[:t]) for t in range(6)]


# --- what a pure function gives


@every_momentum_rule
def test_without_momentum_every_rule_is_sgd(rule):
    problem = Quadratic([1.0, 0.3], noise=0.5)
    arguments = {"seed": 1, "lr": multiply(0.2, power(0.5))}
    assert same(path(problem, rule, beta=0.0, **arguments), path(problem, sgd, **arguments))


@every_rule
def test_a_grid_of_rates_is_as_many_runs(rule):
    problem = Quadratic([1.0, 0.3], rotation_seed=2)
    rates = torch.tensor([0.05, 0.1, 0.4], dtype=torch.float64)
    arguments = {**hyper(rule, 0.1), "steps": 30}
    start = problem.start.expand(3, 2)
    grid = run(FullBatch(problem), rule, w=start, **{**arguments, "lr": rates.unsqueeze(1)})
    for rate, w in zip(rates, grid.w, strict=True):
        alone = run(FullBatch(problem), rule, **{**arguments, "lr": rate.item()})
        assert same(w, alone.w)


@every_rule
def test_vmap_over_a_rule(rule):
    generator = torch.Generator().manual_seed(0)
    z1, z2, z3, w = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)
    rates = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)

    def two_steps(w, z1, z2, z3, lr):
        w, state = rule(w, handed_to(rule, z1), None, **hyper(rule, lr))
        return rule(w, second_step(rule, z2, z3), state, **hyper(rule, lr))[0]

    together = torch.func.vmap(two_steps)(w, z1, z2, z3, rates)
    for i, rate in enumerate(rates.tolist()):
        assert same(together[i], two_steps(w[i], z1[i], z2[i], z3[i], rate))


@every_rule
def test_a_rule_leaves_its_arguments_alone(rule):
    w, z = torch.ones(3), torch.full((3,), 2.0)
    w_next, state = rule(w, handed_to(rule, z), None, **hyper(rule, 0.1))
    before = [x.clone() for x in (w_next, *(state or ()))]
    rule(w_next, second_step(rule, z, z), state, **hyper(rule, 0.1))
    assert torch.equal(w, torch.ones(3))
    assert torch.equal(z, torch.full((3,), 2.0))
    for old, new in zip(before, (w_next, *(state or ())), strict=True):
        assert torch.equal(old, new)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_a_rule_keeps_the_dtype(rule, dtype):
    w = torch.ones(3, dtype=dtype)
    w_next, _ = rule(w, handed_to(rule, w), None, **hyper(rule, 0.1))
    assert w_next.dtype == dtype


# --- bad input


@every_rule
def test_shapes_must_agree(rule):
    z = torch.ones(1, 3)
    with pytest.raises(ValueError, match=r"z has shape \(1, 3\), but w has \(3,\)"):
        rule(torch.ones(3), handed_to(rule, z), None, **hyper(rule, 0.1))


@every_rule
@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_lr_must_be_a_rate(rule, lr):
    z = torch.ones(3)
    with pytest.raises(ValueError, match="lr must be a finite number ≥ 0, got"):
        rule(torch.ones(3), handed_to(rule, z), None, **hyper(rule, lr))


@every_momentum_rule
@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, math.nan])
def test_beta_must_lie_below_one(rule, beta):
    z = torch.ones(3)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\), got"):
        rule(torch.ones(3), handed_to(rule, z), None, lr=0.1, beta=beta)


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("rules/momentum.py", "def sgd("): [
        ("return w - lr * z", "return w + lr * z"),
        ("return w - lr * z", "return w - lr * z.sign()"),
        ('    check_step(w, z, nonnegative={"lr": lr})\n', ""),
    ],
    ("rules/momentum.py", "def heavy_ball("): [
        ("+ beta * (w - w_prev)", "- beta * (w - w_prev)"),
        ("w - lr * z + beta", "w - (1 - beta) * lr * z + beta"),
        ("Previous(w)", "Previous(w_prev)"),
        ("w_prev = w if state", "w_prev = 0 * w if state"),
    ],
    ("rules/momentum.py", "def heavy_ball_average("): [
        ("+ (1 - beta) * z\n", "+ z\n"),
        ("= beta * v_prev + (1 - beta)", "= (1 - beta) * v_prev + beta"),
        ("v_prev = 0 if state is None", "v_prev = z if state is None"),
        ("return w - lr * v,", "return w - lr / (1 - beta) * v,"),
    ],
    ("rules/momentum.py", "def heavy_ball_sum("): [
        ("v = beta * v_prev + z\n", "v = beta * (v_prev + z)\n"),
        ("v = beta * v_prev + z\n", "v = beta * v_prev + (1 - beta) * z\n"),
        ("return w - lr * v,", "return w - lr * (z + beta * v),"),
    ],
    ("rules/momentum.py", "def nesterov("): [
        ("u_next + beta * (u_next - u)", "u_next + beta * (u_next - w)"),
        ("u_next + beta * (u_next - u)", "w + beta * (u_next - u)"),
        ("Previous(u_next)", "Previous(w)"),
        ("u = w if state is None", "u = w - lr * z if state is None"),
    ],
    ("rules/momentum.py", "def nesterov_one_line("): [
        ("w_prev - lr * z_prev", "w_prev + lr * z_prev"),
        ("(w, 0) if state", "(w, z) if state"),
        ("beta * ((w - lr * z) -", "beta * (w -"),
    ],
    ("rules/momentum.py", "def nesterov_gradient_correction("): [
        ("beta * (z - z_prev)", "(z - z_prev)"),
        (" + beta * (z - z_prev)", ""),
        ("(0, 0) if state", "(0, z) if state"),
    ],
    ("rules/momentum.py", "def nesterov_look_ahead("): [
        ("v = beta * v_prev + z", "v = v_prev + z"),
        ("w - lr * v, V", "w - lr * beta * v, V"),
    ],
    ("rules/momentum.py", "def _look_ahead_point("): [
        ("w - lr * beta * state.v", "w - lr * state.v"),
        ("w - lr * beta * state.v", "w"),
    ],
    ("rules/momentum.py", "def nesterov_two_gradients("): [
        ("VelocityAndPrevious(v, w)", "VelocityAndPrevious(v, w - lr * v)"),
        ("beta * (z - z_prev)", "beta * (z_prev - z)"),
        ("(*z, 0) if state", "(*z, *z) if state"),
    ],
    ("rules/momentum.py", "def _this_and_previous_point("): [
        ("(w, state.w)", "(state.w, w)"),
    ],
    ("rules/checks.py", "def check_step("): [
        ("if w.shape != z.shape:", "if False:"),
        ("0 <= value < math.inf", "0 <= value"),
        ("0 <= value < 1", "0 <= value <= 1"),
    ],
}
