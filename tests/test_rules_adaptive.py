"""The adaptive rules against their printed equations, the optimizers, torch and optax."""

import itertools
import math
from functools import partial

import jax
import numpy as np
import optax
import pytest
import torch
from optimizer_helpers import FLOAT64, assert_same, gradient_like, leaves

from optcore import optim
from optcore.rules.adaptive import adagrad, adam, adamw, amsgrad, lion, rmsprop

jax.config.update("jax_enable_x64", True)

RULES = {rule.__name__: rule for rule in (adagrad, rmsprop, adam, amsgrad, adamw, lion)}
STEPS = range(1, 61)
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def start():
    return leaves([(17,)])[0].detach()


def gradient(t):
    """As the optimizers' tests have it, with every third so small that ε or rounding decides."""
    return gradient_like(start(), t) * {0: 1e-9, 1: 1.0, 2: 1e-160}[t % 3]


def rate(t):
    return 0.02 * (1 + math.cos(t / 20))


def path_of(rule, lr=rate, **hyper):
    w, state, path = start(), None, []
    for t in STEPS:
        w, state = rule(w, gradient(t), state, lr=lr(t), **hyper)
        path.append(w)
    return path


# --- the printed equations, unrolled: no accumulator is carried from step to step


def average(beta, terms):
    """(1−β) (terms_t + β terms_{t−1} + …)."""
    weights = [(1 - beta) * beta ** (len(terms) - 1 - r) for r in range(len(terms))]
    return sum(a * x for a, x in zip(weights, terms, strict=True))


def averages(beta, terms):
    return [average(beta, terms[: t + 1]) for t in range(len(terms))]


def root(v, eps, inside):
    return (v + eps) ** 0.5 if inside else v**0.5 + eps


def squares(z):
    return [x * x for x in z]


def unrolled_adagrad(w, z, lr, eps=1e-10, initial=0.0, eps_inside=False):
    return w - lr * z[-1] / root(initial + sum(squares(z)), eps, eps_inside)


def unrolled_rmsprop(lr, ws, z, beta2=0.99, eps=1e-8, momentum=0.0, centered=False, inside=False):
    v, m = averages(beta2, squares(z)), averages(beta2, z)
    under = [a - b * b for a, b in zip(v, m, strict=True)] if centered else v
    terms = [x / root(u, eps, inside) for x, u in zip(z, under, strict=True)]
    b = sum(momentum ** (len(z) - 1 - r) * x for r, x in enumerate(terms))
    return ws - lr * b


def unrolled_adam(w, z, lr, beta1, beta2, eps, bias_correction=True, eps_inside=False):
    t = len(z)
    m, v = average(beta1, z), average(beta2, squares(z))
    if bias_correction:
        m, v = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - lr * m / root(v, eps, eps_inside)


def check_unrolled(rule, expected, l2=0.0, **hyper):
    w, state, z = start(), None, []
    for t in STEPS:
        z.append(gradient(t) + l2 * w)
        wanted = expected(w, z, rate(t))
        w, state = rule(w, gradient(t), state, lr=rate(t), **hyper)
        assert_same(w, wanted)


@pytest.mark.parametrize(
    ("eps", "initial", "eps_inside"),
    list(itertools.product([1e-10, 1e-3], [0.0, 0.1], [False, True])),
)
def test_adagrad_is_its_equation(eps, initial, eps_inside):
    hyper = {"eps": eps, "initial": initial, "eps_inside": eps_inside}
    check_unrolled(adagrad, lambda w, z, lr: unrolled_adagrad(w, z, lr, **hyper), **hyper)


@pytest.mark.parametrize(
    ("beta2", "eps", "momentum", "centered", "eps_inside"),
    list(itertools.product([0.99, 0.5], [1e-8, 1e-3], [0.0, 0.9], [False, True], [False, True])),
)
def test_rmsprop_is_its_equation(beta2, eps, momentum, centered, eps_inside):
    # The equation's b has η outside, so that a rate that changes scales all of b.
    # v − m² is zero but for rounding at the first steps with β₂ = 0: not in the grid.
    check_unrolled(
        rmsprop,
        lambda w, z, lr: unrolled_rmsprop(
            lr, w, z, beta2, eps, momentum, centered, inside=eps_inside
        ),
        beta2=beta2,
        eps=eps,
        momentum=momentum,
        centered=centered,
        eps_inside=eps_inside,
    )


ADAM_GRID = list(itertools.product([(0.9, 0.999), (0.0, 0.5), (0.8, 0.0)], [1e-8, 1e-3]))


