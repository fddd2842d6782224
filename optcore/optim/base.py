"""What every optimizer of the book shares: checked arguments, `step`, the fused kernels' terms."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

# Where torch's fused kernel can be trusted: on the CPU it leaves float16 and bfloat16 as they are
# (torch 2.13, pytorch/pytorch#191763).
FUSED = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "mps": (torch.float32, torch.float16, torch.bfloat16),
}

# Not the subclasses, such as DTensor.
PLAIN = (Tensor, Parameter)

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class CheckedOptimizer(Optimizer):
    """A torch optimizer that checks its arguments and updates one group at a time."""

    def add_param_group(self, param_group: dict) -> None:
        """Add a group, unless its hyper-parameters are wrong."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except Exception:
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

    def load_state_dict(self, state_dict: dict) -> None:
        """Load, as in torch, which shares the state with `state_dict` and rounds it: not here."""
        loaded: dict = {}  # what the user's hooks before this one make of it

        def take(_, final):
            state = tree_map_only(Tensor, torch.clone, final["state"])
            loaded.update(final, state=state)
            return loaded

        def restore(_):
            ids = itertools.chain.from_iterable(g["params"] for g in loaded["param_groups"])
            params = itertools.chain.from_iterable(g["params"] for g in self.param_groups)
            for i, p in zip(ids, params, strict=True):
                dtype = self._state_dtype(p)
                for key, value in loaded["state"].get(i, {}).items():
                    if torch.is_tensor(value) and key != "step" and dtype is not p.dtype:
                        self.state[p][key] = value.to(p.device, dtype)

        hooks = [
            self.register_load_state_dict_pre_hook(take),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def __setstate__(self, state: dict) -> None:
        """Restore; a `state_dict` from torch lacks the arguments that are only ours."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def _check_group(self, group: dict) -> None:
        check_shared(group)
        self._check(group)

    def _check(self, group: dict) -> None:
        """Raise if one of the hyper-parameters that only this optimizer has is out of range."""

    def _state_dtype(self, p: Tensor) -> torch.dtype:
        return state_dtype(p)

    def _update(self, group: dict, params: list[Tensor]) -> None:
        raise NotImplementedError


def kernel_list(p: Tensor, z: Tensor, buffers: tuple | list) -> str | None:
    """Return the list, by device and dtype, that torch's fused kernel may take `p` in, if it may.

    None: the kernel would be wrong on `p`, its gradient `z` or its buffers.
    """
    # The kernel walks through memory in order, whatever the strides, and wants one dtype. A sparse
    # gradient is contiguous in no format. All this is asked of every parameter at every step: a
    # plain loop takes half the time of `all`.
    dtype = p.dtype
    name = _name_of_list(p.device, dtype) if type(p) in PLAIN else None
    if name is None:
        return None
    contiguous = p.is_contiguous()
    for x in (z, *buffers):
        if x.dtype is not dtype:
            return None
        contiguous = contiguous and x.is_contiguous()
    return name if contiguous or _are_channels_last(p, z, *buffers) else None


@functools.cache
def _name_of_list(device: torch.device, dtype: torch.dtype) -> str | None:
    return f"{device} {dtype}" if dtype in FUSED.get(device.type, ()) else None


def refuse_fused(p: Tensor) -> None:
    """Raise where torch refuses `fused=True`; where torch would be wrong, a loop takes over."""
    if p.grad.is_sparse or p.is_complex() or p.device.type not in FUSED:
        raise RuntimeError(
            "`fused=True` requires all the params to be floating point Tensors of supported "
            f"devices: {list(FUSED)}, with dense gradients."
        )


def state_dtype(p: Tensor) -> torch.dtype:
    """float32 for parameters of half precision, otherwise p's own type."""
    return torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype


def subtract(p: Tensor, z: Tensor, lr: float | Tensor) -> None:
    """p ← p − lr z in place."""
    if isinstance(lr, Tensor) and (lr.requires_grad or torch.compiler.is_compiling()):
        # Reading the number would cut autograd's graph, or break the compiler's. Autograd comes
        # back for z, which may be a buffer that has changed by then.
        z = z.clone() if lr.requires_grad else z
        p.addcmul_(z, lr.squeeze().to(p.device, z.dtype), value=-1)
    else:
        p.add_(z, alpha=-float(lr))


def name_of(group: dict, i: int) -> str:
    """Return the name of the group's i-th parameter, or its place."""
    return group["param_names"][i] if "param_names" in group else f"params[{i}]"


def _are_channels_last(*tensors: Tensor) -> bool:
    form = CHANNELS_LAST.get(tensors[0].ndim)
    return form is not None and all(x.is_contiguous(memory_format=form) for x in tensors)


def check_shared(group: dict) -> None:
    """Raise if a hyper-parameter that every group has is out of range."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not 0 <= lr < math.inf:
        raise ValueError(f"Invalid learning rate: {lr} (lr must be a finite number ≥ 0)")
    nonnegative(group, weight_decay="weight_decay")
    if group.get("fused") and group.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if group.get("fused") and group.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")


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
                f"The gradient of {name_of(group, i)} holds NaN or infinity: it must be finite"
            )
