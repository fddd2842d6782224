"""The problems: gradients against autograd, optima, evaluation counts, bad input."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from optcore.problems import (
    LogisticRegression,
    Network,
    Objective,
    Quadratic,
    QuantileSearch,
    Stream,
)

FLOAT64 = torch.float64


def examples(n=12, pixels=4, classes=3):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(n, pixels, generator=generator, dtype=FLOAT64)
    return x, torch.arange(n) % classes


def logistic(l2=0.1, **sizes):
    return LogisticRegression(*examples(**sizes), l2=l2)


def network():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return Network(layers.double(), *examples(), cross_entropy)


def least_squares():
    x, _ = examples()
    return Objective(
        lambda w, i: (x[i] @ w - 1).square().mean(), torch.zeros(4, dtype=FLOAT64), n=len(x)
    )


PROBLEMS = {
    "quadratic": lambda: Quadratic([3.0, 1.0, 0.0], optimum=[1.0, -1.0, 2.0], rotation_seed=1),
    "quantile": lambda: QuantileSearch(0.8, start=-0.7),
    "logistic": logistic,
    "objective": lambda: Objective(lambda w: (w**4).sum(), torch.ones(3, dtype=FLOAT64)),
    "finite sum": least_squares,
    "network": network,
}
FINITE_SUMS = {name: PROBLEMS[name] for name in ("logistic", "finite sum", "network")}

every_problem = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
every_finite_sum = pytest.mark.parametrize("make", FINITE_SUMS.values(), ids=FINITE_SUMS)


def somewhere(problem):
    generator = torch.Generator().manual_seed(3)
    return problem.start + torch.randn(problem.start.shape, generator=generator, dtype=FLOAT64)


# --- gradients


@every_problem
def test_gradient_is_the_derivative_of_the_loss(make):
    problem = make()
    w = somewhere(problem)
    by_autograd = torch.autograd.functional.jacobian(problem.loss, w)
    torch.testing.assert_close(problem.gradient(w), by_autograd, rtol=1e-10, atol=1e-12)
    e, h = torch.randn(w.shape, generator=torch.Generator().manual_seed(1), dtype=FLOAT64), 1e-5
    by_difference = (problem.loss(w + h * e) - problem.loss(w - h * e)) / (2 * h)
    assert (problem.gradient(w) * e).sum().item() == pytest.approx(by_difference.item(), rel=1e-6)


@every_finite_sum
def test_per_example_gradients_average_to_the_gradient(make):
    problem = make()
    w = somewhere(problem)
    rows = problem.per_example(w, torch.arange(problem.n))
    assert rows.shape == (problem.n, *w.shape)
    torch.testing.assert_close(rows.mean(0), problem.gradient(w), rtol=1e-10, atol=1e-13)
    batch = torch.tensor([3, 3, 7])
    torch.testing.assert_close(problem.gradient(w, batch), rows[batch].mean(0))
    torch.testing.assert_close(problem.per_example(w, batch), rows[batch])
    assert not torch.allclose(rows[3], rows[7])


@every_finite_sum
def test_evaluations_of_a_finite_sum(make):
    problem = make()
    assert problem.evaluations() == problem.n == 12
    assert problem.evaluations(torch.tensor([1, 5, 5])) == 3
    rows = problem.start.expand(4, -1)
    sample = problem.draw(5, torch.Generator(), like=rows, replace=True)
    assert problem.evaluations(sample) == 5


@every_finite_sum
def test_draws_of_a_finite_sum(make):
    problem, generator = make(), torch.Generator().manual_seed(0)
    replaced = problem.draw(1200, generator, like=problem.start, replace=True)
    assert replaced.bincount(minlength=12).min() > 60
    assert len(replaced) == 1200
    different = problem.draw(12, generator, like=problem.start, replace=False)
    assert different.sort().values.tolist() == list(range(12))


@pytest.mark.parametrize("name", ["quadratic", "quantile", "objective"])
def test_evaluations_without_a_sum(name):
    problem = PROBLEMS[name]()
    assert problem.n is None
    assert problem.evaluations() == 1
    if name != "objective":
        w = problem.start.expand(10, *problem.start.shape)
        sample = problem.draw(3, torch.Generator(), like=w, replace=True)
        assert sample.shape == (3, *w.shape)
        assert problem.evaluations(sample) == 3
        each = problem.per_example(w[0], sample[:, 0])
        torch.testing.assert_close(each.mean(0), problem.gradient(w[0], sample[:, 0]))


# --- quadratic


def test_quadratic_has_its_spectrum():
    problem = Quadratic([0.5, 4.0, 2.0], rotation_seed=3, optimum=[1.0, 2.0, 3.0])
    expected = torch.tensor([0.5, 2.0, 4.0], dtype=FLOAT64)
    torch.testing.assert_close(torch.linalg.eigvalsh(problem.A), expected)
    assert torch.equal(problem.A, problem.A.T)
    assert (problem.smoothness, problem.strong_convexity) == (4.0, 0.5)
    assert problem.gradient(problem.optimum).norm() == 0
    gap = torch.tensor([2.0, -1.0, 0.5], dtype=FLOAT64)
    loss = problem.loss(problem.optimum + gap)
    assert loss.item() == pytest.approx((gap @ problem.A @ gap).item() / 2)


def test_quadratic_noise_has_its_covariance():
    root = torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=FLOAT64)
    problem = Quadratic([1.0, 2.0], noise=root)
    w = problem.start.expand(40_000, -1)
    generator = torch.Generator().manual_seed(0)
    noise = problem.gradient(
        w, problem.draw(1, generator, like=w, replace=True)
    ) - problem.gradient(w)
    torch.testing.assert_close(noise.T @ noise / len(w), root @ root.T, rtol=0, atol=0.03)
    averaged = problem.gradient(
        w, problem.draw(4, generator, like=w, replace=True)
    ) - problem.gradient(w)
    torch.testing.assert_close(averaged.T @ averaged / len(w), root @ root.T / 4, rtol=0, atol=0.01)


def test_scalar_noise_is_a_standard_deviation():
    problem = Quadratic([1.0, 2.0], noise=0.5)
    torch.testing.assert_close(problem.noise_root, 0.5 * torch.eye(2, dtype=FLOAT64))


@every_problem
@pytest.mark.parametrize("leading", [(3,), (2, 2)], ids=str)
def test_batched_iterates_are_rows(make, leading):
    problem = make()
    factors = torch.arange(1.0, 1 + math.prod(leading), dtype=FLOAT64)
    w = torch.stack([f * somewhere(problem) for f in factors]).view(*leading, *problem.start.shape)
    losses, gradients = problem.loss(w), problem.gradient(w)
    assert losses.shape == leading
    assert gradients.shape == w.shape
    every_row = list(itertools.product(*map(range, leading)))
    for i in every_row:
        torch.testing.assert_close(losses[i], problem.loss(w[i]))
        torch.testing.assert_close(gradients[i], problem.gradient(w[i]))
    if isinstance(problem, Objective) and problem.n is None:
        return  # it has no samples
    sample = problem.draw(2, torch.Generator().manual_seed(0), like=w, replace=True)
    noisy = problem.gradient(w, sample)
    for i in every_row:
        own = sample[(slice(None), *i)]
        torch.testing.assert_close(noisy[i], problem.gradient(w[i], own))
    one = problem.draw(2, torch.Generator().manual_seed(1), like=problem.start, replace=True)
    shared = problem.gradient(w, one)
    for i in every_row:
        torch.testing.assert_close(shared[i], problem.gradient(w[i], one))


@every_finite_sum
@pytest.mark.parametrize("replace", [True, False], ids=["with replacement", "without"])
def test_rows_draw_examples_of_their_own(make, replace):
    problem, w = make(), make().start.expand(2, 300, -1)
    sample = problem.draw(3, torch.Generator().manual_seed(0), like=w, replace=replace)
    assert sample.shape == (3, 2, 300)
    batches = sample.flatten(1).T.tolist()
    assert len(set(map(tuple, batches))) > 400
    assert any(len(set(batch)) < 3 for batch in batches) == replace
    assert sample.flatten().bincount(minlength=12).min() > 100


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"spectrum": []}, r"spectrum must be a non-empty vector, got shape \(0,\)"),
        ({"spectrum": [[1.0]]}, r"spectrum must be a non-empty vector, got shape \(1, 1\)"),
        ({"spectrum": [1.0, -1.0]}, "spectrum must hold finite numbers ≥ 0"),
        ({"spectrum": [1.0, math.nan]}, "spectrum must hold finite numbers ≥ 0"),
        ({"spectrum": [1.0, math.inf]}, "spectrum must hold finite numbers ≥ 0"),
        ({"spectrum": [1.0], "optimum": [1.0, 2.0]}, r"optimum has shape \(2,\)"),
        ({"spectrum": [1.0], "start": [1.0, 2.0]}, r"start has shape \(2,\)"),
        ({"spectrum": [1.0, 2.0], "noise": torch.ones(2)}, r"noise must be a number or a \(2, 2\)"),
    ],
)
def test_bad_quadratics(arguments, text):
    with pytest.raises(ValueError, match=text):
        Quadratic(**arguments)


# --- quantile search


@pytest.mark.parametrize(
    ("q", "quantile"), [(0.5, 0.0), (0.975, 1.959963984540054), (0.1, -1.2815515655446004)]
)
def test_quantile_is_the_root(q, quantile):
    problem = QuantileSearch(q)
    assert problem.optimum.item() == pytest.approx(quantile, abs=1e-12)
    assert abs(problem.gradient(problem.optimum).item()) < 1e-12


def test_quantile_noise_has_two_values_and_the_right_mean():
    problem = QuantileSearch(0.7)
    w = torch.tensor(0.4, dtype=FLOAT64)
    x = problem.draw(40_000, torch.Generator().manual_seed(0), like=w, replace=True)
    values = torch.stack([problem.gradient(w, one.unsqueeze(0)) for one in x[:50]])
    torch.testing.assert_close(values.unique(), torch.tensor([-0.7, 0.3], dtype=FLOAT64))
    assert problem.gradient(w, x).item() == pytest.approx(problem.gradient(w).item(), abs=0.01)


@pytest.mark.parametrize("q", [0.0, 1.0, -1.0, math.nan])
def test_bad_quantiles(q):
    with pytest.raises(ValueError, match="q must lie strictly between 0 and 1, got"):
        QuantileSearch(q)


# --- logistic regression


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_logistic_optimum(classes, l2):
    problem = logistic(l2, n=60, classes=classes)
    assert problem.optimum.shape == problem.start.shape
    assert problem.gradient(problem.optimum).norm() < 1e-7
    assert problem.loss(problem.optimum) < problem.loss(problem.start)


def test_logistic_loss_is_as_printed():
    problem = logistic(l2=0.3)
    x, y = examples()
    w = somewhere(problem)
    W = w.view(5, 3)
    p = torch.softmax(x @ W[:4] + W[4], 1)
    expected = -p[torch.arange(12), y].log().mean() + 0.15 * W.square().sum()
    torch.testing.assert_close(problem.loss(w), expected)
    assert problem.accuracy(w, x, y) == pytest.approx((p.argmax(1) == y).double().mean().item())
    assert problem.start.count_nonzero() == 0


def test_logistic_has_no_unique_optimum_without_penalty():
    assert logistic(l2=0.0).optimum is None


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 2, 2], [0, 1, 3]], ids=str)
def test_logistic_optimum_wants_every_class(labels):
    problem = LogisticRegression(torch.randn(3, 2), torch.tensor(labels), l2=0.1)
    with pytest.raises(ValueError, match="classes occur"):
        problem.optimum  # noqa: B018


@pytest.mark.parametrize(
    ("x", "y", "l2", "text"),
    [
        (torch.ones(3, 2), torch.zeros(2, dtype=torch.long), 0, "x must have shape"),
        (torch.ones(3), torch.zeros(3, dtype=torch.long), 0, "x must have shape"),
        (torch.ones(3, 2), torch.zeros(3, 1, dtype=torch.long), 0, "x must have shape"),
        (torch.ones(0, 2), torch.zeros(0, dtype=torch.long), 0, "with n ≥ 1"),
        (torch.ones(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long), 0, "floating point"),
        (torch.ones(3, 2), torch.zeros(3), 0, "y must hold integers from 0 on"),
        (torch.ones(3, 2), torch.tensor([0, -1, 1]), 0, "y must hold integers from 0 on"),
        (torch.ones(3, 2), torch.zeros(3, dtype=torch.long), -1, "l2 must be a finite number ≥ 0"),
        (torch.ones(3, 2), torch.zeros(3, dtype=torch.long), math.nan, "l2 must be a finite"),
    ],
)
def test_bad_logistic_regressions(x, y, l2, text):
    with pytest.raises(ValueError, match=text):
        LogisticRegression(x, y, l2=l2)


# --- objective and network


def test_objective_keeps_start_and_optimum():
    problem = Objective(lambda w: (w - 2).square().sum(), torch.ones(2), optimum=[2, 2])
    assert problem.optimum.dtype == torch.float32
    assert problem.gradient(problem.optimum).norm() == 0
    assert problem.parameter_at(1) == "w[1]"


def test_network_is_its_module():
    problem = network()
    x, y = examples()
    torch.testing.assert_close(problem.predict(problem.start, x), problem.module(x))
    torch.testing.assert_close(problem.loss(problem.start), cross_entropy(problem.module(x), y))
    share = (problem.module(x).argmax(1) == y).double().mean().item()
    assert problem.accuracy(problem.start, x, y) == share


def test_network_leaves_its_module_alone():
    problem = network()
    before = [p.clone() for p in problem.module.parameters()]
    problem.gradient(problem.start + 1)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.module.parameters(), strict=True))
    assert all(p.grad is None for p in problem.module.parameters())


def test_unflatten_is_the_inverse_of_flattening():
    problem = network()
    w = torch.arange(len(problem.start), dtype=FLOAT64)
    pieces = problem.unflatten(w)
    assert {name: p.shape for name, p in pieces.items()} == {
        name: p.shape for name, p in problem.module.named_parameters()
    }
    assert torch.equal(torch.cat([p.flatten() for p in pieces.values()]), w)


def test_parameter_at_names_every_entry():
    problem = network()
    names = [name for name, p in problem.module.named_parameters() for _ in range(p.numel())]
    assert [problem.parameter_at(i) for i in range(len(names))] == names
    with pytest.raises(IndexError, match="beyond the last parameter"):
        problem.parameter_at(len(names))


@pytest.mark.parametrize(("n_x", "n_y"), [(3, 2), (0, 0)])
def test_bad_networks(n_x, n_y):
    with pytest.raises(ValueError, match="x and y must have the same length ≥ 1, got"):
        Network(torch.nn.Linear(2, 1), torch.ones(n_x, 2), torch.ones(n_y), cross_entropy)


# --- stream


class Jittered(torch.utils.data.Dataset):
    """Ten examples, each with a chance of its own whenever it is looked at."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return torch.tensor([float(i), torch.rand(()).item()]), i % 2


