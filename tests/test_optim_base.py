"""What users of other optimizers stumbled upon, for every optimizer at once.

Sharded, fake and lazily conjugated tensors, NumPy's numbers, states that must not be shared, and
coordinates without a gradient.
"""

import io
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from optimizer_helpers import FLOAT64, advance, assert_same, gradient_like, leaves
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from optcore import optim, rules


def from_rule(params, **options):
    return optim.FromRule(params, rules.adam, **options)


EVERY = {
    "SGD": optim.SGD,
    "SGD, momentum": partial(optim.SGD, momentum=0.9),
    "SGD, nesterov": partial(optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    "HeavyBall": optim.HeavyBall,
    "HeavyBall, average": partial(optim.HeavyBall, form="average"),
    "Nesterov": optim.Nesterov,
    "Adagrad": optim.Adagrad,
    "RMSprop": optim.RMSprop,
    "RMSprop, all": partial(optim.RMSprop, momentum=0.9, centered=True, weight_decay=0.1),
    "Adam": partial(optim.Adam, weight_decay=0.1),
    "Adam, amsgrad": partial(optim.Adam, amsgrad=True),
    "AdamW": optim.AdamW,
    "Lion": optim.Lion,
    "FromRule": from_rule,
    "Muon": partial(optim.Muon, ns_dtype=None),
}
STACKS = {
    "Muon, blocks": partial(optim.Muon, ns_dtype=None, blocks=3),
    "Muon, svd of blocks": partial(optim.Muon, method="svd", blocks=3),
    "Muon, each": partial(optim.Muon, ns_dtype=None, blocks="each"),
}
COMPLEX = {name: make for name, make in EVERY.items() if name not in ("FromRule", "Muon")}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


# --- parameters that are spread over processes


def sharded(x, mesh):
    return distribute_tensor(x, mesh, [Shard(0)])


def check_on_two_ranks(rank, store):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    mesh = init_device_mesh("cpu", (2,))
    for name, make in {**EVERY, **STACKS}.items():
        for rows in (3, 129):  # of 260: once below the size of a piece, once above it and uneven
            (whole,) = leaves([(rows, 260)])
            parts = sharded(whole.detach(), mesh).requires_grad_()
            one, two = make([whole], lr=0.1), make([parts], lr=0.1)
            for t in (1, 2):
                whole.grad = gradient_like(whole, t)
                parts.grad = sharded(whole.grad, mesh)
                one.step()
                two.step()
            close = torch.allclose(parts.full_tensor(), whole, rtol=1e-9, atol=1e-10)
            assert close, f"{name}, {rows} rows"
    for name, make in EVERY.items():
        for bad in (math.nan, math.inf, 1e308):
            z = torch.ones(4, 4, dtype=FLOAT64)
            z[2:, 3] = bad  # in the second rank's half; 1e308 twice is infinite, and no fault
            p = sharded(torch.ones(4, 4, dtype=FLOAT64), mesh).requires_grad_()
            p.grad = sharded(z, mesh)
            stopped = False
            try:
                make([p], lr=0.1, error_if_nonfinite=True).step()
            except ValueError as error:
                stopped = "params[0] holds NaN or infinity" in f"{error}"
            assert stopped == (bad != 1e308), f"{name}, {bad}, rank {rank}"
            assert not stopped or bool((p.to_local() == 1).all())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_ranks_step_as_one_and_stop_as_one(tmp_path):
    torch.multiprocessing.spawn(check_on_two_ranks, (str(tmp_path / "store"),), nprocs=2)


# --- tensors without values


@every
@pytest.mark.parametrize("lr", ["number", "tensor"])
def test_a_step_on_fake_tensors(make, lr):
    def state_after_two_steps():
        p = torch.nn.Parameter(torch.zeros(4, 6))
        p.grad = torch.zeros(4, 6)
        rate = torch.full((), 0.1) if lr == "tensor" else 0.1  # of torch.tensor, fake ones know 0.1
        optimizer = make([p], lr=rate, error_if_nonfinite=True)
        optimizer.step()
        optimizer.step()
        return {key: (x.shape, x.dtype) for key, x in optimizer.state[p].items()}, optimizer.state[
            p
        ]

    real, _ = state_after_two_steps()
    with FakeTensorMode():
        fake, state = state_after_two_steps()
    assert fake == real
    assert all(isinstance(x, FakeTensor) for x in state.values())


def test_tensor_betas_may_be_fake():
    with FakeTensorMode():
        p = torch.zeros(3, requires_grad=True)
        p.grad = torch.zeros(3)
        for make in (optim.Adam, optim.Lion):
            make([p], betas=(torch.full((), 0.9), torch.full((), 0.99))).step()


@every
def test_a_step_on_the_meta_device(make):
    p = torch.zeros(4, 6, device="meta", requires_grad=True)
    p.grad = torch.zeros(4, 6, device="meta")
    make([p], lr=0.1, error_if_nonfinite=True).step()


# --- lazy views


def conjugate(x):
    return x.conj_physical().conj()


def negative(x):
    return torch._neg_view(-x)


def both(x):
    return torch._neg_view(conjugate(-x))


LAZY = {
    f"{name} {view.__name__}": (partial(make, **way), view)
    for view in (conjugate, negative, both)
    for name, make in (EVERY if view is negative else COMPLEX).items()
    for way in ([{}, {"fused": False}] if name.startswith(("SGD", "Adagrad", "Adam")) else [{}])
}


@pytest.mark.parametrize(("make", "lazy"), LAZY.values(), ids=LAZY)
@pytest.mark.parametrize("of", ["gradient", "parameter"])
def test_lazy_views_step_as_the_same_numbers(make, lazy, of):
    def end(view):
        generator = torch.Generator().manual_seed(0)
        dtype = FLOAT64 if lazy is negative else torch.complex128
        x, z = (torch.randn(4, 5, dtype=dtype, generator=generator) for _ in range(2))
        p = (view(x) if of == "parameter" else x).requires_grad_()
        optimizer = make([p], lr=0.1)
        for t in (1, 2):
            p.grad = view(t * z) if of == "gradient" else t * z
            optimizer.step()
        assert not any(v.is_conj() or v.is_neg() for v in optimizer.state[p].values())
        return p.detach().resolve_conj().resolve_neg()

    assert_same(end(lazy), end(torch.clone))


def test_adagrad_takes_sparse_gradients_with_lazy_values():
    ends = []
    for view in (conjugate, torch.clone):
        p = torch.ones(4, dtype=torch.complex128, requires_grad=True)
        values = view(torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128))
        p.grad = torch.sparse_coo_tensor([[0, 2]], values, (4,), check_invariants=False)
        optim.Adagrad([p], lr=0.1).step()
        ends.append(p.detach())
    assert_same(*ends)


