"""Adagrad, RMSprop, Adam, AdamW and Lion against torch, optax and the rules."""

import copy
import io
import itertools
import os
import socket
from functools import partial

import jax
import numpy as np
import optax
import pytest
import torch
from optimizer_helpers import (
    DEVICES,
    FLOAT64,
    advance,
    assert_same,
    check_that_a_schedule_compiles_once,
    gradient_like,
    leaves,
)
from torch.nn.parallel import DistributedDataParallel

from optcore import optim

jax.config.update("jax_enable_x64", True)

on_every_device = pytest.mark.parametrize("device", DEVICES)


def grid(**values):
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


BETAS = [(0.9, 0.999), (0.0, 0.5), (0.8, 0.0)]
SETTINGS = {
    "Adagrad": grid(
        lr_decay=[0.0, 0.01],
        weight_decay=[0.0, 0.05],
        initial_accumulator_value=[0.0, 0.1],
        eps=[1e-10, 1e-3],
        maximize=[False, True],
    ),
    "RMSprop": grid(
        alpha=[0.99, 0.5],
        weight_decay=[0.0, 0.05],
        momentum=[0.0, 0.9],
        centered=[False, True],
        eps=[1e-8, 1e-3],
        maximize=[False, True],
    ),
    "Adam": grid(
        betas=BETAS,
        weight_decay=[0.0, 0.05],
        eps=[1e-8, 1e-3],
        amsgrad=[False, True],
        maximize=[False, True],
    ),
    "AdamW": grid(
        betas=BETAS,
        weight_decay=[0.0, 0.5],
        eps=[1e-8, 1e-3],
        amsgrad=[False, True],
        maximize=[False, True],
    ),
}
EVERY_SETTING = [(name, options) for name, rows in SETTINGS.items() for options in rows]
each = pytest.mark.parametrize("name", SETTINGS)
each_of_ours = pytest.mark.parametrize("name", [*SETTINGS, "Lion"])
LR = {"Adagrad": 0.1, "RMSprop": 0.01, "Adam": 0.01, "AdamW": 0.01, "Lion": 0.01}


def ours(name, params, **options):
    return getattr(optim, name)(params, **{"lr": LR[name], **options})


def theirs(name, params, **options):
    return getattr(torch.optim, name)(params, **{"lr": LR[name], "foreach": False, **options})


def small_gradient(p, t, i=0):
    """Every third gradient is so small that ε, or rounding, decides."""
    return gradient_like(p, t, i) * {0: 1e-9, 1: 1.0, 2: 1e-160}[t % 3]


@on_every_device
@pytest.mark.parametrize(("name", "options"), EVERY_SETTING, ids=str)
def test_is_torch_for_200_steps(name, options, device):
    paths = [
        advance(make(name, leaves(device=device), **options), range(1, 201))
        for make in (ours, theirs)
    ]
    assert_same(*paths)


@each
@pytest.mark.parametrize("way", [{"fused": False}, {"foreach": True}], ids=str)
def test_every_way_is_torch_through_tiny_gradients(name, way):
    if name == "RMSprop" and "fused" in way:
        way = {}
    options = {"weight_decay": 0.05}
    a = advance(ours(name, leaves(), **options, **way), range(1, 201), gradient=small_gradient)
    b = advance(ours(name, leaves(), **options), range(1, 201), gradient=small_gradient)
    c = advance(theirs(name, leaves(), **options), range(1, 201), gradient=small_gradient)
    assert_same(a, c)
    assert_same(b, c)


ALL_OPTIONS = {
    "Adagrad": {"lr_decay": 0.01, "initial_accumulator_value": 0.1},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
}


@each
@pytest.mark.parametrize("gradient", [gradient_like, small_gradient], ids=lambda g: g.__name__)
def test_the_rule_is_torch_with_every_option(name, gradient):
    options = {**ALL_OPTIONS[name], "weight_decay": 0.05, "maximize": True, "foreach": True}
    a = advance(ours(name, leaves(), **options), range(1, 201), gradient=gradient)
    b = advance(theirs(name, leaves(), **options), range(1, 201), gradient=gradient)
    assert_same(a, b)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Lion"])
