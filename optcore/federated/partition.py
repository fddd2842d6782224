"""Who holds what: partitions of n labelled examples among K clients, as lists of index tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

REDRAWS = 100


def iid(y: Tensor, clients: int, *, seed: int = 0) -> list[Tensor]:
    """Deal the examples out at random, in parts whose sizes differ by one at most.

    Args:
        y: labels, shape (n,).
        clients: K, from 1 to n.
        seed: of the order.

    Raises:
        ValueError: `clients` is below 1 or above n.
    """
    _check_clients(y, clients)
    return _sorted(torch.tensor_split(_shuffled(len(y), _generator(seed)), clients))


def ring(y: Tensor, clients: int, *, classes_each: int = 2, seed: int = 0) -> list[Tensor]:
    """Give each client exactly k classes, which follow each other on the ring of all classes.

    Client i holds the classes from ⌊i C / K⌋ on, or from i mod C on where there are more clients
    than classes. Those who hold a class share its examples in equal parts.

    Args:
        y: labels 0 … C − 1, shape (n,).
        clients: K.
        classes_each: k, from 1 to C.
        seed: decides which of a class's examples a client gets, not which classes.

    Raises:
        ValueError: `clients` as for `iid`; `classes_each` is not in its range; a class would be
            held by nobody, or has fewer examples than clients that hold it.
    """
    _check_clients(y, clients)
    C = int(y.max()) + 1
    if not 1 <= classes_each <= C:
        raise ValueError(f"classes_each must lie in 1 … {C}, got {classes_each}.")
    first = [i % C if clients > C else i * C // clients for i in range(clients)]
    holders = [[i for i in range(clients) if (c - first[i]) % C < classes_each] for c in range(C)]
    generator, parts = _generator(seed), [[] for _ in range(clients)]
    for c, who in enumerate(holders):
        members = (y == c).nonzero().squeeze(1).cpu()
        if not who:
            raise ValueError(
                f"clients must be more than {clients} with {classes_each} classes each: nobody "
                f"would hold class {c}."
            )
        if len(members) < len(who):
            raise ValueError(
                f"clients must be fewer than {clients}: class {c} has {len(members)} examples for "
                f"{len(who)} of them."
            )
        members = members[_shuffled(len(members), generator)]
        for i, share in zip(who, members.tensor_split(len(who)), strict=True):
            parts[i].append(share)
    return _sorted(torch.cat(part) for part in parts)


def shards(y: Tensor, clients: int, *, shards_each: int = 2, seed: int = 0) -> list[Tensor]:
    """Sort the examples by label, cut them into equal shards, and deal the shards out at random.

    A client of two shards holds one, two, three or even four classes, as it happens.
    Source: McMahan et al. (2017), section 3, arXiv:1602.05629.

    Args:
        y: labels, shape (n,).
        clients: K.
        shards_each: shards for each client.
        seed: of the order within a class, and of the deal.

    Raises:
        ValueError: `clients` as for `iid`; there are fewer examples than shards, or no shards.
    """
    _check_clients(y, clients)
    if not 1 <= shards_each <= len(y) // clients:
        raise ValueError(
            f"shards_each must lie in 1 … {len(y) // clients} for {len(y)} examples and "
            f"{clients} clients, got {shards_each}."
        )
    generator = _generator(seed)
    order = _shuffled(len(y), generator)
    order = order[y.cpu()[order].sort(stable=True).indices]
    cut = order.tensor_split(clients * shards_each)
    deal = _shuffled(len(cut), generator).view(clients, shards_each).tolist()
    return _sorted(torch.cat([cut[j] for j in own]) for own in deal)


def dirichlet(
    y: Tensor, clients: int, *, alpha: float, at_least: int = 1, seed: int = 0
) -> list[Tensor]:
    """Split each class among the clients in shares drawn from a symmetric Dirichlet distribution.

    A small α leaves each class to a few clients, and makes the clients' sizes differ; with α → ∞
    all get the same mixture. The shares are drawn anew until everybody has `at_least` examples.
    Source: Li, Diao, Chen and He (2022), ICDE, section IV, arXiv:2102.02079.

    Args:
        y: labels 0 … C − 1, shape (n,).
        clients: K.
        alpha: α > 0.
        at_least: the smallest number of examples of a client.
        seed: of the draws.

    Raises:
        ValueError: `clients` as for `iid`; `alpha` is not above 0; a hundred draws leave somebody
            with fewer than `at_least` examples.
    """
    _check_clients(y, clients)
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}.")
    chance, labels = np.random.default_rng(seed), y.cpu().numpy()
    for _ in range(REDRAWS):
        parts = [[] for _ in range(clients)]
        for c in np.unique(labels):
            members = chance.permutation(np.flatnonzero(labels == c))
            shares = chance.dirichlet(np.full(clients, alpha))
            ends = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, own in zip(parts, np.split(members, ends), strict=True):
                part.append(own)
        parts = [np.concatenate(part) for part in parts]
        if min(len(part) for part in parts) >= at_least:
            return _sorted(torch.from_numpy(part) for part in parts)
    raise ValueError(
        f"alpha = {alpha} left a client with fewer than at_least = {at_least} examples in each of "
        f"{REDRAWS} draws: take a larger alpha, fewer clients or another seed."
    )


def holdings(parts: list[Tensor], y: Tensor) -> Tensor:
    """Return how many examples of each class each client holds, shape (K, C)."""
    C = int(y.max()) + 1
    return torch.stack([torch.bincount(y[part.to(y.device)], minlength=C) for part in parts]).cpu()


def _check_clients(y: Tensor, clients: int) -> None:
    if not 1 <= clients <= len(y):
        raise ValueError(f"clients must lie in 1 … {len(y)}, got {clients}.")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _shuffled(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator)


def _sorted(parts) -> list[Tensor]:
    return [part.sort().values for part in parts]