# --- numbers of NumPy


def numpys(value, kind):
    if isinstance(value, tuple):
        return tuple(numpys(x, kind) for x in value)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    return kind(value) if isinstance(value, float) else value


@every
@pytest.mark.parametrize("kind", [np.float64, np.array, lambda x: np.array([x])], ids=str)
def test_every_hyper_parameter_may_be_numpys(make, kind):
    plain = make(leaves([(4, 3)]), lr=0.1)
    expected = advance(plain, range(1, 5))
    hyper = {name: numpys(value, kind) for name, value in plain.defaults.items()}
    hyper.pop("decoupled_weight_decay", None)  # AdamW's own
    hyper.pop("algorithm", None)  # Muon's own
    given = make(leaves([(4, 3)]), **hyper)
    later = make(leaves([(4, 3)]), lr=0.1)
    grouped = make([{"params": leaves([(4, 3)]), **hyper}], lr=0.1)
    later.param_groups[0].update(hyper)
    file = io.BytesIO()
    torch.save(later.state_dict(), file)  # also before the first step
    file.seek(0)
    torch.load(file, weights_only=True)
    for optimizer in (given, later, grouped):
        assert_same(advance(optimizer, range(1, 5)), expected, rtol=0, atol=0)


def test_looking_for_them_does_not_compile_again():
    torch._dynamo.reset()
    counter, params = CompileCounter(), leaves()
    optimizer = optim.SGD(params, lr=torch.tensor(0.1))
    step = torch.compile(optimizer.step, backend=counter)
    for p in params:
        p.grad = torch.ones_like(p)
    step()
    optimizer.param_groups[0]["initial_lr"] = 0.1  # as a scheduler does
    step()
    assert counter.frame_count == 1


