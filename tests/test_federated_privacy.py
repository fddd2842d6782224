"""Clipped and noised rounds, and their ε, against formulas written out and published numbers."""

import io
import warnings

import pytest
import torch

from optcore import rules
from optcore.federated import FedAvg, iid
from optcore.federated.privacy import DPFedAvg, epsilon
from optcore.problems import LogisticRegression
from optcore.run import run

N, K = 120, 12
SETTINGS = {"lr": 0.5, "epochs": 2, "batch": 4}


def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    return LogisticRegression(x, torch.arange(N) % 3, l2=0.01)


def private(seed=1, **options):
    options = {"rate": 1.0, "clip": 0.1, "noise": 0.0, **SETTINGS, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = problem()
        return DPFedAvg(p, options.pop("parts", iid(p.y, K)), seed=seed, **options)


def one_round(federated, rounds=1):
    return run(federated, rules.sgd, lr=1.0, steps=rounds).w


def updates(federated):
    """Return w_k − w of each client in the first round, by federations of one."""
    p = federated.problem
    moved = []
    for k in range(len(federated.parts)):
        w = p.start
        for batch in federated.work_of(k, 1):
            w = w - SETTINGS["lr"] * p.gradient(w, batch)
        moved.append(w - p.start)
    return torch.stack(moved)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_each_update_is_clipped_by_its_own_length_before_the_sum():
    federated = private(clip=0.9)
    each = updates(federated)
    lengths = each.norm(dim=1, keepdim=True)
    assert lengths.min() < 0.9 < lengths.max()
    clipped = each * torch.where(lengths > 0.9, 0.9 / lengths, 1.0)
    close(one_round(federated), clipped.sum(0) / K)


def test_one_client_moves_the_sum_by_the_clip_at_most_whatever_it_sends():
    with_it = private(hostile={3: lambda update: 1e9 * update}, clip=0.01)
    without = private(hostile={3: lambda update: 0 * update}, clip=0.01)
    change = (one_round(with_it) - one_round(without)).norm() * K
    close(change, torch.tensor(0.01, dtype=torch.float64))


def test_a_wide_clip_and_equal_parts_are_federated_averaging():
    p = problem()
    close(one_round(private(clip=1e3), 4), one_round(FedAvg(p, iid(p.y, K), seed=1, **SETTINGS), 4))


def test_clients_weigh_the_same_whatever_they_hold():
    uneven = list(torch.arange(N).split([5, 10, 15, 30, 60]))
    federated = private(parts=uneven, clip=1e3)
    close(one_round(federated), updates(federated).sum(0) / 5)


def test_the_divisor_is_the_expected_number_and_who_takes_part_is_poisson():
    federated = private(rate=0.3, clip=1e3)
    like = federated.problem.start
    cohorts = [federated.draw(t, like).clients.tolist() for t in range(1, 2001)]
    sizes = torch.tensor([float(len(c)) for c in cohorts])
    assert abs(sizes.mean() - 0.3 * K) < 4 * (K * 0.3 * 0.7 / 2000) ** 0.5
    assert 0.85 < sizes.var() / (K * 0.3 * 0.7) < 1.15  # a fixed size would have none
    each = updates(federated)
    close(one_round(federated), each[cohorts[0]].sum(0) / (0.3 * K))


def test_the_noise_has_the_size_of_the_clip_and_is_divided_with_the_sum():
    p = problem()
    w = p.start.expand(4000, -1)
    federated = private(rate=0.3, clip=0.2, noise=1.5)
    still = private(rate=0.3, clip=0.2, noise=0.0)
    noise = one_round_of_rows(federated, w) - one_round_of_rows(still, w)
    assert noise.std() == pytest.approx(1.5 * 0.2 / (0.3 * K), rel=0.02)
    assert abs(noise.mean()) < 4 * noise.std() / noise.numel() ** 0.5
    correlation = torch.corrcoef(noise[:2000, :2].T)[0, 1]
    assert abs(correlation) < 0.1
    rounds = torch.stack([federated.draw(t, w[:2]).noise for t in range(1, 6)])
    assert len(rounds.flatten().unique()) == rounds.numel()


def one_round_of_rows(federated, w):
    return run(federated, rules.sgd, lr=1.0, steps=1, w=w).w


def test_a_secret_seed_is_new_for_each_run_and_travels_in_the_checkpoint():
    p = problem()
    federated = DPFedAvg(p, iid(p.y, K), rate=0.5, clip=0.1, noise=1.0, **SETTINGS)
    whole = run(federated, rules.sgd, lr=1.0, steps=3)
    assert not torch.equal(whole.w, run(federated, rules.sgd, lr=1.0, steps=3).w)
    file = io.BytesIO()
    torch.save(run(federated, rules.sgd, lr=1.0, steps=2).checkpoint, file)
    seed = federated.seed
    ends = []
    for _ in range(2):
        file.seek(0)
        other = DPFedAvg(p, iid(p.y, K), rate=0.5, clip=0.1, noise=1.0, **SETTINGS)
        resume = torch.load(file, weights_only=True)
        ends.append(run(other, rules.sgd, lr=1.0, steps=4, resume=resume).w)
        assert other.seed == seed > 2**64
    assert torch.equal(*ends)


def test_a_seed_warns_and_no_seed_does_not():
    p = problem()
    settings = {"rate": 0.5, "clip": 0.1, "noise": 1.0, **SETTINGS}
    with pytest.warns(UserWarning, match="who knows the seed subtracts the noise"):
        DPFedAvg(p, iid(p.y, K), seed=0, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DPFedAvg(p, iid(p.y, K), **settings)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"clip": None}, "clip must be given: an update without a bound"),
        ({"clip": 0}, "clip must be a finite number above 0, got 0"),
        ({"rate": 0}, r"rate must lie in \(0, 1\], got 0"),
        ({"rate": 1.5}, r"rate must lie in \(0, 1\], got 1.5"),
        ({"noise": -1}, "noise must be a finite number ≥ 0, got -1"),
        ({"cohort": 3}, "cohort must be left out"),
        ({"aggregate": None}, "aggregate must be left out"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(ValueError, match=words):
        private(**options)


@pytest.mark.parametrize(
    "noise, rate, rounds, rdp, pld", [(1.1, 0.01, 1000, 1.7118, 1.5154), (1, 1, 50, 57.30, 54.38)]
)
def test_published_values(noise, rate, rounds, rdp, pld):
    settings = {"rounds": rounds, "rate": rate, "noise": noise, "delta": 1e-5}
    assert epsilon(**settings, accountant="rdp") == pytest.approx(rdp, rel=1e-3)
    assert epsilon(**settings) == pytest.approx(pld, rel=1e-3)


def test_the_gaussian_mechanism_in_closed_form():
    """One round of everybody is the Gaussian mechanism: Balle and Wang (2018), theorem 8."""
    normal = torch.distributions.Normal(0.0, 1.0)
    noise, delta = 2.0, 1e-3
    low, high = 0.0, 10.0
    for _ in range(60):
        e = (low + high) / 2
        at = [torch.tensor(s / (2 * noise) - e * noise, dtype=torch.float64) for s in (1, -1)]
        found = normal.cdf(at[0]) - torch.tensor(e).double().exp() * normal.cdf(at[1])
        low, high = (e, high) if found > delta else (low, e)
    assert epsilon(rounds=1, rate=1.0, noise=noise, delta=delta) == pytest.approx(low, rel=1e-3)


def test_an_unknown_accountant():
    with pytest.raises(ValueError, match="accountant must be 'rdp' or 'pld', got 'moments'"):
        epsilon(rounds=1, rate=1.0, noise=1.0, delta=1e-5, accountant="moments")


PRIVACY = "federated/privacy.py"
MUTANTS = {
    (PRIVACY, "class DPFedAvg"): [
        ("self.clip / update.norm(dim=1, keepdim=True)", "self.clip / update.norm()"),
        (".clamp(max=1)", ""),
        ("self.noise * self.clip * torch", "self.noise * torch"),
        ("self.noise * self.clip * torch", "self.noise * self.clip / len(self.parts) * torch"),
        ("(self.rate * len(self.parts))", "len(self.parts)"),
        ("(self.rate * len(self.parts))", "weight"),
        ("return (total + sample.noise.to(total))", "return total + sample.noise.to(total)"),
        ("torch.ones_like(self.sizes)", "self.sizes"),
        ("takes_part.nonzero()", "takes_part[:4].nonzero()"),
        ("_generator(t, 0 if self.shared", "_generator(1, 0 if self.shared"),
        ("0 if self.shared else row,", "0,"),
        ("secrets.randbits(128)", "1"),
        ("if self.is_secret:", "if False:"),
        ("if seed is not None:", "if False:"),
        ("if clip is None:", "if False:"),
    ],
    (PRIVACY, "def epsilon"): [
        ("PoissonSampledDpEvent(rate, ", "PoissonSampledDpEvent(1.0, "),
        ("SelfComposedDpEvent(one, rounds)", "SelfComposedDpEvent(one, 1)"),
        ('"pld": PLDAccountant', '"pld": RdpAccountant'),
    ],
}  # fmt: skip
