"""`FromRule`: every rule of the book, and a reader's own, as a torch optimizer.

What all optimizers owe is tested in test_optim_momentum.py, where a rule is one of the peers, and
in test_optim_base.py.
"""

import copy
import io
import pickle
from functools import partial
from typing import NamedTuple

import pytest
import torch
from optimizer_helpers import (
    ELSEWHERE,
    FLOAT64,
    MOMENTUM,
    advance,
    assert_same,
    check_that_a_schedule_compiles_once,
    gradient_like,
    leaves,
)

from optcore import optim, rules
from optcore.optim import FromRule

BETA = {"lr": 0.05, "beta": 0.9}
# Rule and hyper-parameters, every option once.
RULES = {
    "sgd": (rules.sgd, {"lr": 0.05}),
    **{name: (rule, BETA) for name, rule in MOMENTUM.items()},
    "adagrad": (rules.adagrad, {"lr": 0.1, "initial": 0.1, "eps_inside": True}),
    "rmsprop": (rules.rmsprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "adam": (rules.adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adam, uncorrected": (rules.adam, {"lr": 0.01, "bias_correction": False}),
    "adamw": (rules.adamw, {"lr": 0.01}),
    "amsgrad": (rules.amsgrad, {"lr": 0.01, "form": "optax"}),
    "lion": (rules.lion, {"lr": 0.01, "weight_decay": 0.1}),
    "muon": (rules.muon, {"lr": 0.01, "weight_decay": 0.1}),
}
AHEAD = {name: (rule, BETA) for name, rule in ELSEWHERE.items()}
each_rule = pytest.mark.parametrize(("rule", "hyper"), RULES.values(), ids=RULES)
each_ahead = pytest.mark.parametrize(("rule", "hyper"), AHEAD.values(), ids=AHEAD)


def matrices():
    return leaves([(3, 2), (4, 4)])


def small_gradient(p, t, i=0):
    return gradient_like(p, t, i) * {0: 1e-9, 1: 1.0, 2: 1e-160}[t % 3]


def by_hand(rule, hyper, steps, gradient=small_gradient):
    params = [p.detach() for p in matrices()]
    states, path = [None] * len(params), []
    for t in steps:
        for i, w in enumerate(params):
            params[i], states[i] = rule(w, gradient(w, t, i), states[i], **hyper)
        path += params
    return path


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- the numbers


@each_rule
def test_is_the_rule_for_200_steps(rule, hyper):
    path = advance(FromRule(matrices(), rule, **hyper), range(1, 201), gradient=small_gradient)
    assert_same(path, by_hand(rule, hyper, range(1, 201)))


@each_rule
def test_saved_and_resumed_to_the_bit(rule, hyper):
    through = advance(FromRule(matrices(), rule, **hyper), range(1, 31))
    params = matrices()
    first = FromRule(params, rule, **hyper)
    path = advance(first, range(1, 16))
    saved = through_a_file(first.state_dict())
    second = FromRule(params, rule, **hyper)
    second.load_state_dict(saved)
    assert_same(path + advance(second, range(16, 31)), through, rtol=0, atol=0)


def quadratic(params):
    """A closure whose gradient depends on where it is evaluated, and the loss there."""

    def closure():
        for p in params:
            p.grad = None
        loss = sum(((i + 1) * p * p).sum() + p.sin().sum() for i, p in enumerate(params)) / 10
        loss.backward()
        return loss

    return closure


@each_ahead
@pytest.mark.parametrize("maximize", [False, True])
def test_a_rule_with_points_is_the_rule_for_200_steps(rule, hyper, maximize):
    params = matrices()
    optimizer = FromRule(params, rule, maximize=maximize, **hyper)
    sign = -1 if maximize else 1
    hyper = {**hyper, "lr": hyper["lr"] if not maximize else 1e-3}
    optimizer.param_groups[0]["lr"] = hyper["lr"]
    w, states = [p.detach().clone() for p in params], [None] * 2
    for t in range(200):
        if t == 100:
            saved = through_a_file(optimizer.state_dict())
            optimizer = FromRule(params, rule, maximize=maximize, **hyper)
            optimizer.load_state_dict(saved)
        loss = optimizer.step(quadratic(params))
        places = [rule.points(*at, **hyper) for at in zip(w, states, strict=True)]
        first, gradients = None, [[], []]
        for k in range(len(places[0])):
            leaf = [own[k].clone().requires_grad_() for own in places]
            here = quadratic(leaf)()
            first = here if first is None else first
            for i, p in enumerate(leaf):
                gradients[i].append(sign * p.grad)
        assert_same(loss.detach(), first.detach())
        for i in range(2):
            w[i], states[i] = rule(w[i], tuple(gradients[i]), states[i], **hyper)
        assert_same([p.detach() for p in params], w)


def test_look_ahead_is_the_u_of_nesterov():
    """At each point of the look-ahead stands the w of the u-form."""
    ahead, plain = matrices(), matrices()
    one = FromRule(ahead, rules.nesterov_look_ahead, **BETA)
    two = FromRule(plain, rules.nesterov, **BETA)
    seen = []

    def closure():
        seen.append([p.detach().clone() for p in ahead])
        return quadratic(ahead)()

    for t in range(20):
        one.step(closure)
        assert_same(seen[t], [p.detach() for p in plain])
        two.step(quadratic(plain))


# --- a reader's rules


class Mine(NamedTuple):
    count: int
    average: torch.Tensor

    def step(self):
        return self.average / (1 - 0.5**self.count)


def averaged(w, z, state=None, *, lr, scale=1.0):
    """A named tuple of its own, with a method and a Python number."""
    count, m = (0, torch.zeros_like(z)) if state is None else state
    state = Mine(count + 1, 0.5 * m + 0.5 * z)
    return w - lr * scale * state.step(), state


def lone_tensor(w, z, state=None, *, lr):
    """Its state is one tensor, changed in place."""
    state = torch.zeros_like(z) if state is None else state
    state.mul_(0.9).add_(z)
    return w - lr * state, state


def plain_tuple(w, z, state, *, lr):
    """A plain tuple, which holds what was handed in, as it is."""
    w_prev, z_prev = (w, z) if state is None else state
    return w - lr * (z + z_prev) / 2 + 0.5 * (w - w_prev), (w, z)


def without_state(w, z, state, lr):
    return w - lr * z.sign(), None


def forgets(w, z, state, *, lr, momentum=0.9):
    """No state without momentum."""
    v = z if state is None else momentum * state + z
    return w - lr * v, v if momentum else None


def returns_its_state(w, z, state, *, lr):
    u = w - lr * z
    return u, (u,)


OWN = [averaged, lone_tensor, plain_tuple, without_state, forgets, returns_its_state]
each_own = pytest.mark.parametrize("rule", OWN, ids=lambda rule: rule.__name__)


@each_own
@pytest.mark.parametrize("copied", ["no", "file", "deepcopy", "pickle"])
def test_any_form_of_state(rule, copied):
    params = matrices()
    optimizer = FromRule(params, rule, lr=0.05)
    path = advance(optimizer, range(1, 6))
    if copied == "file":
        saved = through_a_file(optimizer.state_dict())
        optimizer = FromRule(params, rule, lr=0.05)
        optimizer.load_state_dict(saved)
    elif copied == "deepcopy":
        optimizer = copy.deepcopy(optimizer)
    elif copied == "pickle":
        optimizer = pickle.loads(pickle.dumps(optimizer))
    path += advance(optimizer, range(6, 11))
    assert_same(path, by_hand(rule, {"lr": 0.05}, range(1, 11), gradient_like))


def test_a_state_may_come_and_go():
    params = matrices()
    optimizer = FromRule(params, forgets, lr=0.05, momentum=0.0)
    advance(optimizer, [1])
    assert not optimizer.state
    hand = [(p.detach().clone(), None) for p in params]
    for t, momentum in [(2, 0.9), (3, 0.9), (4, 0.0), (5, 0.9)]:
        optimizer.param_groups[0]["momentum"] = momentum
        advance(optimizer, [t])
        for i, (w, state) in enumerate(hand):
            z = gradient_like(w, t, i)
            hand[i] = forgets(w, z, state, lr=0.05, momentum=momentum)
        assert_same([p.detach() for p in params], [w for w, _ in hand])


def test_a_state_that_is_loaded_before_the_rule_has_kept_one_is_used():
    first, second = matrices(), matrices()
    saved = FromRule(first, forgets, lr=0.05, momentum=0.9)
    advance(saved, range(1, 4))
    loaded = FromRule(second, forgets, lr=0.05, momentum=0.0)  # which keeps no state
    with torch.no_grad():
        for p, q in zip(first, second, strict=True):
            q.copy_(p)
    loaded.load_state_dict(through_a_file(saved.state_dict()))
    assert_same(advance(loaded, range(4, 7)), advance(saved, range(4, 7)), rtol=0, atol=0)

    layer, lazy = torch.nn.Linear(3, 2), torch.nn.LazyLinear(2)
    saved, loaded = (FromRule(m.parameters(), rules.adam, lr=0.1) for m in (layer, lazy))
    advance(saved, range(1, 4))
    lazy(torch.ones(1, 3))
    lazy.load_state_dict(layer.state_dict())
    loaded.load_state_dict(through_a_file(saved.state_dict()))
    assert_same(advance(loaded, range(4, 7)), advance(saved, range(4, 7)), rtol=0, atol=0)


def test_without_parameters_a_step_is_the_closures_loss():
    for rule in (rules.nesterov, rules.nesterov_look_ahead):
        assert FromRule([{"params": []}], rule, **BETA).step(lambda: 2.0) == 2.0


def test_a_network_trains_in_one_line():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = FromRule(model.parameters(), rules.adam, lr=0.01)
    x = torch.randn(64, 2)
    y = x.prod(1, keepdim=True)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        losses.append(loss := (model(x) - y).square().mean())
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 5


def test_half_precision_computes_and_keeps_float32():
    params = leaves(dtype=torch.bfloat16)
    optimizer = FromRule(params, rules.adam, lr=0.01)
    advance(optimizer, range(1, 4))
    again = FromRule(params, rules.adam, lr=0.01)
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    for p in params:
        m, t = again.state[p]["m"], again.state[p]["t"]
        assert (m.dtype, t.dtype, t.item()) == (torch.float32, FLOAT64, 3)
        assert torch.equal(m, optimizer.state[p]["m"])
    again.state[params[0]]["t"].fill_(2**24 + 1)  # not a number of float32
    third = FromRule(params, rules.adam, lr=0.01)
    third.load_state_dict(again.state_dict())
    assert third.state[params[0]]["t"].item() == 2**24 + 1
    # In bfloat16, 0.999 v + 0.001 z² would stand still long before it is 1 − 0.999^1000.
    p = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    optimizer = FromRule([p], rules.adam, lr=1e-3)
    for _ in range(1000):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.state[p]["v"].tolist() == pytest.approx([1 - 0.999**1000] * 2, rel=1e-3)


def test_groups_and_schedules():
    a, b = matrices()
    groups = [{"params": [a]}, {"params": [b], "beta": 0.5, "lr": 0.01, "maximize": True}]
    optimizer = FromRule(groups, rules.heavy_ball, **BETA)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (k + 1))
    hand = [(p.detach().clone(), None) for p in (a, b)]
    for t in range(1, 11):
        advance(optimizer, [t])
        scheduler.step()
        for i, (hyper, sign) in enumerate([(BETA, 1), ({"beta": 0.5, "lr": 0.01}, -1)]):
            w, state = hand[i]
            z = sign * gradient_like(w, t, i)
            hand[i] = rules.heavy_ball(w, z, state, **{**hyper, "lr": hyper["lr"] / t})
        assert_same([a.detach(), b.detach()], [w for w, _ in hand])


def test_a_rate_below_zero_by_rounding_does_not_stop_a_run():
    params = matrices()
    optimizer = FromRule(params, rules.adam, lr=0.1)
    optimizer.param_groups[0]["lr"] = -1e-21
    advance(optimizer, [1])
    assert_same([p.detach() for p in params], [p.detach() for p in matrices()])


def test_a_compiled_step_is_the_step_and_a_schedule_does_not_recompile():
    check_that_a_schedule_compiles_once(lambda p, lr: FromRule(p, rules.adam, lr=lr), matrices)


def test_construction_draws_no_random_numbers_and_changes_nothing():
    def noisy(w, z, state, *, lr):
        return w - lr * (z + torch.randn_like(z)), None

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    params = matrices()
    FromRule(params, noisy, lr=0.1)
    assert torch.equal(torch.rand(2), expected)
    assert_same([p.detach() for p in params], [p.detach() for p in matrices()], rtol=0, atol=0)


def test_lazy_parameters_are_tried_later():
    layer = torch.nn.LazyLinear(2)
    optimizer = FromRule(layer.parameters(), rules.heavy_ball, **BETA)
    layer(torch.ones(4, 3)).sum().backward()
    before = layer.weight.detach().clone()
    optimizer.step()
    assert_same(layer.weight.detach(), before - 0.05 * layer.weight.grad, rtol=1e-6)


# --- arguments


@pytest.mark.parametrize(
    ("rule", "hyper", "error", "text"),
    [
        (rules.sgd, {"lr": 0.1, "betta": 1}, TypeError, "sgd has no hyper-parameter betta: .* lr$"),
        (rules.heavy_ball, {"lr": 0.1}, TypeError, "heavy_ball needs beta"),
        (partial(rules.heavy_ball, beta=0.9), {"lr": 0.1, "b": 1}, TypeError, "heavy_ball has no"),
        (rules.adam, {"lr": 0.1, "maximise": True}, TypeError, "has no hyper-parameter maximise"),
        (rules.heavy_ball, {"lr": 0.1, "beta": 1.5}, ValueError, r"beta must lie in \[0, 1\)"),
        (partial(rules.heavy_ball, beta=2.0), {"lr": 0.1}, ValueError, "beta must lie in"),
        (rules.sgd, {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        (rules.sgd, {"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
        (lambda w, z, state: (w, [w]), {}, TypeError, "state must be None, a tensor, or a tuple"),
        (lambda w, z, state: (w, (w, (z,))), {}, TypeError, "state must be None, a tensor, or a"),
    ],
)
def test_wrong_arguments_are_named_at_construction(rule, hyper, error, text):
    with pytest.raises(error, match=text):
        FromRule(matrices(), rule, **hyper)


def test_a_partial_and_a_rule_that_takes_any_argument():
    plain = advance(FromRule(matrices(), rules.heavy_ball, **BETA), range(1, 6))

    def any_argument(w, z, state=None, **hyper):
        return rules.heavy_ball(w, z, state, **hyper)

    def any_arguments(*arguments, **hyper):
        return rules.heavy_ball(*arguments, **hyper)

    half = partial(rules.heavy_ball, beta=0.5)
    for rule, hyper in [
        (partial(rules.heavy_ball, beta=0.9), {"lr": 0.05}),
        (half, BETA),
        (any_argument, BETA),
        (any_arguments, BETA),
    ]:
        optimizer = FromRule(matrices(), rule, **hyper)
        assert_same(advance(optimizer, range(1, 6)), plain, rtol=0, atol=0)
    ahead = FromRule(matrices(), partial(rules.nesterov_look_ahead, beta=0.9), lr=0.05)
    with pytest.raises(ValueError, match="nesterov_look_ahead takes its gradients at places"):
        ahead.step()


def test_a_wrong_group_is_refused_and_not_added():
    a, b = matrices()
    optimizer = FromRule([a], rules.heavy_ball, **BETA)
    with pytest.raises(TypeError, match="has no hyper-parameter betta: it has lr, beta"):
        optimizer.add_param_group({"params": [b], "betta": 0.5})
    with pytest.raises(ValueError, match="beta must lie in"):
        optimizer.add_param_group({"params": [b], "beta": 1.5})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [("b", b)][0][1:], "beta": 0.5, "initial_lr": 0.1})
    assert optimizer.param_groups[1]["beta"] == 0.5


def test_a_rule_of_matrices_refuses_a_vector_at_construction():
    with pytest.raises(ValueError, match="matri"):
        FromRule(leaves([(3, 2), (3,)]), rules.muon, lr=0.1)


def test_what_it_does_not_take():
    (p,) = leaves([(3, 2)])
    p.grad = torch.ones_like(p).to_sparse()
    with pytest.raises(RuntimeError, match="adam does not support sparse gradients"):
        FromRule([p], rules.adam, lr=0.1).step()
    with pytest.raises(TypeError, match=r"params\[0\] is complex: adam takes real parameters"):
        FromRule([p.to(torch.complex64).detach()], rules.adam, lr=0.1)

    def shrinks(w, z, state, *, lr):
        return (w - lr * z).sum() if lr < 0.1 else w, None

    optimizer = FromRule([p], shrinks, lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.05
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"shrinks made of shape \(3, 2\) the shape \(\)"):
        optimizer.step()


def test_a_state_of_another_rule_is_refused():
    params = matrices()
    other = optim.Adam(params)
    advance(other, [1])
    optimizer = FromRule(params, rules.heavy_ball, **BETA)
    optimizer.load_state_dict(other.state_dict())
    optimizer.param_groups[0].update(BETA)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="The state has .*exp_avg.*, but heavy_ball wants w"):
        optimizer.step()
    assert_same([p.detach() for p in params], before, rtol=0, atol=0)

    other = FromRule(params, rules.adam, lr=0.1)
    advance(other, [1])
    optimizer = optim.Lion(params, lr=0.1)
    optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="The state has t, m, v, but Lion wants m"):
        optimizer.step()

    def moody(w, z, state, *, lr):
        return w, (w,) if lr > 0.05 else (w, z)

    optimizer = FromRule(params, moody, lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.01
    with pytest.raises(TypeError, match=r"state of moody must have one form: .*\(0, 1\) after \(0"):
        optimizer.step()


# --- places


def test_parameters_come_back_when_the_closure_fails_or_a_gradient_is_not_finite():
    params = matrices()
    optimizer = FromRule(params, rules.nesterov_look_ahead, error_if_nonfinite=True, **BETA)
    optimizer.step(quadratic(params))
    before = [p.detach().clone() for p in params]
    state = copy.deepcopy(optimizer.state_dict()["state"])

    def fails():
        assert not torch.equal(params[0].detach(), before[0])
        raise KeyError("closure")

    def not_finite():
        quadratic(params)()
        params[1].grad[0, 0] = torch.nan

    for closure, error in [(fails, KeyError), (not_finite, ValueError)]:
        with pytest.raises(error):
            optimizer.step(closure)
        assert_same([p.detach() for p in params], before, rtol=0, atol=0)
    assert_same(optimizer.state_dict()["state"], state, rtol=0, atol=0)


def test_frozen_parameters_and_those_without_gradients_stay():
    a, b, c = leaves([(3, 2), (2,), (2,)])
    b.requires_grad_(False)
    optimizer = FromRule([a, b, c], rules.nesterov_two_gradients, **BETA)
    before = [p.detach().clone() for p in (b, c)]
    places = []

    def closure(with_c):
        places.append(c.detach().clone())
        optimizer.zero_grad()
        loss = a.square().sum() + (c.square().sum() if with_c else 0)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(partial(closure, False))
    assert_same([b, c.detach()], before, rtol=0, atol=0)
    assert set(optimizer.state) == {a}
    for _ in range(2):  # now a has two places, and c one
        optimizer.step(partial(closure, True))
    assert set(optimizer.state) == {a, c}
    expected, state = before[1], None
    for _ in range(2):
        z = tuple(
            2 * place for place in rules.nesterov_two_gradients.points(expected, state, **BETA)
        )
        expected, state = rules.nesterov_two_gradients(expected, z, state, **BETA)
    assert_same(c.detach(), expected)


def test_gradients_of_two_places_may_share_their_memory():
    ends = []
    for to_none in (True, False):
        params = matrices()
        optimizer = FromRule(params, rules.nesterov_two_gradients, **BETA)

        def closure(params=params, optimizer=optimizer, to_none=to_none):
            optimizer.zero_grad(set_to_none=to_none)
            loss = sum(p.pow(4).sum() for p in params)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        ends.append([p.detach() for p in params])
    assert_same(*ends, rtol=0, atol=0)


def test_half_precision_at_places():
    (p,) = leaves([(4,)], dtype=torch.bfloat16)
    optimizer = FromRule([p], rules.nesterov_look_ahead, **BETA)
    for _ in range(3):
        optimizer.step(quadratic([p]))
    assert optimizer.state[p]["v"].dtype is torch.float32


# --- Lion, an instance


def test_lion_takes_complex_numbers_as_pairs():
    (pairs,) = leaves([(5, 2)])
    p = torch.view_as_complex(pairs.detach().clone()).requires_grad_()
    one, two = optim.Lion([p], lr=0.1), optim.Lion([pairs], lr=0.1)
    for t in range(1, 11):
        pairs.grad = gradient_like(pairs, t)
        p.grad = torch.view_as_complex(pairs.grad)
        one.step()
        two.step()
    assert torch.equal(torch.view_as_real(p.detach()), pairs.detach())
    again = optim.Lion([p], lr=0.1)
    again.load_state_dict(through_a_file(one.state_dict()))
    assert torch.equal(again.state[p]["m"], two.state[pairs]["m"])


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("optim/from_rule.py", "class FromRule"): [
        ("list(given) if open_ended else", ""),
        ("if a.default is not a.empty} | hyper", "if a.default is not a.empty}"),
        ("i > 2 and", "i > 3 and"),
        ("self._refuse_unknown(hyper)", "pass"),
        ("if missing := [a.name for a in named if a.name not in given]", "if missing := []"),
        ("self._refuse_unknown(param_group.keys() - OURS)", "pass"),
        ("min(k, len(own) - 1)", "min(k, 0)"),
        ("if entries and not self._keys:", "if False:"),
        (", default=1)", ")"),
        ("with torch.enable_grad():", "with torch.no_grad():"),
        ("                self._check_gradients()\n", ""),
        ("k < len(own) and p.grad", "p.grad"),
        (".append(p.grad.clone())", ".append(p.grad)"),
        ("and p.grad is not None:", "and True:"),
        ("                p.copy_(start)\n", "                pass\n"),
        ("if len(gradients[p]) == len(places[p])", "if gradients[p]"),
        ("return losses[0]", "return losses[-1]"),
        ('own = ("rule", ', "own = ("),
        ('"_names", "_kind"', '"_names"'),
        ("if p.is_complex() and not self.entrywise", "if False"),
        ("            if not is_lazy(p):\n", "            if True:\n"),
        ("self._try(group, p)", "pass"),
        ("with torch.random.fork_rng(devices=[p.device] if p.is_cuda else []):", "if True:"),
        ("if any(z.is_sparse for z in gradients)", "if False"),
        ('-z if group["maximize"] else z', "z"),
        ("if w_next.shape != w.shape", "if False"),
        ("            self.state.pop(p, None)\n", "            pass\n"),
        ("isinstance(value, (Tensor, int, float)) for value in values", "True for value in values"),
        ("keys and self._keys and keys != self._keys", "False"),
        ("if keys and not self._keys", "if False"),
        ("if entries.keys() != set(self._keys):", "if False:"),
        ("if entries.keys() != set(self._keys):", "if entries.keys() < set(self._keys):"),
        ("return values[0]", "return values"),
        ("self._kind(*values) if", "tuple(values) if"),
        ('hyper | ({"lr": rate_of(group, p)} if "lr" in hyper else {})', "hyper"),
        ("state_dtype(p), copy=True)", "state_dtype(p))"),
        ("state_dtype(p), copy=True)", "p.dtype, copy=True)"),
        ("return value.to(p.device)", "return value.to(p.device, state_dtype(p))"),
        ("torch.view_as_complex(x.contiguous()) if p.is_complex() else x", "x"),
    ],
}