@every
def test_an_array_is_refused_by_name(make):
    with pytest.raises(
        ValueError, match=r"lr must hold numbers, not a NumPy array of shape \(2,\)"
    ):
        make(leaves([(4, 3)]), lr=np.array([0.1, 0.2]))
    optimizer = make(leaves([(4, 3)]), lr=0.1)
    optimizer.param_groups[0]["lr"] = np.array([0.1, 0.2])
    with pytest.raises(ValueError, match="lr must hold numbers"):
        advance(optimizer, [1])
    assert_same(optimizer.param_groups[0]["params"], leaves([(4, 3)]), rtol=0, atol=0)


# --- arguments before parameters


@every
def test_hyper_parameters_are_checked_before_the_parameters_are_read(make):
    params = iter(leaves([(4, 3)]))
    for given in (params, []):
        with pytest.raises(ValueError, match=r"-1\.0"):
            make(given, lr=-1.0)
    assert len(list(params)) == 1
    with pytest.raises(ValueError, match="empty parameter list"):
        make([], lr=0.1)


# --- loading


def storages(x):
    """The addresses of all tensors in nested dicts and lists, parameters apart."""
    if isinstance(x, torch.Tensor):
        return {x.untyped_storage().data_ptr()} - {0}
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ()
    return set().union(*map(storages, parts))


LOADING = [
    pytest.param(make, dtype, id=f"{name} {dtype}")
    for dtype in (torch.float32, FLOAT64, torch.bfloat16, torch.complex64)
    for name, make in (COMPLEX if dtype.is_complex else EVERY).items()
]


@pytest.mark.parametrize(("make", "dtype"), LOADING)
def test_loading_shares_nothing(make, dtype):
    first, second = (make(leaves([(4, 3), (2, 2)], dtype), lr=torch.tensor(0.1)) for _ in range(2))
    advance(first, range(1, 4))
    saved = first.state_dict()
    second.load_state_dict(saved)
    held = [
        {**o.state_dict(), "param_groups": [{**g, "params": []} for g in o.param_groups]}
        for o in (first, second)
    ]
    assert not storages(held[0]) & storages(held[1])
    for p, q in zip(first.state.values(), second.state.values(), strict=True):
        for key, value in p.items():
            assert torch.equal(value, q[key])
            assert value.dtype is q[key].dtype
    kept = [p.detach().clone() for p in first.param_groups[0]["params"]]
    before = [{k: v.clone() for k, v in state.items()} for state in first.state.values()]
    advance(second, range(4, 9))
    assert_same(first.param_groups[0]["params"], kept, rtol=0, atol=0)
    for state, copy in zip(first.state.values(), before, strict=True):
        assert_same(state, copy, rtol=0, atol=0)


DIFFERENT = ["SGD, momentum", "HeavyBall", "Nesterov", "Adagrad", "RMSprop, all", "Adam", "Lion"]
DIFFERENT += ["FromRule", "Muon"]
PAIRS = set(itertools.permutations(DIFFERENT, 2))
# Both keep a displacement, and have the same numbers.
PAIRS -= {("HeavyBall", "Nesterov"), ("Nesterov", "HeavyBall")}


