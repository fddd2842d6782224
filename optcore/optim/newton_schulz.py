"""Newton–Schulz on many matrices of one shape: the fast path of `optcore.optim.Muon`.

`newton_schulz` is all that `Muon` calls for plain tensors. What `orthogonalize` of
`optcore.rules.muon` computes for one matrix it computes with

- batches: small matrices together, large ones one by one;
- the Gram form: several steps on X Xᵀ before X is formed again, where that is fewer products;
- symmetric products on a CPU by panels, half of which are copies;
- memory that all batches of an optimizer's step share.

The gain, in `benchmarks/muon.py` on an Intel CPU: a step takes 0.54, 0.55 and 0.74 of the time of
`torch.optim.Muon` for transformers with d = 128, 256 and 768; in torch's order of products, with
`gram=False`, it takes about as long as torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from optcore.rules.muon import normalized

Steps = list[tuple[float, float, float]]

# Entries that are orthogonalized at once: on a CPU the matrices had better stay in its cache.
BATCH = {"cpu": 2**21}
LARGE_BATCH = 2**24

# The most by which a block of the Gram form may raise a small singular value.
GROWTH = {torch.bfloat16: 12, torch.float16: 12}
LARGE_GROWTH = 1000

# On a CPU a large symmetric product is computed by panels of so many rows, up to the diagonal.
PANEL = 256


def newton_schulz(
    items: Sequence,
    direction: Callable,
    shape: tuple[int, int],
    steps: Steps,
    *,
    like: Tensor,
    dtype: torch.dtype,
    eps: float,
    gram: bool,
    memory: dict,
) -> Iterator[tuple]:
    """Yield each item with its direction, orthogonalized: the polynomial of D / max(‖D‖_F, ε).

    Args:
        items: whatever has a direction.
        direction: writes that of an item into a matrix.
        shape: of the matrices, neither side zero.
        steps: (a, b, c) of each step.
        like: a tensor whose device and type the matrices have.
        dtype: the iteration's.
        eps: ε ≥ 0.
        gram: the Gram form; otherwise one matrix at a time with torch's roundings.
        memory: a dict, empty at first; who calls again with it saves allocations. A matrix that was
            yielded lasts until the next is asked for.
    """
    entries = math.prod(shape)
    size = BATCH.get(like.device.type, LARGE_BATCH) // entries
    size = min(len(items), max(1, size))
    wide = _taken(memory, "D", size * entries, like.dtype, like.device)
    narrow = _taken(memory, "X", size * (entries + _room_of(shape)), dtype, like.device)
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        used = len(batch) * entries
        D = wide[:used].view(len(batch), *shape)
        X, room = narrow[:used].view(len(batch), *shape), narrow[used:]
        for item, d in zip(batch, D.unbind(), strict=True):
            direction(item, d)
        if not eps or dtype is torch.float16:
            # float16 lacks the range, and without ε no scale is too small.
            X.copy_(normalized(D, eps))
        elif gram:
            norms = torch.linalg.vector_norm(D, dim=(1, 2), keepdim=True)
            X.copy_(D.div_(norms.clamp_(min=eps)))
        else:
            # As torch rounds: first the matrix, then its norm.
            norms = torch.stack(torch._foreach_norm(X.copy_(D).unbind()))
            torch._foreach_div_(X.unbind(), norms.clamp_(min=eps).unbind())
        if gram:
            D.copy_(gram_iteration(X, steps, room))
        else:
            D.copy_(torch.stack([iteration(x, steps) for x in X]))
        yield from zip(batch, D.unbind(), strict=True)


def iteration(X: Tensor, steps: Steps) -> Tensor:
    """X ← aX + (bA + cA²)X with A = XXᵀ, for each (a, b, c); on Xᵀ if X is tall."""
    if X.shape[0] > X.shape[1]:
        return iteration(X.mT, steps).mT
    for a, b, c in steps:
        A = X @ X.mT
        A = torch.addmm(A, A, A, beta=b, alpha=c)
        X = torch.addmm(X, A, X, beta=a)
    return X


def gram_iteration(X: Tensor, steps: Steps, room: Tensor | None = None) -> Tensor:
    """Do the same for a batch, several steps at a time on XXᵀ where that is shorter.

    Two steps take 8r + 4 times m³ operations in `iteration` and 4r + 10 here, r = n/m. There a is
    on the diagonal of P and is rounded with it; a step alone rounds as in `iteration`. The result
    lies in `room`, which has `_room_of` entries a matrix.
    """
    room = X.new_empty(len(X) * _room_of(X.shape[1:])) if room is None else room
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


def _room_of(shape: tuple[int, int]) -> int:
    # The entries of the products of `gram_iteration` for one matrix.
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


def _taken(memory: dict, use: str, entries: int, dtype, device) -> Tensor:
    # All batches of a step use this memory, and it comes in two pieces: on a CPU the system takes
    # longer to hand out fresh pages than a pass over them takes, and it takes small pieces back.
    key = (use, dtype, device)
    if key not in memory or len(memory[key]) < entries:
        memory[key] = torch.empty(entries, dtype=dtype, device=device)
    return memory[key]