@pytest.mark.parametrize(("betas", "eps"), ADAM_GRID)
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("eps_inside", [False, True])
def test_adam_is_its_equation(betas, eps, weight_decay, bias_correction, eps_inside):
    hyper = {"beta1": betas[0], "beta2": betas[1], "eps": eps}
    form = {"bias_correction": bias_correction, "eps_inside": eps_inside}
    check_unrolled(
        adam,
        lambda w, z, lr: unrolled_adam(w, z, lr, **hyper, **form),
        l2=weight_decay,
        weight_decay=weight_decay,
        **hyper,
        **form,
    )


@pytest.mark.parametrize(("betas", "eps"), ADAM_GRID)
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("eps_inside", [False, True])
def test_adamw_is_its_equation(betas, eps, weight_decay, eps_inside):
    hyper = {"beta1": betas[0], "beta2": betas[1], "eps": eps, "eps_inside": eps_inside}
    check_unrolled(
        adamw,
        lambda w, z, lr: unrolled_adam(w, z, lr, **hyper) - lr * weight_decay * w,
        weight_decay=weight_decay,
        **hyper,
    )


@pytest.mark.parametrize(("betas", "eps"), ADAM_GRID)
@pytest.mark.parametrize("form", ["paper", "torch", "optax"])
def test_amsgrad_is_its_equation(betas, eps, form):
    def expected(w, z, lr):
        t = len(z)
        v = averages(betas[1], squares(z))
        if form == "optax":
            v = [x / (1 - betas[1] ** (r + 1)) for r, x in enumerate(v)]
        largest = torch.stack(v).amax(0)
        if form == "torch":
            largest = largest / (1 - betas[1] ** t)
        m = average(betas[0], z) / (1 if form == "paper" else 1 - betas[0] ** t)
        return w - lr * m / (largest**0.5 + eps)

    check_unrolled(amsgrad, expected, beta1=betas[0], beta2=betas[1], eps=eps, form=form)


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.0, 0.5), (0.8, 0.0)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_lion_is_its_equation(betas, weight_decay):
    def expected(w, z, lr):
        m = average(betas[1], z[:-1]) if z[:-1] else 0
        c = betas[0] * m + (1 - betas[0]) * z[-1]
        return w - lr * (torch.sign(c) + weight_decay * w)

    check_unrolled(lion, expected, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay)


# --- by hand: one step from rest


def test_first_steps_by_hand():
    w, z = torch.tensor([1.0], dtype=FLOAT64), torch.tensor([-4.0], dtype=FLOAT64)

    def after(rule, **hyper):
        return rule(w, z, lr=0.5, **hyper)[0].item()

    assert after(adagrad, eps=0) == 1.5
    assert after(adagrad, eps=9, eps_inside=True) == pytest.approx(1 + 0.5 * 4 / 5)
    assert after(rmsprop, beta2=0.75, eps=0) == 2.0
    assert after(rmsprop, beta2=0.5, centered=True, eps=0) == pytest.approx(1 + 0.5 * 4 / 2)
    assert after(adam, eps=0) == 1.5
    assert after(adam, eps=0, beta1=0.9, beta2=0.99, bias_correction=False) == pytest.approx(1.5)
    assert after(adam, eps=0, bias_correction=False) == pytest.approx(1 + 0.5 * 10**0.5)
    assert after(amsgrad, eps=0, form="paper") == pytest.approx(1 + 0.5 * 10**0.5)
    assert after(amsgrad, eps=0, form="torch") == 1.5
    assert after(adamw, eps=0, weight_decay=0.1) == pytest.approx(1.5 - 0.05)
    assert after(lion, weight_decay=0.1) == pytest.approx(1.5 - 0.05)


# --- the optimizers, ours and torch's, under a schedule

# name: the rule, the optimizer's arguments, the rule's.
AS_OPTIMIZERS = {
    "Adagrad": (adagrad, {"initial_accumulator_value": 0.1}, {"initial": 0.1}),
    "RMSprop": (
        rmsprop,
        {"alpha": 0.9, "momentum": 0.8, "centered": True},
        {"beta2": 0.9, "momentum": 0.8, "centered": True},
    ),
    "Adam": (adam, {"weight_decay": 0.05}, {"weight_decay": 0.05}),
    "AdamW": (adamw, {"weight_decay": 0.5}, {"weight_decay": 0.5}),
    "AMSGrad": (amsgrad, {"amsgrad": True}, {"form": "torch"}),
    "Lion": (lion, {"weight_decay": 0.5}, {"weight_decay": 0.5}),
}


