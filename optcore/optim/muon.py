"""Muon: the rule of `optcore.rules.muon` in place, matrices of one shape at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

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
from optcore.rules.muon import QUINTIC, coefficients_of, normalized, orthogonalize, scale

# Entries that are orthogonalized at once: on a CPU the matrices had better stay in its cache.
BATCH = {"cpu": 2**21}
LARGE_BATCH = 2**24

# The most by which a block of the Gram form may raise a small singular value.
GROWTH = {torch.bfloat16: 12, torch.float16: 12}
LARGE_GROWTH = 1000

# On a CPU a large symmetric product is computed by panels of so many rows, up to the diagonal.
PANEL = 256

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

    with D_t = B_t unless `nesterov`. The rule is `muon` of `optcore.rules.muon` with `average`. A
    parameter of three dimensions or more, as the kernel of a convolution, is the matrix (out, all
    the others), for the scale s too.

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
            parameter is not a real matrix.
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
        **options,
    ) -> Muon:
        """Send hidden matrices and kernels to Muon, all other parameters to AdamW, in one object.

        Muon takes the parameters of two dimensions and the kernels of `nn.Conv1d`, `Conv2d` and
        `Conv3d`, unless one side of the matrix is 1. AdamW keeps from it all parameters of
        embeddings, normalizations and heads, and a tensor that serves twice goes to AdamW if one of
        its places does. Frozen parameters are left out. `routing` shows who got what.

        Args:
            model: its parameters that require a gradient.
            lr, options: Muon's arguments.
            adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay: AdamW's.
            head: names of modules that are AdamW's as a whole: those that compute the logits, and
                by Jordan's advice the first kernel of a convolutional network. `None`: the last
                `nn.Linear` in the order of `model.modules()`; `()`: none.

        Raises:
            ValueError: a hyper-parameter is out of range, `head` names no module, or no parameter
                is left for Muon.
        """
        kept = _not_for_muon(model, head)
        kernels = {
            id(p)
            for module in model.modules()
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
            for p in module.parameters()  # also those of a parametrization
        }
        groups: dict[str, list] = {"muon": [], "adamw": []}
        for name, p in model.named_parameters():
            if p.requires_grad:
                hidden = p.ndim == 2 or (p.ndim > 2 and id(p) in kernels)
                hidden = hidden and min(_matrix_shape(p)) > 1
                groups["muon" if hidden and id(p) not in kept else "adamw"].append((name, p))
        if not groups["muon"]:
            raise ValueError("the model has no hidden matrix for Muon: AdamW alone will do")
        adamw = {
            "params": groups["adamw"],
            "algorithm": "adamw",
            "lr": adamw_lr,
            "betas": adamw_betas,
            "eps": adamw_eps,
            "weight_decay": adamw_weight_decay,
        }
        params = [{"params": groups["muon"]}, *([adamw] if groups["adamw"] else [])]
        return cls(params, lr, **options)

    def routing(self) -> str:
        """Return a table of the parameters: algorithm, size, the matrix it is, and name."""
        lines = []
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                size = "×".join(map(str, p.shape))
                if group["algorithm"] == "muon" and p.ndim > 2:
                    size += " = {}×{}".format(*_matrix_shape(p))
                lines.append(f"{group['algorithm']:6} {size:22} {name_of(group, i)}")
        return "\n".join(lines)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; one of AdamW's gets AdamW's defaults."""
        if isinstance(param_group, dict) and param_group.get("algorithm") == "adamw":
            param_group = {**ADAMW, **param_group}
        super().add_param_group(param_group)

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
        for p in group["params"]:
            if p.is_complex():
                raise TypeError("Muon does not support complex parameters")
            if p.ndim < 2:
                raise ValueError(
                    "Muon only supports 2D parameters whereas we found a parameter with size: "
                    f"{p.size()} (kernels with more dimensions are matrices here; Muon.for_model "
                    "sends all others to AdamW)"
                )

    def _update(self, group, params):
        if group["algorithm"] == "adamw":
            adaptive.ADAM.update(self.state, group, params)
            return
        alike: dict[tuple, list[Tensor]] = {}
        for p in params:
            if p.grad.is_sparse:
                raise RuntimeError("Muon does not support sparse gradients")
            if type(p) in PLAIN:
                alike.setdefault((_matrix_shape(p), p.dtype, p.device), []).append(p)
            else:
                self._update_sharded(group, p)
        memory: dict[tuple, Tensor] = {}
        for (shape, _, _), same in alike.items():
            self._update_alike(group, shape, same, memory)

    def _update_alike(self, group, shape, params, memory):
        first, entries = params[0], math.prod(shape)
        size = BATCH.get(first.device.type, LARGE_BATCH) // max(1, entries)
        size = min(len(params), max(1, size))
        dtype = _iteration_dtype(group, first)
        wide = _taken(memory, "D", size * entries, state_dtype(first), first.device)
        narrow = _taken(memory, "X", size * (entries + room_of(shape)), dtype, first.device)
        factor = scale(shape, group["adjust_lr_fn"] or "original")
        for start in range(0, len(params), size):
            batch = params[start : start + size]
            used = len(batch) * entries
            D = wide[:used].view(len(batch), *shape)
            X, room = narrow[:used].view(len(batch), *shape), narrow[used:]
            for d, p in zip(D.unbind(), batch, strict=True):
                self._direction(group, p, _shaped(d, p.shape))
            if not group["eps"] or dtype is torch.float16:
                # float16 lacks the range, and without ε no scale is too small.
                X.copy_(normalized(D, group["eps"]))
            elif group["gram"]:
                norms = torch.linalg.vector_norm(D, dim=(1, 2), keepdim=True)
                X.copy_(D.div_(norms.clamp_(min=group["eps"])))
            else:
                # As torch rounds: first the matrix, then its norm.
                norms = torch.stack(torch._foreach_norm(X.copy_(D).unbind()))
                torch._foreach_div_(X.unbind(), norms.clamp_(min=group["eps"]).unbind())
            D.copy_(_orthogonalized(group, X, room))
            for d, p in zip(D.unbind(), batch, strict=True):
                _descend(p, _shaped(d, p.shape), group, factor)

    def _update_sharded(self, group, p):
        # A DTensor, say, which takes no `out` and belongs to no batch: torch's own sequence.
        shape = _matrix_shape(p)
        X = self._direction(group, p, None).reshape(shape).to(_iteration_dtype(group, p))
        X = X / X.norm().clamp(min=max(group["eps"], torch.finfo(X.dtype).tiny))
        if group["method"] == "svd":
            O = orthogonalize(X, "svd")  # noqa: E741
        else:
            O = iteration(X, _coefficients(group))  # noqa: E741
        factor = scale(shape, group["adjust_lr_fn"] or "original")
        _descend(p, O.reshape(p.shape).to(p.dtype), group, factor)

    def _direction(self, group, p, room):
        z = p.grad.to(state_dtype(p))
        state, mu = self.state[p], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(z, memory_format=torch.preserve_format)
        B = state["momentum_buffer"].lerp_(z, 1 - mu)
        if group["nesterov"]:
            return torch.lerp(z, B, mu, out=room)
        return B if room is None else room.copy_(B)


