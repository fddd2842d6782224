"""AdaGrad, RMSProp, Adam, AMSGrad, AdamW and Lion: a step size for each coordinate.

Products, quotients, roots and signs of vectors are taken entry by entry. Every accumulator starts
at zero unless an argument says otherwise. In torch, and here by default, ε stands outside the root,
√v + ε; `eps_inside=True` puts it inside, √(v + ε). Chapter 4 measures what that changes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from optcore.rules.checks import check_step


class SquaredSum(NamedTuple):
    """AdaGrad's state: the sum of squared gradients."""

    G: Tensor


class SquaredAverage(NamedTuple):
    """RMSProp's state: averages of squares and of gradients, and the momentum buffer."""

    v: Tensor
    m: Tensor  # average of the gradients, for the centered form
    b: Tensor  # momentum buffer


class Moments(NamedTuple):
    """Adam's state: the number of steps, averages of the gradients and of their squares."""

    t: Tensor  # a number of steps, in float64 where the device has it: β^t is exact then
    m: Tensor
    v: Tensor


class MomentsAndMax(NamedTuple):
    """AMSGrad's state: Adam's, and the largest average of squares so far."""

    t: Tensor
    m: Tensor
    v: Tensor
    v_max: Tensor


class Average(NamedTuple):
    """Lion's state: the average of the gradients."""

    m: Tensor


def adagrad(w, z, state=None, *, lr, eps=1e-10, initial=0.0, eps_inside=False):
    r"""Steps divided by the root of the sum of all squared gradients so far.

    $$G_t = G_{t-1} + z_t^2, \qquad w_{t+1} = w_t - \eta\, \frac{z_t}{\sqrt{G_t} + \varepsilon},
      \qquad G_0 = \nu_0$$

    Source: Duchi, Hazan and Singer (2011), JMLR 12:2121–2159, in its diagonal form; there ε stands
    outside the root and is called δ.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `SquaredSum(G_{t-1})`.
        lr: η ≥ 0, in units of w.
        eps: ε ≥ 0, in units of the gradient (squared, if inside the root).
        initial: ν₀ ≥ 0, in units of the gradient squared; 0 in torch, 0.1 in optax.
        eps_inside: divide by √(G_t + ε).

    Returns:
        `(w_next, SquaredSum)`.

    Raises:
        ValueError: shapes differ, or a hyper-parameter is out of range.
    """
    check_step(w, z, nonnegative={"lr": lr, "eps": eps, "initial": initial})
    G = (initial if state is None else state.G) + z**2
    return w - lr * z / _root(G, eps, eps_inside), SquaredSum(G)


def rmsprop(
    w, z, state=None, *, lr, beta2=0.99, eps=1e-8, momentum=0.0, centered=False, eps_inside=False
):
    r"""Steps divided by the root of a moving average of the squared gradients.

    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) z_t^2, \qquad
      b_t = \mu b_{t-1} + \frac{z_t}{\sqrt{v_t} + \varepsilon}, \qquad w_{t+1} = w_t - \eta\, b_t$$

    With `centered` the root is taken of $v_t - m_t^2$, an estimate of the variance instead of the
    second moment, where $m_t = \beta_2 m_{t-1} + (1-\beta_2) z_t$.
    Source: Tieleman and Hinton (2012), lecture 6e, for the first form, with β₂ = 0.9 and no ε;
    Graves (2013), arXiv:1308.0850, equations (38)–(45), for the centered one with momentum, with ε
    inside the root.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `SquaredAverage(v_{t-1}, m_{t-1}, b_{t-1})`.
        lr: η ≥ 0, in units of w.
        beta2: β₂ in [0, 1); torch calls it alpha.
        eps: ε ≥ 0.
        momentum: μ in [0, 1).
        centered: subtract the squared average of the gradients.
        eps_inside: divide by √(v_t + ε).

    Returns:
        `(w_next, SquaredAverage)`.

    Raises:
        ValueError: shapes differ, or a hyper-parameter is out of range.
    """
    check_step(
        w,
        z,
        nonnegative={"lr": lr, "eps": eps},
        below_one={"beta2": beta2, "momentum": momentum},
    )
    zero = torch.zeros_like(z)
    v, m, b = SquaredAverage(zero, zero, zero) if state is None else state
    v = beta2 * v + (1 - beta2) * z**2
    m = beta2 * m + (1 - beta2) * z if centered else m
    variance = (v - m**2).clamp(min=0) if centered else v  # rounding takes it below
    b = momentum * b + z / _root(variance, eps, eps_inside)
    return w - lr * b, SquaredAverage(v, m, b)


