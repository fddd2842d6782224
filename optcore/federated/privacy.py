"""Differential privacy of clients: clipped and noised rounds, and what they give away.

The ε of a run comes from `dp-accounting`, an extra: `pip install "optcore[privacy]"`.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from optcore.federated.round import FedAvg, Work
from optcore.problems import Problem


class DPFedAvg(FedAvg):
    r"""A round of federated averaging that hides whether any one client took part.

    $$z = -\frac{1}{qK} \Bigl( \sum_{k \in S} (w_k - w)
      \min\Bigl\{1, \frac{C}{\lVert w_k - w \rVert}\Bigr\} + \mathcal N(0, \sigma^2 C^2 I) \Bigr)$$

    Each client is in S with probability q, whatever the others do: the sampling that the accountant
    assumes. All clients weigh the same, and the divisor is the expected number of them, which is
    public, so that one client more or less moves the sum by C at most. What `epsilon` says holds
    for one row of w: several rows are several runs, and each of them gives something away.
    The noise comes from torch's ordinary generator, in floating point; where an attacker can pay
    for it, use a library whose noise withstands one who knows how it is made.
    Source: McMahan, Ramage, Talwar and Zhang (2018), ICLR, arXiv:1710.06963, algorithm 1.

    Args:
        problem, parts, lr: as for `FedAvg`, and so are the other options but for `cohort` and
            `aggregate`.
        rate: q in (0, 1].
        clip: C > 0, the longest update of a client that counts in full.
        noise: σ ≥ 0, the noise multiplier; 0 only clips.
        seed: of everything that is drawn. Without it each run takes a secret one from the operating
            system. Whoever knows the seed can subtract the noise: giving one is for experiments,
            and warns. A checkpoint holds it, and is to be kept as secret as the data.

    Raises:
        ValueError: as for `FedAvg`; a number is out of its range; there is noise, and no clip;
            `cohort` or `aggregate` is given.
    """

    def __init__(
        self,
        problem: Problem,
        parts: Sequence[Tensor],
        *,
        lr,
        rate: float,
        noise: float,
        clip: float | None = None,
        seed: int | None = None,
        **options,
    ):
        if clip is None:
            raise ValueError(
                "clip must be given: an update without a bound stands out of any noise, so that "
                "noise alone gives no privacy."
            )
        if not 0 < clip < math.inf:
            raise ValueError(f"clip must be a finite number above 0, got {clip}.")
        if not 0 < rate <= 1:
            raise ValueError(f"rate must lie in (0, 1], got {rate}.")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a finite number ≥ 0, got {noise}.")
        for name in ("cohort", "aggregate"):
            if name in options:
                raise ValueError(f"{name} must be left out: the accountant assumes rate and a sum.")
        if seed is not None:
            warnings.warn(
                "a DPFedAvg with a seed is an experiment: who knows the seed subtracts the noise.",
                stacklevel=2,
            )
        self.is_secret = seed is None
        super().__init__(problem, parts, lr=lr, seed=seed, **options)
        self.rate = rate
        self.noise = noise
        self.clip = clip
        self.restart()

    def restart(self) -> None:
        """Take another secret seed, if none was given."""
        if self.is_secret:
            self.seed = secrets.randbits(128)

    def draw(self, t: int, like: Tensor) -> Work:
        """Draw the cohorts, the batches, and the noise of each row's sum."""
        shape, noise = like.reshape(-1, like.shape[-1]).shape, []
        for row in range(shape[0]):
            # No client's place: those have three numbers.
            chance = self._generator(t, 0 if self.shared else row, 0, 0)
            noise.append(torch.randn(shape[1], generator=chance, dtype=torch.float64))
        return super().draw(t, like)._replace(noise=self.noise * self.clip * torch.stack(noise))

    def _cohort(self, chance):
        takes_part = torch.rand(len(self.parts), generator=chance, dtype=torch.float64) < self.rate
        return takes_part.nonzero().squeeze(1).tolist()

    def _importance(self):
        return torch.ones_like(self.sizes)

    def _sent(self, update, clients):
        update = super()._sent(update, clients)
        return update * (self.clip / update.norm(dim=1, keepdim=True)).clamp(max=1)

    def _average(self, total, weight, sample):
        return (total + sample.noise.to(total)) / (self.rate * len(self.parts))


def epsilon(
    *, rounds: int, rate: float, noise: float, delta: float, accountant: str = "pld"
) -> float:
    """Return the ε of `rounds` rounds of `DPFedAvg` at this δ, for adding or removing one client.

    Args:
        rounds: T ≥ 1.
        rate: q in (0, 1].
        noise: σ > 0.
        delta: δ in (0, 1); below one over the number of clients, or it allows to publish one.
        accountant: "rdp", Rényi differential privacy (Mironov, 2017, arXiv:1702.07476), or "pld",
            privacy loss distributions (Koskela, Jälkö and Honkela, 2020, arXiv:1906.03049), which
            is tight up to its grid.

    Raises:
        ImportError: `dp-accounting` is not installed.
        ValueError: `accountant` is not one of the two.
    """
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
        from dp_accounting.rdp import RdpAccountant
    except ImportError as error:
        raise ImportError('epsilon needs dp-accounting: pip install "optcore[privacy]".') from error
    accountants = {"rdp": RdpAccountant, "pld": PLDAccountant}
    if accountant not in accountants:
        raise ValueError(f"accountant must be 'rdp' or 'pld', got {accountant!r}.")
    one = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    event = dp_accounting.SelfComposedDpEvent(one, rounds)
    return float(accountants[accountant]().compose(event).get_epsilon(delta))
