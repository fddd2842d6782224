"""A round of federated averaging as a gradient estimator: its z is what the clients moved by.

    run(FedAvg(problem, parts, lr=0.1, epochs=5, batch=32), rules.sgd, lr=1.0, steps=50)

is FedAvg of fifty rounds; `rules.adam` in the place of `rules.sgd` is FedAdam, and so on. All
clients of a round train at once, as the rows of one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optcore import rules
from optcore.estimators import MAX_TABLE_BYTES, Estimate, Estimator
from optcore.federated.client import batches, stack, train
from optcore.federated.server import mean
from optcore.problems import Problem
from optcore.schedules import values_at

SHARE_OF_FREE_MEMORY = 0.5
# Tensors of 32 MB and more come fresh from the system each time, page by page: a step of clients
# that makes more than this in all took up to three times as long.
MAX_BYTES_ON_A_CPU = 2**26


class Work(NamedTuple):
    """What the clients of a round do, as `FedAvg.draw` returns it.

    Attributes:
        clients: of whom the server hears again, by number; one entry for each client of each row.
        rows: the row of w that each of them starts from.
        batches: the indices of each one's batches, in order.
        invited: how many clients the server sent w to, over all rows.
        noise: for the sum of each row's updates, where privacy asks for it.
    """

    clients: Tensor
    rows: Tensor
    batches: list[list[Tensor]]
    invited: int
    noise: Tensor | None = None


class FedAvg(Estimator):
    r"""A round of federated averaging: clients train from w on what they hold, the server averages.

    $$z = -\sum_{k \in S} \frac{n_k}{\sum_{j \in S} n_j} \, (w_k - w)$$

    With `rules.sgd` and lr = 1 the next w is the average of the w_k. After one local step on
    everything z is η ∇F, and the round gradient descent. With μ > 0 it is FedProx.

    It costs the gradients that the clients computed. The history's columns "bytes_down" and
    "bytes_up" are what has been sent so far, "drift" is Σ n_k ‖w_k − w‖ / Σ n_k of the last round.
    Cost and bytes are those of one row of w, in the mean over rows.

    Every client draws its batches from `seed`, the round and its own number: they are the same
    whoever else takes part, and wherever it runs.
    Sources: McMahan, Moore, Ramage, Hampson and Agüera y Arcas (2017), arXiv:1602.05629; FedProx:
    Li et al. (2020), arXiv:1812.06127; the server's rule: Reddi et al. (2021), arXiv:2003.00295.

    Args:
        problem: a finite sum, over the examples of all clients.
        parts: what each client holds, as index tensors; see `optcore.federated.partition`.
        lr: η of the clients. It and `**hyper`, the other hyper-parameters of `rule`, may be
            schedules of the round; tensors broadcast against w.
        epochs: E ≥ 1, passes of a client over what it holds.
        batch: B ≥ 1, size of its batches; without it each pass is one step on everything.
        rule: of the clients, from `optcore.rules`. Its memory ends with the round.
        proximal: FedProx's μ ≥ 0.
        cohort: how many clients, drawn at random, take part in a round; without it, all.
        dropped: probability that a client of the cohort is never heard of again.
        slow: probability that a client returns after a part of its steps, of which every length
            is equally likely.
        hostile: client → what it makes of its update before it sends it.
        aggregate: of `optcore.federated.server`.
        shared: the rows of w see the same cohorts and batches; otherwise each draws its own.
        chunk: how many clients train at once; without it, as many as half of the free memory takes,
            on a CPU 64 MiB at most.
        first: number of the first of these clients among all, where a machine holds only a few.
        seed: of all draws.

    Raises:
        ValueError: the problem is no finite sum; a part is empty or not of its indices; a number is
            out of its range; the problem's module has buffers that change in the forward pass, or
            takes its chance there.
    """

    vectors = 1  # of the size of w that go each way, to and from a client

    def __init__(
        self,
        problem: Problem,
        parts: Sequence[Tensor],
        *,
        lr,
        epochs: int = 1,
        batch: int | None = None,
        rule: Callable = rules.sgd,
        proximal: float = 0.0,
        cohort: int | None = None,
        dropped: float = 0.0,
        slow: float = 0.0,
        hostile: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
        aggregate: Callable[[Tensor, Tensor], Tensor] = mean,
        shared: bool = False,
        chunk: int | None = None,
        first: int = 0,
        seed: int = 0,
        **hyper,
    ):
        super().__init__(problem)
        _check_parts(problem, parts)
        _check_module(problem)
        for name, value in {"epochs": epochs, "batch": batch, "chunk": chunk}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if cohort is not None and not 1 <= cohort <= len(parts):
            raise ValueError(f"cohort must lie in 1 … {len(parts)}, got {cohort}.")
        for name, value in {"dropped": dropped, "slow": slow}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}.")
        if not 0 <= proximal < math.inf:
            raise ValueError(f"proximal must be a finite number ≥ 0, got {proximal}.")
        if unknown := [k for k in hostile or {} if k not in range(len(parts))]:
            raise ValueError(f"hostile must name clients 0 … {len(parts) - 1}, got {unknown[0]}.")
        self.parts = [part.cpu() for part in parts]
        self.sizes = torch.tensor([float(len(part)) for part in parts], dtype=torch.float64)
        self.hyper = {"lr": lr, **hyper}
        self.epochs = epochs
        self.batch = batch
        self.rule = rule
        self.proximal = proximal
        self.cohort = cohort
        self.dropped = dropped
        self.slow = slow
        self.hostile = dict(hostile or {})
        self.aggregate = aggregate
        self.shared = shared
        self.chunk = chunk
        self.first = first
        self.seed = seed

    def columns(self, memory, w) -> dict:
        """Return what has been sent so far, and the drift of the last round."""
        memory = memory or FedAvg._first_memory(self, w)
        return {name: memory[name] for name in ("bytes_down", "bytes_up", "drift")}

    def state_dict(self) -> dict:
        """Return the seed, and the chunk: another one would round differently."""
        return {"seed": self.seed, "chunk": self.chunk}

    def load_state_dict(self, state: dict) -> None:
        """Continue with the same draws, and as many clients at once."""
        self.seed, self.chunk = state["seed"], state["chunk"]

    # Step one: who takes part.

    def draw(self, t: int, like: Tensor) -> Work:
        """Draw who takes part in round t, and the batches of each."""
        number = like[..., 0].numel()
        found, invited = [], 0
        for row in range(1 if self.shared else number):
            cohort = self._cohort(self._generator(t, row))
            invited += len(cohort)
            for client in cohort:
                own = self.work_of(client, t, row)
                if own:
                    found += [(own, client, r) for r in (range(number) if self.shared else [row])]
        # Those who do as many steps train side by side, so that few of them have to wait.
        found.sort(key=lambda one: (len(one[0]), one[2], one[1]))
        clients, rows = (torch.tensor([one[i] for one in found], dtype=torch.int64) for i in (1, 2))
        work = [one[0] for one in found]
        return Work(clients, rows, work, invited * number if self.shared else invited)

    def work_of(self, client: int, t: int, row: int = 0) -> list[Tensor]:
        """Return the batches of a client in round t, none if it is not heard of again."""
        chance = self._generator(t, row, self.first + client)
        own = batches(self.parts[client], epochs=self.epochs, size=self.batch, generator=chance)
        if self.slow or self.dropped:
            slow, lost = torch.rand(2, generator=chance).tolist()
            if slow < self.slow:
                own = own[: int(torch.randint(1, len(own) + 1, (), generator=chance))]
            return [] if lost < self.dropped else own
        return own

    def _cohort(self, chance: torch.Generator) -> list[int]:
        return cohort_of(len(self.parts), self.cohort, chance)

    def _generator(self, *place: int) -> torch.Generator:
        return chance_of(self.seed, *place)

    # Steps two and three.

    def at(self, places, sample, memory, t) -> Estimate:
        """Return z for each place: a round from there, with the same clients and batches."""
        iterate = places[0]
        number, hyper = iterate[..., 0].numel(), values_at(t, self.hyper)
        memory = memory or self._first_memory(iterate)
        others = [self._round(w, sample, memory, hyper)[0] for w in places[1:]]
        z, drift = self._round(iterate, sample, memory, hyper, self._remember)
        each = self.vectors * iterate.shape[-1] * iterate.element_size()
        memory = {
            **memory,
            "bytes_down": memory["bytes_down"] + sample.invited * each / number,
            "bytes_up": memory["bytes_up"] + len(sample.clients) * each / number,
            "drift": drift,
        }
        spent = sum(len(batch) for own in sample.batches for batch in own) * len(places)
        return Estimate((z, *others), memory, round(spent / number))

    def _round(self, w, sample, memory, hyper, remember=None):
        """Return z and the drift, of the shape of w and of its rows."""
        start = w.reshape(-1, w.shape[-1])
        number, sizes = len(start), self._importance().to(start)
        total, weight = torch.zeros_like(start), start.new_zeros(number, 1)
        drift, kept = torch.zeros_like(weight), []
        chunk = self._clients_at_once(start, _of_rows(hyper, w, torch.zeros(1, dtype=torch.int64)))
        for first in range(0, len(sample.clients), chunk):
            piece = slice(first, first + chunk)
            clients, rows = (x[piece].to(w.device) for x in (sample.clients, sample.rows))
            indices, weights = stack(sample.batches[piece])
            trained, gradients = train(
                self.problem,
                start[rows],
                indices.to(w.device),
                None if weights is None else weights.to(start),
                self.rule,
                _of_rows(hyper, w, rows),
                proximal=self.proximal,
                correction=self._correction(memory, clients, rows),
            )
            if remember:
                remember(memory, clients, rows, gradients)
            update = trained - start[rows]
            share = sizes[clients].unsqueeze(1)
            _add_by_row(weight, rows, share)
            _add_by_row(drift, rows, share * update.norm(dim=1, keepdim=True))
            update = self._sent(update, clients)
            if self.aggregate is mean:
                _add_by_row(total, rows, share * update)
            else:
                kept.append((rows, update, sizes[clients]))
        if kept:
            rows, updates, sizes = (torch.cat(x) for x in zip(*kept, strict=True))
            for row in rows.unique().tolist():
                mine = rows == row
                total[row] = weight[row] * self.aggregate(updates[mine], sizes[mine])
        heard = torch.where(weight > 0, weight, 1)  # of nobody: the iterate stays where it is
        z = -self._average(total, heard, sample)
        return z.view_as(w), (drift / heard).view(w.shape[:-1])

    def _importance(self) -> Tensor:
        return self.sizes

    def _sent(self, update: Tensor, clients: Tensor) -> Tensor:
        """Return what the clients send in the place of their updates."""
        for client, attack in self.hostile.items():
            lies = (clients == client).unsqueeze(1)
            update = torch.where(lies, attack(update), update)
        return update

    def _average(self, total: Tensor, weight: Tensor, sample: Work) -> Tensor:
        return total / weight

    def _correction(self, memory, clients: Tensor, rows: Tensor) -> Tensor | None:
        return None

    def _remember(self, memory, clients: Tensor, rows: Tensor, gradients: Tensor) -> None:
        """Take note of the clients' mean gradients."""

    def _first_memory(self, w: Tensor) -> dict:
        zero = torch.zeros((), dtype=torch.float64)
        return {"bytes_down": zero, "bytes_up": zero, "drift": w.new_zeros(w.shape[:-1])}

    def _clients_at_once(self, start: Tensor, hyper: Mapping) -> int:
        if self.chunk is None:
            batch = max(self.parts, key=len)[: self.batch].to(start.device).view(1, -1, 1)
            weights = torch.ones_like(batch, dtype=start.dtype) / batch.numel()
            with _Allocations() as counted:
                train(self.problem, start[:1], batch, weights, self.rule, hyper)
            most = SHARE_OF_FREE_MEMORY * _free_bytes(start.device)
            if start.device.type == "cpu":
                most = min(most, MAX_BYTES_ON_A_CPU)
            self.chunk = max(1, int(most / counted.bytes))
        return self.chunk

    # Step two on a machine of its own.

    def train_one(self, client: int, w: Tensor, t: int) -> Tensor | None:
        """Return what a client sends in round t in answer to w, `None` if it is not heard of again.

        That is what it does beside all others, to rounding. On a machine of its own it is all that
        is done.

        Raises:
            TypeError: control variates or noise, say, would be missing: this is FedAvg's alone.
        """
        if type(self) is not FedAvg:
            raise TypeError(f"one client of {type(self).__name__} alone is not all of it: use run.")
        own = self.work_of(client, t)
        if not own:
            return None
        indices, weights = stack([own])
        trained, _ = train(
            self.problem,
            w.unsqueeze(0),
            indices.to(w.device),
            None if weights is None else weights.to(w),
            self.rule,
            values_at(t, self.hyper),
            proximal=self.proximal,
        )
        return w + self._sent(trained - w, torch.tensor([client], device=w.device))[0]


