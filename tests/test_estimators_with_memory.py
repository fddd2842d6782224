"""SVRG, SARAH, STORM and SAGA against loops over examples; what they cost; what they refuse."""

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from optcore import rules
from optcore.estimators import SAGA, SARAH, STORM, SVRG, MiniBatch
from optcore.problems import LogisticRegression, Network, Quadratic
from optcore.run import run

N, B, STEPS = 6, 3, 40


def logistic():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    return LogisticRegression(x, torch.tensor([0, 1, 2, 0, 1, 1]), l2=0.1)


def network():
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    return Network(module.double(), logistic().x[:, :2], logistic().y, cross_entropy)


def of_one(problem, w, i):
    return problem.gradient(w, torch.tensor([i]))


def mean(problem, w, batch):
    return sum(of_one(problem, w, i) for i in batch) / len(batch)


# Each reference takes the problem, the iterates so far and the batches so far, of which the last
# belong to this step, and returns z from nothing but gradients of single examples.


def svrg(problem, ws, batches, zs, coefficient=lambda t: 1.0, every=4):
    t = len(ws)
    snapshot = ws[(t - 1) // every * every]
    correction = mean(problem, snapshot, batches[-1]) - mean(problem, snapshot, range(N))
    return mean(problem, ws[-1], batches[-1]) - coefficient(t) * correction


def sarah(problem, ws, batches, zs, every=4):
    if (len(ws) - 1) % every == 0:
        return mean(problem, ws[-1], range(N))
    return mean(problem, ws[-1], batches[-1]) - mean(problem, ws[-2], batches[-1]) + zs[-1]


def storm(problem, ws, batches, zs, a=lambda t: 0.1, gamma=1.0):
    g = mean(problem, ws[-1], batches[-1])
    if len(ws) == 1:
        return g
    a, before = a(len(ws)), mean(problem, ws[-2], batches[-1])
    return a * g + (1 - a) * zs[-1] + gamma * (1 - a) * (g - before)


def saga(problem, ws, batches, zs):
    def last(i):  # the penalty is no part of the table
        seen = [w for w, batch in zip(ws[:-1], batches[:-1], strict=True) if i in batch]
        return of_one(problem, seen[-1], i) - problem.l2 * seen[-1] if seen else 0.0

    w, batch = ws[-1], batches[-1]
    fresh = sum(of_one(problem, w, i) - problem.l2 * w - last(i) for i in batch) / len(batch)
    return fresh + sum(last(i) for i in range(N)) / N + problem.l2 * w


def fall(t):
    return 1 / t


CASES = {
    "SVRG": (lambda p, **o: SVRG(p, B, every=4, **o), svrg),
    "α-SVRG": (
        lambda p, **o: SVRG(p, B, every=4, coefficient=fall, **o),
        lambda *a: svrg(*a, coefficient=fall),
    ),
    "SARAH": (lambda p, **o: SARAH(p, B, every=4, **o), sarah),
    "STORM": (lambda p, **o: STORM(p, B, beta=0.9, **o), storm),
    "MARS": (
        lambda p, **o: STORM(p, B, beta=lambda t: 1 - fall(t), correction=0.3, **o),
        lambda *a: storm(*a, a=fall, gamma=0.3),
    ),
    "SAGA": (lambda p, **o: SAGA(p, B, **o), saga),
}


@pytest.mark.parametrize("make_problem", [logistic, network])
@pytest.mark.parametrize("replace", [True, False], ids=["with replacement", "without"])
@pytest.mark.parametrize("case", CASES)
def test_an_estimate_is_that_of_a_loop_over_examples(case, replace, make_problem):
    make, reference = CASES[case]
    problem = make_problem()
    estimator = make(problem, replace=replace, seed=2)
    w, memory, ws, batches, zs = problem.start + 0.1, None, [], [], []
    for t in range(1, STEPS + 1):
        sample = estimator.draw(t, like=w)
        ws.append(w)
        batches.append((sample[0] if isinstance(sample, tuple) else sample).tolist())
        (z,), memory, _ = estimator.at((w,), sample, memory, t)
        zs.append(reference(problem, ws, batches, zs))
        torch.testing.assert_close(z, zs[-1], rtol=0, atol=1e-12)
        w = w - 0.3 * z
    assert replace == any(len(set(batch)) < B for batch in batches)


@pytest.mark.parametrize("make_problem", [logistic, network])
@pytest.mark.parametrize("name", CASES)
def test_each_place_gets_the_estimate_that_it_would_get_as_the_iterate(name, make_problem):
    problem = make_problem()
    estimator = CASES[name][0](problem)
    w = problem.start + 0.1
    _, memory, _ = estimator.at((w,), estimator.draw(1, like=w), None, 1)
    sample = estimator.draw(2, like=w)

    def copy():
        return tuple(x.clone() for x in memory)

    here, there = w + 0.2, w - 0.3
    both, after, _ = estimator.at((here, there), sample, copy(), 2)
    alone, after_alone, _ = estimator.at((here,), sample, copy(), 2)
    other, _, _ = estimator.at((there,), sample, copy(), 2)
    torch.testing.assert_close(both, alone + other, rtol=0, atol=1e-12)
    # The memory keeps track of the first place only.
    torch.testing.assert_close(after, after_alone, rtol=0, atol=1e-12)
    sample = estimator.draw(5, like=w)  # renews a snapshot
    _, after, _ = estimator.at((here, there), sample, copy(), 5)
    _, after_alone, _ = estimator.at((here,), sample, copy(), 5)
    torch.testing.assert_close(after, after_alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SVRG(p, 2, every=100),
        lambda p: SVRG(p, 2, every=100, coefficient=0.3),
        lambda p: SAGA(p, 2),
    ],
    ids=["SVRG", "α-SVRG", "SAGA"],
)
def test_unbiased_over_every_batch(make):
    problem = logistic()
    estimator = make(problem)
    w, memory = problem.start, None
    for t in range(1, 5):
        (z,), memory, _ = estimator.at((w,), estimator.draw(t, like=w), memory, t)
        w = w - 0.3 * z
    zs = []
    for batch in itertools.product(range(N), repeat=2):
        sample = torch.tensor(batch)
        sample = (sample, False) if isinstance(estimator, SVRG) else sample
        zs.append(estimator.at((w,), sample, tuple(x.clone() for x in memory), 5).z[0])
    torch.testing.assert_close(torch.stack(zs).mean(0), problem.gradient(w), rtol=0, atol=1e-12)
    assert torch.stack(zs).std(0).norm() > 1e-3


