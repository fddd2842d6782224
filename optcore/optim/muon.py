"""Muon: the rule of `optcore.rules.muon` in place, matrices of one shape at a time."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optcore.optim import adaptive
from optcore.optim.base import (
    PLAIN,
    CheckedOptimizer,
    check_shared,
    is_fake,
    name_of,
    nonnegative,
    state_dtype,
)
from optcore.optim.newton_schulz import iteration, newton_schulz
from optcore.rules.muon import QUINTIC, coefficients_of, normalized, orthogonalize, scale

ADAMW = {
    "lr": 3e-4,
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "weight_decay": 0.1,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}


class Muon(CheckedOptimizer):
    r"""`torch.optim.Muon` for matrices and kernels, with an AdamW for the rest if asked.

    $$B_t = \mu B_{t-1} + (1-\mu) z_t, \qquad D_t = (1-\mu) z_t + \mu B_t, \qquad
      w_{t+1} = w_t - \eta\lambda w_t - \eta\, s \operatorname{orthogonalize}(D_t)$$

    with D_t = B_t unless `nesterov`. The rule is `muon` of `optcore.rules.muon` with `average`.
    Each of a parameter's `blocks` is a matrix of its own, for the scale s too. A parameter without
    entries is left alone.

    Matrices of one shape are orthogonalized together. Where one side is at least twice the other,
    several steps, in bfloat16 two, run on the Gram matrix X Xᵀ before X is formed again:

    $$R_0 = X_0 X_0^\top, \qquad P_k = a_k + b_k R_k + c_k R_k^2, \qquad
      Q_{k+1} = P_k Q_k, \qquad R_{k+1} = P_k R_k P_k, \qquad X_2 = Q_2 X_0$$

    It is the same polynomial with fewer products, rounded otherwise: in bfloat16 singular values
    differ from torch's by a few per cent. All products but X_2 are symmetric: of one with
    512 rows a CPU leaves out a quarter, of larger ones up to a half. Source: Jordan et al. (2024),
    https://kellerjordan.github.io/posts/muon/.

    Args:
        params: tensors, named tensors or groups, as in torch. A group with `"algorithm": "adamw"`
            is AdamW's, with AdamW's arguments; for its defaults see `for_model`.
        lr: η ≥ 0, a number or a tensor with one element.
        weight_decay: λ ≥ 0, decoupled; the unadjusted η multiplies it.
        momentum: μ in [0, 1).
        nesterov: step along D_t.
        ns_coefficients: (a, b, c), or one such triple a step, in the place of `ns_steps`.
        eps: ε ≥ 0; D_t is divided by max(‖D_t‖_F, ε). With 0 no scale is too small.
        ns_steps: from 1 to 99.
        adjust_lr_fn: "original" (that is also `None`), "match_rms_adamw", or "rms_to_rms", which
            torch does not have: the scale s, see `muon` of `optcore.rules.muon`.
        blocks: how a parameter is cut along its first dimension. k: in k equal blocks, each of
            which is the matrix (rows of the block, all other dimensions): 3 for fused (3d, d)
            projections, 1 or its groups for the kernel of a convolution. "each": p[0], p[1], …, as
            experts stacked to (experts, out, in). `None`: p has two dimensions and is one matrix.
            Blocks of different sizes, or side by side along another dimension, are not covered:
            they need parameters of their own.
        method: "newton_schulz", or as in `orthogonalize` "polar_express" or "svd", which take no
            `ns_coefficients`.
        ns_dtype: the iteration's type; bfloat16 as in torch. `None`, and always for "svd": the
            momentum buffer's.
        gram: the form above; otherwise one matrix at a time, in torch's order of products, which in
            bfloat16 gives torch's numbers.
        error_if_nonfinite: as in `SGD`.

    State: `momentum_buffer`, as in torch, in float32 for parameters of half precision. AdamW's
        parameters have AdamW's.

    Raises:
        ValueError, TypeError: a hyper-parameter is out of range, the parameter list is empty, or a
            parameter is no real matrix or does not say which matrices it is.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple = QUINTIC,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        blocks: int | str | None = None,
        method: str = "newton_schulz",
        ns_dtype: torch.dtype | None = torch.bfloat16,
        gram: bool = True,
        error_if_nonfinite: bool = False,
    ):
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "blocks": blocks,
            "method": method,
            "ns_dtype": ns_dtype,
            "gram": gram,
            "error_if_nonfinite": error_if_nonfinite,
            "algorithm": "muon",
        }
        super().__init__(params, defaults)

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        lr: float | Tensor = 1e-3,
        *,
        adamw_lr: float | Tensor = ADAMW["lr"],
        adamw_betas: tuple[float, float] = ADAMW["betas"],
        adamw_eps: float = ADAMW["eps"],
        adamw_weight_decay: float = ADAMW["weight_decay"],
        head: str | tuple[str, ...] | None = None,
        blocks: dict[str, int | str] | None = None,
        **options,
    ) -> Muon:
        """Send hidden matrices and kernels to Muon, all other parameters to AdamW, in one object.

        Muon takes the parameters of two dimensions and the kernels of `nn.Conv1d`, `Conv2d` and
        `Conv3d`, unless one side of the matrix is 1. The three projections of
        `nn.MultiheadAttention`, the gates of torch's recurrent layers and the groups of a kernel
        are matrices of their own, in groups with `blocks`. AdamW keeps from Muon all parameters of
        embeddings, normalizations and heads, and a tensor that serves twice goes to AdamW if one of
        its places does. Frozen parameters are left out. `routing` shows who got what: look there
        for tables that are plain parameters, as learned positions are, and for fused projections in
        an `nn.Linear`. Nothing but you can tell them from matrices, by `head` and by `blocks`.

        Args:
            model: its parameters that require a gradient.
            lr, options: Muon's arguments.
            adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay: AdamW's.
            head: names of modules, or of parameters, that are AdamW's as a whole: those that
                compute the logits, tables that are plain parameters, and by Jordan's advice the
                first kernel of a convolutional network. `None`: the last `nn.Linear` in the order
                of `model.modules()`; `()`: none.
            blocks: the `blocks` of parameters by name: `{"layers.0.qkv.weight": 3}`.

        Raises:
            ValueError: a hyper-parameter is out of range, `head` or `blocks` names nothing, a layer
                is lazy and has not run, or no parameter is left for Muon.
        """
        for name, p in model.named_parameters():
            if is_lazy(p):
                raise ValueError(f"{name} is lazy, it has no shape yet: run one forward pass first")
        own = _parameters(model)
        unknown = [name for name in blocks or () if name not in own]
        if unknown:
            raise ValueError(f"blocks names no parameter of the model: {', '.join(unknown)}")
        kept = _not_for_muon(model, head)
        stacked = _blocks_of(model) | {id(own[name]): k for name, k in (blocks or {}).items()}
        hidden: dict[int | str, list] = {1: []}
        others = []
        for name, p in model.named_parameters():
            if p.requires_grad:
                k = stacked.get(id(p), 1)
                matrix = id(p) not in kept and (p.ndim == 2 or id(p) in stacked)
                matrix = matrix and min(_matrices(p, k)[1:]) > 1
                (hidden.setdefault(k, []) if matrix else others).append((name, p))
        params = [{"params": same, "blocks": k} for k, same in hidden.items() if same]
        if not params:
            raise ValueError("the model has no hidden matrix for Muon: AdamW alone will do")
        adamw = {
            "params": others,
            "algorithm": "adamw",
            "lr": adamw_lr,
            "betas": adamw_betas,
            "eps": adamw_eps,
            "weight_decay": adamw_weight_decay,
        }
        return cls([*params, *([adamw] if others else [])], lr, **options)

    def routing(self) -> str:
        """Return a table of the parameters: algorithm, size, the matrix it is, and name."""
        lines = []
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                size = "×".join(map(str, p.shape))
                if group["algorithm"] == "muon" and p.numel():
                    count, *shape = _matrices(p, group["blocks"])
                    if tuple(shape) != p.shape:
                        times = f"{count} of " if count > 1 else ""
                        size += " = {}{}×{}".format(times, *shape)
                lines.append(f"{group['algorithm']:6} {size:22} {name_of(group, i)}")
        return "\n".join(lines)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; one of AdamW's gets AdamW's defaults."""
        if isinstance(param_group, dict) and param_group.get("algorithm") == "adamw":
            param_group = {**ADAMW, **param_group}
        super().add_param_group(param_group)

    def __setstate__(self, state: dict) -> None:
        """Restore; groups of torch's say nothing of `blocks`: what is here stays."""
        here = getattr(self, "param_groups", state["param_groups"])
        for loaded, group in zip(state["param_groups"], here, strict=True):
            loaded.setdefault("blocks", group.get("blocks"))
        super().__setstate__(state)

    def _check_group(self, group):
        if group["algorithm"] == "adamw":
            check_shared(group)
            adaptive.ADAM.check(group)
            return
        if group["algorithm"] != "muon":
            raise ValueError(f"algorithm must be 'muon' or 'adamw', got {group['algorithm']!r}")
        if isinstance(group["lr"], Tensor) and group["lr"].numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        for key, name in {"lr": "Learning rate", "weight_decay": "weight decay"}.items():
            if not (is_fake(group[key]) or 0 <= group[key] < math.inf):
                raise ValueError(f"{name} should be >= 0 but is: {group[key]} (and finite)")
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"momentum should be >= 0 but is: {group['momentum']} (and below 1)")
        if group["adjust_lr_fn"] not in (None, "original", "match_rms_adamw", "rms_to_rms"):
            raise ValueError(
                f"Adjust learning rate function {group['adjust_lr_fn']} is not supported"
            )
        nonnegative(group, eps="epsilon")
        if not group["ns_steps"] < 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        _coefficients(group)
        blocks = group["blocks"]
        if not (blocks in (None, "each") or (type(blocks) is int and blocks > 0)):
            raise ValueError(f"blocks must be a positive integer, 'each' or None, got {blocks!r}")
        for p in group["params"]:
            if p.is_complex():
                raise TypeError("Muon does not support complex parameters")
            if is_lazy(p):
                raise ValueError("a lazy parameter has no shape yet: run one forward pass first")
            _matrices(p, blocks)

    def _update(self, group, params):
        if group["algorithm"] == "adamw":
            adaptive.ADAM.update(self.state, group, params)
            return
        alike: dict[tuple, list] = {}
        for p in params:
            if p.grad.is_sparse:
                raise RuntimeError("Muon does not support sparse gradients")
            if p.numel() == 0:
                continue
            count, *shape = _matrices(p, group["blocks"])
            B = self._buffer(p)
            if type(p) in PLAIN and group["method"] != "svd":
                parts = zip(*(_parts(x, count) for x in (p, p.grad, B)), strict=True)
                alike.setdefault((*shape, p.dtype, p.device), []).extend(parts)
            else:
                self._update_plainly(group, p, B, count, shape)
        memory: dict[tuple, Tensor] = {}
        for (*shape, _, _), same in alike.items():
            p, _, B = same[0]
            pairs = newton_schulz(
                same,
                partial(_write_direction, group),
                shape,
                _coefficients(group),
                like=B,
                dtype=_iteration_dtype(group, p),
                eps=group["eps"],
                gram=group["gram"],
                memory=memory,
            )
            factor = scale(shape, group["adjust_lr_fn"] or "original")
            for (p, _, _), O in pairs:  # noqa: E741
                _descend(p, _shaped(O, p.shape), group, factor)

    def _update_plainly(self, group, p, B, count, shape):
        # DTensors and fake tensors take no `out` and belong to no batch, of which "svd" has no use.
        ends = []
        for part in _direction(group, p.grad.to(B.dtype), B).chunk(count):
            D = part.reshape(shape)
            if group["method"] == "svd":
                O = orthogonalize(D, "svd")  # noqa: E741
            else:
                X = normalized(D, group["eps"]).to(_iteration_dtype(group, p))
                O = iteration(X, _coefficients(group))  # noqa: E741
            ends.append(O.reshape(part.shape))
        factor = scale(shape, group["adjust_lr_fn"] or "original")
        _descend(p, torch.cat(ends).to(p.dtype), group, factor)

    def _buffer(self, p):
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(
                p.grad, dtype=state_dtype(p), memory_format=torch.preserve_format
            )
        return state["momentum_buffer"]