def _taken(memory: dict, use: str, entries: int, dtype, device) -> Tensor:
    # All batches of a step use this memory, and it comes in two pieces: on a CPU the system takes
    # longer to hand out fresh pages than a pass over them takes, and it takes small pieces back.
    key = (use, dtype, device)
    if key not in memory or len(memory[key]) < entries:
        memory[key] = torch.empty(entries, dtype=dtype, device=device)
    return memory[key]


def _shaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    # To ask is faster than a view.
    return x if x.shape == shape else x.reshape(shape)


def _orthogonalized(group: dict, X: Tensor, room: Tensor) -> Tensor:
    if group["method"] == "svd":
        return orthogonalize(X, "svd")
    steps = _coefficients(group)
    if group["gram"]:
        return gram_iteration(X, steps, room)
    return torch.stack([iteration(x, steps) for x in X])


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


def iteration(X: Tensor, steps: list[tuple[float, float, float]]) -> Tensor:
    """X ← aX + (bA + cA²)X with A = XXᵀ, for each (a, b, c); on Xᵀ if X is tall."""
    if X.shape[0] > X.shape[1]:
        return iteration(X.mT, steps).mT
    for a, b, c in steps:
        A = X @ X.mT
        A = torch.addmm(A, A, A, beta=b, alpha=c)
        X = torch.addmm(X, A, X, beta=a)
    return X