def test_betas_as_tensors(name):
    betas = (torch.tensor([0.8], dtype=FLOAT64), torch.tensor([0.9], dtype=FLOAT64))
    for way in [{}, *([] if name == "Lion" else [{"fused": False}])]:
        numbers = advance(ours(name, leaves(), betas=(0.8, 0.9), **way), range(1, 11))
        assert_same(advance(ours(name, leaves(), betas=betas, **way), range(1, 11)), numbers)
    with pytest.raises(ValueError, match="betas must be either both floats or both Tensors"):
        ours(name, leaves(), betas=(betas[0], 0.9))
    with pytest.raises(ValueError, match=r"Tensor betas\[1\] must be 1-element"):
        ours(name, leaves(), betas=(betas[0], torch.tensor([0.8, 0.9])))


@each_of_ours
def test_two_types_in_one_group(name):
    def mixed():
        return [*leaves([(3,)]), *leaves([(3,)], dtype=torch.float32)]

    path = advance(ours(name, mixed()), range(1, 6))
    for i, p in enumerate(mixed()):
        optimizer = ours(name, [p])
        alone = advance(
            optimizer, range(1, 6), gradient=lambda p, t, _, i=i: gradient_like(p, t, i)
        )
        assert_same(path[i::2], alone, rtol=1e-6)


def test_adagrad_has_a_state_from_the_start():
    params = leaves()
    a, b = optim.Adagrad(params, initial_accumulator_value=0.5), torch.optim.Adagrad(params)
    a.share_memory()
    assert a.state.keys() == b.state.keys()
    for p in params:
        assert a.state[p].keys() == b.state[p].keys()
        assert a.state[p]["sum"].is_shared()
        assert (a.state[p]["sum"] == 0.5).all()


def test_a_group_that_muon_lends_is_decoupled():
    expected = advance(optim.AdamW(leaves(), weight_decay=0.5), range(1, 11))
    for way in ({}, {"fused": False}):
        optimizer = optim.AdamW(leaves(), weight_decay=0.5, **way)
        del optimizer.param_groups[0]["decoupled_weight_decay"]
        assert_same(advance(optimizer, range(1, 11)), expected)


def test_adamw_stays_adamw_whatever_it_loads():
    expected = advance(optim.AdamW(leaves(), weight_decay=0.5), range(1, 11))
    for package in (optim, torch.optim):
        optimizer = optim.AdamW(leaves())
        optimizer.load_state_dict(package.Adam(leaves(), weight_decay=0.5).state_dict())
        assert_same(advance(optimizer, range(1, 11)), expected)


def test_loading_keeps_what_a_hook_makes_of_the_state():
    params = leaves([(3,)], dtype=torch.bfloat16)
    optimizer = optim.Adam(params)
    advance(optimizer, range(1, 4))
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = 3.0  # as old checkpoints have it

    def doubled(_, state_dict):
        state = copy.deepcopy(state_dict["state"])
        state[0]["exp_avg"] *= 2
        return {**state_dict, "state": state}

    again = optim.Adam(params)
    again.register_load_state_dict_pre_hook(doubled)
    again.load_state_dict(saved)
    assert torch.equal(again.state[params[0]]["exp_avg"], 2 * saved["state"][0]["exp_avg"])
    advance(again, [4])
    assert again.state[params[0]]["step"] == 4


@each_of_ours
def test_pieces_are_the_whole(name, monkeypatch):
    shapes = [(40, 7), (3,)]
    way = {} if name in ("RMSprop", "Lion") else {"fused": False}
    whole = advance(ours(name, leaves(shapes), **way), range(1, 21))
    monkeypatch.setattr(optim.adaptive, "PIECE", 16)
    # A kernel may round the entries that fill no vector in another way than the others.
    assert_same(advance(ours(name, leaves(shapes), **way), range(1, 21)), whole)


def optax_path(transform, steps):
    params = [np.asarray(p.detach()) for p in leaves()]
    state, path = transform.init(params), []
    for t in steps:
        zs = [np.asarray(gradient_like(p, t, i)) for i, p in enumerate(leaves())]
        updates, state = transform.update(zs, state, params)
        params = optax.apply_updates(params, updates)
        path += [torch.from_numpy(np.array(p)) for p in params]
    return path