def chance_of(seed: int, *place: int) -> torch.Generator:
    """Return the generator of a round, or of a client's part in it, whoever else asks.

    A place is (round, row of w), or (round, row, client).
    """
    # Not `SeedSequence((seed, *place))`: that of (t, row) would be that of (t, row, client 0).
    state = np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def cohort_of(clients: int, size: int | None, chance: torch.Generator) -> list[int]:
    """Return the numbers of the clients of a round, in the order drawn; without a size, all."""
    if size is None:
        return list(range(clients))
    return torch.randperm(clients, generator=chance)[:size].tolist()


class Scaffold(FedAvg):
    r"""A round of SCAFFOLD: clients correct their gradients by what the others want.

    $$w_k \leftarrow \text{rule}\bigl(w_k, \nabla f_{\mathcal B}(w_k) + c - c_k\bigr), \qquad
      c_k \leftarrow \frac1S \sum_{s=1}^S \nabla f_{\mathcal B_s}(w_k^{(s)}), \qquad
      c = \sum_k \frac{n_k}{n} \, c_k$$

    The control variates c_k begin at zero, and stay as they are where a client takes no part. With
    SGD as the clients' rule the mean gradient along the way is the paper's option II. It sends
    twice as much as FedAvg, and keeps in one table the K vectors that the paper leaves to the
    clients. The paper's F is the plain mean of the F_k, and so is its c; ours are those of FedAvg,
    or else the fixed point would be the minimum of another function.
    Source: Karimireddy et al. (2020), arXiv:1910.06378, algorithm 1.

    Args:
        problem, parts, lr: as for `FedAvg`, and so are all others.
        max_bytes: the largest table of control variates allowed.

    Raises:
        ValueError: as for `FedAvg`.
        MemoryError: from `at`, before anything is allocated, if the table takes more than
            `max_bytes`.
    """

    vectors = 2

    def __init__(self, problem, parts, *, lr, max_bytes: int = MAX_TABLE_BYTES, **options):
        super().__init__(problem, parts, lr=lr, **options)
        self.max_bytes = max_bytes

    def at(self, places, sample, memory, t) -> Estimate:
        """Return z for each place; the memory holds the control variates."""
        estimate = super().at(places, sample, memory, t)
        memory = estimate.memory
        memory["c"] = memory["c"] + memory["change"]
        memory["change"] = torch.zeros_like(memory["c"])
        return estimate

    def _correction(self, memory, clients, rows):
        return memory["c"][rows] - memory["each"][rows, clients]

    def _remember(self, memory, clients, rows, gradients):
        change = gradients - memory["each"][rows, clients]
        share = (self.sizes / self.sizes.sum()).to(change)[clients].unsqueeze(1)
        _add_by_row(memory["change"], rows, share * change)
        memory["each"][rows, clients] = gradients

    def _first_memory(self, w):
        c = w.new_zeros(w.shape[:-1].numel(), w.shape[-1])
        size = len(self.parts) * c.numel() * c.element_size()
        if size > self.max_bytes:
            raise MemoryError(
                f"the control variates of {len(self.parts)} clients would take {size:,} bytes, "
                f"max_bytes is {self.max_bytes:,}."
            )
        each = c.new_zeros(len(c), len(self.parts), c.shape[1])
        return {**super()._first_memory(w), "c": c, "each": each, "change": torch.zeros_like(c)}


