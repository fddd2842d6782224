"""The assignments of the book: fit to be released, up to date, and in agreement with optcore."""

import json
import math

import nbformat
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from optcore import schedules
from optcore.course import checks, model
from optcore.course.compare import verdicts
from optcore.course.model import load
from optcore.course.probes import attempt
from optcore.course.release import released, verify
from optcore.estimators import SVRG
from optcore.federated import FedAvg, holdings
from optcore.federated import ring as ring_of_parts
from optcore.optim import Muon
from optcore.problems import LogisticRegression, Objective, Problem
from optcore.rules import (
    adam,
    adamw,
    amsgrad,
    heavy_ball_average,
    muon,
    nesterov,
    nesterov_one_line,
    orthogonalize,
)
from optcore.rules.muon import scale


@pytest.fixture(params=sorted(path.stem for path in model.FOLDER.glob("*.py")))
def assignment(request):
    return load(request.param)


def test_each_assignment_can_be_released(assignment):
    verify(assignment)


def test_each_assignments_visible_numbers_are_up_to_date(assignment):
    """The committed numbers are those of now, but for what another processor rounds otherwise."""
    committed = json.loads((checks.RELEASED / f"{assignment.id}.json").read_text(encoding="utf-8"))

    def compare(old, new, where=""):
        assert type(old) is type(new), where
        if isinstance(old, dict):
            assert [*old] == [*new], where
            for key in old:
                compare(old[key], new[key], f"{where} {key}")
        elif isinstance(old, list):
            assert len(old) == len(new), where
            for a, b in zip(old, new, strict=True):
                compare(a, b, where)
        elif isinstance(old, float):
            assert old == pytest.approx(new, rel=1e-4, abs=1e-9, nan_ok=True), where
        else:
            assert old == new, where

    compare(committed, json.loads(released(assignment)))


def test_the_page_of_an_assignment_holds_no_solution(assignment):
    """`make notebooks` makes it; `tools/notebooks.py --check` finds whether it is up to date."""
    path = model.FOLDER / f"{assignment.id}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    assert [c.source for c in cells if c.cell_type == "code"] == assignment.sources(solved=False)
    assert "SOLUTION" not in path.read_text(encoding="utf-8")
    assert any("is not answered yet" in str(cell.get("outputs")) for cell in cells)


def gradient(W, x, y, batch, *, l2):
    # The book's model has a bias of its own and takes the number of classes from the labels.
    no_bias, every = x.new_zeros(len(W.T), x.shape[1]), torch.arange(len(W.T))
    problem = LogisticRegression(torch.cat([x, no_bias]), torch.cat([y, every]), l2=l2)
    w = torch.cat([W, W.new_zeros(1, W.shape[1])]).flatten()
    return problem.gradient(w, batch).view(-1, W.shape[1])[:-1]


def expected_gap(w, curvatures, *, lr, sigma, size, steps):
    settled = lr * sigma**2 / (2 * size * (2 - lr * curvatures))  # (2.9), direction by direction
    left = (1 - lr * curvatures) ** (2 * steps)
    return left * curvatures * w**2 / 2 + (1 - left) * settled


def torch_sgd(w, z, state=None, *, lr, **settings):
    w = w.clone()
    optimizer = torch.optim.SGD([w], lr=lr, **settings)
    if state is not None:
        optimizer.state[w]["momentum_buffer"] = state.clone()
    w.grad = z
    optimizer.step()
    return w, optimizer.state[w].get("momentum_buffer")


def look_ahead(theta, A, optimum, *, lr, beta, steps):
    w, state = theta, None
    for _ in range(steps):
        w, state = nesterov(w, A @ (w - optimum), state, lr=lr, beta=beta)
    return state.w, w


def heavy_ball(w, z, state=None, *, lr, beta):
    return heavy_ball_average(w, z, state, lr=lr / (1 - beta), beta=beta)


def newton_schulz(G, *, steps, a, b, c):
    return orthogonalize(G, coefficients=(a, b, c), steps=steps)


def scaled(direction, *, adjust):
    return scale(direction.flatten(1).shape, adjust) * direction


def by_muon(W, z, state=None, *, lr, beta, decay, **options):
    return muon(W, z, state, lr=lr, momentum=beta, weight_decay=decay, **options)