@pytest.mark.parametrize(
    ("optimizer", "transform"),
    [
        (lambda p: optim.Adam(p, lr=0.01), optax.adam(0.01)),
        (lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.5), optax.adamw(0.01, weight_decay=0.5)),
        (lambda p: optim.Lion(p, lr=0.01, weight_decay=0.5), optax.lion(0.01, weight_decay=0.5)),
        (
            lambda p: optim.RMSprop(p, lr=0.01, alpha=0.9, momentum=0.5),
            optax.rmsprop(0.01, decay=0.9, momentum=0.5, eps_in_sqrt=False),
        ),
        (
            lambda p: optim.RMSprop(p, lr=0.01, alpha=0.9, centered=True),
            optax.rmsprop(0.01, decay=0.9, centered=True, eps_in_sqrt=False),
        ),
    ],
    ids=["adam", "adamw", "lion", "rmsprop", "rmsprop centered"],
)
def test_is_optax_for_200_steps(optimizer, transform):
    steps = range(1, 201)
    assert_same(advance(optimizer(leaves()), steps), optax_path(transform, steps))


@each
@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_state_dict_moves_between_torch_and_here(name, amsgrad):
    options = {"weight_decay": 0.05, **({"amsgrad": amsgrad} if "Adam" in name else {})}
    options |= {"momentum": 0.9, "centered": True} if name == "RMSprop" else {}
    expected = advance(theirs(name, leaves(), **options), range(1, 31))
    params, path = leaves(), []
    state_dict = None
    for make, steps in [(theirs, range(1, 11)), (ours, range(11, 21)), (theirs, range(21, 31))]:
        optimizer = make(name, params, **options)
        if state_dict is not None:
            file = io.BytesIO()
            torch.save(state_dict, file)
            file.seek(0)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        path += advance(optimizer, steps)
        state_dict = optimizer.state_dict()
    assert_same(path, expected)


@each_of_ours
def test_resuming_changes_no_bit(name):
    through = advance(ours(name, leaves()), range(1, 31))
    params = leaves()
    first = ours(name, params)
    path = advance(first, range(1, 16))
    second = ours(name, params)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert_same(path + advance(second, range(16, 31)), through, rtol=0, atol=0)


@each_of_ours
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_state_of_half_precision_is_float32_also_after_loading(name, dtype):
    params = leaves(dtype=dtype)
    optimizer = ours(name, params)
    advance(optimizer, range(1, 6))
    again = ours(name, params)
    again.load_state_dict(optimizer.state_dict())
    for p in params:
        for key, value in again.state[p].items():
            assert value.dtype == torch.float32
            assert torch.equal(value, optimizer.state[p][key])
            assert key == "step" or value is not optimizer.state[p][key]


def test_a_bfloat16_second_moment_keeps_moving():
    # The gradients fall from 1 to 0.1: v must follow, from 1 to nearly 0.01.
    def v_after(make):
        p = torch.zeros(4, dtype=torch.bfloat16, requires_grad=True)
        optimizer = make([p])
        for t in range(6000):
            p.grad = torch.full_like(p, 1.0 if t < 1000 else 0.1)
            optimizer.step()
        return optimizer.state[p]["exp_avg_sq"].max().item()

    decayed = 0.01 + (1 - 0.999**1000 - 0.01) * 0.999**5000
    assert v_after(lambda p: optim.Adam(p)) == pytest.approx(decayed, rel=0.01)
    assert v_after(lambda p: torch.optim.Adam(p, fused=False)) > 2 * decayed


@each_of_ours
@on_every_device
def test_any_memory_layout_and_missing_gradients(name, device):
    def odd(p, t, i):
        z = gradient_like(p, t, i)
        if i == 3 and t % 2:
            return None
        return z.mT.contiguous().mT if z.ndim > 1 and t % 2 else z

    def layouts():
        a = torch.arange(20, dtype=FLOAT64, device=device)[::2].detach().requires_grad_()
        b = torch.arange(12, dtype=FLOAT64, device=device).view(3, 4).T.detach().requires_grad_()
        return [a, b, *leaves([(4, 3), (2, 2), (0, 3), ()], device=device)]

    peer = theirs if name != "Lion" else lambda name, params: ours(name, params)
    contiguous = [p.detach().clone().contiguous().requires_grad_() for p in layouts()]
    params = layouts() if name != "Lion" else contiguous
    paths = [
        advance(ours(name, layouts()), range(1, 11), gradient=odd),
        advance(peer(name, params), range(1, 11), gradient=odd),
    ]
    assert_same(*paths)


