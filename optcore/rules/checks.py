"""What every rule asks of its arguments; tensors are not looked into: that waits for the GPU."""

from __future__ import annotations

import math

from torch import Tensor


def check_step(w: Tensor, z: Tensor, *, nonnegative: dict, below_one: dict | None = None) -> None:
    """Raise unless `z` is shaped like `w` and the named hyper-parameters are in range.

    Args:
        w, z: iterate and gradient estimate. Broadcasting would turn a mismatch of their shapes
            into a wrong step instead of an error.
        nonnegative: name → value, each to be a finite number ≥ 0.
        below_one: name → value, each to lie in [0, 1).

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    if w.shape != z.shape:
        raise ValueError(
            f"z has shape {tuple(z.shape)}, but w has {tuple(w.shape)}: they must agree."
        )
    for name, value in nonnegative.items():
        if not isinstance(value, Tensor) and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number ≥ 0, got {value}.")
    for name, value in (below_one or {}).items():
        if not isinstance(value, Tensor) and not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}.")