@pytest.mark.parametrize("name", ["SVRG", "SARAH", "SAGA"])
def test_linear_convergence_where_a_mini_batch_stalls(name):
    problem = logistic()
    history = run(CASES[name][0](problem), rules.sgd, lr=0.5, steps=3000, every=None)
    assert (history.w - problem.optimum).norm() < 1e-7  # of scikit-learn's
    noisy = run(MiniBatch(problem, B), rules.sgd, lr=0.5, steps=3000, every=None)
    assert (noisy.w - problem.optimum).norm() > 0.1


@pytest.mark.parametrize("shared", [True, False])
def test_loopless_snapshots_come_with_their_probability(shared):
    problem, p, steps = logistic(), 0.2, 2000
    w = problem.start.expand(2, -1)
    history = run(
        SVRG(problem, B, probability=p, shared=shared), rules.sgd, lr=0.1, steps=steps, w=w
    )
    cost = torch.from_numpy(history["evaluations"]).diff()
    assert set(cost.tolist()) == {2 * B, 2 * B + N}
    assert cost[0] == 2 * B + N  # the first step needs one
    renewals = (cost > 2 * B).sum().item()
    assert abs(renewals - p * steps) < 5 * (p * (1 - p) * steps) ** 0.5


def test_what_a_step_costs():
    problem = logistic()

    def costs(make, places=1):
        estimator, memory, spent = make(problem), None, []
        w = (problem.start,) * places
        for t in range(1, 6):
            _, memory, cost = estimator.at(w, estimator.draw(t, like=w[0]), memory, t)
            spent.append(cost)
        return spent

    def svrg(p):
        return SVRG(p, B, every=3)

    def sarah(p):
        return SARAH(p, B, every=3)

    def storm(p):
        return STORM(p, B)

    def saga(p):
        return SAGA(p, B)

    assert costs(svrg) == [N + 2 * B, 2 * B, 2 * B, N + 2 * B, 2 * B]
    assert costs(svrg, 2) == [N + 3 * B, 3 * B, 3 * B, N + 3 * B, 3 * B]
    assert costs(sarah) == [N, 2 * B, 2 * B, N, 2 * B]
    assert costs(sarah, 2) == [2 * N, 3 * B, 3 * B, 2 * N, 3 * B]
    assert costs(storm) == [B] + [2 * B] * 4
    assert costs(storm, 2) == [2 * B] + [3 * B] * 4
    assert costs(saga) == [B] * 5
    assert costs(saga, 2) == [2 * B] * 5


def test_a_checkpoint_outlives_the_run_that_it_resumes():
    problem = logistic()

    def go(steps, resume=None):
        return run(SAGA(problem, B), rules.sgd, lr=0.1, steps=steps, resume=resume)

    half = go(10).checkpoint
    once, again = go(20, half), go(20, half)
    assert torch.equal(once.w, again.w)
    assert torch.equal(once.w, go(20).w)


def test_a_table_holds_residuals_of_a_linear_model_and_gradients_of_a_network():
    for problem, each in ((logistic(), (3,)), (network(), network().start.shape)):
        for rows in ((), (4,), (2, 3)):
            w = problem.start.expand(*rows, *problem.start.shape)
            estimator = SAGA(problem, B)
            table, _ = estimator.at((w,), estimator.draw(1, like=w), None, 1).memory
            assert table.shape == (N, *rows, *each)