@pytest.mark.parametrize("package", [optim, torch.optim], ids=["optcore", "torch"])
@pytest.mark.parametrize("name", AS_OPTIMIZERS)
def test_rules_are_the_optimizers_under_a_schedule(name, package):
    rule, options, hyper = AS_OPTIMIZERS[name]
    make = getattr(package, "Adam" if name == "AMSGrad" else name, None)
    if make is None:
        assert name == "Lion"  # which torch does not have
        return
    p = start().requires_grad_()
    optimizer = make([p], lr=1.0, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: rate(t + 1))
    path = []
    for t in STEPS:
        p.grad = gradient(t)
        optimizer.step()
        schedule.step()
        path.append(p.detach().clone())
    assert_same(path, path_of(rule, **hyper))


@pytest.mark.parametrize(
    ("rule", "hyper", "transform"),
    [
        (
            adagrad,
            {"eps": 1e-7, "initial": 0.1, "eps_inside": True},
            lambda lr: optax.adagrad(lr),
        ),
        (rmsprop, {"beta2": 0.9, "eps_inside": True}, lambda lr: optax.rmsprop(lr)),
        (
            rmsprop,
            {"beta2": 0.9, "centered": True},
            lambda lr: optax.rmsprop(lr, centered=True, eps_in_sqrt=False),
        ),
        (adam, {}, lambda lr: optax.adam(lr)),
        (adam, {"eps_inside": True}, lambda lr: optax.adam(lr, eps=0.0, eps_root=1e-8)),
        (amsgrad, {"form": "optax"}, lambda lr: optax.amsgrad(lr)),
        (adamw, {"weight_decay": 0.5}, lambda lr: optax.adamw(lr, weight_decay=0.5)),
        (lion, {"weight_decay": 0.5}, lambda lr: optax.lion(lr, weight_decay=0.5)),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_rules_are_optax_under_a_schedule(rule, hyper, transform):
    # optax counts from 0. The rate is looked up: its cosine is not to be the last digit's.
    rates = jax.numpy.array([rate(t) for t in STEPS])
    update = transform(lambda count: rates[count])
    w = np.asarray(start())
    state, path = update.init(w), []
    for t in STEPS:
        z, state = update.update(np.asarray(gradient(t)), state, w)
        w = np.asarray(optax.apply_updates(w, z))
        path.append(torch.from_numpy(w.copy()))
    assert_same(path_of(rule, **hyper), path)


# --- what every rule owes


@each_rule
def test_rules_are_pure_and_keep_the_type(rule):
    for dtype in (torch.float32, torch.float64):
        w, z = torch.ones(3, dtype=dtype), torch.full((3,), -2.0, dtype=dtype)
        once, state = rule(w, z, lr=0.1)
        again, _ = rule(once, z, state, lr=0.1)
        for x in (once, again, *(x for x in state if x.ndim)):  # not the count of steps
            assert x.dtype == dtype
        before = [x.clone() if isinstance(x, torch.Tensor) else x for x in state]
        rule(once, z, state, lr=0.1)
        for a, b in zip(before, state, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        assert torch.equal(w, torch.ones(3, dtype=dtype))
        assert torch.equal(z, torch.full((3,), -2.0, dtype=dtype))


@each_rule
def test_rules_run_in_batches(rule):
    w, z = leaves([(4, 3)])[0].detach(), leaves([(4, 3)])[0].detach() ** 2
    lr = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=FLOAT64)
    batched = torch.func.vmap(lambda w, z, lr: rule(w, z, lr=lr)[0])(w, z, lr)
    alone = torch.stack([rule(w[i], z[i], lr=lr[i].item())[0] for i in range(4)])
    assert_same(batched, alone)


BAD = {
    "lr": (RULES, (-0.1, math.inf, math.nan)),
    "eps": ({k: r for k, r in RULES.items() if k != "lion"}, (-0.1, math.inf)),
    "beta1": ({k: RULES[k] for k in ("adam", "amsgrad", "adamw", "lion")}, (-0.1, 1.0)),
    "beta2": ({k: r for k, r in RULES.items() if k != "adagrad"}, (-0.1, 1.0)),
    "momentum": ({"rmsprop": rmsprop}, (-0.1, 1.0)),
    "initial": ({"adagrad": adagrad}, (-0.1, math.inf)),
    "weight_decay": ({k: RULES[k] for k in ("adam", "adamw", "lion")}, (-0.1, math.inf)),
}


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [(r, name, x) for name, (rules, bad) in BAD.items() for r in rules.values() for x in bad],
)
def test_hyper_parameters_out_of_range(rule, name, value):
    with pytest.raises(ValueError, match=f"{name} must "):
        rule(torch.ones(2), torch.ones(2), **{"lr": 0.1, name: value})


@each_rule
def test_shapes_must_agree(rule):
    with pytest.raises(ValueError, match="they must agree"):
        rule(torch.ones(2), torch.ones(2, 1), lr=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "rule", [*RULES.values(), *(partial(amsgrad, form=form) for form in ("torch", "optax"))]
)
def test_a_number_keeps_its_dtype(rule, dtype):
    w, state = torch.tensor(1.0, dtype=dtype), None
    for _ in range(2):
        w, state = rule(w, torch.sin(w), state, lr=0.1)
        kept = [x for name, x in state._asdict().items() if name != "t"]
        assert {x.dtype for x in (w, *kept)} == {dtype}


@pytest.mark.parametrize("rule", [adagrad, rmsprop, adam, adamw])
def test_complex_numbers_are_refused(rule):
    w = torch.tensor([1 + 1j])
    with pytest.raises(ValueError, match="w is complex: hand over .*view_as_real"):
        rule(w, 1j * w, lr=0.1)


def test_unknown_form():
    with pytest.raises(ValueError, match="form must be 'paper', 'torch' or 'optax'"):
        amsgrad(torch.ones(2), torch.ones(2), lr=0.1, form="keras")


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("rules/adaptive.py", "def adagrad("): [
        ("state.G) + z**2", "state.G) + z.abs()"),
        ("(initial if state is None", "(0.0 if state is None"),
        ("return w - lr * z", "return w + lr * z"),
        ("_root(G, eps, eps_inside)", "_root(G, eps, False)"),
    ],
    ("rules/adaptive.py", "def rmsprop("): [
        ("+ (1 - beta2) * z**2", "+ z**2"),
        ("+ (1 - beta2) * z if centered", "+ z if centered"),
        ("v - m**2)", "v - m)"),
        ("(v - m**2).clamp(min=0) if centered", "v if centered"),
        ("b = momentum * b + z", "b = momentum * b + (1 - momentum) * z"),
        ("return w - lr * b", "return w - lr * (momentum * b + z)"),
        ("eps, eps_inside)\n", "eps, False)\n"),
    ],
    ("rules/adaptive.py", "def adam("): [
        ("z + weight_decay * w", "z - weight_decay * w"),
        ("if bias_correction", "if not bias_correction"),
        ("_unbiased(m, beta1, t)", "_unbiased(m, beta1, t - 1 + 1e-9)"),
        ("_unbiased(v, beta2, t)", "_unbiased(v, beta1, t)"),
    ],
    ("rules/adaptive.py", "def amsgrad("): [
        ("torch.maximum(v_max,", "torch.maximum(v,"),
        ('if form == "optax" else v)', "if True else v)"),
        ('m if form == "paper" else', 'm if form != "paper" else'),
        ('_unbiased(v_max, beta2, t) if form == "torch"', 'v_max if form == "torch"'),
        ("MomentsAndMax(t, m, v, v_max)", "MomentsAndMax(t, m, v_max, v_max)"),
    ],
    ("rules/adaptive.py", "def adamw("): [
        ("+ weight_decay * w)", "+ lr * weight_decay * w)"),
        ("+ weight_decay * w)", "- weight_decay * w)"),
        ("_root(v_hat, eps, eps_inside)", "_root(v, eps, eps_inside)"),
        ("_root(v_hat, eps, eps_inside)", "_root(v_hat, eps, not eps_inside)"),
    ],
    ("rules/adaptive.py", "def lion("): [
        ("c.sign()", "c"),
        ("c = beta1 * m + (1 - beta1) * z", "c = beta2 * m + (1 - beta2) * z"),
        ("Average(beta2 * m + (1 - beta2) * z)", "Average(c)"),
        ("+ weight_decay * w)", ")"),
    ],
    ("rules/adaptive.py", "def _unbiased("): [
        (".to(average.dtype)", ""),
        ("if v.is_complex():", "if False:"),
    ],
    ("rules/adaptive.py", "def _moments("): [
        ("t + 1, beta1", "t, beta1"),
        ("(1 - beta1) * z, beta2", "z, beta2"),
        ("(1 - beta2) * z**2", "z**2"),
        ("(1 - beta2) * z**2", "(1 - beta2) * z"),
    ],
}
