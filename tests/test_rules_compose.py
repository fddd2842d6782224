"""What holds for every rule: it maps, its state can be saved; and rules made of rules."""

import io
from functools import partial

import pytest
import torch
from optimizer_helpers import ELSEWHERE, MOMENTUM
from torch.func import vmap
from torch.nn.functional import cross_entropy

from optcore import rules
from optcore.problems import Network

BETA = {"beta": 0.9}
RULES = {
    "sgd": (rules.sgd, {}),
    **{name: (rule, BETA) for name, rule in (MOMENTUM | ELSEWHERE).items()},
    "adagrad": (rules.adagrad, {}),
    "rmsprop": (rules.rmsprop, {"momentum": 0.5, "centered": True}),
    "adam": (rules.adam, {"weight_decay": 0.1}),
    "amsgrad, paper": (rules.amsgrad, {"form": "paper"}),
    "amsgrad, torch": (rules.amsgrad, {"form": "torch"}),
    "amsgrad, optax": (rules.amsgrad, {"form": "optax"}),
    "adamw": (rules.adamw, {}),
    "lion": (rules.lion, {"weight_decay": 0.1}),
    "muon": (rules.muon, {"weight_decay": 0.1}),
    "muon, svd": (rules.muon, {"method": "svd"}),
    "muon, polar express": (rules.muon, {"method": "polar_express"}),
}
each_rule = pytest.mark.parametrize(("rule", "hyper"), RULES.values(), ids=RULES)


def at(w):
    """A gradient that differs from entry to entry, and is not the same function in each row."""
    return torch.sin(3 * w) + w


def steps(rule, w, number, state=None, **hyper):
    for _ in range(number):
        points = rules.points_of(rule)
        z = tuple(map(at, points(w, state, **hyper))) if points else at(w)
        w, state = rule(w, z, state, **hyper)
    return w, state


def test_every_rule_that_is_exported_is_here():
    listed = {rule.__name__ for rule, _ in RULES.values()}
    listed |= {"by_layer", "is_of_matrices", "orthogonalize", "points_of"}
    assert listed == set(rules.__all__)
    assert all(callable(getattr(rules, name)) for name in rules.__all__)


@each_rule
def test_a_rule_maps_over_rows_and_rates(rule, hyper):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    rates = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64)
    mapped, state = vmap(lambda w, lr: steps(rule, w, 5, lr=lr, **hyper))(w, rates)
    for row, (one, lr) in enumerate(zip(w, rates, strict=True)):
        alone, its_state = steps(rule, one, 5, lr=lr.item(), **hyper)
        torch.testing.assert_close(mapped[row], alone, rtol=1e-12, atol=1e-12)
        for x, y in zip(state, its_state, strict=True):
            torch.testing.assert_close(x[row], y, rtol=1e-12, atol=1e-12)


@each_rule
def test_a_state_of_tensors_is_saved_loaded_and_continued_to_the_bit(rule, hyper):
    w = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    half, state = steps(rule, w, 5, lr=0.05, **hyper)
    assert all(isinstance(x, torch.Tensor) for x in state)
    file = io.BytesIO()
    torch.save((half, state), file)
    file.seek(0)
    half, state = torch.load(file, weights_only=True)
    assert torch.equal(
        steps(rule, half, 5, state, lr=0.05, **hyper)[0], steps(rule, w, 10, lr=0.05, **hyper)[0]
    )


@pytest.mark.parametrize("rule", ELSEWHERE.values(), ids=ELSEWHERE)
def test_points_survive_partial(rule):
    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    expected = steps(rule, w, 5, lr=0.05, beta=0.9)[0]
    assert torch.equal(steps(partial(rule, beta=0.9), w, 5, lr=0.05)[0], expected)
    twice = partial(partial(rule, beta=0.1), beta=0.9, lr=0.05)
    assert torch.equal(steps(twice, w, 5)[0], expected)
    # Where a partial and a call disagree, the call wins, at the points as in the rule.
    assert torch.equal(steps(partial(rule, beta=0.1), w, 5, lr=0.05, beta=0.9)[0], expected)
    assert rules.points_of(rules.adam) is None
    assert rules.points_of(partial(rules.adam, eps=1e-3)) is None