def test_too_large_a_table_is_refused_with_its_bytes():
    problem = network()
    d = len(problem.start)
    w = problem.start.expand(5, -1)
    estimator = SAGA(problem, B, max_bytes=1000)
    said = rf"SAGA's table of 6 × 5 × {d} numbers would take {6 * 5 * d * 8:,} bytes"
    with pytest.raises(MemoryError, match=said + ", max_bytes is 1,000"):
        estimator.at((w,), estimator.draw(1, like=w), None, 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: SVRG(p, 2), "either every or probability, and not both"),
        (lambda p: SVRG(p, 2, every=3, probability=0.1), "either every or probability"),
        (lambda p: SVRG(p, 2, every=0), "every must be at least 1, got 0"),
        (lambda p: SVRG(p, 2, probability=0), r"probability must lie in \(0, 1\], got 0"),
        (lambda p: SVRG(p, 2, probability=1.1), r"probability must lie in \(0, 1\], got 1.1"),
        (lambda p: SARAH(p, 2, every=-1), "every must be at least 1, got -1"),
        (lambda p: STORM(p, 2, beta=1.5), r"beta must lie in \[0, 1\], got 1.5"),
        (lambda p: SAGA(p, 0), "size must be at least 1, got 0"),
        (lambda p: SAGA(Quadratic([1.0]), 2), "SAGA needs a finite sum"),
    ],
)
def test_bad_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make(logistic())


# Deliberate mistakes that these tests must catch: see `tests/mutants.py`.
MUTANTS = {
    ("estimators.py", "class SVRG"): [
        ("(t - 1) % self.every == 0", "t == 1"),  # the snapshot is never renewed
        ("(t - 1) % self.every == 0", "t % self.every == 0"),
        (".item() < self.probability", ".item() > self.probability"),
        ("if renew or memory is None", "if renew"),
        ("(at_snapshot - full)", "(full - at_snapshot)"),
        ("(at_snapshot - full)", "at_snapshot"),
        ("_now(self.coefficient, t) * ", ""),
        ("memory = places[0], self", "memory = places[-1], self"),
        ("batch, None, t)", "self.draw(t, places[0])[0], None, t)"),
        ("spent = self.problem.evaluations()", "spent = 0"),
        ("spent + cost", "spent + cost // 2"),
        ("(every is None) == (probability is None)", "False"),
        ("0 < probability <= 1", "0 <= probability <= 1"),
        ("0 < probability <= 1", "0 < probability"),
    ],
    ("estimators.py", "class SARAH"): [
        ("(t - 1) % self.every == 0", "False"),
        ("z + (g - at_last)", "z + (at_last - g)"),
        ("z + (g - at_last)", "(g - at_last)"),
        ("z + (g - at_last)", "g"),
        ("(places[0], z[0])", "(last if memory else places[0], z[0])"),
        ("sample, None, t)\n            z =", "self.draw(t, last), None, t)\n            z ="),
        ("_check_every(every)\n", "\n"),
    ],
    ("estimators.py", "class STORM"): [
        ("beta * z + (1 - beta) * g", "beta * z + g"),
        ("beta * z + (1 - beta) * g", "(1 - beta) * z + beta * g"),
        ("self.correction * beta * (g - at_last)", "self.correction * (g - at_last)"),
        ("self.correction * beta * (g - at_last)", "beta * (g - at_last)"),
        ("self.correction * beta * (g - at_last)", "self.correction * beta * (at_last - g)"),
        ("(places[0], z[0])", "(places[0], z[-1])"),
        ("(*places, last), sample,", "(*places, last), self.draw(t, last),"),
        ("not 0 <= beta <= 1", "False"),
    ],
    ("estimators.py", "class SAGA"): [
        ("change = problem.average(new - old,", "change = problem.average(new,"),
        ("change + mean + problem.l2 * places[0]", "change + problem.l2 * places[0]"),
        ("change + mean + problem.l2 * places[0]", "change + mean"),
        ("there - old, sample) + mean", "there - old, sample)"),
        ("+ mean + problem.l2 * w", "+ mean"),
        ("        table.scatter_(0, own, new)\n", ""),
        ("if not fresh.all():", "if False:"),
        ("change * (len(sample) / problem.n)", "change / problem.n"),
        ("problem.evaluations(sample) * len(places)", "problem.evaluations(sample)"),
        ("if size > self.max_bytes", "if False"),
        ("math.prod(shape) * new.element_size()", "math.prod(shape)"),
        ("if problem.n is None", "if False"),
    ],
    ("estimators.py", "def _first_of_each"): [
        ("ordered[1:] != ordered[:-1]", "ordered[1:] == ordered[:-1]"),
        (".scatter_(0, order, first)", ".copy_(first)"),
    ],
    ("problems.py", "class LogisticRegression"): [
        ("residuals / len(residuals)", "residuals / self.n"),
        (".softmax(-1) - self.targets[sample]", ".softmax(-1)"),
    ],
}
