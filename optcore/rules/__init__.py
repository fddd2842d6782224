"""Update rules: pure functions `(w, z, state, *, lr, …) -> (w_next, state)`, one equation each.

`w` is the iterate and `z` the gradient estimate: tensors of one shape, dtype and device. `state` is
`None` before the first step, then a named tuple of nothing but tensors: so a rule can be
mapped by `torch.func.vmap` over rates, seeds or clients, and its state be saved and loaded with
`weights_only=True`. The hyper-parameters are numbers, or tensors that broadcast against `w`, so
that one call can advance a whole grid of learning rates.

A rule that wants its gradients somewhere else than at `w_t` carries an attribute `points`:
`rule.points(w, state, **hyper)` returns the tuple of places, all of them to be evaluated on the
same sample, and `z` is then the tuple of those gradients. `points_of` finds it.
"""

from torch.serialization import add_safe_globals

from optcore.rules import adaptive, momentum
from optcore.rules import muon as matrices
from optcore.rules.adaptive import adagrad, adam, adamw, amsgrad, lion, rmsprop
from optcore.rules.compose import by_layer, is_of_matrices, points_of
from optcore.rules.momentum import (
    heavy_ball,
    heavy_ball_average,
    heavy_ball_sum,
    nesterov,
    nesterov_gradient_correction,
    nesterov_look_ahead,
    nesterov_one_line,
    nesterov_two_gradients,
    sgd,
)
from optcore.rules.muon import muon, orthogonalize

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "amsgrad",
    "by_layer",
    "heavy_ball",
    "heavy_ball_average",
    "heavy_ball_sum",
    "is_of_matrices",
    "lion",
    "muon",
    "nesterov",
    "nesterov_gradient_correction",
    "nesterov_look_ahead",
    "nesterov_one_line",
    "nesterov_two_gradients",
    "orthogonalize",
    "points_of",
    "rmsprop",
    "sgd",
]

# With `weights_only=True` torch loads only classes that it was told of: here, all states.
add_safe_globals(
    [
        kind
        for module in (adaptive, momentum, matrices)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    ]
)