def _parts(x: Tensor, count: int) -> tuple[Tensor, ...]:
    return (x,) if count == 1 else x.chunk(count)


def _shaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    # To ask is faster than a view.
    return x if x.shape == shape else x.reshape(shape)


def _write_direction(group: dict, part: tuple[Tensor, Tensor, Tensor], room: Tensor) -> None:
    p, z, B = part
    _direction(group, z.to(B.dtype), B, _shaped(room, p.shape))


def _direction(group: dict, z: Tensor, B: Tensor, room: Tensor | None = None) -> Tensor:
    mu = group["momentum"]
    B.lerp_(z, 1 - mu)
    if group["nesterov"]:
        return torch.lerp(z, B, mu, out=room)
    return B if room is None else room.copy_(B)


def _iteration_dtype(group: dict, p: Tensor) -> torch.dtype:
    exact = group["method"] == "svd" or group["ns_dtype"] is None
    return state_dtype(p) if exact else group["ns_dtype"]


def _coefficients(group: dict) -> list[tuple[float, float, float]]:
    method, given = group["method"], group["ns_coefficients"]
    if method in ("svd", "polar_express") and given == QUINTIC:
        given = None  # torch's default, which is no wish
    if method == "svd" and given is None:
        return []
    return coefficients_of(method, given, group["ns_steps"])


