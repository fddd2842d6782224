"""The optimizers against torch.optim.SGD and the rules, and against all that an Optimizer owes."""

import copy
import io
import pickle

import pytest
import torch
from optimizer_helpers import (
    DEVICES,
    FLOAT64,
    advance,
    assert_same,
    gradient_like,
    leaves,
)

from optcore import optim, rules

on_every_device = pytest.mark.parametrize("device", DEVICES)
in_every_way = pytest.mark.parametrize(
    "way", [{}, {"fused": True}, {"fused": False}, {"foreach": True}], ids=str
)


def torch_sgd(params, *, lr=0.1, **options):
    return torch.optim.SGD(params, lr=lr, foreach=False, fused=False, **options)


def decayed_sum(w, z, state=None, *, lr, momentum, weight_decay=0.0):
    """A reader's rule."""
    return rules.heavy_ball_sum(w, z + weight_decay * w, state, lr=lr, beta=momentum)


# Ours, and torch's SGD with the same iterates at a constant rate.
PEERS = {
    "sgd": (
        lambda params, **k: optim.SGD(params, lr=0.1, momentum=0.9, **k),
        lambda params, **k: torch_sgd(params, momentum=0.9, **k),
    ),
    "position": (
        lambda params, **k: optim.HeavyBall(params, lr=0.1, form="position", **k),
        lambda params, **k: torch_sgd(params, momentum=0.9, **k),
    ),
    "average": (
        lambda params, **k: optim.HeavyBall(params, lr=1.0, form="average", **k),
        lambda params, **k: torch_sgd(params, momentum=0.9, **k),
    ),
    "nesterov": (
        lambda params, **k: optim.Nesterov(params, lr=0.1, **k),
        lambda params, **k: torch_sgd(params, momentum=0.9, nesterov=True, **k),
    ),
    "rule": (
        lambda params, **k: optim.FromRule(params, decayed_sum, lr=0.1, momentum=0.9, **k),
        lambda params, **k: torch_sgd(params, momentum=0.9, **k),
    ),
}
each_optimizer = pytest.mark.parametrize("ours, theirs", PEERS.values(), ids=PEERS)
each_of_ours = pytest.mark.parametrize("ours", [ours for ours, _ in PEERS.values()], ids=PEERS)
BY_HAND = {name: pair for name, pair in PEERS.items() if name != "rule"}
each_by_hand = pytest.mark.parametrize("ours, theirs", BY_HAND.values(), ids=BY_HAND)


# --- the numbers


@on_every_device
@in_every_way
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.05},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.05},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
        {"momentum": 0.5, "weight_decay": 0.05, "maximize": True},
    ],
    ids=str,
)
def test_sgd_is_torch_for_200_steps(options, way, device):
    ours = optim.SGD(leaves(device=device), lr=0.1, **options, **way)
    theirs = torch_sgd(leaves(device=device), **options)
    assert_same(advance(ours, range(1, 201)), advance(theirs, range(1, 201)))
    assert len(ours.state) == (3 if "momentum" in options else 0)


@on_every_device
@each_optimizer
@pytest.mark.parametrize("maximize", [False, True])
def test_optimizer_is_its_peer_for_200_steps(ours, theirs, maximize, device):
    options = {"weight_decay": 0.05, "maximize": maximize}
    paths = [
        advance(make(leaves(device=device), **options), range(1, 201)) for make in (ours, theirs)
    ]
    assert_same(*paths)


