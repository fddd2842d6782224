"""Any estimator goes with any rule: each pair is run, batched, resumed, and its cost counted.

Beside the estimators of the book stands the inner average of chapter 9.
"""

import functools
import io

import pytest
import torch
from optimizer_helpers import ELSEWHERE, MOMENTUM
from torch.nn.functional import cross_entropy

from optcore import rules
from optcore.estimators import SAGA, SARAH, STORM, SVRG, Estimate, FullBatch, MiniBatch
from optcore.federated import FedAvg, Scaffold
from optcore.problems import LogisticRegression, Network, Problem, Stream
from optcore.rules import muon
from optcore.run import run

N, STEPS = 12, 7


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    ).double()


def examples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, 3, generator=generator, dtype=torch.float64), torch.arange(N) % 2


def physical(x):
    """Return the tensor that `vmap` shows one slice of."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


class Counting(Problem):
    """A problem that counts, for itself, the gradients of single samples that it computes."""

    asked = 0

    def _gradient(self, w, sample):
        self.asked += self._size(sample)
        return super()._gradient(w, sample)


class CountingNetwork(Counting, Network):
    def _size(self, sample):
        return N if sample is None else physical(sample).numel()


class CountingStream(Counting, Stream):
    def _size(self, sample):
        return sample[1].shape[0]


class CountingLogistic(Counting, LogisticRegression):
    def _size(self, sample):
        return N if sample is None else physical(sample).numel()

    def _contributions(self, w, sample):
        self.asked += physical(sample).numel()
        return super()._contributions(w, sample)


class Composition(Counting):
    """F(w) = log Σ exp(g(w)), where g is a mean over examples that are linear in w."""

    n = N

    def __init__(self):
        self.net = Network(module(), *examples(), cross_entropy)
        self.start = self.net.start
        generator = torch.Generator().manual_seed(2)
        shape = (N, 3, len(self.start))
        self.slopes = torch.randn(shape, generator=generator, dtype=torch.float64)

    def unflatten(self, w):
        return self.net.unflatten(w)

    def inner(self, w, sample):
        """Return g and its Jacobian on a sample."""
        self.asked += len(sample)
        J = self.slopes[sample].mean(0)
        return w @ J.mT, J


class InnerAverage(MiniBatch):
    """u_t = (1−γ) u_{t−1} + γ g(w_t; B), z = ∇g(w_t; B)ᵀ ∇f(u_t): a compositional gradient."""

    def at(self, places, sample, memory, t):
        g, J = self.problem.inner(places[0], sample)
        u = g if memory is None else 0.7 * memory + 0.3 * g
        z = [u.softmax(-1) @ J]
        for w in places[1:]:
            g_there, J = self.problem.inner(w, sample)
            z.append((u + 0.3 * (g_there - g)).softmax(-1) @ J)
        return Estimate(tuple(z), u, len(sample) * len(places))


def network():
    return CountingNetwork(module(), *examples(), cross_entropy)


def linear():
    problem = CountingLogistic(*examples(), l2=0.1)
    problem.unflatten = lambda w: {"W": w.unflatten(-1, problem.shape)}
    return problem


def stream():
    loader = torch.utils.data.DataLoader(list(zip(*examples(), strict=True)), 5, shuffle=True)
    return CountingStream(module(), loader, cross_entropy)


CLIENTS = list(torch.arange(N).split(4))
LOCAL = {"lr": 0.1, "epochs": 2, "batch": 2, "cohort": 2}

ESTIMATORS = {
    "full batch": (network, FullBatch),
    "mini-batch": (network, lambda p, **o: MiniBatch(p, 3, **o)),
    "without replacement": (network, lambda p, **o: MiniBatch(p, 3, replace=False, **o)),
    "stream": (stream, MiniBatch),
    "SVRG": (network, lambda p, **o: SVRG(p, 3, every=3, **o)),
    "loopless SVRG": (network, lambda p, **o: SVRG(p, 3, probability=0.3, **o)),
    "SVRG with a coefficient": (
        network,
        lambda p, **o: SVRG(p, 3, every=3, coefficient=lambda t: 1 / t, **o),
    ),
    "SARAH": (network, lambda p, **o: SARAH(p, 3, every=4, **o)),
    "STORM": (network, lambda p, **o: STORM(p, 3, beta=lambda t: 1 - 1 / t, **o)),
    "STORM on a stream": (stream, lambda p, **o: STORM(p, correction=0.5, **o)),
    "SAGA": (network, lambda p, **o: SAGA(p, 5, **o)),
    "SAGA of residuals": (linear, lambda p, **o: SAGA(p, 3, replace=False, **o)),
    "inner average": (Composition, lambda p, **o: InnerAverage(p, 3, **o)),
    "federated round": (network, lambda p, **o: FedAvg(p, CLIENTS, chunk=2, **LOCAL, **o)),
    "SCAFFOLD": (network, lambda p, **o: Scaffold(p, CLIENTS, chunk=2, **LOCAL, **o)),
}

layers = functools.partial(rules.by_layer, matrices=muon, others=rules.adam)
RULES = {
    "sgd": (lambda p: rules.sgd, {}),
    **{
        name: (lambda p, rule=rule: rule, {"beta": 0.9})
        for name, rule in (MOMENTUM | ELSEWHERE).items()
    },
    "AdaGrad": (lambda p: rules.adagrad, {}),
    "RMSprop": (lambda p: rules.rmsprop, {"momentum": 0.5, "centered": True}),
    "Adam": (lambda p: rules.adam, {}),
    "AMSGrad": (lambda p: rules.amsgrad, {}),
    "AdamW": (lambda p: rules.adamw, {}),
    "Lion": (lambda p: rules.lion, {}),
    "Muon + Adam": (layers, {"others": {"lr": 0.003}}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_pair(estimator, rule):
    (make_problem, make), (make_rule, hyper) = ESTIMATORS[estimator], RULES[rule]

    def go(steps=STEPS, seed=5, lr=0.01, w=None, resume=None, **options):
        problem = make_problem()
        options |= {} if make is FullBatch else {"seed": seed}
        settings = {"lr": lr, "steps": steps, "w": w, "resume": resume, **hyper}
        return run(make(problem, **options), make_rule(problem), **settings), problem

    whole, problem = go()
    assert not torch.equal(whole.w, problem.start)
    assert whole["evaluations"][-1] == problem.asked

    file = io.BytesIO()
    torch.save(go(steps=4)[0].checkpoint, file)
    file.seek(0)
    rest, _ = go(seed=0, resume=torch.load(file, weights_only=True))
    assert torch.equal(rest.w, whole.w)
    assert rest["evaluations"].tolist() == whole["evaluations"].tolist()

    rates = torch.tensor([[0.01], [0.02]], dtype=torch.float64)
    options = {} if make is FullBatch else {"shared": True}
    grid, problem = go(lr=rates, w=problem.start.expand(2, -1), **options)
    for row, lr in zip(grid.w, rates, strict=True):
        torch.testing.assert_close(row, go(lr=lr.item())[0].w, rtol=0, atol=1e-10)
    assert grid["evaluations"].tolist() == whole["evaluations"].tolist()


def test_an_oracle_sees_a_cost_that_is_not_counted():
    class Forgetful(SVRG):
        def at(self, places, sample, memory, t):
            return super().at(places, sample, memory, t)._replace(evaluations=len(sample))

    problem = network()
    history = run(Forgetful(problem, 3, every=3), rules.sgd, lr=0.01, steps=STEPS)
    assert history["evaluations"][-1] != problem.asked


def test_rows_are_repetitions_with_every_estimator_that_draws():
    problem = network()
    w = problem.start.expand(3, -1)
    for name, (make_problem, make) in ESTIMATORS.items():
        if make_problem is not network or name == "full batch":
            continue
        history = run(make(problem), rules.sgd, lr=0.05, steps=STEPS, w=w)
        assert len(history.w.unique(dim=0)) == 3, name
        assert history["evaluations"].ndim == 1
