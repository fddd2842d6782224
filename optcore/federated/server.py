"""Step three of federated averaging: what the server makes of the updates that come back.

An aggregate is a function `(updates, weights) -> update`, of shapes (P, dim), (P,) and (dim,). The
step from there is any rule of the book, with the aggregate as its gradient.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def mean(updates: Tensor, weights: Tensor) -> Tensor:
    r"""Return the weighted mean $\sum_k n_k \Delta_k / \sum_k n_k$.

    Source: McMahan et al. (2017), arXiv:1602.05629.
    """
    return weights @ updates / weights.sum()


def coordinate_median(updates: Tensor, weights: Tensor) -> Tensor:
    """Return the median of each coordinate, the mean of the middle two of an even number.

    The weights are not asked: a client that lies could lie about its n_k, too.
    Source: Yin, Chen, Ramchandran and Bartlett (2018), ICML, arXiv:1803.01498.
    """
    ordered, P = updates.sort(0).values, len(updates)
    return (ordered[(P - 1) // 2] + ordered[P // 2]) / 2


def trimmed_mean(share: float) -> Callable:
    """Return the aggregate that leaves out the largest and the smallest of each coordinate.

    ⌊share · P⌋ of P values go at each end, and the rest is averaged, without weights.
    Source: Yin, Chen, Ramchandran and Bartlett (2018), ICML, arXiv:1803.01498.

    Raises:
        ValueError: `share` does not lie in [0, 1/2).
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"share must lie in [0, 0.5), got {share}.")

    def aggregate(updates: Tensor, weights: Tensor) -> Tensor:
        cut = int(share * len(updates))
        return updates.sort(0).values[cut : len(updates) - cut].mean(0)

    return aggregate