@each
@pytest.mark.parametrize("every_option", [False, True])
def test_complex_parameters(name, every_option):
    options = ALL_OPTIONS[name] if every_option else {}

    def gradient(p, t, i):
        return torch.complex(gradient_like(p.real, t, i), gradient_like(p.real, t, i + 9))

    paths = [
        advance(
            make(name, leaves(dtype=torch.complex128), **options), range(1, 21), gradient=gradient
        )
        for make in (ours, theirs)
    ]
    assert_same(*paths)


def test_adagrad_takes_sparse_gradients():
    def sparse(p, t, i):
        values = gradient_like(p.new_empty(3, *p.shape[1:]), t, i)
        return torch.sparse_coo_tensor([[0, 2, 2]], values, p.shape, check_invariants=False)

    shapes = [(5, 2), (4,)]
    paths = [
        advance(make("Adagrad", leaves(shapes)), range(1, 21), gradient=sparse)
        for make in (ours, theirs)
    ]
    assert_same(*paths)
    p = leaves([(5, 2)])[0]
    p.grad = sparse(p, 1, 0)
    with pytest.raises(RuntimeError, match="weight_decay option is not compatible with sparse"):
        optim.Adagrad([p], weight_decay=0.1).step()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RMSprop", "RMSprop does not support sparse gradients"),
        ("Adam", "Adam does not support sparse gradients, please consider SparseAdam instead"),
        ("AdamW", "Adam does not support sparse gradients, please consider SparseAdam instead"),
        ("Lion", "Lion does not support sparse gradients"),
    ],
)
def test_sparse_gradients_are_refused(name, text):
    p = leaves([(5, 2)])[0]
    p.grad = torch.ones_like(p).to_sparse()
    with pytest.raises(RuntimeError, match=text):
        ours(name, [p]).step()


@each_of_ours
def test_lr_as_a_tensor(name):
    number = advance(ours(name, leaves(), lr=0.25), range(1, 11))
    for lr in (torch.tensor(0.25), torch.tensor([0.25])):
        assert_same(advance(ours(name, leaves(), lr=lr), range(1, 11)), number)


@each_of_ours
def test_autograd_notices_the_step(name):
    p = torch.ones(3, requires_grad=True)
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    ours(name, [p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each
def test_differentiable(name):
    def loss_after_two_steps(scale):
        p = (torch.tensor([1.0, -2.0], dtype=FLOAT64)).requires_grad_().clone()
        optimizer = ours(name, [p], differentiable=True, weight_decay=0.05)
        for t in range(2):
            p.grad = scale * torch.tensor([0.3 + t, -0.7], dtype=FLOAT64) ** 2
            optimizer.step()
        return p.square().sum()

    p = torch.tensor([1.0, -2.0], dtype=FLOAT64, requires_grad=True)
    plain = theirs(name, [p], weight_decay=0.05)
    for t in range(2):
        p.grad = 1.3 * torch.tensor([0.3 + t, -0.7], dtype=FLOAT64) ** 2
        plain.step()
    scale = torch.tensor(1.3, dtype=FLOAT64, requires_grad=True)
    assert_same(loss_after_two_steps(scale).detach(), p.detach().square().sum())
    (derivative,) = torch.autograd.grad(loss_after_two_steps(scale), scale)
    difference = (loss_after_two_steps(scale + 1e-6) - loss_after_two_steps(scale - 1e-6)) / 2e-6
    assert derivative.item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-8)


@each_of_ours
def test_compiled_step_is_the_step_and_a_schedule_does_not_recompile(name):
    check_that_a_schedule_compiles_once(partial(ours, name), leaves)


@each_of_ours
def test_gradient_scaler_and_clipping(name):
    def train(scaler):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = ours(name, model.parameters())
        for t in range(5):
            optimizer.zero_grad()
            loss = model(torch.full((4, 3), 1.0 + t)).square().mean()
            scaler.scale(loss).backward()
            if t == 2 and scaler.is_enabled():
                model.weight.grad[0, 0] = torch.inf  # this step is skipped
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if t != 2 or scaler.is_enabled():
                scaler.step(optimizer)
            scaler.update()
        return [p.detach().clone() for p in model.parameters()]

    scalers = [torch.amp.GradScaler("cpu", enabled=enabled) for enabled in (True, False)]
    assert_same(*map(train, scalers), rtol=1e-5, atol=1e-7)


def shard(model, name, rank, world):
    optimizer = ours(name, model.parameters())
    for t in range(10):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(t), dtype=FLOAT64)
        optimizer.zero_grad()
        model(x[rank::world]).square().mean().backward()
        optimizer.step()
    return [p.detach().numpy() for p in model.parameters()]