def gram_iteration(
    X: Tensor, steps: list[tuple[float, float, float]], room: Tensor | None = None
) -> Tensor:
    """Do the same for a batch, several steps at a time on XXᵀ where that is shorter.

    Two steps take 8r + 4 times m³ operations in `iteration` and 4r + 10 here, r = n/m. There a is
    on the diagonal of P and is rounded with it; a step alone rounds as in `iteration`. The result
    lies in `room`, which has `room_of` entries a matrix.
    """
    room = X.new_empty(len(X) * room_of(X.shape[1:])) if room is None else room
    if len(X) == 1:  # a batch of one is slower than a matrix
        X, product, add_product = X[0], torch.mm, torch.addmm
    else:
        product, add_product = torch.bmm, torch.baddbmm
    m, n = sorted(X.shape[-2:])
    tall = X.shape[-1] == m < n
    square = math.prod(X.shape[:-2]) * m * m
    Y, Z = room[: 2 * X.numel()].view(2, *X.shape)
    R, Q, P, S = room[2 * X.numel() :][: 4 * square].view(4, *X.shape[:-2], m, m)
    blocks = _blocks(steps, X.dtype) if n >= 2 * m else [[step] for step in steps]
    for block in blocks:
        (a, b, c), *others = block
        _symmetric(product, *((X.mT, X) if tall else (X, X.mT)), out=R)
        _symmetric(partial(add_product, beta=b, alpha=c), R, R, R, out=Q)
        if others:
            Q.diagonal(dim1=-2, dim2=-1).add_(a)
        last = Q
        for a_k, b_k, c_k in others:
            _symmetric(product, last, _symmetric(product, R, last, out=S), out=R)
            last = _symmetric(partial(add_product, beta=b_k, alpha=c_k), R, R, R, out=P)
            last.diagonal(dim1=-2, dim2=-1).add_(a_k)
            Q, S = _symmetric(product, last, Q, out=S), Q
        # Q is symmetric but for its rounding, which is harmless where the first P acts first.
        pair = (X, Q.mT) if tall else (Q, X)
        if others:
            product(*pair, out=Y)
        else:
            add_product(X, *pair, beta=a, out=Y)
        X, Y, Z = Y, Z, Y
    return X if X.ndim == 3 else X[None]


def room_of(shape: tuple[int, int]) -> int:
    """Return the entries of the products of `gram_iteration` for one matrix."""
    m, n = sorted(shape)
    return 2 * m * n + 4 * m * m


def _symmetric(product: Callable, A: Tensor, B: Tensor, *added: Tensor, out: Tensor) -> Tensor:
    # A B, which is symmetric, as all polynomials in X Xᵀ are: the other half is a copy.
    m = A.shape[-2]
    if A.device.type != "cpu" or m < 2 * PANEL:
        return product(*added, A, B, out=out)
    for start in range(0, m, PANEL):
        rows, columns = slice(start, start + PANEL), slice(start + PANEL)
        parts = [C[..., rows, columns] for C in added]
        out[..., rows, columns] = product(*parts, A[..., rows, :], B[..., columns])
        out[..., :start, rows] = out[..., rows, :start].mT
    return out


def _blocks(steps: list, dtype: torch.dtype) -> Iterator[list]:
    # An eigenvalue σ² of R below its rounding error is noise, and a block multiplies that σ by up
    # to Q = Π a. What comes out must not exceed 1.26, beyond which the quintic diverges: after
    # three of its steps in bfloat16 it does, for one small matrix in twenty, ten-thousandfold.
    block, growth = [], 1.0
    for step in steps:
        if block and growth * abs(step[0]) > GROWTH.get(dtype, LARGE_GROWTH):
            yield block
            block, growth = [], 1.0
        block, growth = [*block, step], growth * abs(step[0])
    yield block


def _descend(p: Tensor, O: Tensor, group: dict, factor: float) -> None:  # noqa: E741
    lr, decay = group["lr"], group["weight_decay"]
    if isinstance(lr, Tensor) and (torch.compiler.is_compiling() or is_fake(lr)):
        lr = lr.squeeze()  # reading it would break the graph
        p.mul_(1 - lr * decay).sub_(lr * factor * O)
    else:
        p.mul_(1 - float(lr) * decay).add_(O, alpha=-float(lr) * factor)


def _matrix_shape(p: Tensor) -> tuple[int, int]:
    return p.shape[0], math.prod(p.shape[1:])


def _not_for_muon(model: nn.Module, head: str | tuple[str, ...] | None) -> set[int]:
    # DistributedDataParallel and torch.compile put a wrapper, and its name, around the model.
    modules = {
        name.removeprefix("module.").removeprefix("_orig_mod.").removeprefix("module."): module
        for name, module in model.named_modules()
    }
    if head is None:
        heads = [m for m in modules.values() if isinstance(m, nn.Linear)][-1:]
    else:
        names = (head,) if isinstance(head, str) else tuple(head)
        unknown = [name for name in names if name not in modules]
        if unknown:
            raise ValueError(f"head names no module of the model: {', '.join(unknown)}")
        heads = [modules[name] for name in names]
    others = [
        m
        for m in modules.values()
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm))
    ]
    return {id(p) for module in [*heads, *others] for p in module.parameters()}
