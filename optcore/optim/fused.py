"""Fast paths: torch's fused kernels, where they may be called, and RMSprop by hand.

A kernel reads and writes each number once; on a CPU the rule, applied to pieces that fit the cache,
takes four to seven times as long. `benchmarks/optimizers.py` compares both with torch's own ways.
The kernels count no steps and do not tell autograd that they wrote: that is done here.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from optcore.optim.base import PLAIN

# Where torch's fused kernel can be trusted: on the CPU it leaves float16 and bfloat16 as they are
# (torch 2.13, pytorch/pytorch#191763).
FUSED = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "mps": (torch.float32, torch.float16, torch.bfloat16),
}

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_wanted(group: dict) -> bool:
    """Return whether the arguments allow a kernel; `torch.compile` makes its own."""
    no = group.get("fused") is False or group.get("foreach") or group.get("differentiable")
    return not no and not torch.compiler.is_compiling()


def refuse_fused(p: Tensor) -> None:
    """Raise where torch refuses `fused=True`; where torch would be wrong, a loop takes over."""
    if p.grad.is_sparse or p.is_complex() or p.device.type not in FUSED:
        raise RuntimeError(
            "`fused=True` requires all the params to be floating point Tensors of supported "
            f"devices: {list(FUSED)}, with dense gradients."
        )


def kernel_list(p: Tensor, z: Tensor, buffers: tuple | list) -> str | None:
    """Return the list, by device and dtype, that torch's fused kernel may take `p` in, if it may.

    None: the kernel would be wrong on `p`, its gradient `z` or its buffers.
    """
    # The kernel walks through memory in order, whatever the strides, and wants one dtype. A sparse
    # gradient is contiguous in no format. All this is asked of every parameter at every step: a
    # plain loop takes half the time of `all`.
    dtype = p.dtype
    plain = type(p) in PLAIN and not p.is_neg() and not z.is_neg()
    name = _name_of_list(p.device, dtype) if plain else None
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


def _are_channels_last(*tensors: Tensor) -> bool:
    form = CHANNELS_LAST.get(tensors[0].ndim)
    return form is not None and all(x.is_contiguous(memory_format=form) for x in tensors)


def sgd(group: dict, params: list[Tensor], buffers: list[Tensor], *, first: bool) -> None:
    """Step with parameters of one list; `buffers`, empty without momentum, are filled at first."""
    torch._fused_sgd_(
        params,
        [p.grad for p in params],
        buffers,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=first,
    )
    torch.autograd.graph.increment_version([*params, *buffers])


def adagrad(group: dict, rows: list[tuple]) -> None:
    """Step with parameters of one list, a row each: p, gradient, state and sum."""
    params, grads, sums, steps = _counted(rows)
    torch._fused_adagrad_(
        params,
        grads,
        sums,
        steps,
        lr=float(group["lr"]),
        lr_decay=group["lr_decay"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
    torch.autograd.graph.increment_version([*params, *sums])


def adam(group: dict, rows: list[tuple], *, decoupled: bool) -> None:
    """Step with parameters of one list, a row each: p, gradient, state, m, v and perhaps max v."""
    params, grads, *buffers, steps = _counted(rows)
    m, v, v_max = buffers if group["amsgrad"] else [*buffers, []]
    beta1, beta2 = group["betas"]
    kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
    kernel(
        params,
        grads,
        m,
        v,
        v_max,
        steps,
        lr=group["lr"],
        beta1=float(beta1),
        beta2=float(beta2),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )
    torch.autograd.graph.increment_version([*params, *m, *v, *v_max])


def rmsprop(group: dict, rows: list[tuple]) -> None:
    """Step with parameters of one list, a row each: p, gradient, state, v and perhaps b, m."""
    params, grads, *buffers, steps = _counted(rows)
    if group["momentum"] or group["centered"]:
        # On a CPU one tensor at a time: its one temporary stays in the cache.
        lists = (params, grads, *buffers)
        pieces = zip(*([[x] for x in xs] for xs in lists), strict=True)
        for piece in pieces if params[0].is_cpu else [lists]:
            _rmsprop_in_place(group, *piece)
        return
    # torch has no kernel for RMSprop, but v_t / (1−α) = α v_{t−1} / (1−α) + z_t² is Adagrad's
    # sum, and z / (√v + ε) = (z / √(1−α)) / (√(v / (1−α)) + ε / √(1−α)). It takes 0.4 of the time
    # of torch's best for 20 tensors of a million, 0.8 for 500 of 40 000. With α = 0.99 it
    # overflows a tenth earlier in z than the other form: at 2e18 in float32.
    (v,), rest = buffers, 1 - group["alpha"]
    torch._foreach_mul_(v, group["alpha"] / rest)
    torch._fused_adagrad_(
        params,
        grads,
        v,
        steps,
        lr=float(group["lr"]) / rest**0.5,
        lr_decay=0,
        weight_decay=group["weight_decay"],
        eps=group["eps"] / rest**0.5,
        maximize=group["maximize"],
    )
    torch._foreach_mul_(v, rest)
    torch.autograd.graph.increment_version(params)


def _rmsprop_in_place(group, params, grads, v, *optional):
    # Adagrad's kernel has no momentum and no average. In place the step takes a quarter of the time
    # of the rule in pieces, and 0.5 to 1.0 of that of torch's best.
    alpha = group["alpha"]
    if group["maximize"]:
        grads = torch._foreach_neg(grads)
    if group["weight_decay"]:
        grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
    torch._foreach_mul_(v, alpha)
    torch._foreach_addcmul_(v, grads, grads, 1 - alpha)
    if group["centered"]:
        m = optional[-1]
        torch._foreach_lerp_(m, grads, 1 - alpha)
        root = torch._foreach_addcmul(v, m, m, -1)
        torch._foreach_clamp_min_(root, 0)  # rounding takes it below
        torch._foreach_sqrt_(root)
    else:
        root = torch._foreach_sqrt(v)
    torch._foreach_add_(root, group["eps"])
    lr = float(group["lr"])
    if group["momentum"]:
        b = optional[0]
        torch._foreach_mul_(b, group["momentum"])
        torch._foreach_addcdiv_(b, grads, root)
        torch._foreach_add_(params, b, alpha=-lr)
    else:
        torch._foreach_addcdiv_(params, grads, root, -lr)


def _counted(rows: list[tuple]) -> tuple[list, ...]:
    """Count the step; return parameters, gradients, a list for each accumulator, and steps."""
    params, grads, states, *buffers = map(list, zip(*rows, strict=True))
    device = params[0].device
    for state in states:
        if state["step"].device != device:
            state["step"] = state["step"].to(device)
    steps = [state["step"] for state in states]
    if params[0].is_cpu:
        # `alpha` picks the overload for a tensor: the other one takes four times as long.
        torch._foreach_add_(steps, torch.ones((), device="cpu"), alpha=1)
    else:
        torch._foreach_add_(steps, 1)
    return params, grads, *buffers, steps
