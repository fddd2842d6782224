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
            self._check_group(self.param_groups[-1])
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

    def _check_group(self, group: dict) -> None:
        lr = group["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not 0 <= lr < math.inf:
            raise ValueError(f"Invalid learning rate: {lr} (lr must be a finite number ≥ 0)")
        nonnegative(group, weight_decay="weight_decay")
        self._check(group)
        for i, p in enumerate(group["params"]):
            if not (p.is_floating_point() or p.is_complex()):
                raise TypeError(f"{_name(group, i)} has dtype {p.dtype}: it must be floating point")

    def _check(self, group: dict) -> None:
        """Raise if one of the hyper-parameters that only this optimizer has is out of range."""

    def _update(self, group: dict, params: list[Tensor]) -> None:
        raise NotImplementedError


def can_be_fused(p: Tensor, *buffers: Tensor) -> bool:
    """Whether torch's fused kernels update `p`, and its buffers with it, correctly."""
    # The kernel walks through memory in order, whatever the strides, and wants one dtype.
    # A sparse gradient says that it is not contiguous.
    z, dtype = p.grad, p.dtype
    return (
        dtype in FUSED.get(p.device.type, ())
        and z.dtype is dtype
        and p.is_contiguous()
        and z.is_contiguous()
        and all(buffer.dtype is dtype and buffer.is_contiguous() for buffer in buffers)
    )


def nonnegative(group: dict, **names: str) -> None:
    """Raise unless each `group[key]` is a finite number ≥ 0; `key=name`, the name for the text."""
    for key, name in names.items():
        if not 0 <= group[key] < math.inf:
            raise ValueError(
                f"Invalid {name} value: {group[key]} ({key} must be a finite number ≥ 0)"
            )


def in_range(group: dict, **names: str) -> None:
    """Raise unless each `group[key]` lies in [0, 1); `key=name`, the name for the text."""
    for key, name in names.items():
        if not 0 <= group[key] < 1:
            raise ValueError(f"Invalid {name} value: {group[key]} ({key} must lie in [0, 1))")


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
