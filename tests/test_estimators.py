"""The estimators: unbiased, of the stated variance, drawn as stated, one sample for all places."""

import itertools
from collections import Counter

import pytest
import torch

from optcore.estimators import FullBatch, MiniBatch
from optcore.problems import LogisticRegression, Quadratic, Stream


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
        batch = torch.as_tensor(batch)
        self.drawn.append(tuple(batch.flatten().tolist()))
        return batch


W = torch.linspace(-1, 1, 9, dtype=torch.float64)


def at(estimator, places):
    return estimator.at(places, estimator.draw(1, like=places[0]), None, 1)


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
    z_a, z_b = at(estimator, (a, b)).z
    # The noise is additive: on one sample it cancels.
    torch.testing.assert_close(z_a - z_b, (a - b) @ problem.A)
    fresh = at(estimator, (a, b)).z
    assert not torch.allclose(fresh[0], z_a)

    finite = Scripted()
    at(MiniBatch(finite, 3), (W, W + 1, W + 2))
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
    assert at(estimator, (W,)).evaluations == 4
    assert at(estimator, (W, W)).evaluations == 8
    assert at(MiniBatch(problem, 4), (W.expand(3, -1),)).evaluations == 4  # for one row
    assert at(FullBatch(problem), (W,)).evaluations == 6
    assert at(FullBatch(problem), (W, W, W)).evaluations == 18
    assert at(FullBatch(Quadratic([1.0, 2.0])), (torch.ones(2),)).evaluations == 1


def test_full_batch_at_places():
    problem = Scripted()
    for z, w in zip(at(FullBatch(problem), (W, -W)).z, (W, -W), strict=True):
        torch.testing.assert_close(z, problem.gradient(w))


def test_an_estimate_is_a_function_of_its_arguments():
    estimator = MiniBatch(Scripted(), 2)
    sample, state = estimator.draw(1, like=W), estimator.state_dict()
    once, again = (estimator.at((W,), sample, None, 1) for _ in range(2))
    assert torch.equal(once.z[0], again.z[0])
    assert torch.equal(estimator.state_dict()["generator"], state["generator"])


@pytest.mark.parametrize("make", [Scripted, lambda: Quadratic([1.0, 2.0], noise=1.0)])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_rows_share_a_batch_or_draw_their_own(make, shared):
    problem = make()
    w = problem.start.expand(2, 20, -1) + 1
    z = MiniBatch(problem, 1, shared=shared)(w)
    assert z.shape == w.shape
    # To rounding: a product may take its last rows another way than the first.
    assert torch.allclose(z, z[0, 0].expand_as(z), rtol=1e-12, atol=1e-14) == shared
    # One row alone, or rows that share, see the batches of a run without rows.
    if shared:
        torch.testing.assert_close(z[0, 0], MiniBatch(problem, 1)(w[0, 0]))


def test_rows_with_batches_of_their_own_are_independent():
    problem = Scripted()
    w = W.expand(4000, -1)
    z = MiniBatch(problem, 1)(w)
    full = problem.gradient(W)
    spread = (problem.per_example(W, torch.arange(6)) - full).square().sum(1).mean().sqrt().item()
    # The mean of 4 000 is that of the gradient; five standard errors.
    assert (z.mean(0) - full).norm() < 5 * spread / 4000**0.5
    neighbours = ((z[:-1] - full) * (z[1:] - full)).sum(1).mean()
    assert abs(neighbours) < 5 * spread**2 / 4000**0.5


@pytest.mark.parametrize("make", [Scripted, lambda: Quadratic([1.0, 2.0], noise=1.0)])
def test_draws_start_anew_and_continue_where_they_stood(make):
    problem = make()
    estimator, w = MiniBatch(problem, 2, seed=3), problem.start + 1
    first = [estimator(w) for _ in range(3)]
    state = estimator.state_dict()
    rest = [estimator(w) for _ in range(3)]
    other = MiniBatch(problem, 2)
    other.load_state_dict(state)
    assert all(torch.equal(other(w), z) for z in rest)
    estimator.restart()
    assert all(torch.equal(estimator(w), z) for z in first + rest)


def test_an_estimator_with_a_memory_wants_a_run():
    class Remembers(FullBatch):
        def at(self, places, sample, memory, t):
            return super().at(places, sample, memory, t)._replace(memory=places)

    with pytest.raises(TypeError, match="Remembers keeps a memory from step to step: use `run`"):
        Remembers(Scripted())(W)


@pytest.mark.parametrize("size", [0, -1])
def test_size_must_be_positive(size):
    with pytest.raises(ValueError, match=f"size must be at least 1, got {size}"):
        MiniBatch(Scripted(), size)


def test_a_size_is_given_unless_a_loader_decides():
    with pytest.raises(ValueError, match="size must be at least 1, got None"):
        MiniBatch(Scripted())
    loader = torch.utils.data.DataLoader([(torch.ones(2), 0)] * 5, 3)
    stream = Stream(torch.nn.Linear(2, 2), loader, torch.nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="size of a Stream's batches is its loader's, got 3"):
        MiniBatch(stream, 3)
    estimator = MiniBatch(stream)
    assert [at(estimator, (stream.start,)).evaluations for _ in range(4)] == [3, 2, 3, 2]


def test_size_must_fit_without_replacement():
    with pytest.raises(ValueError, match="size must be at most n = 6 without replacement, got 7"):
        MiniBatch(Scripted(), 7, replace=False)
    assert MiniBatch(Quadratic([1.0]), 7, replace=False).size == 7


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("estimators.py", "def __call__("): [
        ("if estimate.memory is not None:", "if False:"),
    ],
    ("estimators.py", "class FullBatch"): [
        ("for w in places", "for w in places[:1] * len(places)"),
        ("self.problem.evaluations() * len(places)", "self.problem.evaluations()"),
    ],
    ("estimators.py", "class MiniBatch"): [
        ("replace=self.replace)", "replace=True)"),
        ("replace=self.replace)", "replace=False)"),
        ("manual_seed(self.seed)", "manual_seed(0)"),
        ("torch.Generator()", "torch.default_generator"),
        ("draw(self.size,", "draw(1,"),
        ("if self.shared else like", "if not self.shared else like"),
        ("if self.shared else like", "if True else like"),
        ("for w in places)", "for w in places[:1] * len(places))"),
        ("self.problem.evaluations(sample) * len(places)", "self.problem.evaluations(sample)"),
        ("size < 1", "size < 0"),
        ("size > problem.n", "size >= problem.n"),
        ("if size is not None:", "if False:"),
        ("elif size is None or", "elif"),
    ],
    ("estimators.py", '    def restart(self) -> None:\n        """Go back'): [
        ("        self.generator.manual_seed(self.seed)\n", ""),
        ('        self.generator.set_state(state["generator"].cpu())', "        pass"),
    ],
}