RULES = {
    rules.sgd: (lambda p: optim.SGD(p, weight_decay=0.05), {}),
    rules.heavy_ball_sum: (
        lambda p: optim.SGD(p, momentum=0.8, weight_decay=0.05),
        {"beta": 0.8},
    ),
    rules.heavy_ball: (
        lambda p: optim.HeavyBall(p, momentum=0.8, weight_decay=0.05),
        {"beta": 0.8},
    ),
    rules.heavy_ball_average: (
        lambda p: optim.HeavyBall(p, momentum=0.8, weight_decay=0.05, form="average"),
        {"beta": 0.8},
    ),
    rules.nesterov: (
        lambda p: optim.Nesterov(p, momentum=0.8, weight_decay=0.05),
        {"beta": 0.8},
    ),
    rules.nesterov_gradient_correction: (
        lambda p: optim.SGD(p, momentum=0.8, nesterov=True, weight_decay=0.05),
        {"beta": 0.8},
    ),
}


@on_every_device
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_optimizer_is_its_rule_under_a_schedule(rule, device):
    make, hyper = RULES[rule]
    params = leaves(device=device)
    optimizer, states = make(params), [None] * 3
    expected = [p.detach().clone() for p in params]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 100 / (1 + k) ** 0.5)
    for t in range(1, 201):
        path = advance(optimizer, [t])
        scheduler.step()
        for i, w in enumerate(expected):
            z = gradient_like(w, t, i) + 0.05 * w
            expected[i], states[i] = rule(w, z, states[i], lr=0.1 / t**0.5, **hyper)
        assert_same(path, expected)


# --- parameters and gradients of every kind


def strided(device):
    return torch.arange(20, dtype=FLOAT64, device=device)[::2].detach().requires_grad_()


def transposed(device):
    return torch.arange(12, dtype=FLOAT64, device=device).view(3, 4).T.detach().requires_grad_()


def channels_last(device):
    (p,) = leaves([(2, 3, 4, 5)], device=device)
    return p.detach().to(memory_format=torch.channels_last).requires_grad_()


def contiguous(device):
    return leaves([(4, 3)], device=device)[0]


def empty(device):
    return leaves([(0, 3)], device=device)[0]


def dense_gradient(p, t, i):
    return gradient_like(p, t, i).contiguous()


def expanded_gradient(p, t, i):
    return gradient_like(p[..., :1], t, i).expand(p.shape)


def alternating_gradient(p, t, i):
    """Now in the layout of the parameter, now in the opposite one."""
    z = torch.empty_like(p).copy_(gradient_like(p, t, i))
    return z if t % 2 else z.mT.contiguous().mT if z.ndim > 1 else z.repeat_interleave(2)[::2]


@on_every_device
@each_optimizer
@pytest.mark.parametrize("make_param", [strided, transposed, channels_last, contiguous, empty])
@pytest.mark.parametrize(
    "gradient", [gradient_like, dense_gradient, expanded_gradient, alternating_gradient]
)
def test_any_memory_layout(ours, theirs, make_param, gradient, device):
    # The ordinary neighbours make sure that one odd tensor does not spoil a list of tensors.
    def gradient_of(p, t, i):
        return gradient(p, t, i) if i == 0 else gradient_like(p, t, i)

    paths = [
        advance(
            make([make_param(device), *leaves(device=device)], weight_decay=0.05),
            range(1, 11),
            gradient=gradient_of,
        )
        for make in (ours, theirs)
    ]
    assert_same(*paths)