def test_which_rules_are_of_matrices():
    assert {name for name, (rule, _) in RULES.items() if rules.is_of_matrices(rule)} == {
        "muon",
        "muon, svd",
        "muon, polar express",
    }
    assert rules.is_of_matrices(partial(partial(rules.muon, lr=0.1), momentum=0.9))
    with pytest.raises(ValueError, match=r"w must hold matrices .* got shape \(3,\): .* by_layer"):
        rules.muon(torch.ones(3), torch.ones(3), lr=0.1)


# --- by_layer


def network():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 2), torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.Linear(5, 2)
    ).double()
    x = torch.randn(6, 1, 3, 3, dtype=torch.float64)
    return Network(module, x, torch.tensor([0, 1, 0, 1, 1, 0]), cross_entropy)


def test_each_layer_gets_its_rule():
    net = network()
    rule = rules.by_layer(net, matrices=rules.muon, others=rules.adam, exclude=["3.weight"])
    hyper = {"lr": 0.02, "matrices": {"momentum": 0.8}, "others": {"lr": 3e-3, "beta2": 0.9}}
    w, state = net.start, None
    expected = {name: (p, None) for name, p in net.unflatten(w).items()}
    for _ in range(5):
        z = net.unflatten(net.gradient(w))
        w, state = rule(w, net.gradient(w), state, **hyper)
        for name, (p, its_state) in expected.items():
            if name in ("0.weight", "2.weight"):
                form = (len(p), -1)
                p, its_state = rules.muon(
                    p.reshape(form), z[name].reshape(form), its_state, lr=0.02, momentum=0.8
                )
            else:
                p, its_state = rules.adam(p, z[name], its_state, lr=3e-3, beta2=0.9)
            expected[name] = p.reshape(z[name].shape), its_state
    for name, p in net.unflatten(w).items():
        torch.testing.assert_close(p, expected[name][0], rtol=1e-13, atol=1e-13)
    assert set(state) == set(expected)


@pytest.mark.parametrize("mapped", [False, True], ids=["rows in front", "vmap"])
def test_layers_of_rows_at_several_rates(mapped):
    net = network()
    rule = rules.by_layer(net, matrices=rules.muon, others=rules.adam)
    generator = torch.Generator().manual_seed(1)
    w = net.start + 0.1 * torch.randn(3, len(net.start), generator=generator, dtype=torch.float64)
    rates = torch.tensor([[0.01], [0.02], [0.05]], dtype=torch.float64)

    def two_steps(w, lr, gradient=net.gradient):
        once, state = rule(w, gradient(w), lr=lr, others={"eps": 1e-6})
        return rule(once, gradient(once), state, lr=lr, others={"eps": 1e-6})[0]

    together = vmap(two_steps)(w, rates) if mapped else two_steps(w, rates)
    for row, lr in enumerate(rates):
        torch.testing.assert_close(together[row], two_steps(w[row], lr.item()), rtol=0, atol=1e-12)


def test_what_by_layer_refuses():
    net = network()
    with pytest.raises(ValueError, match="exclude names no parameter of the network: 3"):
        rules.by_layer(net, matrices=rules.muon, others=rules.adam, exclude=["3"])
    for pair in ((rules.nesterov_look_ahead, rules.sgd), (rules.sgd, rules.nesterov_look_ahead)):
        with pytest.raises(ValueError, match="gradients are taken at the iterate"):
            rules.by_layer(net, matrices=pair[0], others=pair[1])


MUTANTS = {
    ("rules/compose.py", "def points_of("): [
        ("isinstance(rule, functools.partial)", "False"),
        (", **rule.keywords", ""),
    ],
    ("rules/compose.py", "def is_of_matrices("): [
        ("while isinstance(rule, functools.partial)", "while False"),
    ],
    ("rules/compose.py", "def by_layer("): [
        ("{**hyper, **own[matrix]}", "{**own[matrix], **hyper}"),
        ("len(shape) >= 2 and name not in exclude", "len(shape) >= 2"),
        ("len(shape) >= 2 and name not in exclude", "len(shape) == 2 and name not in exclude"),
        ("state and state[name]", "None"),
        ("value.ndim > 0", "False"),
        ("z_of[name].reshape(form)", "w_of[name].reshape(form)"),
        ("for rule in (matrices, others):", "for rule in (matrices,):"),
    ],
    ("rules/__init__.py", "add_safe_globals(\n"): [
        ("for module in (adaptive, momentum, matrices)", "for module in (adaptive, momentum)"),
    ],
}
