"""The estimators: unbiased, of the stated variance, drawn as stated, one sample for all places."""

import itertools
from collections import Counter

import pytest
import torch

from optcore.estimators import FullBatch, MiniBatch
from optcore.problems import LogisticRegression, Quadratic


class Scripted(LogisticRegression):
    """Six examples, three classes; draws come from `script`, if any, and are noted in `drawn`."""

    def __init__(self, script=()):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        super().__init__(x, torch.tensor([0, 1, 2, 0, 1, 1]), l2=0.1)
        self.script = iter(script)
        self.drawn = []

    def draw(self, size, generator, *, like, replace):
        batch = next(self.script, None)
        if batch is None:
            batch = super().draw(size, generator, like=like, replace=replace)
        self.drawn.append(tuple(batch.tolist()) if torch.is_tensor(batch) else batch)
        return torch.tensor(self.drawn[-1])


W = torch.linspace(-1, 1, 9, dtype=torch.float64)


@pytest.mark.parametrize("replace", [True, False], ids=["with replacement", "without"])
def test_mean_and_variance_over_every_batch(replace):
    n, size = 6, 3
    batches = (
        list(itertools.product(range(n), repeat=size))
        if replace
        else list(itertools.combinations(range(n), size))
    )
    problem = Scripted(batches)
    estimator = MiniBatch(problem, size, replace=replace)
    z = torch.stack([estimator(W) for _ in batches])
    assert problem.drawn == batches

    full = FullBatch(problem)(W)
    torch.testing.assert_close(z.mean(0), full, rtol=0, atol=1e-12)
    one = (problem.per_example(W, torch.arange(n)) - full).square().sum(1).mean().item()
    expected = one / size * (1 if replace else (n - size) / (n - 1))
    assert (z - full).square().sum(1).mean().item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("replace", [True, False], ids=["with replacement", "without"])
def test_batches_are_drawn_evenly(replace):
    problem, draws = Scripted(), 9000
    estimator = MiniBatch(problem, 2, replace=replace, seed=1)
    for _ in range(draws):
        estimator(W)
    outcomes = (
        list(itertools.product(range(6), repeat=2))
        if replace
        else list(itertools.permutations(range(6), 2))
    )
    counts = Counter(problem.drawn)
    assert set(counts) == set(outcomes)
    expected = draws / len(outcomes)
    chi_square = sum((counts[outcome] - expected) ** 2 / expected for outcome in outcomes)
    # Mean k, standard deviation √(2k) with k degrees of freedom: four of them are far out.
    k = len(outcomes) - 1
    assert abs(chi_square - k) < 4 * (2 * k) ** 0.5


def test_all_examples_without_replacement_are_the_full_batch():
    problem = Scripted()
    torch.testing.assert_close(MiniBatch(problem, 6, replace=False)(W), FullBatch(problem)(W))
    assert sorted(problem.drawn[0]) == list(range(6))
    assert len(MiniBatch(problem, 20)(W)) == 9


def test_one_sample_for_all_places():
    problem = Quadratic([1.0, 3.0], noise=1.0)
    a, b = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    estimator = MiniBatch(problem, 2, seed=4)
    z_a, z_b = estimator.at((a, b))
    # The noise is additive: on one sample it cancels.
    torch.testing.assert_close(z_a - z_b, (a - b) @ problem.A)
    fresh = estimator.at((a, b))
    assert not torch.allclose(fresh[0], z_a)

    finite = Scripted()
    MiniBatch(finite, 3).at((W, W + 1, W + 2))
    assert len(finite.drawn) == 1


@pytest.mark.parametrize("make", [Scripted, lambda: Quadratic([1.0, 2.0], noise=1.0)])
def test_seeds(make):
    problem = make()
    w = problem.start
    z = [MiniBatch(problem, 2, seed=seed) for seed in (0, 0, 1)]
    state = torch.get_rng_state()
    paths = torch.stack([torch.stack([estimator(w) for estimator in z]) for _ in range(8)], 1)
    assert torch.equal(paths[0], paths[1])
    assert not torch.equal(paths[0], paths[2])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(MiniBatch(problem, 2)(w), paths[0][0])
    assert not torch.equal(paths[0][0], paths[0][1])


def test_counts():
    problem = Scripted()
    estimator = MiniBatch(problem, 4)
    estimator(W)
    assert problem.evaluations == 4
    estimator.at((W, W))
    assert problem.evaluations == 12
    FullBatch(problem)(W)
    assert problem.evaluations == 18
    FullBatch(problem).at((W, W, W))
    assert problem.evaluations == 36


def test_full_batch_at_places():
    problem = Scripted()
    for z, w in zip(FullBatch(problem).at((W, -W)), (W, -W), strict=True):
        torch.testing.assert_close(z, problem.gradient(w))


@pytest.mark.parametrize("size", [0, -1])
def test_size_must_be_positive(size):
    with pytest.raises(ValueError, match=f"size must be at least 1, got {size}"):
        MiniBatch(Scripted(), size)


def test_size_must_fit_without_replacement():
    with pytest.raises(ValueError, match="size must be at most n = 6 without replacement, got 7"):
        MiniBatch(Scripted(), 7, replace=False)
    assert MiniBatch(Quadratic([1.0]), 7, replace=False).size == 7


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("estimators.py", "class FullBatch"): [
        ("for w in places", "for w in places[:1] * len(places)"),
        ("return self.problem.gradient(w)", "return self.problem._gradient(w, None)"),
        ("tuple(self.problem.gradient(w) for", "tuple(self.problem._gradient(w, None) for"),
    ],
    ("estimators.py", "class MiniBatch"): [
        ("replace=self.replace)", "replace=True)"),
        ("replace=self.replace)", "replace=False)"),
        ("torch.Generator().manual_seed(seed)", "torch.default_generator"),
        ("manual_seed(seed)", "manual_seed(0)"),
        ("draw(self.size,", "draw(1,"),
        ("self.problem.gradient(w, sample)", "self.problem._gradient(w, sample)"),
        (
            "tuple(self.problem.gradient(w, sample) for w in places)",
            "tuple(self(w) for w in places) if places[1:] else "
            "tuple(self.problem.gradient(w, sample) for w in places)",
        ),
        ("if size < 1", "if size < 0"),
        ("size > problem.n", "size >= problem.n"),
    ],
}
