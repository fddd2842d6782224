"""The corrected gradient in an ordinary training loop: against copies of the module, by hand."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import optcore.optim
from optcore.backward import Backward
from optcore.estimators import SAGA, SARAH, STORM, SVRG, MiniBatch

N = 20


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 1, 6, 6, generator=generator)
    return TensorDataset(x, (x.mean((1, 2, 3)) > 0).long())


def cnn():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(64, 2),
    )  # fmt: skip


def loader(**options):
    return DataLoader(data(), 8, **{"shuffle": True, **options})


def gradients(module, x, y):
    module.zero_grad()
    cross_entropy(module(x), y).backward()
    return [p.grad.clone() for p in module.parameters()]


def full(module):
    """Return the gradient over all examples, in batches of 8 in order, by hand."""
    total = [torch.zeros_like(p) for p in module.parameters()]
    for x, y in loader(shuffle=False):
        total = [
            s + g * len(y) / N
            for s, g in zip(total, gradients(copy.deepcopy(module), x, y), strict=True)
        ]
    return total


def close(a, b):
    torch.testing.assert_close(list(a), list(b), rtol=0, atol=1e-6)


def test_with_the_mini_batch_it_is_backward():
    module, plain = cnn(), cnn()
    backward = Backward(module, loader(), cross_entropy, MiniBatch)
    for seed, (x, y) in enumerate(loader()):
        torch.manual_seed(seed)
        value = backward(x, y)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        expected = cross_entropy(plain(x), y)
        expected.backward()  # adds to the gradients, and so does ours
        assert torch.equal(after, torch.get_rng_state())
        torch.testing.assert_close(value, expected.detach())
        close([p.grad for p in module.parameters()], [p.grad for p in plain.parameters()])
        close(module.buffers(), plain.buffers())


def test_svrg_by_hand_with_dropout_and_batch_normalization():
    module = cnn()
    opt = torch.optim.Adam(module.parameters(), 0.01)
    backward = Backward(module, loader(shuffle=False), cross_entropy, SVRG, every=3)
    for t, (x, y) in enumerate([*loader(), *loader()]):
        plain = copy.deepcopy(module)  # sees what an ordinary loop would see at this iterate
        torch.manual_seed(t)
        if t % 3 == 0:
            snapshot = copy.deepcopy(module)
            at_snapshot = full(copy.deepcopy(snapshot))
        torch.manual_seed(t)
        here = gradients(plain, x, y)
        after = torch.get_rng_state()
        torch.manual_seed(t)
        there = gradients(copy.deepcopy(snapshot), x, y)
        torch.manual_seed(t)
        opt.zero_grad()
        backward(x, y)
        assert torch.equal(torch.get_rng_state(), after)
        expected = [a - b + c for a, b, c in zip(here, there, at_snapshot, strict=True)]
        close(module.buffers(), plain.buffers())
        close([p.grad for p in module.parameters()], expected)
        opt.step()


@pytest.mark.parametrize(
    ("estimator", "options", "first", "later"),
    [
        (MiniBatch, {}, 8, 8),
        (SVRG, {"every": 100}, N + 16, 16),
        (SVRG, {"every": 100, "coefficient": 0.5}, N + 16, 16),
        (SARAH, {"every": 100}, N, 16),
        (STORM, {"beta": 0.5}, 8, 16),
    ],
)
def test_costs_and_a_run_resumed_to_the_bit(estimator, options, first, later):
    def start():
        module = cnn()
        opt = optcore.optim.AdamW(module.parameters(), 0.01)
        return module, opt, Backward(module, loader(), cross_entropy, estimator, **options)

    batches = list(loader())[:2] * 4  # of 8 each

    def go(module, opt, backward, batches):
        spent = []
        for x, y in batches:
            opt.zero_grad()
            before = backward.evaluations
            backward(x, y)
            spent.append(backward.evaluations - before)
            opt.step()
        return spent

    torch.manual_seed(3)
    whole = start()
    assert go(*whole, batches) == [first] + [later] * 7

    torch.manual_seed(3)
    half = start()
    go(*half, batches[:4])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in half], file)
    file.seek(0)
    chance = torch.get_rng_state()
    rest = start()
    for part, state in zip(rest, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(chance)
    go(*rest, batches[4:])
    for p, q in zip(whole[0].parameters(), rest[0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert whole[2].evaluations == rest[2].evaluations


def test_clipping_in_place_leaves_the_memory_alone():
    def second(clip):
        module = cnn().eval()
        backward = Backward(module, loader(), cross_entropy, STORM, beta=0.9)
        (x, y), (x2, y2) = list(loader(shuffle=False))[:2]
        backward(x, y)
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), 1e-3)
        module.zero_grad()
        backward(x2, y2)
        return [p.grad for p in module.parameters()]

    close(second(False), second(True))


def test_frozen_parameters_and_other_types():
    module = cnn()
    module[0].requires_grad_(False)
    module[5].to(torch.bfloat16)
    module.insert(5, Cast())
    backward = Backward(module, loader(), cross_entropy, SVRG, every=2)
    for x, y in loader():
        backward(x, y)
    assert module[0].weight.grad is None
    for p in module.parameters():
        assert p.grad is None or (p.grad.dtype == p.dtype and p.grad.any())


class Cast(nn.Module):
    def forward(self, x):
        return x.bfloat16()


@pytest.mark.parametrize("make", [optcore.optim.Adam, "Muon"])
@pytest.mark.parametrize(("estimator", "options"), [(SVRG, {"every": 10}), (STORM, {"beta": 0.8})])
def test_any_optimizer_learns(make, estimator, options):
    module = cnn()
    if make == "Muon":
        opt = optcore.optim.Muon.for_model(module, lr=0.02)
    else:
        opt = make(module.parameters(), 0.01)
    backward = Backward(module, loader(), cross_entropy, estimator, **options)
    x, y = data().tensors

    def loss():
        return cross_entropy(copy.deepcopy(module).eval()(x), y).item()

    torch.manual_seed(0)
    before = loss()
    for _ in range(30):
        for batch in loader():
            opt.zero_grad()
            backward(*batch)
            opt.step()
    assert loss() < 0.5 * before


def test_a_loader_with_a_generator_is_left_where_it_was():
    batches = loader(generator=torch.Generator().manual_seed(5))
    seen = [y.tolist() for _ in range(2) for _, y in batches]  # the second epoch tells
    batches.generator.manual_seed(5)
    module = cnn()
    backward = Backward(module, batches, cross_entropy, SVRG, every=1)
    again = []
    for _ in range(2):
        for x, y in batches:
            backward(x, y)
            again.append(y.tolist())
    assert again == seen


def test_what_is_refused():
    workers = loader(num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="persistent_workers=False"):
        Backward(cnn(), workers, cross_entropy, SVRG, every=5)
    with pytest.raises(ValueError, match="SAGA needs a finite sum"):
        Backward(cnn(), loader(), cross_entropy, SAGA, size=None)


# Deliberate mistakes that these tests must catch: see `tests/mutants.py`.
MUTANTS = {
    ("backward.py", "class Backward"): [
        ("if loader.persistent_workers", "if False"),
        ("self._t += 1", "self._t = 1"),
        ("g.to(p, copy=True)", "g.to(p)"),
        ("p.grad + g.to(p)", "g.to(p)"),
        ("self.evaluations += cost", "self.evaluations += len(y)"),
        ('"memory": self._memory,', '"memory": None,'),
        ('"step": self._t,', '"step": 0,'),
    ],
    ("backward.py", "class _Training"): [
        ("if p.requires_grad", "if True"),
        ("            torch.set_rng_state(cpu)\n", ""),
        ("self._pass(w, sample, buffers)[1]", "self._pass(w, sample, {})[1]"),
        ("y.to(w.device)), buffers)", "y.to(w.device)), {})"),
        ("share = len(y) / self.examples", "share = 8 / self.examples"),
        ("generator.set_state(state)", "pass"),
        ("with torch.random.fork_rng(devices=self._devices()):", "if True:"),
    ],
}