@pytest.mark.parametrize("odd", ["parameter", "gradient", "buffer"])
@pytest.mark.parametrize("usual", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_formats_are_not_mixed(odd, usual):
    """One channels-last tensor beside contiguous ones would be read in the wrong order."""
    formats = dict.fromkeys(("parameter", "gradient", "buffer"), usual)
    other = {torch.contiguous_format, torch.channels_last} - {usual}
    formats[odd] = other.pop()
    results = []
    for fused in (None, False):
        x = torch.arange(48.0).view(2, 2, 3, 4)
        p = x.to(memory_format=formats["parameter"]).requires_grad_()
        p.grad = x.cos().to(memory_format=formats["gradient"])
        optimizer = optim.SGD([p], lr=0.1, momentum=0.9, fused=fused)
        buffer = x.sin().to(memory_format=formats["buffer"])
        optimizer.state[p]["momentum_buffer"] = buffer
        optimizer.step()
        results.append((p.detach(), buffer))
    torch.testing.assert_close(*results)


@on_every_device
@each_of_ours
def test_parameters_of_several_types_in_one_group(ours, device):
    mixed = [*leaves(device=device), *leaves(dtype=torch.float32, device=device)]
    apart = [leaves(device=device), leaves(dtype=torch.float32, device=device)]
    advance(ours(mixed), range(1, 4), gradient=lambda p, t, i: gradient_like(p, t, i % 3))
    for params in apart:
        advance(ours(params), range(1, 4))
    torch.testing.assert_close(mixed, [*apart[0], *apart[1]], rtol=0, atol=0)


@on_every_device
@each_of_ours
def test_a_strided_parameter_leaves_its_neighbours_in_memory_alone(ours, device):
    base = torch.zeros(64, device=device)
    p = base[::2].requires_grad_()
    advance(ours([p]), range(1, 4))
    assert base[1::2].count_nonzero() == 0
    assert base[::2].count_nonzero() == 32


@on_every_device
@each_optimizer
def test_gradients_that_are_missing_or_come_later(ours, theirs, device):
    def gradient(p, t, i):
        absent = {0: t < 4, 1: True, 2: t % 3 == 0}[i]
        return None if absent else gradient_like(p, t, i)

    optimizers = [make(leaves(device=device), weight_decay=0.05) for make in (ours, theirs)]
    assert_same(*(advance(o, range(1, 13), gradient=gradient) for o in optimizers))
    assert len(optimizers[0].state) == 2


@on_every_device
@each_of_ours
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_lower_precision_follows_float64(ours, dtype, device):
    # 67 entries: the kernels treat whole vectors and the rest in different code.
    shapes = [(67,), (3,), ()]
    low = advance(ours(leaves(shapes, dtype, device)), range(1, 11))
    exact = advance(ours(leaves(shapes, FLOAT64, device)), range(1, 11))
    assert all(p.dtype == dtype for p in low)
    for a, b in zip(low, exact, strict=True):
        assert (a.double() - b).abs().max() <= 40 * torch.finfo(dtype).eps


@on_every_device
@each_by_hand
def test_complex_parameters(ours, theirs, device):
    def gradient(p, t, i):
        return torch.complex(gradient_like(p.real, t, i), gradient_like(p.real, t, i + 9))

    params = [leaves(dtype=torch.complex128, device=device) for _ in range(2)]
    optimizers = [
        make(p, weight_decay=0.05) for make, p in zip((ours, theirs), params, strict=True)
    ]
    assert_same(*(advance(o, range(1, 21), gradient=gradient) for o in optimizers))


def sparse_gradient(p, t, i):
    """Rows 0 and 2, the latter in two summands that have yet to be added."""
    values = gradient_like(p.new_empty(3, *p.shape[1:]), t, i)
    return torch.sparse_coo_tensor([[0, 2, 2]], values, p.shape, check_invariants=False)


@on_every_device
@each_by_hand
@pytest.mark.parametrize("dense_every", [100, 2, 3])
@pytest.mark.parametrize("error_if_nonfinite", [False, True])
def test_sparse_gradients_and_a_change_to_dense(
    ours, theirs, dense_every, error_if_nonfinite, device
):
    def gradient(p, t, i):
        return gradient_like(p, t, i) if t % dense_every == 0 else sparse_gradient(p, t, i)

    def dense(p, t, i):
        return gradient(p, t, i).to_dense()

    params = [leaves([(5, 2), (4,)], device=device) for _ in range(2)]
    ours, theirs = ours(params[0], error_if_nonfinite=error_if_nonfinite), theirs(params[1])
    assert_same(
        advance(ours, range(1, 8), gradient=gradient), advance(theirs, range(1, 8), gradient=dense)
    )


@each_optimizer
def test_groups_with_hyper_parameters_of_their_own(ours, theirs):
    def groups(factor):
        a, b, c = leaves()
        return [
            {"params": [a], "lr": 0.3 * factor, "weight_decay": 0.2},
            {"params": [b], "maximize": True},
            {"params": [c], "lr": 0.5 * factor, "momentum": 0.0},
        ]

    optimizer = ours(groups(1.0))
    # With the average form, η = η′ (1 − β).
    factors = [0.1, 0.1, 1.0] if optimizer.param_groups[0].get("form") == "average" else 3 * [1.0]
    peers = groups(1.0)
    for group, factor in zip(peers, factors, strict=True):
        if "lr" in group:
            group["lr"] *= factor
    if "nesterov" in theirs([torch.ones(1)]).defaults:
        peers[2]["nesterov"] = False
    assert_same(advance(optimizer, range(1, 21)), advance(theirs(peers), range(1, 21)))


# --- the learning rate


@on_every_device
@each_of_ours
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_a_tensor_lr_changed_in_place(ours, shape, device):
    def halve(optimizer, t):
        group = optimizer.param_groups[0]
        if t == 5 and isinstance(group["lr"], torch.Tensor):
            group["lr"].mul_(0.5)
        elif t == 5:
            group["lr"] *= 0.5

    optimizers = [ours(leaves(device=device)) for _ in range(2)]
    rate = optimizers[0].param_groups[0]["lr"]
    optimizers[0].param_groups[0]["lr"] = torch.full(shape, rate, dtype=FLOAT64)
    assert_same(*(advance(o, range(1, 11), before_step=halve) for o in optimizers))


@pytest.mark.parametrize("form", [optim.SGD, optim.HeavyBall, optim.Nesterov])
def test_lr_defaults_are_torchs(form):
    assert form(leaves()).defaults["lr"] == torch.optim.SGD(leaves()).defaults["lr"]


# --- what an Optimizer owes


@each_of_ours
def test_closure_is_called_with_gradients_and_its_loss_returned(ours):
    (p,) = leaves([(3,)])
    optimizer = ours([p])
    start = p.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(start.square().sum().item())
    assert optimizer.step(closure) < start.square().sum()
    assert optimizer.step() is None


@each_optimizer
def test_named_parameters(ours, theirs):
    names = "abc"
    optimizers = [make(list(zip(names, leaves(), strict=True))) for make in (ours, theirs)]
    assert_same(*(advance(o, range(1, 6)) for o in optimizers))
    assert optimizers[0].state_dict()["param_groups"][0]["param_names"] == list(names)


@each_of_ours
def test_step_hooks_run(ours):
    calls = []
    optimizer = ours(leaves())
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    advance(optimizer, [1])
    assert calls == ["before", "after"]


def after_five_steps(ours):
    optimizer = ours(leaves(), weight_decay=0.05)
    advance(optimizer, range(1, 6))
    return optimizer


def restored(optimizer, ours, state):
    """A new optimizer on copies of the parameters, with `state` loaded."""
    params = [p.detach().clone().requires_grad_() for p in optimizer.param_groups[0]["params"]]
    again = ours(params)
    again.load_state_dict(state)
    return again


@each_of_ours
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copy_and_pickle_go_on_as_the_original(ours, copied):
    optimizer = after_five_steps(ours)
    twin = copied(optimizer)
    assert_same(advance(twin, range(6, 11)), advance(optimizer, range(6, 11)), rtol=0, atol=0)


@each_of_ours
def test_state_dict_survives_a_weights_only_file(ours):
    optimizer, file = after_five_steps(ours), io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = restored(optimizer, ours, torch.load(file, weights_only=True))
    assert_same(advance(twin, range(6, 11)), advance(optimizer, range(6, 11)), rtol=0, atol=0)


@on_every_device
@in_every_way
@pytest.mark.parametrize("torch_first", [False, True])
def test_state_dict_moves_to_torch_and_back(torch_first, way, device):
    def ours(params):
        return optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.05, **way)

    def theirs(params):
        return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.05, **way)

    makers = [theirs, ours, theirs] if torch_first else [ours, theirs, ours]
    unbroken, optimizer = ours(leaves(device=device)), makers[0](leaves(device=device))
    path = advance(optimizer, range(1, 6))
    for make, begin in zip(makers[1:], (6, 11), strict=True):
        optimizer = restored(optimizer, make, optimizer.state_dict())
        path += advance(optimizer, range(begin, begin + 5))
    assert_same(path, advance(unbroken, range(1, 16)))


