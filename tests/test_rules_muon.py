"""Orthogonalization against the singular value decomposition, and Muon against its equation."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from optcore.rules.muon import (
    QUINTIC,
    SAFETY,
    coefficients_of,
    muon,
    normalized,
    orthogonalize,
    polar_express_coefficients,
    scale,
)

FLOAT64 = torch.float64
METHODS = ("svd", "newton_schulz", "polar_express")
each_method = pytest.mark.parametrize("method", METHODS)
SHAPES = [(5, 5), (4, 9), (9, 4), (1, 6), (6, 1), (1, 1)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)

# Amsel, Persson, Musco and Gower (2025), arXiv:2505.16932, algorithm 1.
PUBLISHED = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


def matrix(*shape, seed=0, dtype=FLOAT64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=FLOAT64).to(dtype)


def with_singular_values(values, m, n, seed=0):
    """Return G, U and Vᵀ with G = U diag(values) Vᵀ."""
    k = len(values)
    U = torch.linalg.qr(matrix(m, k, seed=seed)).Q
    V = torch.linalg.qr(matrix(n, k, seed=seed + 1)).Q
    return U @ torch.diag(torch.tensor(values, dtype=FLOAT64)) @ V.mT, U, V.mT


def quintic(x, a, b, c):
    return a * x + b * x**3 + c * x**5


# --- orthogonalize


@each_shape
def test_svd_is_the_nearest_semi_orthogonal_matrix(shape):
    G = matrix(*shape)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    torch.testing.assert_close(orthogonalize(G, "svd"), U @ Vh, rtol=0, atol=1e-12)


@pytest.mark.parametrize("m, n", [(6, 6), (6, 8), (8, 6)])
def test_svd_leaves_the_null_space_alone(m, n):
    G, U, Vh = with_singular_values([3.0, 2.0, 1e-3], m, n)
    torch.testing.assert_close(orthogonalize(G, "svd"), U @ Vh, rtol=0, atol=1e-11)


@pytest.mark.parametrize("m, n", [(5, 5), (5, 8), (8, 5)])
@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
@pytest.mark.parametrize("steps", [1, 3, 5, 8])
def test_an_iteration_acts_on_the_singular_values_alone(m, n, method, steps):
    values = [1.0, 0.5, 0.1, 0.01, 1e-4]
    G, U, Vh = with_singular_values(values, m, n)
    sigma = torch.tensor(values, dtype=FLOAT64) / math.hypot(*values)
    triples = [QUINTIC] * steps
    if method == "polar_express":
        triples = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in PUBLISHED[:7]]
        triples = [*triples, PUBLISHED[7]][:steps]
    for triple in triples:
        sigma = quintic(sigma, *triple)
    ours = orthogonalize(G, method, steps=steps)
    torch.testing.assert_close(ours, U @ torch.diag(sigma) @ Vh, rtol=0, atol=1e-10)


def test_five_steps_of_the_quintic_leave_a_band_around_one():
    values = np.geomspace(0.01, 1, 40)
    values = (values / np.linalg.norm(values)).tolist()
    G, *_ = with_singular_values([s for s in values if s >= 0.01], 40, 60)
    found = torch.linalg.svdvals(orthogonalize(G))
    found = found[found > 1e-6]
    assert found.min() >= 0.68
    assert found.max() <= 1.14


def test_polar_express_converges():
    G, U, Vh = with_singular_values(np.geomspace(1e-3, 1, 30).tolist(), 30, 40)
    near = orthogonalize(G, "polar_express", steps=12)
    torch.testing.assert_close(near, U @ Vh, rtol=0, atol=1e-10)


@pytest.mark.parametrize("coefficients", [(2.0, -1.5, 0.5), [(2.0, -1.5, 0.5)] * 5])
def test_coefficients_may_be_given_once_or_for_every_step(coefficients):
    G, U, Vh = with_singular_values([1.0, 0.3], 2, 3)
    sigma = torch.tensor([1.0, 0.3], dtype=FLOAT64) / math.hypot(1, 0.3)
    for _ in range(5):
        sigma = quintic(sigma, 2.0, -1.5, 0.5)
    ours = orthogonalize(G, coefficients=coefficients)
    torch.testing.assert_close(ours, U @ torch.diag(sigma) @ Vh, rtol=0, atol=1e-12)


def test_a_list_of_coefficients_is_as_many_steps_in_its_order():
    triples = [(3.0, -3.0, 1.0), (1.5, -0.5, 0.0)]
    one_by_one = [coefficients_of("newton_schulz", triples[:1], 5)]
    assert one_by_one == [triples[:1]]
    assert coefficients_of("newton_schulz", triples, 5) == triples
    G, U, Vh = with_singular_values([1.0, 0.3], 2, 3)
    sigma = torch.tensor([1.0, 0.3], dtype=FLOAT64) / math.hypot(1, 0.3)
    sigma = quintic(quintic(sigma, *triples[0]), *triples[1])
    ours = orthogonalize(G, coefficients=triples)
    torch.testing.assert_close(ours, U @ torch.diag(sigma) @ Vh, rtol=0, atol=1e-12)


@each_method
@each_shape
def test_scale_does_not_matter(method, shape):
    G = matrix(*shape)
    whole = orthogonalize(G, method)
    for factor in (1e-300, 1e-30, 1e-8, 1e30, 1e300):
        small = orthogonalize(factor * (G / G.norm()), method)
        torch.testing.assert_close(small, whole, rtol=0, atol=1e-10)


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scale_does_not_matter_in_short_types(method, dtype):
    G = matrix(6, 8, dtype=dtype)
    whole = orthogonalize(G, method)
    for power in (-12, 12) if dtype is torch.float16 else (-100, -40, 40, 100):
        scaled = G * 2.0**power
        kept = scaled / 2.0**power == G  # float16 rounds what becomes subnormal
        tolerance = 0 if kept.all() else 2e-2
        torch.testing.assert_close(orthogonalize(scaled, method), whole, rtol=0, atol=tolerance)


def test_a_norm_of_1e_minus_30_in_float32():
    G = matrix(16, 16, dtype=torch.float32)
    small = G * (1e-30 / G.norm())
    torch.testing.assert_close(orthogonalize(small), orthogonalize(G), rtol=0, atol=1e-3)


@each_method
@pytest.mark.parametrize("dtype", [FLOAT64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_gives_zero(method, dtype):
    G = torch.zeros(3, 4, 6, dtype=dtype)
    G[1] = matrix(4, 6)
    O = orthogonalize(G, method)  # noqa: E741
    assert O.dtype is dtype
    assert not O[0].any() and not O[2].any()
    assert O[1].norm() > 1


@each_method
def test_a_batch_is_its_matrices_one_by_one(method):
    G = matrix(2, 3, 4, 6) * torch.tensor([1e-9, 1.0, 1e9], dtype=FLOAT64)[:, None, None]
    batch = orthogonalize(G, method)
    for i in range(2):
        for j in range(3):
            alone = orthogonalize(G[i, j], method)
            torch.testing.assert_close(batch[i, j], alone, rtol=0, atol=1e-12)


@each_method
@each_shape
def test_tall_is_the_transpose_of_wide(method, shape):
    G = matrix(*shape)
    O, T = orthogonalize(G, method), orthogonalize(G.mT, method)  # noqa: E741
    torch.testing.assert_close(O, T.mT, rtol=0, atol=1e-12)


@each_method
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)]
)
def test_short_types_agree_with_float64(method, dtype, tolerance):
    G = matrix(24, 32, dtype=dtype)
    exact = orthogonalize(G.double(), method)
    error = orthogonalize(G, method).double() - exact
    assert error.norm() <= tolerance * exact.norm()


def test_rounding_does_not_leave_the_interval():
    # The interval of five steps ends at 1.1236, that of more at one.
    u, v = matrix(64, 1, seed=3), matrix(1, 96, seed=4)
    for steps, bound in ((5, 1.13), (8, 1.02), (12, 1.02)):
        O = orthogonalize((u @ v).bfloat16(), "polar_express", steps=steps)  # noqa: E741
        assert torch.linalg.svdvals(O.double())[0] <= bound


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (2, 0, 0)], ids=str)
@each_method
def test_an_empty_matrix_stays(method, size):
    assert orthogonalize(torch.zeros(size), method).shape == size


def test_eps_is_the_smallest_norm():
    G = matrix(3, 4)
    assert normalized(1e-3 * G / G.norm(), 1e-2).norm().item() == pytest.approx(0.1)
    assert normalized(1e-1 * G / G.norm(), 1e-2).norm().item() == pytest.approx(1.0)
    small = orthogonalize(1e-3 * G / G.norm(), eps=1e-2, steps=1)
    ones = orthogonalize(G, steps=1, coefficients=(1.0, 0.0, 0.0)) * 0.1
    A = ones @ ones.mT
    a, b, c = QUINTIC
    torch.testing.assert_close(small, a * ones + (b * A + c * A @ A) @ ones)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.ones(3),), "real matrix"),
        ((torch.ones(3, 3, dtype=torch.int64),), "real matrix"),
        ((torch.ones(3, 3, dtype=torch.complex64),), "real matrix"),
        (([[1.0]],), "real matrix"),
        ((torch.ones(3, 3), "qr"), "method must be"),
    ],
)
def test_what_is_no_matrix_or_method_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        orthogonalize(*arguments)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.0}, "steps"),
        ({"steps": 0, "method": "polar_express"}, "steps"),
        ({"eps": -1.0}, "eps"),
        ({"eps": math.inf}, "eps"),
        ({"coefficients": (1.0, 2.0)}, "triples"),
        ({"coefficients": [(1.0, 2.0, 3.0), (1.0, 2.0)]}, "triples"),
        ({"coefficients": (1.0, 2.0, math.nan)}, "triples"),
        ({"coefficients": QUINTIC, "method": "svd"}, "go with"),
        ({"coefficients": QUINTIC, "method": "polar_express"}, "go with"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        orthogonalize(torch.ones(3, 3), **options)


# --- the minimax coefficients


def test_the_published_list_is_reproduced():
    np.testing.assert_allclose(polar_express_coefficients(8), PUBLISHED, rtol=0, atol=1e-10)


@pytest.mark.parametrize("lower", [1e-6, 1e-3, 0.02, 0.3, 0.9, 0.999])
def test_the_error_equioscillates_at_four_points(lower):
    (a, b, c), *_ = polar_express_coefficients(1, lower=lower, cushion=0)
    x = np.linspace(lower, 1, 200_001)
    error = 1 - quintic(x, a, b, c)
    worst = np.abs(error).max()
    turns = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
    at = 1 - quintic(np.array([lower, *turns, 1.0]), a, b, c)
    np.testing.assert_allclose(at, worst * np.array([1, -1, 1, -1]), rtol=1e-6, atol=1e-12)


def test_no_other_quintic_has_a_smaller_worst_error():
    best = np.array(polar_express_coefficients(1, lower=0.1, cushion=0)[0])
    x = np.linspace(0.1, 1, 2001)

    def worst(triple):
        return np.abs(1 - quintic(x, *triple)).max()

    for step in np.random.default_rng(0).normal(size=(500, 3)):
        assert worst(best + 1e-3 * step / np.linalg.norm(step)) > worst(best)


def test_the_composition_takes_the_interval_to_one():
    x = np.geomspace(1e-3, 1, 10_001)
    errors = []
    for triple in polar_express_coefficients(9):
        x = quintic(x, *triple)
        errors.append(np.abs(1 - x).max())
    assert errors[:7] == sorted(errors[:7], reverse=True)
    assert errors[4] < 0.13
    assert errors[-1] < 1e-14


def test_short_intervals_have_the_limit():
    assert polar_express_coefficients(1, lower=1 - 1e-7) == [(1.875, -1.25, 0.375)]
    near = polar_express_coefficients(1, lower=1 - 2e-4, cushion=0)[0]
    np.testing.assert_allclose(near, (1.875, -1.25, 0.375), atol=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps": 0}, "steps"),
        ({"steps": 5, "lower": 0.0}, "lower"),
        ({"steps": 5, "lower": 1.0}, "lower"),
        ({"steps": 5, "cushion": -0.1}, "cushion"),
        ({"steps": 5, "cushion": 1.0}, "cushion"),
    ],
)
def test_an_interval_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        polar_express_coefficients(**arguments)


def test_the_safety_factor_is_the_papers():
    assert SAFETY == 1.01
    expected = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in PUBLISHED[:5]]
    np.testing.assert_allclose(coefficients_of("polar_express", None, 5), expected, atol=1e-10)


# --- muon


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_the_equation(method, nesterov, decay, shape):
    lr, mu, s = 0.05, 0.9, max(1, shape[0] / shape[1]) ** 0.5
    w = matrix(*shape, seed=9)
    state, expected = None, w
    gradients = [matrix(*shape, seed=t) for t in range(6)]
    for t, z in enumerate(gradients):
        B = sum(mu ** (t - r) * gradients[r] for r in range(t + 1))
        D = z + mu * B if nesterov else B
        step = orthogonalize(D, method)
        expected = expected - lr * decay * expected - lr * s * step
        w, state = muon(
            w, z, state, lr=lr, momentum=mu, nesterov=nesterov, weight_decay=decay, method=method
        )
        torch.testing.assert_close(w, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.B, B, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_average_and_sum_make_the_same_steps(nesterov, method):
    step = partial(muon, lr=0.1, nesterov=nesterov, method=method, weight_decay=0.1)
    w = v = matrix(4, 6, seed=9)
    state = average = None
    for t in range(20):
        z = matrix(4, 6, seed=t)
        w, state = step(w, z, state)
        v, average = step(v, z, average, average=True)
        torch.testing.assert_close(v, w, rtol=0, atol=1e-11)
        torch.testing.assert_close(average.B, (1 - 0.95) * state.B, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "adjust, shape, expected",
    [
        ("original", (8, 2), 2.0),
        ("original", (2, 8), 1.0),
        ("match_rms_adamw", (9, 4), 0.6),
        ("match_rms_adamw", (4, 9), 0.6),
        ("rms_to_rms", (8, 2), 2.0),
        ("rms_to_rms", (2, 8), 0.5),
        ("original", (7, 8, 2), 2.0),
    ],
)
def test_the_scales(adjust, shape, expected):
    assert scale(shape, adjust) == pytest.approx(expected)
    z = matrix(*shape)
    w, _ = muon(torch.zeros_like(z), z, lr=0.5, adjust=adjust, method="svd")
    torch.testing.assert_close(w, -0.5 * expected * orthogonalize(z, "svd"))


def test_a_batch_of_weights_and_a_grid_of_rates():
    w, z = matrix(3, 4, 6), matrix(3, 4, 6, seed=1)
    rates = torch.tensor([0.1, 0.2, 0.3], dtype=FLOAT64)[:, None, None]
    together, _ = muon(w, z, lr=rates)
    for i in range(3):
        alone, _ = muon(w[i], z[i], lr=rates[i].item())
        torch.testing.assert_close(together[i], alone)


def test_muon_takes_its_own_coefficients_and_steps():
    w, z = matrix(4, 6), matrix(4, 6, seed=1)
    ours, _ = muon(w, z, lr=1.0, coefficients=(2.0, -1.5, 0.5), steps=3)
    step = orthogonalize(z, coefficients=(2.0, -1.5, 0.5), steps=3)
    torch.testing.assert_close(ours, w - step)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": 0.1, "momentum": 1.0}, "momentum"),
        ({"lr": 0.1, "momentum": -0.1}, "momentum"),
        ({"lr": 0.1, "weight_decay": -0.1}, "weight_decay"),
        ({"lr": 0.1, "adjust": "keller"}, "adjust"),
        ({"lr": 0.1, "method": "qr"}, "method"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        muon(torch.ones(2, 3), torch.ones(2, 3), **options)


def test_shapes_must_agree_and_be_matrices():
    with pytest.raises(ValueError, match="must agree"):
        muon(torch.ones(2, 3), torch.ones(3, 2), lr=0.1)
    with pytest.raises(ValueError, match="w must hold matrices"):
        muon(torch.ones(3), torch.ones(3), lr=0.1)


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("rules/muon.py", "def orthogonalize("): [
        ("X = a * X + (b * A + c * (A @ A)) @ X", "X = a * X + (b * A + c * A) @ X"),
        ("X = X.mT if G.shape[-2] > G.shape[-1] else X\n    for", "X = X.mT\n    for"),
        ("X = normalized(G, eps)", "X = normalized(G)"),
        ("0 <= eps < math.inf", "0 <= eps"),
    ],
    ("rules/muon.py", "def normalized("): [
        ("torch.ldexp(G, -exponent)", "G"),
        ("X / torch.where(norm == 0, 1, norm)", "X / norm"),
        ("norm = torch.maximum(norm, floor)", "norm = norm + floor"),
    ],
    ("rules/muon.py", "def coefficients_of("): [
        ("[triples] * _positive(steps)", "[triples] * 5"),
        ("for a, b, c in", "for a, c, b in"),
    ],
    ("rules/muon.py", "def polar_express_coefficients("): [
        ("max(low, cushion * high)", "low"),
        ("2 / (_value(quintic, low) + _value(quintic, high)) * quintic", "quintic"),
        ("high = 2 - low", "high = 1 / low"),
    ],
    ("rules/muon.py", "def muon("): [
        ("1 - momentum if average", "1 if average"),
        ("D = share * z + momentum * B", "D = z + momentum * B"),
        ("if nesterov else B", "if not nesterov else B"),
        ("- lr * weight_decay * w", "- lr * scale(w.shape, adjust) * weight_decay * w"),
        ("* O, Buffer(B)", "* O, Buffer(D)"),
    ],
    ("rules/muon.py", "def scale("): [
        ("max(1, out / into)", "max(1, into / out)"),
        ("max(out, into)", "min(out, into)"),
        ("return math.sqrt(out / into)", "return math.sqrt(into / out)"),
    ],
    ("rules/muon.py", "def _svd("): [
        ("(U * kept.unsqueeze(-2)) @ Vh", "U @ Vh"),
    ],
    ("rules/muon.py", "def _minimax_quintic("): [
        ("[1, -1, 1, -1]", "[1, 1, 1, -1]"),
        ("5 * c, 3 * b, a", "5 * c, 3 * a, b"),
    ],
}
