"""Muon: momentum, orthogonalized. The singular values of the direction all become one.

A matrix is as `torch.nn.Linear` has it: a row for each output, a column for each input. Leading
dimensions count matrices. U S Vᵀ is the reduced singular value decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optcore.rules.checks import check_step

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Keller Jordan's a, b, c, which raise small singular values fast and never settle at one."""

SAFETY = 1.01
"""How far above its interval `orthogonalize` lets rounding put a singular value."""

UNSETTLED = 7
"""Steps of Polar Express after which all singular values are one, and safety is not needed."""

REMEZ_STEPS = 20
"""More than enough, since the exchange converges quadratically."""


class Buffer(NamedTuple):
    """Muon's state: the momentum buffer."""

    B: Tensor


def orthogonalize(G, method="newton_schulz", *, steps=5, coefficients=None, eps=0.0):
    r"""Replace the singular values of a matrix by one, or nearly: $U S V^\top \mapsto U V^\top$.

    "svd" computes U Vᵀ from the decomposition, over the singular values that are not zero up to
    rounding. "newton_schulz" and "polar_express" iterate, on the smaller side of the matrix,

    $$X_0 = \frac{G}{\|G\|_F}, \qquad A_k = X_k X_k^\top, \qquad
      X_{k+1} = a_k X_k + (b_k A_k + c_k A_k^2)\, X_k$$

    which takes every singular value σ to $p_k(\sigma) = a_k\sigma + b_k\sigma^3 + c_k\sigma^5$ and
    leaves U and V alone. "newton_schulz" uses `QUINTIC` in every step, "polar_express" the
    `polar_express_coefficients`, the first seven with x / 1.01 in the place of x, as the authors
    do, so that rounding does not leave the interval. The result does not depend on the scale of G,
    and is zero where G is.

    Computes in the dtype of G, except that "svd" takes half precision to float32 and back.
    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; Amsel, Persson, Musco
    and Gower (2025), arXiv:2505.16932.

    Args:
        G: real matrices, of shape (…, out, in).
        method: "svd", "newton_schulz" or "polar_express".
        steps: how many, ≥ 1; unused by "svd".
        coefficients: for "newton_schulz": (a, b, c) for every step; or one such triple a step, and
            then their number takes the place of `steps`.
        eps: divide by max(‖G‖_F, eps). torch's is 1e-7; zero keeps the scale out.

    Returns:
        A tensor like G.

    Raises:
        ValueError: G is not a real matrix, or an argument is out of range.
    """
    if not isinstance(G, Tensor) or G.ndim < 2 or not G.is_floating_point():
        kind = f"{tuple(G.shape)} of {G.dtype}" if isinstance(G, Tensor) else type(G).__name__
        raise ValueError(f"G must be a real matrix of shape (…, out, in), got {kind}.")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number ≥ 0, got {eps}.")
    if method == "svd" and coefficients is None:
        return _svd(G)
    triples = coefficients_of(method, coefficients, steps)
    X = normalized(G, eps)
    X = X.mT if G.shape[-2] > G.shape[-1] else X
    for a, b, c in triples:
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.mT if G.shape[-2] > G.shape[-1] else X


def normalized(G, eps=0.0):
    """Return G / max(‖G‖_F, eps), matrix by matrix; zero where G is.

    The largest entry is first brought near one by a power of two, which rounds nothing: so the
    squares neither overflow nor vanish.
    """
    if G.numel() == 0:
        return G.clone()
    exponent = torch.frexp(G.abs().amax(dim=(-2, -1), keepdim=True)).exponent
    X = torch.ldexp(G, -exponent)
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    floor = torch.ldexp(torch.full_like(norm, eps), -exponent)
    norm = torch.maximum(norm, floor)
    return X / torch.where(norm == 0, 1, norm)


