"""SGD, the heavy ball in three forms, Nesterov's method in four, stochastic NAG with two gradients.

Every form starts from rest: before the first step the velocity, the previous displacement and the
previous gradient are zero. With a constant `lr` the forms of one method then produce the same
iterates; chapter 3 of the book derives the maps between them and checks each to 1e-12.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from optcore.rules.checks import check_step


class Nothing(NamedTuple):
    """The state of a rule that remembers nothing."""


class Velocity(NamedTuple):
    """The state of a form that keeps a velocity."""

    v: Tensor


class Previous(NamedTuple):
    """The state of the position form: the previous iterate."""

    w: Tensor


class PreviousStep(NamedTuple):
    """The state of a form that keeps the previous iterate and its gradient."""

    w: Tensor
    z: Tensor


class VelocityAndGradient(NamedTuple):
    """The state of a form that keeps a velocity and the previous gradient."""

    v: Tensor
    z: Tensor


class VelocityAndPrevious(NamedTuple):
    """The state of a form that keeps a velocity and the previous iterate."""

    v: Tensor
    w: Tensor


def sgd(w, z, state=None, *, lr):
    r"""One step along the negative gradient estimate.

    $$w_{t+1} = w_t - \eta\, z_t$$

    Source: Robbins and Monro (1951), doi:10.1214/aoms/1177729586; with `z` the full gradient,
    Cauchy (1847).

    Args:
        w: iterate, any shape.
        z: gradient estimate at `w`, the same shape.
        state: unused; SGD remembers nothing.
        lr: step size η ≥ 0, in units of w per unit of gradient.

    Returns:
        `(w_next, Nothing())`.

    Raises:
        ValueError: shapes differ, or `lr` is negative or not finite.
    """
    check_step(w, z, nonnegative={"lr": lr})
    return w - lr * z, Nothing()


def heavy_ball(w, z, state=None, *, lr, beta):
    r"""The heavy ball in position form.

    $$w_{t+1} = w_t - \eta\, z_t + \beta\,(w_t - w_{t-1}), \qquad w_0 = w_1$$

    Source: Polyak (1964), doi:10.1016/0041-5553(64)90137-5, equation (9) for z the full gradient.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `Previous(w_{t-1})`.
        lr: η ≥ 0.
        beta: momentum β in [0, 1).

    Returns:
        `(w_next, Previous)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    w_prev = w if state is None else state.w
    return w - lr * z + beta * (w - w_prev), Previous(w)


def heavy_ball_average(w, z, state=None, *, lr, beta):
    r"""The heavy ball as a moving average of gradients.

    $$v_t = \beta v_{t-1} + (1-\beta) z_t, \qquad w_{t+1} = w_t - \eta' v_t, \qquad v_0 = 0$$

    Equal to `heavy_ball` with η = η′(1−β), for constant η. Here `lr` is η′.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `Velocity(v_{t-1})`, a gradient average.
        lr: η′ ≥ 0.
        beta: β in [0, 1).

    Returns:
        `(w_next, Velocity)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    v_prev = 0 if state is None else state.v
    v = beta * v_prev + (1 - beta) * z
    return w - lr * v, Velocity(v)


def heavy_ball_sum(w, z, state=None, *, lr, beta):
    r"""The heavy ball as PyTorch writes it: a discounted sum of gradients.

    $$v_t = \beta v_{t-1} + z_t, \qquad w_{t+1} = w_t - \eta v_t, \qquad v_0 = 0$$

    Equal to `heavy_ball` with the same η, for constant η, and to `torch.optim.SGD(momentum=β)`
    always. Sutskever et al. (2013) write v with the opposite sign and η inside.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `Velocity(v_{t-1})`, a gradient sum.
        lr: η ≥ 0.
        beta: β in [0, 1).

    Returns:
        `(w_next, Velocity)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    v_prev = 0 if state is None else state.v
    v = beta * v_prev + z
    return w - lr * v, Velocity(v)


def nesterov(w, z, state=None, *, lr, beta):
    r"""Nesterov's accelerated gradient in its original u-form.

    $$u_{t+1} = w_t - \eta z_t, \qquad w_{t+1} = u_{t+1} + \beta\,(u_{t+1} - u_t), \quad u_1 = w_1$$

    With `z` at `w_t` from one mini-batch this is stochastic NAG with one gradient a step.
    Source: Nesterov (1983), Soviet Math. Dokl. 27:372–376; constant β for strongly convex F:
    Nesterov (2018), doi:10.1007/978-3-319-91578-4, section 2.2.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `Previous(u_t)`.
        lr: η ≥ 0.
        beta: β in [0, 1).

    Returns:
        `(w_next, Previous)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    u = w if state is None else state.w
    u_next = w - lr * z
    return u_next + beta * (u_next - u), Previous(u_next)


def nesterov_one_line(w, z, state=None, *, lr, beta):
    r"""Nesterov's method with u eliminated: the same iterates as `nesterov`.

    $$w_{t+1} = w_t - \eta z_t + \beta\,\bigl((w_t - \eta z_t) - (w_{t-1} - \eta z_{t-1})\bigr)$$

    with w₀ = w₁ and z₀ = 0.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `PreviousStep(w_{t-1}, z_{t-1})`.
        lr: η ≥ 0.
        beta: β in [0, 1).

    Returns:
        `(w_next, PreviousStep)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    w_prev, z_prev = (w, 0) if state is None else state
    return w - lr * z + beta * ((w - lr * z) - (w_prev - lr * z_prev)), PreviousStep(w, z)