def stream(**options):
    torch.manual_seed(0)
    size = {} if "batch_sampler" in options else {"batch_size": 4}
    loader = torch.utils.data.DataLoader(Jittered(), **size, **options)
    return Stream(torch.nn.Linear(2, 2), loader, torch.nn.functional.cross_entropy)


def batches_of(problem, number, generator):
    return [problem.draw(None, generator, like=problem.start, replace=True) for _ in range(number)]


def flat(batches):
    return [x.flatten().tolist() for batch in batches for x in batch]


LOADERS = {
    "in order": dict,
    "shuffled": lambda: {"shuffle": True},
    "with a generator": lambda: {"shuffle": True, "generator": torch.Generator()},
    "with a sampler": lambda: {
        "sampler": torch.utils.data.RandomSampler(range(10), generator=torch.Generator())
    },
    "with a sampler of batches": lambda: {
        "batch_sampler": torch.utils.data.BatchSampler(
            torch.utils.data.RandomSampler(range(10), generator=torch.Generator()), 4, False
        )
    },
    "by a worker": lambda: {"shuffle": True, "num_workers": 1},
}


@pytest.mark.parametrize("options", LOADERS.values(), ids=LOADERS)
def test_a_stream_repeats_its_seed_and_continues_in_the_middle_of_an_epoch(options):
    problem, generator = stream(**options()), torch.Generator().manual_seed(3)
    before = torch.get_rng_state()
    first = batches_of(problem, 5, generator)
    place, state = problem.place, generator.get_state()
    rest = batches_of(problem, 5, generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(y) for _, y in first] == [4, 4, 2, 4, 4]
    assert sorted(torch.cat([x[:, 0] for x, _ in first[:3]]).tolist()) == list(range(10))
    assert len(torch.cat([x[:, 1] for x, _ in first + rest]).unique()) == 34  # of 34 looks

    torch.manual_seed(99)  # the global generator has no say
    problem.seek(None)
    assert flat(batches_of(problem, 10, torch.Generator().manual_seed(3))) == flat(first + rest)
    other = stream(**options())
    other.seek(place)
    generator.set_state(state)
    assert flat(batches_of(other, 5, generator)) == flat(rest)
    other.seek(None)
    assert flat(batches_of(other, 5, torch.Generator().manual_seed(4))) != flat(first)