def new_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double()


def worker(rank, port, names, results):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    for name in names:
        trained = shard(DistributedDataParallel(new_model()), name, rank, 2)
        if rank == 0:
            results.put((name, trained))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_are_one():
    names = [*SETTINGS, "Lion"]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = torch.multiprocessing.start_processes(
        worker, (port, names, results), nprocs=2, join=False, start_method="spawn"
    )
    parallel = dict(results.get() for _ in names)
    while not processes.join():
        pass
    for name in names:
        for a, b in zip(parallel[name], shard(new_model(), name, 0, 1), strict=True):
            assert np.abs(a - b).max() <= 1e-12


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("Adam", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("Adam", {"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ("Adam", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("Adam", {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ("AdamW", {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ("AdamW", {"weight_decay": -0.1}, "Invalid weight_decay value: -0.1"),
        ("Adagrad", {"lr_decay": -0.1}, "Invalid lr_decay value: -0.1"),
        (
            "Adagrad",
            {"initial_accumulator_value": -0.1},
            "Invalid initial_accumulator_value value: -0.1",
        ),
        ("RMSprop", {"alpha": -0.1}, "Invalid alpha value: -0.1"),
        ("RMSprop", {"momentum": -0.1}, "Invalid momentum value: -0.1"),
        ("Lion", {"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
    ],
)
def test_bad_hyper_parameters(name, options, text):
    with pytest.raises(ValueError, match=text):
        ours(name, leaves(), **options)


def test_fused_says_where_it_cannot_be():
    p = torch.ones(3, dtype=torch.complex64, requires_grad=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="`fused=True` requires all the params to be floating"):
        optim.Adam([p], fused=True).step()
    for options, text in [
        ({"foreach": True}, "`fused` and `foreach` cannot be `True` together"),
        ({"differentiable": True}, "`fused` does not support `differentiable`"),
    ]:
        with pytest.raises(RuntimeError, match=text):
            optim.Adam(leaves(), fused=True, **options)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adagrad", "SGD"])
def test_fused_takes_what_torchs_takes(name):
    """Channels last by the kernel; half precision, where torch's is wrong on a CPU, by the rule."""
    draw = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=FLOAT64)
    for dtype in (FLOAT64, torch.float32, torch.bfloat16):
        results = []
        for fused in (True, False):
            p = draw.to(dtype, memory_format=torch.channels_last).requires_grad_()
            optimizer = getattr(optim, name)([p], lr=0.1, weight_decay=0.1, fused=fused)
            for t in range(3):
                p.grad = (p.detach() + t).cos()
                assert p.grad.is_contiguous(memory_format=torch.channels_last)
                optimizer.step()
            results.append(p.detach())
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("odd", ["parameter", "gradient", "exp_avg", "exp_avg_sq"])
def test_memory_formats_are_not_mixed(odd):
    """One contiguous tensor beside channels-last ones would be read in the wrong order."""

    def formatted(name, value):
        usual = torch.contiguous_format if name == odd else torch.channels_last
        return value.to(memory_format=usual)

    results = []
    x = torch.arange(48.0).view(2, 2, 3, 4)
    for fused in (None, False):
        p = formatted("parameter", x.clone()).requires_grad_()
        p.grad = formatted("gradient", x.cos())
        optimizer = optim.Adam([p], lr=0.1, fused=fused)
        buffers = {name: formatted(name, x.sin().abs()) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": torch.tensor(1.0), **buffers}
        optimizer.step()
        results.append((p.detach(), *buffers.values()))
    torch.testing.assert_close(*results)


@each_of_ours
def test_parameters_of_several_types_in_one_group(name):
    """The kernel takes lists of one type; each parameter moves as it does alone."""
    mixed = [*leaves(), *leaves(dtype=torch.float32)]
    apart = [leaves(), leaves(dtype=torch.float32)]
    advance(ours(name, mixed), range(1, 4), gradient=lambda p, t, i: gradient_like(p, t, i % 3))
    for params in apart:
        advance(ours(name, params), range(1, 4))
    torch.testing.assert_close(mixed, [*apart[0], *apart[1]], rtol=0, atol=0)


@each
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
def test_the_count_of_steps_has_torchs_type(name, default):
    torch.set_default_dtype(default)
    try:
        p = torch.ones(2, dtype=torch.float32, requires_grad=True)
        optimizer = ours(name, [p])
        for _ in range(260):
            p.grad = torch.ones_like(p)
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    step = optimizer.state[p]["step"]
    assert step.item() == 260
    assert step.dtype is (FLOAT64 if default is FLOAT64 else torch.float32)


@each_of_ours
def test_a_rate_below_zero_by_rounding_does_not_stop_a_run(name):
    p = torch.ones(2, 2, requires_grad=True)
    optimizer = ours(name, [p], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 3, 0.0, 4)
    for options in ({}, {"foreach": True}):
        optimizer.param_groups[0].update(options)
        for _ in range(7):
            p.grad = torch.ones_like(p)
            optimizer.step()
            scheduler.step()
    assert -1e-18 < scheduler.get_last_lr()[0] < 0
    assert p.isfinite().all()


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_autograd_reaches_rate_and_decay(name):
    gradients = []
    for module in (optim, torch.optim):
        lr = torch.tensor(0.1, dtype=FLOAT64, requires_grad=True)
        decay = torch.tensor(0.3, dtype=FLOAT64, requires_grad=True)
        p = torch.ones(2, dtype=FLOAT64, requires_grad=True).clone()
        hyper = {"weight_decay": decay, "differentiable": True}
        optimizer = getattr(module, name)([p], lr=lr, **hyper)
        for t in range(3):
            p.grad = torch.full((2,), t + 1.0, dtype=FLOAT64)
            optimizer.step()
        gradients.append(torch.autograd.grad(p.square().sum(), (lr, decay)))
    assert_same(*gradients, rtol=1e-4)  # torch counts in float32 here


def test_loading_leaves_what_hooks_and_users_put_into_the_state():
    p = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = optim.Adam([p])
    optimizer.step()
    optimizer.state[p]["mine"] = 0.5
    optimizer.register_load_state_dict_post_hook(lambda o: o.state[p]["exp_avg"].zero_())
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[p]["mine"] == 0.5
    assert optimizer.state[p]["exp_avg"].tolist() == [0, 0]
    assert optimizer.state[p]["exp_avg"].dtype is torch.float32


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("optim/base.py", "def load_state_dict("): [
        ("self._loaded(p, value)", "value.to(p.dtype)"),
        ("torch.is_tensor(value) and key", "key"),
        ("restore, prepend=True", "restore, prepend=False"),
        ('in loaded["state"].get', 'in state_dict["state"].get'),
    ],
    ("optim/adaptive.py", "class Algorithm"): [
        ("lr = rate_of(group, p)", 'lr = scalar(group["lr"])'),
        ("w.clone() if group", "w if group"),
        ("if z.is_sparse and self.name", "if False"),
        ("if wants_kernel else None", ""),
        ("kernel_list(p, z, buffers)", "kernel_list(p, z, ())"),
        ("dtype=state_dtype(p),", "dtype=p.dtype,"),
        ("self._initial(group, p),", "0.0,"),
        ('state["step"] += 1', 'state["step"] += 2'),
        ('-z if group["maximize"]', 'z if group["maximize"]'),
        ("w.copy_(w_next)", "w.copy_(w)"),
        ("buffer.copy_(value)", "pass"),
        ("state[key] = torch", "_ = torch"),
        ("z = z.to(state_dtype(w))", "z = z.to(state_dtype(w)).add_(1e-3)"),
        (
            "[torch.view_as_real(x) for x in",
            "[torch.view_as_real(x.conj().resolve_conj()) for x in",
        ),
    ],
    ("optim/fused.py", "def _counted("): [
        ('device="cpu"), alpha=1)', 'device="cpu"), alpha=0)'),
    ],
    ("optim/adaptive.py", "class _Adagrad"): [
        ("complex(value, value)", "value"),
        (".coalesce()  #", "  #"),
        ("w[at], G[at] = w_at, G_at", "w[at] = w_at"),
        ('(t - 1) * group["lr_decay"]', 't * group["lr_decay"]'),
        ('z = z + group["weight_decay"] * w', 'z = z - group["weight_decay"] * w'),
    ],
    ("optim/fused.py", "def adagrad("): [
        ('lr_decay=group["lr_decay"],', "lr_decay=0.0,"),
        ('maximize=group["maximize"],', "maximize=False,"),
        ("increment_version([*params, *sums])", "set_multithreading_enabled(True)"),
    ],
    ("optim/adaptive.py", "class Adagrad"): [
        ('self.algorithm.state_of(self.state[p], group, p, ("sum",))', "pass"),
    ],
    ("optim/fused.py", "def rmsprop("): [
        ('group["alpha"] / rest)', 'group["alpha"])'),
        ('float(group["lr"]) / rest**0.5', 'float(group["lr"]) / rest'),
        ('group["eps"] / rest**0.5', 'group["eps"]'),
        ("torch._foreach_mul_(v, rest)", "pass"),
        ("increment_version(params)", "set_multithreading_enabled(True)"),
        ("torch._foreach_neg(grads)", "grads"),
        ('alpha=group["weight_decay"])', 'alpha=-group["weight_decay"])'),
        ("(m, grads, 1 - alpha)", "(m, grads, alpha)"),
        ("(v, m, m, -1)", "(v, m, m, 1)"),
        ("torch._foreach_add_(params, b, alpha=-lr)", "torch._foreach_add_(params, b, alpha=lr)"),
    ],
    ("optim/adaptive.py", "class _RMSprop"): [
        ('named.get("grad_avg", 0), named', "0, named"),
        ('beta2=group["alpha"]', 'beta2=1 - group["alpha"]'),
    ],
    ("optim/adaptive.py", "class _Adam("): [
        ("w = (1 - lr * decay) * w", "w = (1 - decay) * w"),
        ("z = z + decay * w", "z = z - decay * w"),
        ("MomentsAndMax(t - 1, *state)", "MomentsAndMax(t, *state)"),
        ("Moments(t - 1, *state)", "Moments(t, *state)"),
        ('before, form="torch"', 'before, form="optax"'),
    ],
    ("optim/fused.py", "def adam("): [
        ("torch._fused_adamw_ if decoupled", "torch._fused_adam_ if decoupled"),
        ('amsgrad=group["amsgrad"],', "amsgrad=False,"),
        ('maximize=group["maximize"],', "maximize=False,"),
        ('eps=group["eps"],', "eps=0.0,"),
    ],
    ("optim/adaptive.py", "class AdamW("): [
        ("decoupled_weight_decay=True,", "decoupled_weight_decay=False,"),
        ('group["decoupled_weight_decay"] = True', "pass"),
    ],
    ("optim/adaptive.py", "def _lion("): [
        ("beta1=beta1, beta2=beta2", "beta1=beta2, beta2=beta1"),
        ("map(scalar, betas)", "betas"),
    ],
    ("optim/adaptive.py", "def _dtype_of_step("): [
        (
            "torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32",
            "torch.get_default_dtype()",
        ),
    ],
    ("optim/base.py", "def state_dtype("): [
        ("torch.float32 if p.dtype in", "p.dtype if p.dtype in"),
    ],
    ("optim/base.py", "def scalar("): [
        ("return x.squeeze() if", "return x if"),
    ],
    ("optim/adaptive.py", "def _is_decoupled("): [
        ('"decoupled_weight_decay", True', '"decoupled_weight_decay", False'),
        ("beta.numel() != 1", "False"),
        ("if len({isinstance", "if 0 * len({isinstance"),
        ("0 <= beta < 1", "0 <= beta <= 1"),
    ],
}