def adam(
    w,
    z,
    state=None,
    *,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    bias_correction=True,
    eps_inside=False,
):
    r"""Adam: the average of the gradients over the root of the average of their squares.

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) z_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) z_t^2$$

    $$\hat m_t = \frac{m_t}{1-\beta_1^t}, \qquad \hat v_t = \frac{v_t}{1-\beta_2^t}, \qquad
      w_{t+1} = w_t - \eta\, \frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon}$$

    With `weight_decay` λ the gradient is first replaced by z_t + λ w_t, which is Adam with an L2
    term and not `adamw`. Source: Kingma and Ba (2015), arXiv:1412.6980, algorithm 1.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `Moments(t - 1, m_{t-1}, v_{t-1})`.
        lr: η ≥ 0, in units of w.
        beta1, beta2: in [0, 1).
        eps: ε ≥ 0, in units of the gradient (squared, if inside the root).
        weight_decay: λ ≥ 0, in units of the gradient per unit of w.
        bias_correction: without it, m_t and v_t take the places of m̂_t and v̂_t.
        eps_inside: divide by √(v̂_t + ε).

    Returns:
        `(w_next, Moments)`.

    Raises:
        ValueError: shapes differ, or a hyper-parameter is out of range.
    """
    _check_adam(w, z, lr, beta1, beta2, eps, weight_decay)
    t, m, v = _moments(z + weight_decay * w, state, beta1, beta2)
    if bias_correction:
        m_hat, v_hat = _unbiased(m, beta1, t), _unbiased(v, beta2, t)
    else:
        m_hat, v_hat = m, v
    return w - lr * m_hat / _root(v_hat, eps, eps_inside), Moments(t, m, v)


def amsgrad(w, z, state=None, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, form="paper"):
    r"""Adam with a denominator that never falls.

    With m_t and v_t as in `adam`, and a running maximum that starts at zero:

    $$\text{"paper":}\quad \bar v_t = \max(\bar v_{t-1}, v_t), \qquad
      w_{t+1} = w_t - \eta\, \frac{m_t}{\sqrt{\bar v_t} + \varepsilon}$$

    $$\text{"torch":}\quad \bar v_t = \max(\bar v_{t-1}, v_t), \qquad
      w_{t+1} = w_t - \eta\, \frac{\hat m_t}{\sqrt{\bar v_t / (1-\beta_2^t)} + \varepsilon}$$

    $$\text{"optax":}\quad \bar v_t = \max(\bar v_{t-1}, \hat v_t), \qquad
      w_{t+1} = w_t - \eta\, \frac{\hat m_t}{\sqrt{\bar v_t} + \varepsilon}$$

    Source: Reddi, Kale and Kumar (2018), arXiv:1904.09237, algorithm 2, which has no ε, and a
    projection onto the feasible set: hand that to `run` as `project`.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `MomentsAndMax(t - 1, m_{t-1}, v_{t-1}, v̄_{t-1})`.
        lr: η ≥ 0, in units of w.
        beta1, beta2: in [0, 1).
        eps: ε ≥ 0.
        form: "paper", "torch" or "optax".

    Returns:
        `(w_next, MomentsAndMax)`.

    Raises:
        ValueError: shapes differ, a hyper-parameter is out of range, or `form` is unknown.
    """
    _check_adam(w, z, lr, beta1, beta2, eps, 0.0)
    if form not in ("paper", "torch", "optax"):
        raise ValueError(f"form must be 'paper', 'torch' or 'optax', got {form!r}.")
    v_max = torch.zeros_like(z) if state is None else state.v_max
    t, m, v = _moments(z, None if state is None else Moments(*state[:3]), beta1, beta2)
    v_max = torch.maximum(v_max, _unbiased(v, beta2, t) if form == "optax" else v)
    m_hat = m if form == "paper" else _unbiased(m, beta1, t)
    denominator = _unbiased(v_max, beta2, t) if form == "torch" else v_max
    w_next = w - lr * m_hat / _root(denominator, eps, False)
    return w_next, MomentsAndMax(t, m, v, v_max)


