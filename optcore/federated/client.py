"""Step two of federated averaging: what a client does with w, for all of a round at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from optcore.problems import Problem
from optcore.rules.compose import points_of


def batches(part: Tensor, *, epochs: int, size: int | None, generator: torch.Generator):
    """Return the batches of one client: E passes over what it holds, each in an order of its own.

    The last batch of a pass is smaller where `size` does not divide the number of examples: none
    is left out. Without a `size` each pass is one step on everything.
    """
    if size is None:
        return [part] * epochs
    orders = (part[torch.randperm(len(part), generator=generator)] for _ in range(epochs))
    return [batch for order in orders for batch in order.split(size)]


def stack(work: list[list[Tensor]]) -> tuple[Tensor, Tensor | None]:
    """Lay the batches of P clients side by side.

    Returns:
        indices, shape (S, B, P), and weights of the same shape: one over the size of its batch for
        an example, zero for padding. The weights are `None` where nothing is padded.
    """
    sizes = [[batch.numel() for batch in own] for own in work]
    S, B = max(map(len, sizes)), max(map(max, sizes))
    together = torch.cat([batch for own in work for batch in own])
    if together.numel() == len(work) * S * B:
        return together.view(len(work), S, B).movedim(0, -1), None
    sizes = torch.tensor([own + [0] * (S - len(own)) for own in sizes]).unsqueeze(-1)
    used = torch.arange(B) < sizes
    indices = torch.zeros(len(work), S, B, dtype=torch.int64)
    indices[used] = together  # in this order: client, step, example
    weights = used / sizes.clamp(min=1).double()
    return indices.movedim(0, -1), weights.movedim(0, -1)


def train(
    problem: Problem,
    w: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    rule: Callable,
    hyper: Mapping,
    *,
    proximal: float = 0.0,
    correction: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    r"""Train P clients from their rows of `w`, each on its own batches; each row is a client.

    $$w_{k} \leftarrow \text{rule}\bigl(w_k,\;
      \nabla f_{\mathcal B}(w_k) + \mu (w_k - w) + (c - c_k)\bigr)$$

    The second term is FedProx's, the third SCAFFOLD's. The rule begins without a memory in each
    round. A client whose batches are used up stands still while the others go on.
    Sources: McMahan et al. (2017), arXiv:1602.05629; Li et al. (2020), arXiv:1812.06127;
    Karimireddy et al. (2020), arXiv:1910.06378.

    Args:
        problem: a finite sum over the examples of all clients.
        w: what the server sent, shape (P, dim).
        indices, weights: of `stack`.
        rule: of `optcore.rules`, one that treats rows apart, as all of them do.
        hyper: its hyper-parameters; tensors broadcast against `w`.
        proximal: μ ≥ 0.
        correction: c − c_k, shape (P, dim).

    Returns:
        w_k, shape (P, dim), and with a correction the mean of the gradients ∇f_B along the way, of
        the same shape.
    """
    points, start, state = points_of(rule), w, None
    total, steps = 0.0, 0
    for step, batch in enumerate(indices):
        works = True if weights is None else (weights[step].sum(0) > 0).unsqueeze(-1)
        places = points(w, state, **hyper) if points else (w,)
        if weights is None:
            z = [problem.gradient(place, batch) for place in places]
        else:
            z = [problem.weighted_gradient(place, batch, weights[step]) for place in places]
        if correction is not None:
            total, steps = total + z[0] * works, steps + works
            z = [gradient + correction for gradient in z]
        if proximal:
            z = [g + proximal * (place - start) for g, place in zip(z, places, strict=True)]
        moved, state = rule(w, tuple(z) if points else z[0], state, **hyper)
        w = moved if weights is None else torch.where(works, moved, w)
    return w, None if correction is None else total / steps