def coefficients_of(method, coefficients, steps) -> list[tuple[float, float, float]]:
    """Return the (a, b, c) of every step that `orthogonalize` with these arguments takes.

    Raises:
        ValueError: an argument is out of range, or not what the method takes.
    """
    if method not in ("svd", "newton_schulz", "polar_express"):
        raise ValueError(
            f"method must be 'svd', 'newton_schulz' or 'polar_express', got {method!r}."
        )
    if method == "polar_express" and coefficients is None:
        return list(_safe_polar_express(_positive(steps)))
    if method != "newton_schulz":
        raise ValueError(f"coefficients go with method='newton_schulz', not {method!r}.")
    triples = list(QUINTIC if coefficients is None else coefficients)
    if not any(isinstance(x, Sequence) for x in triples):
        triples = [triples] * _positive(steps)
    for triple in triples:
        if len(triple) != 3 or not all(math.isfinite(x) for x in triple):
            raise ValueError(f"coefficients must be finite triples (a, b, c), got {triple}.")
    return [tuple(triple) for triple in triples]


def polar_express_coefficients(steps, lower=1e-3, cushion=0.02407327424182761):
    r"""Derive the quintics that take [lower, 1] to one as fast as any.

    Step k has an interval [l, u], at first [lower, 1], and takes the odd quintic that minimises

    $$\max_{l \le x \le u} |1 - p(x)|, \qquad p(x) = a x + b x^3 + c x^5$$

    which a Remez exchange finds: the error reaches its maximum with alternating signs at four
    points. Then [p(l), 2 − p(l)] is the next interval. Greedy as it looks, no composition of as
    many odd quintics has a smaller error at the end (theorem 4.1 of the paper). With the `cushion`
    the quintic is found on [max(l, cushion·u), u] and rescaled so that p(l) and p(u) lie at one
    distance from one: without it the first quintics are very small inside the interval. It gives
    up optimality.
    Source: Amsel, Persson, Musco and Gower (2025), arXiv:2505.16932, whose list for the default
    arguments is reproduced to 1e-10.

    Args:
        steps: how many quintics, ≥ 1.
        lower: l₁, the smallest singular value to be served, in (0, 1).
        cushion: in [0, 1).

    Returns:
        A list of (a, b, c).

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 < lower < 1:
        raise ValueError(f"lower must lie in (0, 1), got {lower}.")
    if not 0 <= cushion < 1:
        raise ValueError(f"cushion must lie in [0, 1), got {cushion}.")
    low, high, found = lower, 1.0, []
    for _ in range(_positive(steps)):
        quintic = _minimax_quintic(max(low, cushion * high), high)
        quintic = 2 / (_value(quintic, low) + _value(quintic, high)) * quintic
        found.append(tuple(quintic.tolist()))
        low = _value(quintic, low)
        high = 2 - low
    return found


def muon(
    w,
    z,
    state=None,
    *,
    lr,
    momentum=0.95,
    nesterov=True,
    weight_decay=0.0,
    method="newton_schulz",
    steps=5,
    coefficients=None,
    adjust="original",
    average=False,
):
    r"""Muon: a step along the orthogonalized momentum.

    $$B_t = \mu B_{t-1} + z_t, \qquad D_t = z_t + \mu B_t, \qquad
      w_{t+1} = w_t - \eta\lambda w_t - \eta\, s \operatorname{orthogonalize}(D_t), \qquad B_0 = 0$$

    With `nesterov=False`, D_t = B_t. With `average` the buffer is $B_t = \mu B_{t-1} + (1-\mu)z_t$
    and $D_t = (1-\mu) z_t + \mu B_t$: for a constant μ the same directions, 1 − μ times as long, so
    the same steps.
    Jordan's post has the sum, his code and torch 2.13 keep the average. The scale s is
    √max(1, out/in) in "original", 0.2·√max(out, in) in "match_rms_adamw" and √(out/in) in
    "rms_to_rms".
    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; Liu et al. (2025),
    arXiv:2502.16982, for the second scale; Bernstein (2025),
    https://jeremybernste.in/writing/deriving-muon, for the third.

    Args:
        w, z: iterate and gradient estimate, of one shape (…, out, in).
        state: `Buffer(B_{t-1})`.
        lr: η ≥ 0; the spectral norm of a step is about η s.
        momentum: μ in [0, 1).
        nesterov: step along D_t, a look ahead, in the place of B_t.
        weight_decay: λ ≥ 0; ηλ, without s, is the share of w that a step takes away.
        method, steps, coefficients: as in `orthogonalize`.
        adjust: "original", "match_rms_adamw" or "rms_to_rms".
        average: keep the average of the gradients, not their sum.

    Returns:
        `(w_next, Buffer)`.

    Raises:
        ValueError: shapes differ, they are not matrices, or a hyper-parameter is out of range.
    """
    check_step(
        w,
        z,
        nonnegative={"lr": lr, "weight_decay": weight_decay},
        below_one={"momentum": momentum},
    )
    if w.ndim < 2:
        raise ValueError(
            f"w must hold matrices (…, out, in), got shape {tuple(w.shape)}: for the flat w of a "
            "network there is by_layer."
        )
    share = 1 - momentum if average else 1
    B = share * z if state is None else momentum * state.B + share * z
    D = share * z + momentum * B if nesterov else B
    O = orthogonalize(D, method, steps=steps, coefficients=coefficients)  # noqa: E741
    return w - lr * weight_decay * w - lr * scale(w.shape, adjust) * O, Buffer(B)


muon.of_matrices = True


def scale(shape, adjust) -> float:
    """Return the factor that `adjust` gives the step of a matrix of this (…, out, in) shape.

    Raises:
        ValueError: `adjust` is unknown.
    """
    out, into = shape[-2:]
    if adjust == "original":
        return math.sqrt(max(1, out / into))
    if adjust == "match_rms_adamw":
        return 0.2 * math.sqrt(max(out, into))
    if adjust == "rms_to_rms":
        return math.sqrt(out / into)
    raise ValueError(
        f"adjust must be 'original', 'match_rms_adamw' or 'rms_to_rms', got {adjust!r}."
    )


def _svd(G):
    exact = G.dtype if G.dtype in (torch.float32, torch.float64) else torch.float32
    U, S, Vh = torch.linalg.svd(normalized(G.to(exact)), full_matrices=False)
    relative = S / S[..., :1].clamp(min=torch.finfo(exact).tiny)
    kept = relative > max(G.shape[-2:]) * torch.finfo(exact).eps
    return ((U * kept.unsqueeze(-2)) @ Vh).to(G.dtype)


@cache
def _safe_polar_express(steps) -> tuple[tuple[float, float, float], ...]:
    quintics = polar_express_coefficients(steps)
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in quintics[:UNSETTLED]]
    return (*safe, *quintics[UNSETTLED:])


def _minimax_quintic(low, high) -> np.ndarray:
    # The unknown is how far p is from its limit for short intervals around one,
    # 1 − (15x − 10x³ + 3x⁵)/8 = (1 − x)³ (8 + 9x + 3x²)/8, written as x (α + β t + γ t²) with t
    # from −1 to 1 in x²: then the equations keep their condition however short the interval is.
    limit = np.array([15, -10, 3]) / 8
    if high - low < 1e-5:
        return limit
    middle, half = (high**2 + low**2) / 2, (high**2 - low**2) / 2
    t = np.array([-1.0, -0.5, 0.5, 1.0])
    for _ in range(REMEZ_STEPS):
        x = np.sqrt(middle + half * t)
        columns = [x, x * t, x * t**2, [1, -1, 1, -1]]
        rest = (1 - x) ** 3 * (8 + 9 * x + 3 * x**2) / 8
        alpha, beta, gamma, _ = np.linalg.solve(np.stack(columns, axis=1), rest)
        shift = middle / half
        quintic = limit + [
            alpha - beta * shift + gamma * shift**2,
            (beta - 2 * gamma * shift) / half,
            gamma / half**2,
        ]
        # The error is extreme at the ends and where p′(x) = a + 3b x² + 5c x⁴ vanishes.
        a, b, c = quintic
        t[1:3] = np.sort((np.roots([5 * c, 3 * b, a]).real - middle) / half)
    return quintic


def _value(quintic, x) -> float:
    a, b, c = quintic
    return x * (a + x * x * (b + x * x * c))


def _positive(steps) -> int:
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")
    return steps