def adamw(
    w, z, state=None, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-2, eps_inside=False
):
    r"""Adam with decoupled weight decay: λ acts on w, past the moments.

    $$w_{t+1} = w_t - \eta \Bigl(\frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon}
      + \lambda w_t\Bigr)$$

    with m̂_t and v̂_t as in `adam`. Source: Loshchilov and Hutter (2019), arXiv:1711.05101,
    algorithm 2, in torch's convention: the paper multiplies λ by the schedule η_t alone, torch by
    the whole rate.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `Moments(t - 1, m_{t-1}, v_{t-1})`.
        lr: η ≥ 0, in units of w.
        beta1, beta2: in [0, 1).
        eps: ε ≥ 0, in units of the gradient (squared, if inside the root).
        weight_decay: λ ≥ 0; ηλ is the share of w that a step takes away.
        eps_inside: divide by √(v̂_t + ε).

    Returns:
        `(w_next, Moments)`.

    Raises:
        ValueError: shapes differ, or a hyper-parameter is out of range.
    """
    _check_adam(w, z, lr, beta1, beta2, eps, weight_decay)
    t, m, v = _moments(z, state, beta1, beta2)
    m_hat, v_hat = _unbiased(m, beta1, t), _unbiased(v, beta2, t)
    return w - lr * (m_hat / _root(v_hat, eps, eps_inside) + weight_decay * w), Moments(t, m, v)


def lion(w, z, state=None, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    r"""The sign of an interpolation between the average of the gradients and the newest one.

    $$c_t = \beta_1 m_{t-1} + (1-\beta_1) z_t, \qquad
      w_{t+1} = w_t - \eta\,(\operatorname{sign} c_t + \lambda w_t), \qquad
      m_t = \beta_2 m_{t-1} + (1-\beta_2) z_t$$

    Source: Chen et al. (2023), arXiv:2302.06675, algorithm 2.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `Average(m_{t-1})`.
        lr: η ≥ 0, in units of w: the length of the step in every coordinate.
        beta1, beta2: in [0, 1).
        weight_decay: λ ≥ 0.

    Returns:
        `(w_next, Average)`.

    Raises:
        ValueError: shapes differ, or a hyper-parameter is out of range.
    """
    _check_adam(w, z, lr, beta1, beta2, 0.0, weight_decay)
    m = torch.zeros_like(z) if state is None else state.m
    c = beta1 * m + (1 - beta1) * z
    return w - lr * (c.sign() + weight_decay * w), Average(beta2 * m + (1 - beta2) * z)


def _moments(z, state, beta1, beta2) -> Moments:
    if state is None:
        exact = torch.float32 if z.device.type == "mps" else torch.float64
        zero = torch.zeros_like(z)
        state = Moments(torch.zeros((), dtype=exact, device=z.device), zero, zero)
    t, m, v = state
    return Moments(t + 1, beta1 * m + (1 - beta1) * z, beta2 * v + (1 - beta2) * z**2)


def _unbiased(average, beta, t):
    # In the average's type: t would raise it to float64, were it without dimensions as t is.
    return (average / (1 - beta**t)).to(average.dtype)


def _root(v, eps, inside):
    if v.is_complex():  # z², not |z|²
        raise ValueError("w is complex: hand over its and z's torch.view_as_real.")
    if inside:
        return (v + eps).sqrt()
    if v.requires_grad:
        # The root has no derivative at 0, where every gradient so far was 0: the step is 0 there,
        # and so is its derivative, not 0 · ∞.
        zero = v == 0
        return v.masked_fill(zero, 1).sqrt().masked_fill(zero, 0) + eps
    return v.sqrt() + eps


def _check_adam(w, z, lr, beta1, beta2, eps, weight_decay) -> None:
    check_step(
        w,
        z,
        nonnegative={"lr": lr, "eps": eps, "weight_decay": weight_decay},
        below_one={"beta1": beta1, "beta2": beta2},
    )
