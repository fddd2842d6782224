"""Any estimator goes with any rule: each pair is run, batched, resumed, and its cost counted.

Beside the estimators of the book stand sketches of those that later chapters need: they show that
the interface carries a memory (a snapshot, a table, a last estimate, an inner average) and a round
of federated clients.
"""

import functools
import io

import pytest
import torch
from optimizer_helpers import ELSEWHERE, MOMENTUM
from torch.func import vmap
from torch.nn.functional import cross_entropy

from optcore import rules
from optcore.estimators import Estimate, FullBatch, MiniBatch
from optcore.problems import Network, Problem, Stream
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


class SVRG(MiniBatch):
    """z = ∇f_B(w) − ∇f_B(w̃) + ∇F(w̃), the snapshot w̃ renewed every three steps."""

    def at(self, places, sample, memory, t):
        evaluations = 0
        if (t - 1) % 3 == 0:
            memory = places[0], self.problem.gradient(places[0])
            evaluations += self.problem.evaluations()
        snapshot, full = memory
        *there, at_snapshot = super().at((*places, snapshot), sample, None, t).z
        evaluations += self.problem.evaluations(sample) * (len(places) + 1)
        return Estimate(tuple(z - at_snapshot + full for z in there), memory, evaluations)


class STORM(MiniBatch):
    """d_t = ∇f_B(w_t) + (1−a) (d_{t−1} − ∇f_B(w_{t−1})); with a = 0 it is SARAH."""

    a = 0.1

    def first(self, places, sample):
        return super().at(places, sample, None, 1)

    def at(self, places, sample, memory, t):
        if memory is None:
            z, _, evaluations = self.first(places, sample)
        else:
            w, d = memory
            (*there, before), _, evaluations = super().at((*places, w), sample, None, t)
            z = tuple(g + (1 - self.a) * (d - before) for g in there)
        return Estimate(z, (places[0], z[0]), evaluations)


class SARAH(STORM):
    a = 0.0

    def first(self, places, sample):
        return FullBatch(self.problem).at(places, None, None, 1)


class SAGA(MiniBatch):
    """z = ∇f_i(w) − g_i + mean g, with a table g of the gradient of each example, at first zero."""

    def at(self, places, sample, memory, t):
        w = places[0]
        table = w.new_zeros(*w.shape[:-1], N, w.shape[-1]) if memory is None else memory
        each = self.problem.per_example
        each = vmap(each, in_dims=(0, None)) if w.ndim > 1 else each
        correction = table.mean(-2) - table[..., sample, :].mean(-2)
        z = tuple(each(place, sample).mean(-2) + correction for place in places)
        table = table.index_copy(-2, sample, each(w, sample))
        # The first place's gradients are computed twice here: a sketch.
        return Estimate(z, table, self.problem.evaluations(sample) * (len(places) + 1))


class FederatedRound(MiniBatch):
    """z is the mean drift of three clients, each after two local steps of SGD on its own third."""

    def draw(self, t, like):
        of_client = torch.arange(N).view(3, 1, N // 3)
        orders = [torch.randperm(N // 3, generator=self.generator)[:2] for _ in range(6)]
        return of_client.expand(3, 2, -1).gather(2, torch.stack(orders).view(3, 2, 2))

    def at(self, places, sample, memory, t):
        def drift(w, batches):
            local = w
            for batch in batches:
                local, _ = rules.sgd(local, self.problem.gradient(local, batch), lr=0.1)
            return w - local

        clients = vmap(drift, in_dims=(None, 0), out_dims=-2)
        z = tuple(clients(w, sample).mean(-2) for w in places)
        return Estimate(z, None, sample.numel() * len(places))


def network():
    return CountingNetwork(module(), *examples(), cross_entropy)


def stream():
    loader = torch.utils.data.DataLoader(list(zip(*examples(), strict=True)), 5, shuffle=True)
    return CountingStream(module(), loader, cross_entropy)


ESTIMATORS = {
    "full batch": (network, FullBatch),
    "mini-batch": (network, lambda p, **o: MiniBatch(p, 3, **o)),
    "without replacement": (network, lambda p, **o: MiniBatch(p, 3, replace=False, **o)),
    "stream": (stream, MiniBatch),
    "SVRG": (network, lambda p, **o: SVRG(p, 3, **o)),
    "STORM": (network, lambda p, **o: STORM(p, 3, **o)),
    "SARAH": (network, lambda p, **o: SARAH(p, 3, **o)),
    "SAGA": (network, lambda p, **o: SAGA(p, 3, replace=False, **o)),
    "inner average": (Composition, lambda p, **o: InnerAverage(p, 3, **o)),
    "federated round": (network, lambda p, **o: FederatedRound(p, 2, **o)),
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
    history = run(Forgetful(problem, 3), rules.sgd, lr=0.01, steps=STEPS)
    assert history["evaluations"][-1] != problem.asked


def test_rows_are_repetitions_with_every_estimator_that_draws():
    problem = network()
    w = problem.start.expand(3, -1)
    for make in (MiniBatch, SVRG, STORM, SARAH):
        history = run(make(problem, 3), rules.sgd, lr=0.05, steps=STEPS, w=w)
        assert len(history.w.unique(dim=0)) == 3
        assert history["evaluations"].ndim == 1