def by_svd(W, z, state=None, **settings):
    return by_muon(W, z, state, method="svd", average=True, **settings)


class Asked(Problem):
    """A finite sum that only a counting `gradient(W, batch)` knows."""

    def __init__(self, gradient, W, n):
        self.start, self.n = W.flatten(), n
        self.ask = lambda w, batch: gradient(w.view_as(W), batch).flatten()

    def gradient(self, w, sample=None):
        return self.ask(w, torch.arange(self.n) if sample is None else sample)


def counted_plan(budget, n, size, m, *, unit):
    every = m if unit == "steps" else m // size
    problem = Asked(lambda W, batch: W, torch.ones(1), n)
    estimator, memory, spent, snapshots, t = SVRG(problem, size, every=every), None, 0, 0, 0
    while True:
        batch, renew = torch.zeros(size, dtype=torch.int64), t % every == 0
        _, memory, cost = estimator.at((problem.start,), (batch, renew), memory, t + 1)
        if spent + cost > budget:
            return budget // size, t, snapshots, spent
        spent, snapshots, t = spent + cost, snapshots + renew, t + 1


def follow(estimator, samples, *, lr):
    w, memory, path = estimator.problem.start, None, []
    for t, sample in enumerate(samples, 1):
        (z,), memory, _ = estimator.at((w,), sample, memory, t)
        w = w - lr * z
        path.append(w)
    return torch.stack(path)


def by_svrg(W, gradient, picks, *, n, lr, every):
    estimator = SVRG(Asked(gradient, W, n), picks.shape[1], every=every)
    samples = [(batch, t % every == 0) for t, batch in enumerate(picks)]
    return follow(estimator, samples, lr=lr).view(-1, *W.shape)


def trained(W, gradient, n, budget, limit, L, L_max):
    """One example a step, two looks at each between snapshots, and the step of (8.5)."""
    estimator = SVRG(Asked(gradient, W, n), 1, every=2 * n)
    steps, generator = budget // (5 * n) * 2 * n, torch.Generator().manual_seed(1)
    draws = torch.randint(n, (steps, 1), generator=generator)
    samples = [(batch, t % estimator.every == 0) for t, batch in enumerate(draws)]
    return follow(estimator, samples, lr=1 / (L_max + L))[-1].view_as(W)


def by_ring(y, *, classes):
    owner = torch.empty_like(y)
    two_each = torch.arange(classes).repeat(2)
    for c, held in enumerate(holdings(ring_of_parts(two_each, classes), two_each).T):
        (other,) = set(held.nonzero().flatten().tolist()) - {c}
        mine, theirs = (y == c).nonzero().flatten().tensor_split(2)
        owner[mine], owner[theirs] = c, other
    return owner


class InOrder(FedAvg):
    def work_of(self, client, t, row=0):
        return [*self.parts[client].split(self.batch)] * self.epochs


def by_fedavg(W, x, y, owner, *, clients, epochs, size, lr, l2):
    def loss(w, batch):
        scores = x[batch] @ w.view_as(W)
        return torch.nn.functional.cross_entropy(scores, y[batch]) + l2 / 2 * w.square().sum()

    parts = [(owner == k).nonzero().flatten() for k in range(clients)]
    parts = [part for part in parts if len(part)]  # the book's clients hold something
    problem = Objective(loss, W.flatten(), n=len(x))
    rounds = InOrder(problem, parts, lr=lr, epochs=epochs, batch=size, chunk=1)
    w = problem.start
    (z,), _, spent = rounds.at((w,), rounds.draw(1, w), None, 1)
    return (w - z).view_as(W), spent


def attention(x, *matrices, heads):
    q, k, v = ((x @ W.T).view(*x.shape[:2], heads, -1).transpose(1, 2) for W in matrices[:3])
    every = torch.eye(x.shape[1], dtype=x.dtype).expand(len(x), heads, -1, -1)
    y, weights = (scaled_dot_product_attention(q, k, z, is_causal=True) for z in (v, every))
    return y.transpose(1, 2).flatten(2) @ matrices[3].T, weights


def bits(logits, tokens):
    return cross_entropy(logits[:, :-1].mT, tokens[:, 1:]) / math.log(2)


def rate_factor(t, *, warm_up, steps, end):
    parts = schedules.warm_up(warm_up), schedules.cosine(steps - warm_up, end=end)
    return schedules.compose(parts, [warm_up])(t)