@pytest.mark.parametrize(("name", "other"), sorted(PAIRS))
def test_the_state_of_another_optimizer_is_refused(name, other):
    first, second = (EVERY[n](leaves([(4, 3)]), lr=0.1) for n in (name, other))
    advance(first, [1, 2])
    with pytest.raises(ValueError, match="it was .*made by"):
        second.load_state_dict(first.state_dict())
        advance(second, [3])
    assert_same(second.param_groups[0]["params"], leaves([(4, 3)]), rtol=0, atol=0)


def test_an_older_state_may_lack_flags_and_groups_may_have_more():
    (p,) = leaves([(4, 3)])
    first, second = optim.Adam([p]), optim.Adam([p])
    advance(first, [1])
    saved = first.state_dict()
    for name in ("foreach", "fused", "amsgrad", "capturable", "decoupled_weight_decay"):
        del saved["param_groups"][0][name]
    saved["param_groups"][0]["depth"] = 3
    second.load_state_dict(saved)
    assert second.param_groups[0]["depth"] == 3
    advance(second, [2])
    assert second.state[p]["step"] == 2


# --- roots


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (optim.Adam, {}),
        (optim.Adam, {"amsgrad": True}),
        (optim.AdamW, {"weight_decay": 0.0}),
        (optim.Adagrad, {}),
        (optim.RMSprop, {}),
        (optim.RMSprop, {"momentum": 0.9}),
        (optim.RMSprop, {"centered": True}),
    ],
    ids=str,
)
def test_a_coordinate_without_gradient_has_derivative_zero(make, options):
    def derivatives(at):
        scale = torch.tensor(1.3, dtype=FLOAT64, requires_grad=True)
        lr = torch.tensor(0.1, dtype=FLOAT64, requires_grad=True)
        p = torch.ones(len(at), dtype=FLOAT64, requires_grad=True).clone()
        optimizer = make([p], lr=lr, differentiable=True, **options)
        for _ in range(2):
            p.grad = torch.tensor(at, dtype=FLOAT64) * scale
            optimizer.step()
        return torch.autograd.grad(p.sum(), (scale, lr))

    assert_same(derivatives([0.0]), (torch.zeros((), dtype=FLOAT64),) * 2)
    assert_same(derivatives([0.0, 1.0, 2.0]), derivatives([1.0, 2.0]))


@pytest.mark.parametrize("rule", [rules.adam, rules.adagrad, rules.rmsprop, rules.amsgrad])
def test_so_has_a_rule_under_torch_func(rule):
    def end(lr, z):
        w, state = torch.ones_like(z), None
        for _ in range(2):
            w, state = rule(w, z, state, lr=lr, eps=0.1)
        return w.sum()

    lr, z, h = torch.tensor(0.3, dtype=FLOAT64), torch.zeros(1, dtype=FLOAT64), 1e-7
    by_rate, by_gradient = torch.func.grad(end, argnums=(0, 1))(lr, z)
    assert by_rate == 0
    # z / (|z| + ε) has a derivative at 0, though |z| has none.
    quotient = (end(lr, z + h) - end(lr, z - h)) / (2 * h)
    assert by_gradient.item() == pytest.approx(quotient.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64], ids=str)
@pytest.mark.parametrize("way", [{}, {"foreach": True}, {"momentum": 0.9}], ids=str)
def test_centered_rmsprop_stays_finite_with_a_constant_gradient(dtype, way):
    """The rounded difference of v and m² falls below zero, whose root is NaN."""
    for start in (0.1, 0.7, 3.0, 1e-3):
        p = torch.ones(64, dtype=dtype, requires_grad=True)
        z = torch.linspace(start, 2 * start, 64, dtype=dtype)
        optimizer = optim.RMSprop([p], lr=1e-3, centered=True, alpha=0.9, **way)
        for _ in range(500):
            p.grad = z.clone()
            optimizer.step()
        assert p.isfinite().all()
        assert (p < 1).all()