@in_every_way
def test_an_old_torch_state_without_a_buffer_starts_from_rest(way):
    # Torch 1 wrote this where it had been trained without momentum.
    loaded, fresh = (optim.SGD(leaves(), lr=0.1, momentum=0.9, **way) for _ in range(2))
    state = loaded.state_dict()
    loaded.load_state_dict({**state, "state": {i: {"momentum_buffer": None} for i in range(3)}})
    assert_same(advance(loaded, range(1, 6)), advance(fresh, range(1, 6)))


def test_state_keys_do_not_mix():
    keys = {
        name: {*after_five_steps(make).state_dict()["state"][0]}
        for name, (make, _) in PEERS.items()
    }
    assert keys == {
        "sgd": {"momentum_buffer"},
        "position": {"displacement"},
        "average": {"exp_avg"},
        "nesterov": {"displacement"},
        "rule": {"v"},
    }


def test_autograd_notices_the_change():
    p = torch.ones(3, requires_grad=True)
    loss = p.square().sum()
    p.grad = torch.ones(3)
    optim.SGD([p], lr=0.1, momentum=0.9).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each_optimizer
def test_training_under_autocast(ours, theirs):
    def losses(make):
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 1)
        optimizer = make(layer.parameters())
        x, y = torch.randn(64, 8), torch.randn(64, 1)
        history = []
        for _ in range(30):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (layer(x).float() - y).square().mean()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return history

    history = losses(lambda p: ours(p))
    assert history == pytest.approx(losses(lambda p: theirs(p)), rel=0.02)
    assert history[-1] < history[0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_differentiable_carries_the_derivative_of_the_rule(nesterov):
    rule = rules.nesterov_gradient_correction if nesterov else rules.heavy_ball_sum

    def by_rule(w):
        state = None
        for _ in range(4):
            w, state = rule(w, w**3, state, lr=0.1, beta=0.9)
        return w

    def by_optimizer(w):
        p = w.clone()
        optimizer = optim.SGD(
            [torch.ones(2, dtype=FLOAT64)], 0.1, 0.9, nesterov=nesterov, differentiable=True
        )
        optimizer.param_groups[0]["params"] = [p]
        for _ in range(4):
            p.grad = p.clone() ** 3
            optimizer.step()
        return p

    w = torch.tensor([0.5, -1.2], dtype=FLOAT64)
    derivative = torch.autograd.functional.jacobian(by_optimizer, w)
    assert_same(derivative, torch.autograd.functional.jacobian(by_rule, w))


# --- errors


@pytest.mark.parametrize("form", [optim.SGD, optim.HeavyBall, optim.Nesterov])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lr": -0.1}, ValueError, "Invalid learning rate: -0.1"),
        ({"lr": float("nan")}, ValueError, "Invalid learning rate: nan"),
        ({"lr": float("inf")}, ValueError, "Invalid learning rate: inf"),
        ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
        ({"momentum": -0.1}, ValueError, "Invalid momentum value: -0.1"),
        ({"momentum": 1.0}, ValueError, "Invalid momentum value: 1.0"),
        ({"momentum": float("nan")}, ValueError, "Invalid momentum value: nan"),
        ({"weight_decay": -0.1}, ValueError, "Invalid weight_decay value: -0.1"),
        ({"weight_decay": float("inf")}, ValueError, "Invalid weight_decay value: inf"),
    ],
)
def test_bad_hyper_parameters(form, options, error, text):
    with pytest.raises(error, match=text):
        form(leaves(), **options)
    optimizer = form(leaves())
    with pytest.raises(error, match=text):
        optimizer.add_param_group({"params": leaves(), **options})
    assert len(optimizer.param_groups) == 1