def clipped(*gradients, limit):
    parameters = [nn.Parameter(z.clone()) for z in gradients]
    for p, z in zip(parameters, gradients, strict=True):
        p.grad = z.clone()
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    return *(p.grad for p in parameters), norm


def first_step(name, z, *, lr, adamw_lr):
    whole = inner = nn.Module()
    *places, last = name.split(".")
    for place in places:
        inner.add_module(place, nn.Module())
        inner = inner.get_submodule(place)
    inner.register_parameter(last, p := nn.Parameter(torch.zeros_like(z)))
    whole.register_parameter("other", nn.Parameter(z.new_zeros(2, 2)))  # for_model wants a matrix
    optimizer = Muon.for_model(
        whole,
        lr,
        adamw_lr=adamw_lr,
        adamw_eps=0,
        head=places[0] if places[0] in ("embedding", "positions", "head") else (),
        blocks={name: 3} if name.endswith("qkv.weight") else None,
        method="svd",
        adjust_lr_fn="match_rms_adamw",
    )
    p.grad = z.clone()
    optimizer.step()
    return p.detach()


def step_flops(layers, width, classes, batch, time):
    def matrix(*shape):
        return torch.empty(shape, device="meta", requires_grad=True)

    x = matrix(batch, time, width)
    with FlopCounterMode(display=False) as counter:
        for _ in range(layers):
            x = x @ x.mT @ x
            for n_in, n_out in 4 * [(width, width)] + [(width, 4 * width), (4 * width, width)]:
                x = x @ matrix(n_in, n_out)
        (x @ matrix(width, classes)).sum().backward()
    return counter.get_total_flops()


def affordable(budget, step, shapes):
    with FlopCounterMode(display=False) as counter:
        for rows, columns in shapes:
            orthogonalize(torch.ones(rows, columns))
    extra = counter.get_total_flops()
    return extra, divmod(budget, step)[0], divmod(budget, step + extra)[0]


COUNTERPARTS = {
    ("A1", "q2"): gradient,
    ("A1", "q5"): expected_gap,
    ("A2", "q1"): heavy_ball,
    ("A2", "q2"): torch_sgd,
    ("A2", "q3"): nesterov_one_line,
    ("A2", "q4"): look_ahead,
    ("A2", "q6"): nesterov,
    ("A3", "q2"): adam,
    ("A3", "q3"): amsgrad,
    ("A3", "q4"): adamw,
    ("A3", "q5"): adam,
    ("A4", "q1"): newton_schulz,
    ("A4", "q2"): lambda G: orthogonalize(G, "svd"),
    ("A4", "q4"): scaled,
    ("A4", "q5"): by_muon,
    ("A4", "q6"): by_svd,
    ("A5", "q1"): counted_plan,
    ("A5", "q2"): by_svrg,
    ("A5", "q3"): trained,
    ("A5", "q5"): by_ring,
    ("A5", "q6"): by_fedavg,
    ("A6", "q1"): attention,
    ("A6", "q2"): bits,
    ("A6", "q3"): rate_factor,
    ("A6", "q4"): clipped,
    ("A6", "q5"): first_step,
    ("A6", "q6"): step_flops,
    ("A6", "q7"): affordable,
}


@pytest.mark.parametrize(("id", "number"), COUNTERPARTS)
def test_the_solution_is_the_books(id, number):
    """What computes the same in another way gets all points, whatever inputs are drawn."""
    assignment = load(id)
    (question,) = (q for q in assignment.questions if q.id == number)
    sources, answer = assignment.sources(solved=True), COUNTERPARTS[id, number]
    for seed in "abcde":
        references = [result["rows"] for result in question.measure(sources, seed)]
        results = [attempt(question.probe, answer, x, "cpu") for x in question.inputs(seed)]
        assert not any(verdicts(results, references, question.rtol / 10))


# Deliberate mistakes that these tests must catch: tests/mutants.py.
MUTANTS = {
    ("course/draws.py", "def steps("): [
        ("gradients.tolist()", "[w.tolist()]"),
        ('"settings": settings', '"settings": {}'),
    ],
    ("course/draws.py", "def calls("): [
        ("in arguments]", "in arguments[:1]]"),
        ('"watch": watch', '"watch": False'),
    ],
}