def _add_by_row(sums: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add to each row what its own clients have.

    Not by a product with zeros: one row that is infinite would make a NaN of all others.
    """
    for row in rows.unique().tolist():
        sums[row] += values[rows == row].sum(0)


def _of_rows(hyper: Mapping, w: Tensor, rows: Tensor) -> dict:
    """Return the hyper-parameters of clients that start from these rows of w."""

    def own(value):
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        return value.expand(*w.shape[:-1], value.shape[-1]).reshape(-1, value.shape[-1])[rows]

    return {name: own(value) for name, value in hyper.items()}


class _Allocations(TorchDispatchMode):
    """Adds up the bytes of everything that is computed: no less than what lives at one time."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        there = {_place(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = (x for x in tree_leaves(result) if isinstance(x, Tensor))
        self.bytes += sum(x.nbytes for x in made if _place(x) not in there)  # a view takes nothing
        return result


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _check_parts(problem: Problem, parts: Sequence[Tensor]) -> None:
    if problem.n is None:
        raise ValueError("problem must be a finite sum: its examples are what the clients hold.")
    if not len(parts):
        raise ValueError("parts must hold at least one client.")
    for k, part in enumerate(parts):
        if part.ndim != 1 or not len(part) or part.is_floating_point():
            raise ValueError(
                f"parts[{k}] must be a vector of indices, at least one, got {part.dtype} of shape "
                f"{tuple(part.shape)}."
            )
        if part.min() < 0 or part.max() >= problem.n:
            raise ValueError(f"parts[{k}] must hold indices from 0 to {problem.n - 1}.")


def _check_module(problem: Problem) -> None:
    """Raise if a forward pass does more than compute each example's loss from its parameters."""
    if not hasattr(problem, "module"):
        return
    w, some = problem.start, torch.arange(min(2, problem.n))
    random = torch.cuda if w.is_cuda else torch
    buffers = dict(problem.module.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    with torch.random.fork_rng(), torch.no_grad():
        chance = random.get_rng_state()
        together = problem.f(w, some)
        if not torch.equal(chance, random.get_rng_state()):
            raise ValueError("the module must not draw random numbers: call its eval() first.")
        # Each example three times: some layers refuse to see one alone, and a sum would hide.
        apart = torch.stack([problem.f(w, one.repeat(3)) for one in some]).mean()
    if changed := [name for name, old in before.items() if not torch.equal(old, buffers[name])]:
        for name in changed:
            buffers[name].copy_(before[name])
        raise ValueError(
            f"the module must not have buffers that change in the forward pass, got {changed[0]}: "
            "call its eval(), or use a layer without running statistics, such as GroupNorm."
        )
    if not torch.isclose(together, apart, rtol=1e-3):
        raise ValueError(
            "the loss must be a mean over examples that do not see each other: of two it is "
            f"{together.item():g}, of one after the other {apart.item():g} in the mean."
        )
