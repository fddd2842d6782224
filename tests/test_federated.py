"""Federated averaging against loops over clients in plain PyTorch; partitions; what is refused."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from optcore import rules
from optcore.estimators import FullBatch
from optcore.federated import (
    FedAvg,
    Scaffold,
    coordinate_median,
    dirichlet,
    holdings,
    iid,
    mean,
    ring,
    shards,
    trimmed_mean,
)
from optcore.federated import round as module_of_round
from optcore.problems import LogisticRegression, Network
from optcore.run import run

N, K, C = 61, 5, 3
ROUNDS, EPOCHS, B, LR = 4, 2, 4, 0.3


def examples():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, C, (N,), generator=generator)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    return x + torch.nn.functional.one_hot(y, 4), y


def module():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, C)).double()


def network():
    return Network(module(), *examples(), cross_entropy)


def logistic():
    return LogisticRegression(*examples(), l2=0.01)


def parts():
    """Return five parts of different sizes, none a multiple of the batch."""
    return list(
        torch.randperm(N, generator=torch.Generator().manual_seed(2)).split([3, 6, 9, 17, 26])
    )


def by_hand(federated, mu=0.0, cohort=None, weigh=len, rounds=ROUNDS):
    """Return the iterates of federated averaging by modules, optimizers and loops."""
    x, y = examples()
    server, iterates = module(), []
    for t in range(1, rounds + 1):
        start = parameters_to_vector(server.parameters()).detach()
        total, weight = 0, 0
        for k in range(K) if cohort is None else cohort(t):
            client = copy.deepcopy(server)
            optimizer = torch.optim.SGD(client.parameters(), lr=LR)
            for batch in federated.work_of(k, t):
                w = parameters_to_vector(client.parameters())
                loss = (
                    cross_entropy(client(x[batch]), y[batch]) + mu / 2 * (w - start).square().sum()
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            own = weigh(federated.parts[k])
            total = total + own * parameters_to_vector(client.parameters()).detach()
            weight += own
        vector_to_parameters(total / weight, server.parameters())
        iterates.append(total / weight)
    return torch.stack(iterates)


def averaged(federated, rounds=ROUNDS, rule=rules.sgd, lr=1.0):
    """Return the iterates of the same by `run`."""
    return torch.from_numpy(
        run(federated, rule, lr=lr, steps=rounds, record={"w": lambda w: w})["w"][1:]
    )


def close(found, expected, atol=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


SETTINGS = {"lr": LR, "epochs": EPOCHS, "batch": B, "seed": 3}


# What a round is.


def test_it_is_the_loop_over_clients_of_any_size():
    federated = FedAvg(network(), parts(), **SETTINGS)
    close(averaged(federated), by_hand(federated))


def test_the_proximal_term():
    federated = FedAvg(network(), parts(), proximal=0.7, **SETTINGS)
    close(averaged(federated), by_hand(federated, mu=0.7))
    assert (averaged(federated) - by_hand(federated)).abs().max() > 1e-3


def test_one_step_on_everything_is_gradient_descent():
    problem = logistic()
    found = averaged(FedAvg(problem, parts(), lr=LR))
    expected = run(FullBatch(problem), rules.sgd, lr=LR, steps=ROUNDS, record={"w": lambda w: w})
    close(found, torch.from_numpy(expected["w"][1:]))


def test_each_client_takes_each_example_once_an_epoch():
    federated = FedAvg(logistic(), parts(), **SETTINGS)
    for k, part in enumerate(parts()):
        batches = federated.work_of(k, 1)
        assert [len(b) for b in batches[:-1]].count(B) >= len(part) // B
        epochs = torch.cat(batches).view(EPOCHS, -1)
        for epoch in epochs:
            assert sorted(epoch.tolist()) == sorted(part.tolist())
        assert not torch.equal(epochs[0], epochs[1]) or len(part) < 4
    assert (
        torch.cat(federated.work_of(4, 1)).tolist() != torch.cat(federated.work_of(4, 2)).tolist()
    )


def test_a_cohort():
    federated = FedAvg(network(), parts(), cohort=2, **SETTINGS)
    like = network().start
    cohorts = [federated.draw(t, like).clients.tolist() for t in range(1, ROUNDS + 1)]
    assert len({tuple(c) for c in cohorts}) > 1
    assert all(len(set(c)) == 2 for c in cohorts)
    close(averaged(federated), by_hand(federated, cohort=lambda t: cohorts[t - 1]))


def test_who_is_lost_has_no_weight():
    federated = FedAvg(network(), parts(), dropped=0.5, **SETTINGS)
    like = network().start
    heard = [federated.draw(t, like).clients.tolist() for t in range(1, 9)]
    assert 0 < sum(map(len, heard)) < 8 * K
    close(averaged(federated), by_hand(federated, cohort=lambda t: heard[t - 1]))


def test_where_all_are_lost_the_iterate_stays():
    problem = network()
    history = run(FedAvg(problem, parts(), dropped=1.0, **SETTINGS), rules.sgd, lr=1.0, steps=2)
    assert torch.equal(history.w, problem.start)
    assert history["bytes_up"][-1] == 0 < history["bytes_down"][-1]
    assert history["evaluations"][-1] == 0


def test_the_slow_do_a_part_of_their_steps():
    fast, slow = (FedAvg(network(), parts(), slow=s, **SETTINGS) for s in (0.0, 1.0))
    lengths = set()
    for t in range(1, 100):
        whole, part = fast.work_of(4, t), slow.work_of(4, t)
        assert 1 <= len(part) <= len(whole)
        assert all(torch.equal(a, b) for a, b in zip(part, whole, strict=False))
        lengths.add(len(part))
    assert {1, len(whole)} <= lengths
    close(averaged(slow), by_hand(slow))


# SCAFFOLD, from the paper's algorithm 1.


def scaffold_by_hand(federated, cohorts):
    problem = federated.problem
    w, c = problem.start, torch.zeros_like(problem.start)
    each, iterates = [torch.zeros_like(w) for _ in range(K)], []
    for t, cohort in enumerate(cohorts, 1):
        moved, changes = [], []
        for k in cohort:
            own, work = w, federated.work_of(k, t)
            for batch in work:
                own = own - LR * (problem.gradient(own, batch) - each[k] + c)
            new = each[k] - c + (w - own) / (len(work) * LR)  # option II
            moved.append(len(federated.parts[k]) * (own - w))
            changes.append(len(federated.parts[k]) * (new - each[k]))
            each[k] = new
        w = w + sum(moved) / sum(len(federated.parts[k]) for k in cohort)
        c = c + sum(changes) / sum(len(part) for part in federated.parts)
        iterates.append(w)
    return torch.stack(iterates)


@pytest.mark.parametrize("make_problem", [network, logistic])
@pytest.mark.parametrize("cohort", [None, 2])
def test_scaffold(cohort, make_problem):
    federated = Scaffold(make_problem(), parts(), cohort=cohort, **SETTINGS)
    like = federated.problem.start
    cohorts = [federated.draw(t, like).clients.tolist() for t in range(1, 7)]
    close(averaged(federated, rounds=6), scaffold_by_hand(federated, cohorts))


def test_scaffold_costs_twice_the_bytes_and_asks_for_its_table():
    problem = network()
    costs = [
        run(make(problem, parts(), **SETTINGS), rules.sgd, lr=1.0, steps=3)["bytes_up"]
        for make in (FedAvg, Scaffold)
    ]
    assert (costs[1] == 2 * costs[0]).all()
    with pytest.raises(MemoryError, match=rf"of {K} clients would take .* bytes, max_bytes is 100"):
        run(Scaffold(problem, parts(), max_bytes=100, **SETTINGS), rules.sgd, lr=1.0, steps=1)


# Counts, chunks, rows, checkpoints.


def test_what_it_costs():
    problem = network()
    history = run(FedAvg(problem, parts(), **SETTINGS), rules.sgd, lr=1.0, steps=ROUNDS)
    rounds = torch.arange(ROUNDS + 1).numpy()
    assert (history["evaluations"] == EPOCHS * N * rounds).all()
    assert (history["bytes_up"] == K * 8 * len(problem.start) * rounds).all()
    assert (history["bytes_down"] == history["bytes_up"]).all()
    two = run(
        FedAvg(problem, parts(), **SETTINGS),
        rules.momentum.nesterov_two_gradients,
        beta=0.5,
        lr=1.0,
        steps=ROUNDS,
    )
    assert two["evaluations"][-1] > history["evaluations"][-1]


def test_drift():
    problem = logistic()
    federated = FedAvg(problem, parts(), **SETTINGS)
    history = run(federated, rules.sgd, lr=1.0, steps=1)
    apart = [
        FedAvg(
            problem, parts(), hostile={j: lambda u: 0 * u for j in range(K) if j != k}, **SETTINGS
        )
        for k in range(K)
    ]
    moves = [run(one, rules.sgd, lr=1.0, steps=1).w - problem.start for one in apart]
    expected = sum(move.norm() for move in moves)  # each is its own n_k / n times as long
    assert history["drift"][0] == 0
    close(torch.tensor(history["drift"][1]), expected)


@pytest.mark.parametrize("make", [FedAvg, Scaffold])
@pytest.mark.parametrize("aggregate", [mean, coordinate_median])
def test_chunks_change_nothing(make, aggregate):
    for chunk in (1, 2):
        found, expected = (
            averaged(make(network(), parts(), chunk=c, aggregate=aggregate, **SETTINGS))
            for c in (chunk, K)
        )
        close(found, expected)


def test_the_chunk_fits_the_memory(monkeypatch):
    chunks = []
    for free in (10**3, 10**5, 10**7):
        monkeypatch.setattr(module_of_round, "_free_bytes", lambda device, free=free: free)
        federated = FedAvg(network(), parts(), **SETTINGS)
        run(federated, rules.sgd, lr=1.0, steps=1)
        chunks.append(federated.chunk)
    assert chunks[0] == 1 < chunks[1] and 90 <= chunks[2] / chunks[1] <= 110


def test_the_chunk_of_a_cpu_is_what_it_computes_fast(monkeypatch):
    monkeypatch.setattr(module_of_round, "_free_bytes", lambda device: 2**50)
    chunks = []
    for most in (2**26, 2**25):
        monkeypatch.setattr(module_of_round, "MAX_BYTES_ON_A_CPU", most)
        federated = FedAvg(network(), parts(), **SETTINGS)
        run(federated, rules.sgd, lr=1.0, steps=1)
        chunks.append(federated.chunk)
    assert chunks[0] // 2 == chunks[1] < 2**25


def test_a_view_takes_no_memory():
    x = torch.zeros(10)
    with module_of_round._Allocations() as counted:
        y = x.expand(1000, 10).view(10, 100, 10)
        assert counted.bytes == 0
        (y[0, 0] + 1).add_(1)
    assert counted.bytes == 40


def test_rows_are_repetitions_or_share():
    problem = network()
    w = problem.start.expand(3, -1)
    settings = {"cohort": 2, "slow": 0.5, **SETTINGS}
    own = run(FedAvg(problem, parts(), **settings), rules.sgd, lr=1.0, steps=3, w=w)
    assert len(own.w.unique(dim=0)) == 3
    assert own["drift"].shape == (4, 3) and own["evaluations"].shape == (4,)
    assert own["bytes_down"].tolist() == [2 * 8 * len(problem.start) * t for t in range(4)]
    one = run(FedAvg(problem, parts(), **settings), rules.sgd, lr=1.0, steps=3)
    close(own.w[0], one.w)
    shared = run(FedAvg(problem, parts(), shared=True, **settings), rules.sgd, lr=1.0, steps=3, w=w)
    close(shared.w, one.w.expand(3, -1))
    rates = torch.tensor([[0.1], [LR]], dtype=torch.float64)
    grid = FedAvg(problem, parts(), shared=True, **{**settings, "lr": rates})
    found = run(grid, rules.sgd, lr=1.0, steps=3, w=w[:2])
    close(found.w[1], one.w)
    assert (found.w[0] - one.w).abs().max() > 1e-3


@pytest.mark.parametrize("make", [FedAvg, Scaffold])
def test_a_row_that_diverges_leaves_the_others_alone(make):
    problem = network()
    rates = torch.tensor([[LR], [1e308]], dtype=torch.float64)
    grid = make(problem, parts(), shared=True, **{**SETTINGS, "lr": rates})
    w = problem.start.expand(2, -1)
    found = run(grid, rules.sgd, lr=1.0, steps=3, w=w)
    one = run(make(problem, parts(), **SETTINGS), rules.sgd, lr=1.0, steps=3)
    close(found.w[0], one.w)
    assert not found.w[1].isfinite().all()


def test_a_schedule_of_the_rounds():
    falling = FedAvg(network(), parts(), **{**SETTINGS, "lr": lambda t: LR / t})
    first = FedAvg(network(), parts(), **SETTINGS)
    close(averaged(falling)[0], averaged(first)[0])
    assert (averaged(falling)[1] - averaged(first)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("make", [FedAvg, Scaffold])
def test_resumed_to_the_bit_by_an_estimator_with_another_seed(make):
    def federated(seed):
        settings = {**SETTINGS, "seed": seed, "cohort": 3, "slow": 0.5, "dropped": 0.2}
        return make(network(), parts(), chunk=2, **settings)

    whole = run(federated(3), rules.adam, lr=0.1, steps=6)
    file = io.BytesIO()
    torch.save(run(federated(3), rules.adam, lr=0.1, steps=3).checkpoint, file)
    file.seek(0)
    resume = torch.load(file, weights_only=True)
    rest = run(federated(0), rules.adam, lr=0.1, steps=6, resume=resume)
    assert torch.equal(rest.w, whole.w)
    for name in ("bytes_up", "bytes_down", "drift", "evaluations"):
        assert rest[name].tolist() == whole[name].tolist()


def test_a_client_does_the_same_whoever_else_takes_part():
    some, all_of_them = (FedAvg(logistic(), parts(), cohort=c, **SETTINGS) for c in (1, None))
    client = some.draw(5, logistic().start).clients.item()
    assert all(map(torch.equal, some.work_of(client, 5), all_of_them.work_of(client, 5)))


def test_no_two_places_draw_the_same():
    places = [(seed, t, row) for seed in (0, 1) for t in (1, 2) for row in (0, 1)]
    places += [(*place, client) for place in places for client in (0, 1)]
    drawn = {torch.rand((), generator=module_of_round.chance_of(*place)).item() for place in places}
    assert len(drawn) == len(places) == 24


# Rules of the clients and of the server.


def test_any_rule_serves_and_any_rule_trains():
    problem = network()
    layers = rules.by_layer(problem, matrices=rules.muon, others=rules.adam)
    for rule, hyper in (
        (rules.adam, {}),
        (rules.momentum.heavy_ball_sum, {"beta": 0.9}),
        (rules.momentum.nesterov_look_ahead, {"beta": 0.9}),
        (layers, {"others": {"lr": 0.01}}),
    ):
        served = run(FedAvg(problem, parts(), **SETTINGS), rule, lr=0.1, steps=3, **hyper)
        trained = averaged(FedAvg(problem, parts(), rule=rule, **{**SETTINGS, **hyper, "lr": 0.05}))
        assert served.w.isfinite().all() and trained.isfinite().all()
    adam = averaged(FedAvg(problem, parts(), rule=rules.adam, **{**SETTINGS, "lr": 0.01}))
    one_round = by_adam(FedAvg(problem, parts(), **SETTINGS))
    close(adam[0], one_round)


def by_adam(federated):
    x, y = examples()
    total = 0
    for k, part in enumerate(parts()):
        client = module()
        optimizer = torch.optim.Adam(client.parameters(), lr=0.01)
        for batch in federated.work_of(k, 1):
            optimizer.zero_grad()
            cross_entropy(client(x[batch]), y[batch]).backward()
            optimizer.step()
        total = total + len(part) / N * parameters_to_vector(client.parameters()).detach()
    return total


def test_the_rule_of_matrices_sees_those_of_each_client():
    problem = network()
    rule = rules.by_layer(problem, matrices=rules.muon, others=rules.sgd)
    settings = {"lr": 0.02, "epochs": 1, "batch": 64, "seed": 3}
    found = averaged(FedAvg(problem, parts(), rule=rule, **settings), rounds=1)[0]
    moves = 0
    for part in parts():
        w, _ = rule(problem.start, problem.gradient(problem.start, part), lr=0.02)
        moves = moves + len(part) / N * (w - problem.start)
    close(found, problem.start + moves)


# Aggregates.


def test_aggregates():
    updates = torch.tensor([[1.0, 8.0], [2.0, 2.0], [30.0, -4.0], [4.0, 6.0]])
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    close(mean(updates, weights), torch.tensor([11.1, 2.4]), atol=1e-5)
    close(coordinate_median(updates, weights), torch.tensor([3.0, 4.0]))
    close(coordinate_median(updates[:3], weights[:3]), torch.tensor([2.0, 2.0]))
    close(trimmed_mean(0.25)(updates, weights), torch.tensor([3.0, 4.0]))
    close(trimmed_mean(0.2)(updates, weights), updates.mean(0))
    with pytest.raises(ValueError, match=r"share must lie in \[0, 0.5\), got 0.5"):
        trimmed_mean(0.5)


def test_a_hostile_client_and_the_median():
    problem = logistic()
    attack = {1: lambda update: -1e6 * update}
    equal = iid(problem.y, K)
    honest = averaged(FedAvg(problem, equal, **SETTINGS))[-1]
    lost = averaged(FedAvg(problem, equal, hostile=attack, **SETTINGS))[-1]
    held = averaged(FedAvg(problem, equal, hostile=attack, aggregate=coordinate_median, **SETTINGS))
    assert problem.loss(lost) > 100 > problem.loss(held[-1])
    assert (held[-1] - honest).norm() < (lost - honest).norm() / 100


def test_the_median_is_that_of_what_the_clients_moved():
    problem = logistic()
    moved = []
    for k in range(K):
        alone = FedAvg(problem, [parts()[k]], first=k, **SETTINGS)
        moved.append(run(alone, rules.sgd, lr=1.0, steps=1).w - problem.start)
    federated = FedAvg(problem, parts(), aggregate=coordinate_median, **SETTINGS)
    found = run(federated, rules.sgd, lr=1.0, steps=1).w - problem.start
    close(found, torch.stack(moved).median(0).values)


def test_clients_that_differ_only_in_their_number_of_steps():
    problem = network()
    even = list(torch.arange(24).split([4, 8, 12]))
    federated = FedAvg(problem, even, **SETTINGS)
    moved = 0
    for k, part in enumerate(even):
        w = problem.start
        for batch in federated.work_of(k, 1):
            w = w - LR * problem.gradient(w, batch)
        moved = moved + len(part) / 24 * w
    close(averaged(federated, rounds=1)[0], moved)


def test_the_median_of_each_row():
    problem = logistic()
    federated = FedAvg(problem, parts(), aggregate=coordinate_median, **SETTINGS)
    rows = run(federated, rules.sgd, lr=1.0, steps=2, w=problem.start.expand(2, -1))
    one = run(federated, rules.sgd, lr=1.0, steps=2)
    close(rows.w[0], one.w)


# Partitions.


@pytest.mark.parametrize("clients", [1, 3, 7])
@pytest.mark.parametrize(
    "split",
    [
        iid,
        lambda y, k, seed: ring(y, k, classes_each=3, seed=seed),
        lambda y, k, seed: shards(y, k, seed=seed),
        lambda y, k, seed: dirichlet(y, k, alpha=0.5, seed=seed),
    ],
)
def test_a_partition_deals_each_example_once(split, clients):
    _, y = examples()
    found = split(y, clients, seed=4)
    assert len(found) == clients
    assert torch.cat(found).sort().values.tolist() == list(range(N))
    assert all(map(torch.equal, found, split(y, clients, seed=4)))
    if clients > 1:
        assert not all(
            torch.equal(a, b) for a, b in zip(found, split(y, clients, seed=5), strict=True)
        )
    table = holdings(found, y)
    assert table.sum(0).tolist() == torch.bincount(y).tolist()
    assert table.sum(1).tolist() == [len(part) for part in found]


def test_sizes_of_iid_parts():
    assert sorted(len(part) for part in iid(examples()[1], 7)) == [8, 8, 9, 9, 9, 9, 9]


def test_the_ring():
    y = torch.arange(1000) % 10
    table = holdings(ring(y, 10), y)
    for k, row in enumerate(table):
        assert row.nonzero().squeeze(1).tolist() == sorted([k, (k + 1) % 10])
        assert row.sum() == 100
    assert (holdings(ring(y, 5, classes_each=2), y) > 0).sum(1).tolist() == [2] * 5
    assert (holdings(ring(y, 40, classes_each=3), y) > 0).sum(1).tolist() == [3] * 40
    with pytest.raises(
        ValueError, match="more than 3 with 2 classes each: nobody would hold class"
    ):
        ring(y, 3)
    with pytest.raises(ValueError, match=r"classes_each must lie in 1 … 10, got 11"):
        ring(y, 10, classes_each=11)
    with pytest.raises(ValueError, match="fewer than 600: class 0 has 100 examples for 120"):
        ring(y, 600)


def test_shards_and_dirichlet():
    y = torch.arange(1000) % 10
    table = holdings(shards(y, 10), y)
    assert (table.sum(1) == 100).all() and ((table > 0).sum(1) <= 2).all()
    with pytest.raises(ValueError, match=r"shards_each must lie in 1 … 100"):
        shards(y, 10, shards_each=101)
    even, uneven = (holdings(dirichlet(y, 10, alpha=a), y).double() for a in (1e4, 0.1))
    assert even.std() < 2 < 10 < uneven.std()
    assert len(min(dirichlet(y, 10, alpha=0.3, at_least=20), key=len)) >= 20
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        dirichlet(y, 10, alpha=0)
    with pytest.raises(ValueError, match="fewer than at_least = 200 examples in each of 100 draws"):
        dirichlet(y, 10, alpha=0.1, at_least=200)
    for split in (iid, ring, shards):
        with pytest.raises(ValueError, match=r"clients must lie in 1 … 1000, got 0"):
            split(y, 0)


# What is refused.


@pytest.mark.parametrize(
    "options, words",
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"cohort": 6}, "cohort must lie in 1 … 5, got 6"),
        ({"dropped": 1.5}, r"dropped must lie in \[0, 1\], got 1.5"),
        ({"slow": -1}, r"slow must lie in \[0, 1\], got -1"),
        ({"proximal": -1}, "proximal must be a finite number ≥ 0, got -1"),
        ({"hostile": {5: None}}, "hostile must name clients 0 … 4, got 5"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(ValueError, match=words):
        FedAvg(logistic(), parts(), **{"lr": 0.1, **options})


def test_bad_parts():
    problem = logistic()
    for wrong, words in (
        ([], "parts must hold at least one client"),
        ([torch.tensor([0]), torch.arange(0)], r"parts\[1\] must be a vector of indices"),
        ([torch.tensor([0.5])], r"parts\[0\] must be a vector of indices"),
        ([torch.tensor([N])], rf"parts\[0\] must hold indices from 0 to {N - 1}"),
        ([torch.tensor([-1])], rf"parts\[0\] must hold indices from 0 to {N - 1}"),
    ):
        with pytest.raises(ValueError, match=words):
            FedAvg(problem, wrong, lr=0.1)


@pytest.mark.parametrize(
    "layer, words",
    [
        (nn.BatchNorm1d(5), "buffers that change in the forward pass, got 1.running_mean"),
        (nn.BatchNorm1d(5, track_running_stats=False), "a mean over examples that do not see"),
        (nn.Dropout(), "must not draw random numbers"),
    ],
)
def test_modules_that_do_more_than_compute_are_refused(layer, words):
    net = nn.Sequential(nn.Linear(4, 5), layer, nn.Linear(5, C)).double()
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=words):
        FedAvg(Network(net, *examples(), cross_entropy), parts(), lr=0.1)
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    if getattr(layer, "track_running_stats", True):  # else eval() changes nothing
        FedAvg(Network(net.eval(), *examples(), cross_entropy), parts(), lr=0.1)


def test_a_sum_is_no_mean():
    def summed(outputs, targets):
        return cross_entropy(outputs, targets, reduction="sum")

    with pytest.raises(ValueError, match="the loss must be a mean"):
        FedAvg(Network(module(), *examples(), summed), parts(), lr=0.1)


ROUND, CLIENT = "federated/round.py", "federated/client.py"
MUTANTS = {
    (ROUND, "class FedAvg"): [
        ("rows, share * update)", "rows, share * update / 2)"),
        ("sizes[clients].unsqueeze(1)", "sizes.mean().expand(len(clients), 1)"),
        ("trained - start[rows]\n", "start[rows] - trained\n"),
        ("return z.view_as(w), (drift / heard)", "return z.view_as(w), drift"),
        ("torch.where(weight > 0, weight, 1)", "weight"),
        ("heard = torch.where(weight > 0, weight, 1)", "heard = sizes.sum()"),
        ("return [] if lost < self.dropped else own", "return own"),
        ("return [] if lost < self.dropped", "return own[:1] if lost < self.dropped"),
        ("if slow < self.slow:", "if lost < self.slow:"),
        ("SeedSequence(seed, spawn_key=place)", "SeedSequence((seed, *place))"),
        ("spawn_key=place", "spawn_key=place[:2]"),
        ("spawn_key=place", "spawn_key=place[1:]"),
        ("SeedSequence(seed, ", "SeedSequence(0, "),
        ("invited += len(cohort)", "invited = len(cohort)"),
        ("len(sample.clients) * each", "sample.invited * each"),
        ("for batch in own) * len(places)", "for batch in own)"),
        ("update = torch.where(lies, attack(update), update)", "pass"),
        ("weight[row] * self.aggregate", "self.aggregate"),
        ('self.seed, self.chunk = state["seed"], state["chunk"]', 'self.chunk = state["chunk"]'),
        ("values_at(t, self.hyper)", "values_at(1, self.hyper)"),
        ("proximal=self.proximal", "proximal=0.0"),
        ("_of_rows(hyper, w, rows)", "hyper"),
    ],
    (ROUND, "def _clients_at_once"): [("min(most, MAX_BYTES_ON_A_CPU)", "most")],
    (ROUND, "def cohort_of"): [("[:size]", "")],
    (ROUND, "class Scaffold"): [
        ("vectors = 2", "vectors = 1"),
        ('memory["c"][rows] - memory', 'memory["c"][rows] + memory'),
        ('memory["c"][rows] - memory', "-memory"),
        ("share * change", "change / len(self.parts)"),
        ("self.sizes / self.sizes.sum()", "self.sizes / self.sizes[clients].sum()"),
        ('memory["each"][rows, clients] = gradients', "pass"),
        ('memory["c"] = memory["c"] + memory["change"]', "pass"),
        ("if size > self.max_bytes", "if False"),
    ],
    (ROUND, "def _add_by_row"): [
        ("values[rows == row].sum(0)", "((rows == row).to(values) @ values)"),
        ("sums[row] +=", "sums[row] ="),
    ],
    (ROUND, "class _Allocations"): [
        ("self.bytes += sum(", "self.bytes = sum("),
        (" if _place(x) not in there", ""),
        ("torch.equal(old, buffers[name])", "True"),
        ("buffers[name].copy_(before[name])", "pass"),
        ("if not torch.isclose", "if False and not torch.isclose"),
        ("part.max() >= problem.n", "part.max() > problem.n"),
    ],
    (CLIENT, "def batches"): [
        ("range(epochs)", "range(1)"),
        ("part[torch.randperm(len(part), generator=generator)]", "part"),
        ("used / sizes.clamp(min=1).double()", "used / B"),
        ("len(work) * S * B", "sum(map(len, work)) * B"),
        ("[0] * (S - len(own))", "[1] * (S - len(own))"),
    ],
    (CLIENT, "def train"): [
        ("proximal * (place - start)", "proximal * (start - place)"),
        ("torch.where(works, moved, w)", "moved"),
        ("steps + works", "steps + 1"),
        ("z[0] * works", "z[0]"),
    ],
    ("federated/server.py", "def mean"): [
        ("weights.sum()", "len(weights)"),
        ("ordered[(P - 1) // 2]", "ordered[P // 2]"),
        ("len(updates) - cut", "len(updates)"),
    ],
    ("federated/partition.py", "def iid"): [
        ("% C < classes_each", "% C <= classes_each"),
        ("i * C // clients", "0"),
        ("members[_shuffled(len(members), generator)]", "members"),
        ("y.cpu()[order].sort(stable=True).indices", "torch.arange(len(y))"),
        (">= at_least", ">= 0"),
        ("np.full(clients, alpha)", "np.full(clients, 1.0)"),
    ],
    ("problems.py", "def _weighted_gradient(self, w, sample, weights):\n        x,"): [
        ("* len(x)", ""),
        ("+ self.l2 * w", ""),
    ],
    ("schedules.py", "def values_at"): [("value(t)", "value(1)")],
    ("run.py", "def run"): [("estimator.columns(memory, w) |", "")],
}  # fmt: skip
