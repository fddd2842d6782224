"""What every optimizer of the book shares: checked arguments, `step`, and loading."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

# Not the subclasses, such as DTensor.
PLAIN = (Tensor, Parameter)


class CheckedOptimizer(Optimizer):
    """A torch optimizer that checks its arguments and updates one group at a time."""

    def __init__(self, params, defaults: dict):
        _read_numpy(defaults)
        # Before the parameters, which a generator gives only once.
        self._check_group({**defaults, "params": []})
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group, unless its hyper-parameters are wrong."""
        super().add_param_group(param_group)
        try:
            _read_numpy(self.param_groups[-1])
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
        self._read_groups()
        self._check_gradients()
        for group in self.param_groups:
            with torch.set_grad_enabled(group.get("differentiable", False)):
                self._update(group, [p for p in group["params"] if p.grad is not None])
        return loss

    def state_dict(self) -> dict:
        """Return the state and the groups, as in torch; NumPy's numbers become Python's."""
        self._read_groups()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Load, as in torch, which shares the state with `state_dict` and rounds it: not here.

        Raises:
            ValueError: the groups are not torch's, or those of another optimizer.
        """
        loaded: dict = {}  # what the user's hooks before this one make of it

        def take(_, final):
            self._check_loaded(final["param_groups"])
            state = tree_map_only(Tensor, torch.clone, final["state"])
            loaded.update(final, state=state)
            return loaded

        def restore(_):
            ids = itertools.chain.from_iterable(g["params"] for g in loaded["param_groups"])
            params = itertools.chain.from_iterable(g["params"] for g in self.param_groups)
            for i, p in zip(ids, params, strict=True):
                for key, value in loaded["state"].get(i, {}).items():
                    if torch.is_tensor(value) and key != "step":
                        self.state[p][key] = self._loaded(p, value)

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

    def _check_loaded(self, groups: list[dict]) -> None:
        # Flags are missing where torch was older, or has none. Without a number it is another's,
        # and so is the state.
        numbers = [name for name, x in self.defaults.items() if type(x) in (int, float, tuple)]
        for group in groups:
            if missing := [name for name in numbers if name not in group]:
                raise ValueError(
                    f"The state_dict has no {', '.join(missing)}: it was not made by "
                    f"{type(self).__name__}"
                )

    def _read_groups(self) -> None:
        # The compiler compiles again when what it has looked at changes, were it only the number of
        # a group's entries.
        if not torch.compiler.is_compiling():
            for group in self.param_groups:
                _read_numpy(group)

    def _check_gradients(self) -> None:
        for group in self.param_groups:
            for i, p in enumerate(group["params"] if group["error_if_nonfinite"] else ()):
                if p.grad is not None and not (is_fake(p.grad) or _is_finite(p.grad)):
                    raise ValueError(
                        f"The gradient of {name_of(group, i)} holds NaN or infinity: "
                        "it must be finite"
                    )

    def _loaded(self, p: Tensor, value: Tensor) -> Tensor:
        """Return a tensor of p's state, when it is loaded, on the device and in the type it has."""
        return value.to(p.device, state_dtype(p))

    def _update(self, group: dict, params: list[Tensor]) -> None:
        raise NotImplementedError


def state_dtype(p: Tensor) -> torch.dtype:
    """float32 for parameters of half precision, otherwise p's own type."""
    return torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype


def is_fake(x) -> bool:
    """Return whether `x` is a tensor without values, as tools use that estimate memory."""
    return isinstance(x, FakeTensor) or (isinstance(x, Tensor) and x.is_meta)


def scalar(x: float | Tensor) -> float | Tensor:
    """Return `x`, if a tensor without dimensions: a (1,) would give a parameter one."""
    return x.squeeze() if isinstance(x, Tensor) else x


def exact(p: Tensor) -> torch.dtype:
    """Return float64, which the powers of β need, or what MPS has."""
    return torch.float32 if p.device.type == "mps" else torch.float64


def rate_of(group: dict, p: Tensor) -> Tensor:
    """Return the rate as a tensor without dimensions.

    The rules do not look into tensors: a scheduler's last rate may be -1e-21 by rounding.
    """
    lr = group["lr"]
    return scalar(lr) if isinstance(lr, Tensor) else torch.tensor(lr, dtype=exact(p), device="cpu")


def subtract(p: Tensor, z: Tensor, lr: float | Tensor) -> None:
    """p ← p − lr z in place."""
    if isinstance(lr, Tensor) and (
        lr.requires_grad or torch.compiler.is_compiling() or is_fake(lr)
    ):
        # Reading the number would cut autograd's graph, or break the compiler's. Autograd comes
        # back for z, which may be a buffer that has changed by then.
        z = z.clone() if lr.requires_grad else z
        p.addcmul_(z, lr.squeeze().to(p.device, z.dtype), value=-1)
    else:
        p.add_(z, alpha=-float(lr))


def name_of(group: dict, i: int) -> str:
    """Return the name of the group's i-th parameter, or its place."""
    return group["param_names"][i] if "param_names" in group else f"params[{i}]"


def check_rate(lr: float | Tensor) -> None:
    """Raise unless `lr` is a finite number ≥ 0, or a tensor of one."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not (is_fake(lr) or 0 <= lr < math.inf):
        raise ValueError(f"Invalid learning rate: {lr} (lr must be a finite number ≥ 0)")


def check_shared(group: dict) -> None:
    """Raise if a hyper-parameter that every group has is out of range."""
    check_rate(group["lr"])
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


def _read_numpy(group: dict) -> None:
    # torch's kernels refuse NumPy's numbers, and so do files of weights only.
    for name, value in group.items():
        if name not in ("params", "param_names"):
            group[name] = _without_numpy(name, value)


def _without_numpy(name: str, value):
    if isinstance(value, (np.generic, np.ndarray)):
        if value.size != 1:
            raise ValueError(f"{name} must hold numbers, not a NumPy array of shape {value.shape}")
        return value.item()
    if type(value) in (tuple, list):
        return type(value)(_without_numpy(name, x) for x in value)
    return value


def _is_finite(z: Tensor) -> bool:
    z = z.coalesce().values() if z.is_sparse else z
    # A sum is one reading and no temporaries, and finite only if every term is.
    if z.sum().isfinite():
        return True
    finite = z.isfinite().all()
    # Of a DTensor each process sees its own part: all are to raise, or none.
    return bool(finite.full_tensor() if hasattr(finite, "full_tensor") else finite)