@pytest.mark.parametrize("way", [{}, {"foreach": True}], ids=str)
def test_but_a_gradient_that_is_not_finite_shows(way):
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.tensor([1.0, math.nan])
    optim.RMSprop([p], centered=True, **way).step()
    assert p.isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "Adam", "AdamW"])
def test_differentiable_steps_of_complex_parameters_are_the_steps(name):
    options = {"momentum": 0.9, "centered": True} if name == "RMSprop" else {}

    def end(**way):
        p = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128, requires_grad=True)
        p = p.clone() if way else p
        optimizer = getattr(optim, name)([p], lr=0.1, **options, **way)
        for t in range(1, 4):
            p.grad = torch.tensor([0.5 - 1j * t, 2.0], dtype=torch.complex128)
            optimizer.step()
        return p.detach(), {key: x.detach() for key, x in optimizer.state[p].items()}

    assert_same(end(differentiable=True), end())


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("optim/base.py", "class CheckedOptimizer"): [
        ('self._check_group({**defaults, "params": []})', "pass"),
        ("_read_numpy(defaults)", "pass"),
        ("_read_numpy(self.param_groups[-1])", "pass"),
        ("self._read_groups()\n        self._check", "self._check"),
        ("self._read_groups()\n        return", "return"),
        ("is_fake(p.grad) or", "False or"),
        ("if not torch.compiler.is_compiling():", "if True:"),
    ],
    ("optim/base.py", "def load_state_dict("): [
        ('tree_map_only(Tensor, torch.clone, final["state"])', 'final["state"]'),
        ('            self._check_loaded(final["param_groups"])\n', ""),
    ],
    ("optim/base.py", "def _check_loaded("): [
        ("if type(x) in (int, float, tuple)", ""),
    ],
    ("optim/momentum.py", "def _at_rest("): [
        ("            if state:\n", "            if False:\n"),
    ],
    ("optim/base.py", "def subtract("): [
        (" or is_fake(lr)", ""),
    ],
    ("optim/base.py", "def check_rate("): [
        ("is_fake(lr) or ", ""),
    ],
    ("optim/base.py", "def is_fake("): [
        (" or (isinstance(x, Tensor) and x.is_meta)", ""),
    ],
    ("optim/base.py", "def _without_numpy("): [
        ("value.size != 1", "False"),
        ("(np.generic, np.ndarray)", "np.generic"),
        ("(np.generic, np.ndarray)", "np.ndarray"),
        ("if type(value) in (tuple, list)", "if False"),
    ],
    ("optim/base.py", "def _is_finite("): [
        ('finite.full_tensor() if hasattr(finite, "full_tensor") else finite', "finite"),
    ],
    ("optim/adaptive.py", "class Algorithm"): [
        ("torch.view_as_complex(value) if p.is_complex() else value", "value"),
        ("p.resolve_conj().resolve_neg()", "p"),
        ("p.copy_(target)", "pass"),
        ("z.to(state_dtype(w)).resolve_conj()", "z.to(state_dtype(w))"),
        ("type(x) in PLAIN and x.is", "x.is"),
        ('state["step"].to(exact(p))', 'round(state["step"].item())'),
    ],
    ("optim/adaptive.py", "def _check_betas("): [
        ("is_fake(beta) or ", ""),
    ],
    ("optim/fused.py", "def kernel_list("): [
        (" and not p.is_neg()", ""),
        (" and not z.is_neg()", ""),
    ],
    ("optim/fused.py", "def _rmsprop_in_place("): [
        ("torch._foreach_clamp_min_(root, 0)", "pass"),
    ],
    ("rules/adaptive.py", "def rmsprop("): [
        ("(v - m**2).clamp(min=0)", "(v - m**2)"),
    ],
    ("rules/adaptive.py", "def _root("): [
        ("if v.requires_grad", "if False"),
        (".masked_fill(zero, 0)", ""),
    ],
}