def nesterov_gradient_correction(w, z, state=None, *, lr, beta):
    r"""Nesterov's method as momentum plus a correction: the same iterates as `nesterov`.

    $$v_t = \beta v_{t-1} + z_t + \beta\,(z_t - z_{t-1}), \qquad w_{t+1} = w_t - \eta v_t$$

    with v₀ = 0 and z₀ = 0.

    Args:
        w, z: iterate and gradient estimate, one shape.
        state: `VelocityAndGradient(v_{t-1}, z_{t-1})`.
        lr: η ≥ 0.
        beta: β in [0, 1).

    Returns:
        `(w_next, VelocityAndGradient)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    v_prev, z_prev = (0, 0) if state is None else state
    v = beta * v_prev + z + beta * (z - z_prev)
    return w - lr * v, VelocityAndGradient(v, z)


def nesterov_look_ahead(w, z, state=None, *, lr, beta):
    r"""Nesterov's method with the gradient taken where the momentum is about to carry the iterate.

    $$v_t = \beta v_{t-1} + \nabla F(\theta_t - \eta\beta v_{t-1}), \qquad
      \theta_{t+1} = \theta_t - \eta v_t, \qquad v_0 = 0$$

    Its iterate is the other sequence of the u-form, θ_t = u_t; the look-ahead point
    θ_t − ηβ v_{t−1} is `nesterov`'s w_t. Source: Sutskever et al. (2013), ICML, equations (3)–(4).

    Args:
        w: θ_t.
        z: a one-tuple with the gradient estimate at `points(w, state, lr=…, beta=…)[0]`.
        state: `Velocity(v_{t-1})`.
        lr: η ≥ 0.
        beta: β in [0, 1).

    Returns:
        `(w_next, Velocity)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    (z,) = z
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    v_prev = 0 if state is None else state.v
    v = beta * v_prev + z
    return w - lr * v, Velocity(v)


def _look_ahead_point(w, state, *, lr, beta):
    return (w if state is None else w - lr * beta * state.v,)


nesterov_look_ahead.points = _look_ahead_point


def nesterov_two_gradients(w, z, state=None, *, lr, beta):
    r"""Stochastic NAG with two gradients a step, both on the sample ζ_t.

    $$v_t = \beta v_{t-1} + \nabla f(w_t;\zeta_t)
      + \beta\,\bigl(\nabla f(w_t;\zeta_t) - \nabla f(w_{t-1};\zeta_t)\bigr), \qquad
      w_{t+1} = w_t - \eta v_t$$

    with v₀ = 0; the first step has no previous point, and its correction is β∇f(w₁;ζ₁), as in
    `nesterov_gradient_correction`. Without noise the two are the same method.

    Args:
        w: iterate.
        z: the gradients at `points(w, state, …)`: `(∇f(w_t; ζ_t), ∇f(w_{t-1}; ζ_t))`, at the first
            step `(∇f(w_1; ζ_1),)`.
        state: `VelocityAndPrevious(v_{t-1}, w_{t-1})`.
        lr: η ≥ 0.
        beta: β in [0, 1).

    Returns:
        `(w_next, VelocityAndPrevious)`.

    Raises:
        ValueError: shapes differ, or `lr` or `beta` is out of range.
    """
    z, z_prev = (*z, 0) if state is None else z
    check_step(w, z, nonnegative={"lr": lr}, below_one={"beta": beta})
    v_prev = 0 if state is None else state.v
    v = beta * v_prev + z + beta * (z - z_prev)
    return w - lr * v, VelocityAndPrevious(v, w)


def _this_and_previous_point(w, state, *, lr, beta):
    return (w,) if state is None else (w, state.w)


nesterov_two_gradients.points = _this_and_previous_point