def _descend(p: Tensor, O: Tensor, group: dict, factor: float) -> None:  # noqa: E741
    lr, decay = group["lr"], group["weight_decay"]
    if isinstance(lr, Tensor) and (torch.compiler.is_compiling() or is_fake(lr)):
        lr = lr.squeeze()  # reading it would break the graph
        p.mul_(1 - lr * decay).sub_(lr * factor * O)
    else:
        p.mul_(1 - float(lr) * decay).add_(O, alpha=-float(lr) * factor)


def _matrices(p: Tensor, blocks: int | str | None) -> tuple[int, int, int]:
    # How many matrices a parameter is, and their shape.
    if p.ndim < 2:
        raise ValueError(
            f"Muon only supports 2D parameters whereas we found a parameter with size: {p.size()} "
            "(Muon.for_model sends all but matrices to AdamW)"
        )
    if blocks is None and p.ndim > 2 and p.numel():
        raise ValueError(
            f"a parameter of shape {tuple(p.shape)} may be a kernel or a stack of matrices: give "
            'its group blocks=1 for a kernel (or its number of groups), blocks="each" for a stack, '
            "or use Muon.for_model, which asks the modules"
        )
    if blocks == "each":
        return p.shape[0], p.shape[1], math.prod(p.shape[2:])
    blocks = blocks or 1
    if p.shape[0] % blocks:
        raise ValueError(
            f"blocks must divide the first dimension of a parameter: {blocks} does not divide "
            f"{tuple(p.shape)}"
        )
    return blocks, p.shape[0] // blocks, math.prod(p.shape[1:])


