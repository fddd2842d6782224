"""The app under Flower against the batched simulation: the same weights, and what is left out."""

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, Error, Message
from flwr.supercore.task_identity import TaskIdentity
from torch.nn.functional import cross_entropy

from optcore import rules
from optcore.federated import FedAvg, Scaffold, coordinate_median, dirichlet, trimmed_mean
from optcore.federated.flower import SILENCE, InProcess, OverGrid, client_app
from optcore.federated.privacy import DPFedAvg
from optcore.problems import LogisticRegression, Network
from optcore.rules.compose import by_layer
from optcore.run import NotFinite, run

CLIENTS, ROUNDS = 5, 4
LOCAL = {"lr": 0.2, "epochs": 2, "batch": 3}
generator = torch.Generator().manual_seed(0)
x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
y = torch.randint(3, (60,), generator=generator)
PARTS = dirichlet(y, CLIENTS, alpha=1.0)


def logistic(dtype=torch.float64):
    return LogisticRegression(x.to(dtype), y, l2=0.1)


def network(dtype=torch.float64):
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    return Network(module.to(dtype), x.to(dtype), y, cross_entropy)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Be the server of a run: a message says from whom it comes."""
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


class Unreliable(InProcess):
    """Nodes of any numbers: the `lost` answer no train message, those `away` are not connected."""

    def __init__(self, app, nodes, lost=(), away=()):
        super().__init__(app, len(nodes))
        self.nodes, self.lost, self.away = nodes, lost, away
        self.spoil, self.asked, self.order, self.replies = {}, [], [], []
        self.direction, self.excuse = -1, None

    def get_node_ids(self):
        return [node for node, number in self.nodes.items() if number not in self.away]

    def config_of(self, node):
        return {} if self.nodes[node] is None else {"partition-id": self.nodes[node]}

    def send_and_receive(self, messages, *, timeout=None):
        assert all(message.metadata.ttl == timeout > 0 for message in messages)
        replies = [reply for message in messages for reply in self.answers(message)]
        return replies[:: self.direction]

    def answers(self, message):
        meta = message.metadata
        number, is_train = self.nodes[meta.dst_node_id], meta.message_type == "train"
        self.asked.append((meta.message_type, number))
        self.order.append(meta.dst_node_id)
        if is_train and number in self.lost:
            if self.excuse is not None:
                yield Message(Error(self.excuse, "not there"), reply_to=message)
            return
        try:
            reply = self.answer(message)
        except ValueError as error:
            reply = Message(Error(2, str(error)), reply_to=message)
        if is_train and number in self.spoil:
            self.spoil[number](reply.content)
        self.replies.append(reply)
        yield reply


def nodes(clients=CLIENTS):
    return {1000 - 7 * k: k for k in range(clients)}


def federation(problem, parts=PARTS, **settings):
    return client_app(lambda context: FedAvg(problem, parts, **settings))


def over(problem, grid, **server):
    server = {"clients": CLIENTS, "epochs": 2, "wait": 1e-9, "timeout": 5, **server}
    return OverGrid(problem, grid, **server)


def both(problem, server=rules.sgd, *, rate=1.0, hyper=None, **settings):
    """Return the histories of the simulation and of the app."""
    estimators = (
        FedAvg(problem, PARTS, **settings),
        over(problem, Unreliable(federation(problem, **settings), nodes())),
    )
    return [run(e, server, lr=rate, steps=ROUNDS, **(hyper or {})) for e in estimators]


def close(ours, theirs, dtype=torch.float64):
    bound = {torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    assert theirs.w.dtype == dtype
    assert (ours.w - theirs.w).abs().max() <= bound
    assert not torch.equal(ours.w, torch.zeros_like(ours.w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("problem", [logistic, network])
def test_weights_are_those_of_the_simulation(problem, dtype):
    close(*both(problem(dtype), **LOCAL), dtype)


def test_calls_in_this_process_are_a_grid(monkeypatch):
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", None)
    problem = logistic()
    grid = InProcess(federation(problem, **LOCAL), CLIENTS)
    theirs = run(over(problem, grid), rules.sgd, lr=1.0, steps=ROUNDS)
    close(run(FedAvg(problem, PARTS, **LOCAL), rules.sgd, lr=1.0, steps=ROUNDS), theirs)
    assert (theirs["heard"][1:] == CLIENTS).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.2},
        {"lr": lambda t: 0.2 / t, "batch": 4, "seed": 3},
        {**LOCAL, "rule": rules.heavy_ball, "beta": 0.5},
        {**LOCAL, "proximal": 0.7},
        {**LOCAL, "slow": 0.6, "seed": 1},
        {**LOCAL, "hostile": {2: lambda update: -5 * update}},
    ],
    ids=["one step", "schedule", "rule", "proximal", "slow", "hostile"],
)
def test_clients_do_what_they_do_in_the_simulation(settings):
    close(*both(logistic(), **settings))


@pytest.mark.parametrize(
    "server",
    [
        {"aggregate": coordinate_median},
        {"aggregate": trimmed_mean(0.2)},
        {"cohort": 2},
        {"cohort": 3, "seed": 5},
    ],
    ids=["median", "trimmed", "cohort", "seed"],
)
def test_the_server_does_what_it_does_in_the_simulation(server):
    seed = {"seed": server.pop("seed")} if "seed" in server else {}
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL, **seed), nodes())
    ours = run(FedAvg(problem, PARTS, **LOCAL, **server, **seed), rules.sgd, lr=1.0, steps=ROUNDS)
    theirs = run(over(problem, grid, **server, **seed), rules.sgd, lr=1.0, steps=ROUNDS)
    close(ours, theirs)
    for name in ("evaluations", "bytes_down", "bytes_up"):
        assert (ours[name] == theirs[name]).all(), name
    assert ours["drift"] == pytest.approx(theirs["drift"], rel=1e-12)


@pytest.mark.parametrize(
    ("rule", "lr", "hyper"),
    [
        (rules.heavy_ball, 1.0, {"beta": 0.9}),
        (rules.adam, 0.01, {"eps": 1e-3}),
        (rules.nesterov_look_ahead, 1.0, {"beta": 0.5}),
        (rules.nesterov_two_gradients, 1.0, {"beta": 0.5}),
    ],
    ids=["FedAvgM", "FedAdam", "look ahead", "two gradients"],
)
def test_any_rule_of_the_book_is_the_servers(rule, lr, hyper):
    close(*both(logistic(), rule, rate=lr, hyper=hyper, **LOCAL))


def test_a_rule_of_matrices_is_the_servers():
    problem = network()
    rule = by_layer(problem, matrices=rules.muon, others=rules.adam)
    hyper = {"matrices": {"lr": 0.05}, "others": {"lr": 0.01, "eps": 1e-3}}
    close(*both(problem, rule, hyper=hyper, **LOCAL))


def test_a_client_that_is_lost_by_lot_is_left_out():
    ours, theirs = both(logistic(), **LOCAL, dropped=0.4)
    close(ours, theirs)
    assert theirs["heard"][1:].min() < CLIENTS


@pytest.mark.parametrize("away", [False, True], ids=["silent", "not there"])
def test_a_client_that_does_not_answer_is_left_out_of_the_average(away):
    # The last one, so that the numbers of the others stay.
    problem, gone = logistic(), CLIENTS - 1
    grid = Unreliable(federation(problem, **LOCAL), nodes(), lost=[gone])
    estimator = over(problem, grid)
    start = run(estimator, rules.sgd, lr=1.0, steps=1)
    grid.away = [gone] if away else []
    theirs = run(estimator, rules.sgd, lr=1.0, steps=ROUNDS, resume=start.checkpoint)
    ours = run(FedAvg(problem, PARTS[:gone], **LOCAL), rules.sgd, lr=1.0, steps=ROUNDS)
    close(ours, theirs)
    assert (theirs["heard"][1:] == gone).all()
    assert (theirs["bytes_up"] == ours["bytes_up"]).all()
    sent = [CLIENTS] + (ROUNDS - 1) * [gone if away else CLIENTS]
    assert (np.diff(theirs["bytes_down"]) == problem.start.nbytes * np.array(sent)).all()


def test_a_client_that_comes_back_takes_part_again():
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL), nodes())
    estimator, w = over(problem, grid), problem.start
    expected = FedAvg(problem, PARTS, **LOCAL)
    for t, away in enumerate([[], [1], []], 1):
        grid.away = away
        if not away:  # as another node, if it had no key
            grid.nodes = {node + t: number for node, number in grid.nodes.items()}
        z, *_ = estimator.at((w,), estimator.draw(t, w), None, t)[0]
        heard = [k for k in range(CLIENTS) if k not in away]
        sizes = torch.tensor([len(PARTS[k]) for k in heard], dtype=w.dtype)
        trained = torch.stack([expected.train_one(k, w, t) for k in heard])
        assert (w - z - sizes @ trained / sizes.sum()).abs().max() < 1e-12
        w = w - z


@pytest.mark.parametrize("excuse", [None, *SILENCE])
def test_when_nobody_answers_the_iterate_stays_where_it_is(excuse):
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL), nodes(), lost=range(CLIENTS))
    grid.excuse = excuse  # the link's, in the place of an answer
    history = run(over(problem, grid), rules.sgd, lr=1.0, steps=2)
    assert torch.equal(history.w, problem.start)
    assert history["heard"].tolist() == [0, 0, 0]
    assert history["evaluations"].tolist() == [0, 0, 0]


def test_when_every_client_fails_the_run_does_and_says_why():
    problem = logistic()
    grid = Unreliable(federation(problem, lr=-1.0), nodes())
    with pytest.raises(RuntimeError, match="round 1; one says: lr must be"):
        run(over(problem, grid), rules.sgd, lr=1.0, steps=1)
    grid = Unreliable(federation(problem, **LOCAL), nodes())
    grid.spoil = {k: lambda content: content.pop("size") for k in range(CLIENTS)}
    with pytest.raises(RuntimeError, match="is no answer: 'size'"):
        run(over(problem, grid), rules.sgd, lr=1.0, steps=1)


def test_a_client_may_hold_nothing_but_its_own_examples():
    def own(context):
        k = context.node_config["partition-id"]
        problem = Network(torch.nn.Linear(4, 3).double(), x[PARTS[k]], y[PARTS[k]], cross_entropy)
        return FedAvg(problem, [torch.arange(len(PARTS[k]))], first=k, **LOCAL)

    problem = Network(torch.nn.Linear(4, 3).double(), x, y, cross_entropy)
    grid = Unreliable(client_app(own), nodes())
    theirs = run(over(problem, grid), rules.sgd, lr=1.0, steps=ROUNDS)
    close(run(FedAvg(problem, PARTS, **LOCAL), rules.sgd, lr=1.0, steps=ROUNDS), theirs)


def test_nothing_but_weights_and_the_number_of_examples_goes_back():
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL), nodes())
    run(over(problem, grid, cohort=2), rules.sgd, lr=1.0, steps=2)
    assert sorted(grid.asked[:CLIENTS]) == [("query", k) for k in range(CLIENTS)]
    assert [kind for kind, _ in grid.asked[CLIENTS:]] == ["train"] * 4
    for reply, (kind, k) in zip(grid.replies, grid.asked, strict=True):
        if kind == "query":
            assert {name: dict(r) for name, r in reply.content.items()} == {"number": {"client": k}}
        else:
            assert list(reply.content) == ["weights", "size"]
            assert list(reply.content["weights"]) == ["w"]
            assert dict(reply.content["size"]) == {"examples": len(PARTS[k])}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("size"),
        lambda content: content.pop("weights"),
        lambda content: content["size"].update(examples=0),
        lambda content: content["size"].update(examples=float("nan")),
        lambda content: content["weights"].update(w=Array(np.zeros(3))),
        lambda content: content["weights"].update(w=Array(np.zeros(15, np.float32))),
    ],
)
def test_what_is_no_answer_is_left_out(spoil, caplog):
    problem, gone = logistic(), CLIENTS - 1
    grid = Unreliable(federation(problem, **LOCAL), nodes())
    estimator = over(problem, grid)
    grid.spoil = {gone: spoil}
    history = run(estimator, rules.sgd, lr=1.0, steps=1)
    close(run(FedAvg(problem, PARTS[:gone], **LOCAL), rules.sgd, lr=1.0, steps=1), history)
    assert history["heard"].tolist() == [0, gone]
    assert f"client {gone} answers what is no answer" in caplog.text


def test_weights_that_are_not_finite_stop_the_run():
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL), nodes())
    grid.spoil = {1: lambda content: content["weights"].update(w=Array(np.full(15, np.nan)))}
    with pytest.raises(NotFinite, match="step 1"):
        run(over(problem, grid), rules.sgd, lr=1.0, steps=1)


def test_a_run_resumes_to_the_bit():
    problem = logistic()

    def go(steps, **resume):
        grid = Unreliable(federation(problem, **LOCAL), nodes())
        return run(over(problem, grid, cohort=2), rules.adam, lr=0.1, steps=steps, **resume)

    resumed = go(4, resume=go(2).checkpoint)
    whole = go(4)
    assert torch.equal(whole.w, resumed.w)
    for name in ("t", "evaluations", "bytes_down", "bytes_up", "drift", "heard"):
        assert (whole[name] == resumed[name]).all()


def test_the_order_of_the_answers_changes_no_bit():
    problem, found = network(torch.float32), []
    for direction in (1, -1):
        grid = Unreliable(federation(problem, **LOCAL), nodes())
        grid.direction = direction
        found.append(run(over(problem, grid), rules.sgd, lr=1.0, steps=ROUNDS).w)
    assert torch.equal(*found)


def test_too_few_clients_are_named():
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL), nodes(3))
    with pytest.raises(TimeoutError, match=r"3 of 5 clients .* 5 needed: .* partition-id=0 … 4"):
        run(over(problem, grid), rules.sgd, lr=1.0, steps=1)


@pytest.mark.parametrize("number", [None, CLIENTS, -1])
def test_a_node_without_a_number_is_no_client(number, caplog):
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL), nodes(CLIENTS - 1) | {5: number})
    with pytest.raises(TimeoutError, match="4 of 5"):
        run(over(problem, grid), rules.sgd, lr=1.0, steps=1)
    assert ("partition-id" if number is None else f"node 5 is client {number}") in caplog.text


def test_of_two_nodes_with_one_number_the_later_counts():
    problem = logistic()
    grid = Unreliable(federation(problem, **LOCAL), nodes())
    estimator = over(problem, grid)
    estimator.at((problem.start,), estimator.draw(1, problem.start), None, 1)
    grid.nodes[3] = 0
    estimator.at((problem.start,), estimator.draw(2, problem.start), None, 2)
    assert len(grid.asked) == 2 * CLIENTS + 1 + CLIENTS
    assert 3 in grid.order[-CLIENTS:]


def test_what_is_more_than_fedavg_is_refused():
    problem = logistic()
    private = DPFedAvg(problem, PARTS, lr=0.1, rate=0.5, noise=1.0, clip=1.0)
    for estimator in (Scaffold(problem, PARTS, lr=0.1), private):
        grid = Unreliable(client_app(lambda context, e=estimator: e), nodes())
        with pytest.raises(TypeError, match=f"one client of {type(estimator).__name__} alone"):
            run(over(problem, grid), rules.sgd, lr=1.0, steps=1)


def test_rows_are_refused():
    problem = logistic()
    estimator = over(problem, Unreliable(federation(problem, **LOCAL), nodes()))
    with pytest.raises(ValueError, match="no rows"):
        run(estimator, rules.sgd, lr=1.0, steps=1, w=problem.start.expand(2, -1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clients", 0),
        ("epochs", 0),
        ("cohort", 0),
        ("cohort", CLIENTS + 1),
        ("timeout", 0),
        ("wait", math.nan),
    ],
)
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        over(logistic(), None, **{name: value})


# Deliberate mistakes: `python tests/mutants.py flower`.
MUTANTS = {
    ("federated/flower.py", "def client_app"): [
        ("- clients.first", ""),
        ('message.content["round"]["t"]', "1"),
        ("len(clients.parts[client])", "1"),
        ('"size": size})', '"size": size, "start": _record(w)})'),
        ("if trained is None:", "if False:"),
        (
            "Message(LOST, reply_to=message)",
            'Message(RecordDict({"weights": _record(w), "size": MetricRecord({"examples": 9})}), '
            "reply_to=message)",
        ),
    ],
    ("federated/flower.py", "def draw"): [
        ("chance_of(self.seed, t, 0)", "chance_of(self.seed, t, 1)"),
        ("chance_of(self.seed, t, 0)", "chance_of(0, t, 0)"),
        ("self.cohort, chance", "None, chance"),
    ],
    ("federated/flower.py", "def at"): [
        ("for place in places", "for place in places[:1] * len(places)"),
        ("sum(invited)", "len(sample)"),
        ("sum(heard)", "sum(invited)"),
        ("drift[0]", "drift[0] * 0"),
        ("self.epochs * sum", "sum"),
    ],
    ("federated/flower.py", "def _round"): [
        ("1 if self._clients else self.clients", "1"),
        ("1 if self._clients else self.clients", "self.clients"),
        ("w.new_tensor(sizes)", "torch.ones_like(w.new_tensor(sizes))"),
        ("- w, w.new", "- 0 * w, w.new"),
        ("-self.aggregate", "self.aggregate"),
        ("self.aggregate(", "mean("),
        (
            "        if not heard:",
            "        heard = {k: (w, 9.0) for k in cohort} | heard\n        if not heard:",
        ),
        ("if not heard:", "if False:"),
        ("sorted(heard)", "heard"),
    ],
    ("federated/flower.py", "def _send"): [
        ("_record(w)", "_record(0 * w)"),
        ("(KeyError, TypeError, ValueError)", "ZeroDivisionError"),
        ("(KeyError, TypeError, ValueError)", "KeyError"),
    ],
    ("federated/flower.py", "def _send(self, w"): [
        ("faults and not heard", "False"),
        ("faults and not heard", "faults"),
        ("faults and not heard", "not heard"),
    ],
    ("federated/flower.py", "def _ask"): [
        (" not in SILENCE", " in SILENCE"),
        (" not in SILENCE", " >= 0"),
    ],
    ("federated/flower.py", "def _nodes"): [
        ("here - self._clients.keys()", "here"),
        ("if node in here}", "}"),
        ("self._clients.items()", "reversed(self._clients.items())"),
        ("found.pop(None, None)", "pass"),
        (">= enough", ">= 0"),
    ],
    ("federated/flower.py", "def _note"): [
        ("0 <= client < self.clients", "0 <= client <= self.clients"),
        ("0 <= client < self.clients", "client < self.clients"),
    ],
    ("federated/flower.py", "class InProcess"): [
        ("node - 1", "node"),
        ("clients + 1", "clients"),
        ("TaskIdentity.run_id = ", ""),
        ("TaskIdentity.node_id = ", ""),
        ("TaskIdentity.task_id = ", ""),
    ],
    ("federated/flower.py", "def _answer_of"): [
        ("trained.shape != w.shape or ", ""),
        (" or trained.dtype != w.dtype", ""),
        ("0 < size", "0 <= size"),
        ("0 < size < math.inf", "size != 0"),
    ],
    ("federated/round.py", "def work_of"): [
        ("self.first + client", "client"),
    ],
    ("federated/round.py", "def train_one"): [
        ("if type(self) is not FedAvg", "if False"),
        ("self.work_of(client, t)", "self.work_of(client, 1)"),
        ("values_at(t, self.hyper)", "values_at(1, self.hyper)"),
        ("proximal=self.proximal", "proximal=0.0"),
        ("self._sent(trained - w, torch.tensor([client], device=w.device))[0]", "(trained - w)[0]"),
    ],
}