def test_bad_combinations():
    for options in ({}, {"momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="Nesterov momentum requires a momentum and zero damp"):
            optim.SGD(leaves(), nesterov=True, **options)
    for options, text in [
        ({"foreach": True}, "`fused` and `foreach` cannot be `True` together"),
        ({"differentiable": True}, "`fused` does not support `differentiable`"),
    ]:
        for module in (optim, torch.optim):
            with pytest.raises(RuntimeError, match=text):
                module.SGD(leaves(), fused=True, **options)
        optimizer = optim.SGD(leaves())
        with pytest.raises(RuntimeError, match=text):
            optimizer.add_param_group({"params": leaves(), "fused": True, **options})
        assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="form must be 'position' or 'average', got 'torch'"):
        optim.HeavyBall(leaves(), form="torch")
    with pytest.raises(ValueError, match="form must be 'position' or 'average', got 'torch'"):
        optim.HeavyBall([{"params": leaves(), "form": "torch"}])


@pytest.mark.parametrize("form", [optim.SGD, optim.HeavyBall, optim.Nesterov])
def test_bad_parameters(form):
    with pytest.raises(ValueError, match="empty parameter list"):
        form([])


@each_of_ours
def test_a_frozen_parameter_of_integers_stays(ours):
    (p,), counts = leaves([(2,)]), torch.ones(2, dtype=torch.uint8)
    p.grad = torch.ones_like(p)
    ours([p, torch.nn.Parameter(counts, requires_grad=False)]).step()
    assert counts.tolist() == [1, 1]
    assert not torch.equal(p, leaves([(2,)])[0])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("lr", [0.25, torch.tensor(0.25)], ids=["number", "tensor"])
@pytest.mark.parametrize("form", [optim.SGD, optim.HeavyBall, optim.Nesterov])
def test_compiled_steps_of_equal_shapes_are_kept_apart(form, lr, backend):
    torch._dynamo.reset()
    plain, compiled = ([torch.ones(2, requires_grad=True) for _ in range(2)] for _ in range(2))
    for params in (plain, compiled):
        step = form(params, lr=lr, momentum=0.5).step
        step = torch.compile(step, backend=backend) if params is compiled else step
        for t in range(3):
            for k, p in enumerate(params):
                p.grad = torch.full_like(p, t + k + 1.0)
            step()
    assert_same(compiled, plain)


class Subclass(torch.Tensor):
    """What a DTensor is to the optimizer: not a plain tensor."""


def test_a_subclass_does_not_reach_the_kernel(monkeypatch):
    def refuse(*args, **options):
        raise NotImplementedError("no sharding strategy")

    monkeypatch.setattr(torch, "_fused_sgd_", refuse)
    p = torch.ones(3).as_subclass(Subclass).requires_grad_()
    p.grad = torch.full_like(p, 0.5)
    optim.SGD([p], lr=0.1).step()
    assert p.tolist() == pytest.approx([0.95] * 3)


def test_a_gradient_of_another_type_does_not_reach_the_kernel():
    ends = []
    for fused in (None, False):
        p = torch.ones(3, requires_grad=True)
        p.grad_dtype = FLOAT64
        p.grad = torch.full((3,), 0.5, dtype=FLOAT64)
        optim.SGD([p], lr=0.1, fused=fused).step()
        ends.append(p.detach())
    assert_same(*ends)
    assert ends[0].tolist() == pytest.approx([0.95] * 3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_autograd_reaches_the_rate_and_the_decay(momentum):
    def end(module, lr, decay):
        p = torch.ones(2, dtype=FLOAT64, requires_grad=True).clone()
        hyper = {"weight_decay": decay, "momentum": momentum, "differentiable": True}
        optimizer = module.SGD([p], lr=lr, **hyper)
        for t in range(3):
            p.grad = torch.full((2,), t + 1.0, dtype=FLOAT64)
            optimizer.step()
        return p.square().sum()

    at = [torch.tensor(x, dtype=FLOAT64, requires_grad=True) for x in (0.1, 0.3)]
    found = torch.autograd.grad(end(optim, *at), at)
    if momentum == 0:  # torch's own momentum stops autograd
        assert_same(found, torch.autograd.grad(end(torch.optim, *at), at))
    for k, value in enumerate(found):
        above, below = ([x.item() for x in at] for _ in range(2))
        above[k], below[k] = above[k] + 1e-6, below[k] - 1e-6
        quotient = (end(optim, *above) - end(optim, *below)) / 2e-6
        assert value.item() == pytest.approx(quotient.item(), rel=1e-7)


@pytest.mark.parametrize("p", [leaves([(5, 2)])[0], leaves([(5, 2)], torch.complex128)[0]])
def test_fused_says_where_it_cannot_be(p):
    p.grad = p.detach().clone() if p.is_complex() else sparse_gradient(p, 1, 0)
    start = p.detach().clone()
    with pytest.raises(RuntimeError, match="`fused=True` requires"):
        optim.SGD([p], lr=0.1, momentum=0.9, fused=True).step()
    assert torch.equal(p, start)


@each_of_ours
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_gradient_is_named_and_nothing_updated(ours, bad):
    a, b = leaves([(3,), (2,)])
    optimizer = ours(
        [{"params": [("a", a)]}, {"params": [("layer.b", b)]}], error_if_nonfinite=True
    )
    a.grad, b.grad = torch.ones_like(a), torch.tensor([1.0, bad], dtype=FLOAT64)
    with pytest.raises(ValueError, match=r"The gradient of layer\.b holds NaN or infinity"):
        optimizer.step()
    assert_same([a, b], leaves([(3,), (2,)]), rtol=0, atol=0)
    assert not optimizer.state


@each_of_ours
def test_finite_gradients_with_an_infinite_sum_pass(ours):
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.full((3,), 3e38)
    ours([p], error_if_nonfinite=True).step()
    assert p.isfinite().all()
    assert p.max() < -1e30


@each_of_ours
def test_a_nonfinite_gradient_passes_by_default(ours):
    (p,) = leaves([(2,)])
    p.grad = torch.tensor([1.0, float("nan")], dtype=FLOAT64)
    ours([p]).step()
    assert p.isnan().tolist() == [False, True]


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("optim/momentum.py", "class SGD"): [
        ('1 - group["dampening"]', "1"),
        ("] = z.clone()", '] = z.clone() * (1 - group["dampening"])'),
        ("] = z.clone()", "] = z"),
        ("z.add(b, alpha=beta) if", "b.add(z, alpha=beta) if"),
        (".mul_(beta).add_(z, alpha=1", ".mul_(beta).add_(z, alpha=-1"),
        ("(not buffers, name)", "(False, name)"),
    ],
    ("optim/fused.py", "def is_wanted("): [
        (" and not torch.compiler.is_compiling()", ""),
    ],
    ("optim/fused.py", "def sgd("): [
        ('nesterov=group["nesterov"]', "nesterov=False"),
        ('maximize=group["maximize"]', "maximize=False"),
        ('weight_decay=group["weight_decay"]', "weight_decay=0.0"),
        ('dampening=group["dampening"]', "dampening=0.0"),
        ("is_first_step=first", "is_first_step=False"),
        ("is_first_step=first", "is_first_step=True"),
        ("[p.grad for p in params]", "[p.grad.mul_(1.0001) for p in params]"),
        ("increment_version([*params, *buffers])", "set_multithreading_enabled(True)"),
    ],
    ("optim/fused.py", "FUSED = {"): [
        ('"cpu": (torch.float32, torch.float64)', '"cpu": (torch.float32, torch.bfloat16)'),
    ],
    ("optim/fused.py", "def kernel_list("): [
        ("contiguous = p.is_contiguous()", "contiguous = True"),
        ("contiguous and x.is_contiguous()", "contiguous"),
        ("for x in (z, *buffers):", "for x in buffers:"),
        ("for x in (z, *buffers):", "for x in (z,):"),
        ("_are_channels_last(p, z, *buffers)", "_are_channels_last(z, *buffers)"),
        ("_are_channels_last(p, z, *buffers)", "_are_channels_last(p, *buffers)"),
        ("_are_channels_last(p, z, *buffers)", "_are_channels_last(p, z)"),
        ("type(p) in PLAIN and not", "not"),
    ],
    ("optim/base.py", "def subtract("): [
        ("z.clone() if lr.requires_grad else z", "z"),
        ("lr.requires_grad or torch.compiler.is_compiling()", "lr.requires_grad"),
        ("lr.requires_grad or torch.compiler.is_compiling()", "torch.compiler.is_compiling()"),
        ("value=-1", "value=1"),
        ("alpha=-float(lr)", "alpha=float(lr)"),
    ],
    ("optim/momentum.py", "class HeavyBall"): [
        (".mul_(beta)\n            subtract(displacement", "\n            subtract(displacement"),
        ('subtract(displacement, z, group["lr"])', 'subtract(displacement, z / 2, group["lr"])'),
        ("p.add_(displacement)", "p.sub_(displacement)"),
        ("alpha=1 - beta)", "alpha=1)"),
        ("alpha=1 - beta)", "alpha=beta)"),
        ("subtract(p, v, group", "subtract(p, 2 * v, group"),
        ('"exp_avg")', '"displacement")'),
    ],
    ("optim/momentum.py", "class Nesterov"): [
        ('        subtract(p, z, group["lr"])\n', ""),
        ('.add_(displacement, alpha=group["momentum"])', ".add_(displacement)"),
        ("subtract(displacement, z, group", "subtract(displacement, -z, group"),
    ],
    ("optim/momentum.py", "def gradient_of("): [
        ("p.grad.neg() if group", "p.grad.neg_() if group"),
        ('p.grad.neg() if group["maximize"]', "p.grad.neg() if False"),
        ("return z.add(p, alpha", "return z.add_(p, alpha"),
        ("return z.add(p, alpha=decay)", "return z.sub(p, alpha=decay)"),
        ("addcmul(p.clone(), decay)", "addcmul(p, decay)"),
    ],
    ("optim/base.py", "def add_param_group("): [
        ("            self.param_groups.pop()\n", ""),
    ],
    ("optim/base.py", "def step("): [
        ("torch.enable_grad()", "torch.no_grad()"),
        ("return loss", "return None"),
        ('group.get("differentiable", False)', "False"),
        ("if p.grad is not None]", "]"),
    ],
    ("optim/base.py", "def __setstate__("): [
        ("group.setdefault(name, value)", "pass"),
    ],
    ("optim/base.py", "def check_rate("): [
        ("0 <= lr < math.inf", "0 <= lr"),
    ],
    ("optim/base.py", "def check_shared("): [
        ('group.get("fused") and group.get("foreach")', "False"),
    ],
    ("optim/base.py", "def nonnegative("): [
        ("0 <= group[key] < math.inf", "group[key] < math.inf"),
    ],
    ("optim/base.py", "def in_range("): [
        ("0 <= group[key] < 1", "0 <= group[key]"),
    ],
    ("optim/base.py", "def _is_finite("): [
        ("z.isfinite().all()", "z.sum().isfinite()"),
        ("return True", "return False"),
        ("if z.sum().isfinite()", "if True"),
    ],
}