def test_the_gradient_of_a_stream_is_backwards():
    problem = stream(shuffle=True)
    x, y = sample = batches_of(problem, 1, torch.Generator())[0]
    loss = torch.nn.functional.cross_entropy(problem.module(x), y)
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, problem.module.parameters())]
    )
    torch.testing.assert_close(problem.gradient(problem.start, sample), expected)
    rows = torch.stack([problem.start, 2 * problem.start])
    torch.testing.assert_close(problem.gradient(rows, sample)[0], expected)
    assert problem.evaluations(sample) == 4
    assert problem.per_example(problem.start, sample).shape == (4, 6)


def test_what_a_stream_refuses():
    with pytest.raises(ValueError, match="loader must not have persistent_workers"):
        stream(num_workers=1, persistent_workers=True)
    problem = stream()
    with pytest.raises(ValueError, match="a Stream has no exact gradient: use MiniBatch"):
        problem.gradient(problem.start)
    rows = problem.start.expand(2, -1)
    with pytest.raises(ValueError, match="the rows of w have one loader: say shared=True"):
        problem.draw(None, torch.Generator(), like=rows, replace=True)
    problem.loader = torch.utils.data.DataLoader(Jittered(), 20, drop_last=True)
    with pytest.raises(ValueError, match="loader must give at least one batch an epoch"):
        problem.draw(None, torch.Generator(), like=problem.start, replace=True)
    for example, kind in [({"x": 1.0, "y": 0}, "dict"), (1.0, "Tensor"), ((1.0, 0, 2), "list")]:
        problem.loader = torch.utils.data.DataLoader([example] * 4, 2)
        problem.seek(None)
        with pytest.raises(ValueError, match=rf"must give pairs \(x, y\), it gave a {kind}"):
            problem.draw(None, torch.Generator(), like=problem.start, replace=True)


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("problems.py", "def draw("): [
        ("if replace:", "if not replace:"),
        (
            "torch.randint(self.n, (size, *rows), generator=generator)",
            "torch.randint(self.n - 1, (size, *rows), generator=generator)",
        ),
        ("for _ in range(math.prod(rows))]", "] * math.prod(rows)"),
    ],
    ("problems.py", "def gradient("): [
        ("in_dims=(0, 1)", "in_dims=(0, 0)"),
        ("sample.ndim - 1", "min(1, sample.ndim - 1)"),
    ],
    ("problems.py", "def per_example("): [
        ("x.unsqueeze(0), one", "(0 * x).unsqueeze(0), one"),
    ],
    ("problems.py", "def evaluations("): [
        ("else len(tree_leaves(sample)[0])", "else 1"),
        ("else len(tree_leaves(sample)[0])", "else len(sample)"),
        ("(self.n or 1) if", "1 if"),
    ],
    ("problems.py", "class Quadratic"): [
        ("* gap).sum(-1) / 2", "* gap).sum(-1)"),
        ("sample.mean(0)", "sample.sum(0)"),
        ("self.noise_root.mT", "self.noise_root"),
        (
            "Q @ torch.diag(spectrum.double()) @ Q.T",
            "Q.T @ torch.diag(spectrum.double()) @ Q + 0.1 * Q.T",
        ),
        ("self.spectrum.min().item()", "self.spectrum[-1].item()"),
        ("torch.randn(size, *like.shape,", "torch.randn(size, like.shape[-1],"),
    ],
    ("problems.py", "class QuantileSearch"): [
        ("*sample.shape[1:]) <= w", "*sample.shape[1:]) >= w"),
        ("+ density - self.q * w", "- self.q * w"),
        ("icdf(torch.tensor(q", "icdf(torch.tensor(1 - q"),
    ],
    ("problems.py", "class LogisticRegression"): [
        ("self.l2 / 2 * w.square()", "self.l2 * w.square()"),
        ("w.square().sum(-1)", "w.square().sum()"),
        ("of_labels.mean(0)", "of_labels.mean()"),
        ("targets), x) + self.l2 * w", "targets), x)"),
        ("(2 if classes == 2 else 1)", "1"),
        ("(self.n * self.l2)", "self.l2"),
        ("[-columns / 2, columns / 2]", "[columns / 2, -columns / 2]"),
        ("return probabilities -", "return 1.001 * probabilities -"),
    ],
    ("problems.py", "class Objective"): [
        ("if sample is None else sample", "if True else sample"),
        ("range(w.ndim - self.start.ndim)", "range(min(1, w.ndim - self.start.ndim))"),
    ],
    ("problems.py", "class _ModuleProblem"): [
        ("if index < p.numel()", "if index <= p.numel()"),
    ],
    ("problems.py", "class Network"): [
        ("y[indices])", "y[indices.flip(0)])"),
    ],
    ("problems.py", "class Stream"): [
        ("if batch is None:\n            self._begin", "if False:\n            self._begin"),
        ("for _ in range(drawn)", "for _ in range(drawn + 1)"),
        ("for _ in range(drawn)", "for _ in range(0)"),
        ("            torch.manual_seed(seed)\n", ""),
        ("owner.generator.manual_seed(seed)", "pass"),
        ("samplers = (self.loader.sampler, batches, ", "samplers = (batches, "),
        ('getattr(batches, "sampler", None))', "None)"),
        ("len(batch) != 2:", "False:"),
        ("if loader.persistent_workers:", "if False:"),
        ("torch.set_rng_state(self._chance)", "pass"),
        ("            self._chance = torch.get_rng_state()\n        if batch", "        if batch"),
        ("self.place = (seed, drawn + 1)", "self.place = (seed, drawn)"),
        ("if like.shape != self.start.shape:", "if False:"),
        ("for _ in range(w.ndim - 1):", "for _ in range(0):"),
        ("None, iter(()), torch.get_rng_state()", "None, self._batches, torch.get_rng_state()"),
    ],
}
