"""What every optimizer of the book shares: checked arguments, `step`, the fused kernels' terms."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

# Where torch's fused kernel can be trusted: on the CPU it leaves float16 and bfloat16 as they are
# (torch 2.13, pytorch/pytorch#191763).
FUSED = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "mps": (torch.float32, torch.float16, torch.bfloat16),
}


class CheckedOptimizer(Optimizer):
    """A torch optimizer that checks its arguments and updates one group at a time."""

    def add_param_group(self, param_group: dict) -> None:
        """Add a group, unless its hyper-parameters or the types of its parameters are wrong."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """Update every parameter that has a gradient; return the loss of `closure`, if given.

        Raises:
            ValueError: with `error_if_nonfinite`, a gradient holds NaN or infinity; nothing has
                been updated then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["error_if_nonfinite"]:
                _check_gradients(group)
        for group in self.param_groups:
            with torch.set_grad_enabled(group.get("differentiable", False)):
                self._update(group, [p for p in group["params"] if p.grad is not None])
        return loss

    def __setstate__(self, state: dict) -> None:
        """Restore; a `state_dict` from torch lacks the arguments that are only ours."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def _update(self, group: dict, params: list[Tensor]) -> None:
        for p in params:
            self._update_one(group, p, gradient_of(group, p))

    def _update_one(self, group: dict, p: Tensor, z: Tensor) -> None:
        raise NotImplementedError

    def _at_rest(self, p: Tensor, key: str) -> Tensor:
        # Every form starts from rest: a zero velocity, a zero displacement.
        if key not in self.state[p]:
            self.state[p][key] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return self.state[p][key]


def gradient_of(group: dict, p: Tensor) -> Tensor:
    """Return p's gradient with the sign of `maximize` and the L2 term λ p."""
    z = p.grad.neg() if group["maximize"] else p.grad
    return z.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else z


def can_be_fused(p: Tensor, buffer: Tensor | None) -> bool:
    """Whether torch's fused kernels update `p`, and `buffer` with it, correctly."""
    # The kernel walks through memory in order, whatever the strides, and wants one dtype.
    # A sparse gradient says that it is not contiguous.
    z, dtype = p.grad, p.dtype
    return (
        dtype in FUSED.get(p.device.type, ())
        and z.dtype is dtype
        and p.is_contiguous()
        and z.is_contiguous()
        and (buffer is None or (buffer.dtype is dtype and buffer.is_contiguous()))
    )


def _check_group(group: dict) -> None:
    lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not 0 <= lr < math.inf:
        raise ValueError(f"Invalid learning rate: {lr} (lr must be a finite number ≥ 0)")
    if not 0 <= momentum < 1:
        raise ValueError(f"Invalid momentum value: {momentum} (momentum must lie in [0, 1))")
    if not 0 <= decay < math.inf:
        raise ValueError(
            f"Invalid weight_decay value: {decay} (weight_decay must be a finite number ≥ 0)"
        )
    form = group.get("form", "position")
    if form not in ("position", "average"):
        raise ValueError(f"form must be 'position' or 'average', got {form!r}")
    for i, p in enumerate(group["params"]):
        if not (p.is_floating_point() or p.is_complex()):
            raise TypeError(f"{_name(group, i)} has dtype {p.dtype}: it must be floating point")


def _check_gradients(group: dict) -> None:
    for i, p in enumerate(group["params"]):
        if p.grad is None:
            continue
        z = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
        # A sum is one reading and no temporaries, and finite only if every term is.
        if not (z.sum().isfinite() or z.isfinite().all()):
            raise ValueError(
                f"The gradient of {_name(group, i)} holds NaN or infinity: it must be finite"
            )


def _name(group: dict, i: int) -> str:
    return group["param_names"][i] if "param_names" in group else f"params[{i}]"