def _blocks_of(model: nn.Module) -> dict[int, int]:
    # Also of the tensors that a parametrization, named after its parameter, puts in its place.
    found = {}
    for module in model.modules():
        for name, p in module.named_parameters():
            if p.ndim < 2:
                continue
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and p.ndim > 2:
                found[id(p)] = module.groups
            elif isinstance(module, nn.MultiheadAttention) and "in_proj_weight" in name:
                found[id(p)] = 3
            elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and "weight_" in name:
                # weight_hr, the projection of an LSTM, has fewer rows than one gate.
                found[id(p)] = max(1, p.shape[0] // module.hidden_size)
    return found


def _unwrapped(name: str) -> str:
    # DistributedDataParallel and torch.compile put a wrapper, and its name, around the model.
    return name.removeprefix("module.").removeprefix("_orig_mod.").removeprefix("module.")


def _not_for_muon(model: nn.Module, head: str | tuple[str, ...] | None) -> set[int]:
    modules = {_unwrapped(name): module for name, module in model.named_modules()}
    own = _parameters(model)
    if head is None:
        heads = [m for m in modules.values() if isinstance(m, nn.Linear)][-1:]
        alone = []
    else:
        names = (head,) if isinstance(head, str) else tuple(head)
        unknown = [name for name in names if name not in modules and name not in own]
        if unknown:
            raise ValueError(
                f"head names no module or parameter of the model: {', '.join(unknown)}"
            )
        heads = [modules[name] for name in names if name in modules]
        alone = [own[name] for name in names if name not in modules]
    tables = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
    others = [m for m in modules.values() if isinstance(m, tables)]
    return {id(p) for p in alone} | {
        id(p) for module in [*heads, *others] for p in module.parameters()
    }


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {_unwrapped(n): p for n, p in model.named_parameters(remove_duplicate=False)}
