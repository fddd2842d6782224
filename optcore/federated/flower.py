"""The same rounds over machines: clients and server of `optcore.federated` as a Flower app.

    client = client_app(lambda context: FedAvg(problem, parts, lr=0.1, epochs=5, batch=32))

is a client, `run(OverGrid(problem, grid, clients=10), rules.sgd, lr=1.0, steps=50)` what the server
does. The weights are those of `run(FedAvg(…), rules.sgd, lr=1.0, steps=50)`, to rounding. From a
client to the server go its weights and its number of examples, and once its own number; the
server sends weights and the number of the round. Flower is not installed with optcore: install
`optcore[federated]`.
Source: Beutel et al. (2020), arXiv:2007.14390.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable

import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from optcore.estimators import Estimate, Estimator
from optcore.federated.round import FedAvg, chance_of, cohort_of
from optcore.federated.server import mean
from optcore.problems import Problem

log = logging.getLogger("flwr")
PAUSE_S = 1.0
LOST = Error(ErrorCode.UNKNOWN, "lost by lot")
SILENCE = (
    ErrorCode.UNKNOWN,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
)


def client_app(federation: Callable[[Context], FedAvg]) -> ClientApp:
    """Return the app of a client, which trains as `FedAvg.train_one` does.

    Args:
        federation: what the clients do, from the context of this one. `partition-id` in its node's
            configuration is the client's number. Where the data may not move, a node knows its
            own part: `FedAvg(problem, [part], first=number, …)`.
    """
    app = ClientApp()

    @app.query()
    def number(message: Message, context: Context) -> Message:
        number = MetricRecord({"client": _number_of(context)})
        return Message(RecordDict({"number": number}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        clients = federation(context)
        client = _number_of(context) - clients.first
        w = _weights_of(message).to(clients.problem.start.device)
        trained = clients.train_one(client, w, message.content["round"]["t"])
        if trained is None:
            return Message(LOST, reply_to=message)
        size = MetricRecord({"examples": len(clients.parts[client])})
        return Message(RecordDict({"weights": _record(trained), "size": size}), reply_to=message)

    return app


class OverGrid(Estimator):
    r"""A round of federated averaging whose clients are the nodes of a Flower grid.

    It is `FedAvg` as its server sees it: $z = -\sum_k n_k (w_k - w) / \sum_k n_k$ over those who
    answer in time, or another aggregate. Of nobody else anything is taken. With the same seed it
    draws the same cohorts, and takes its columns, of which "heard" is new: how many answered.

    Args:
        problem: has the first iterate, and nothing else that is asked here. The clients have the
            data; the server's may be some to validate on.
        grid: of Flower, as its server app gets it.
        clients: K; the numbers of the nodes are 0 … K − 1. The first round waits for all of them,
            later ones for one of them.
        cohort: how many of them, drawn at random, take part in a round; without it, all.
        epochs: E of the clients, to count their evaluations: n_k of each pass.
        aggregate: of `optcore.federated.server`.
        timeout: seconds after which a round goes on without those who have not answered.
        wait: seconds to wait for clients that are not there.
        seed: of the cohorts.

    Raises:
        ValueError: a number is out of its range; w has rows.
        TimeoutError: from `at`, if clients have been waited for in vain.
        RuntimeError: from `at`, if no client has done its part, and one has failed; it says why.
    """

    def __init__(
        self,
        problem: Problem,
        grid: Grid,
        *,
        clients: int,
        cohort: int | None = None,
        epochs: int = 1,
        aggregate: Callable[[Tensor, Tensor], Tensor] = mean,
        timeout: float = 600.0,
        wait: float = 600.0,
        seed: int = 0,
    ):
        super().__init__(problem)
        for name, value in {"clients": clients, "epochs": epochs}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if cohort is not None and not 1 <= cohort <= clients:
            raise ValueError(f"cohort must lie in 1 … {clients}, got {cohort}.")
        for name, value in {"timeout": timeout, "wait": wait}.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
        self.grid = grid
        self.clients = clients
        self.cohort = cohort
        self.epochs = epochs
        self.aggregate = aggregate
        self.timeout = timeout
        self.wait = wait
        self.seed = seed
        self._clients: dict[int, int | None] = {}  # of the nodes that were asked, in that order

    def columns(self, memory, w) -> dict:
        """Return what has been sent so far, and of the last round the drift and who answered."""
        return dict(memory or self._first_memory(w))

    def draw(self, t: int, like: Tensor) -> list[int]:
        """Draw who takes part in round t."""
        if like.shape != self.problem.start.shape:
            raise ValueError("over a grid w has no rows: run one after the other.")
        return cohort_of(self.clients, self.cohort, chance_of(self.seed, t, 0))

    def at(self, places, sample, memory, t) -> Estimate:
        """Return z for each place: a round from there, with the same clients and batches."""
        rounds = [self._round(place, sample, t) for place in places]
        z, drift, invited, heard, examples = zip(*rounds, strict=True)
        memory = memory or self._first_memory(places[0])
        each = places[0].numel() * places[0].element_size()
        memory = {
            "bytes_down": memory["bytes_down"] + sum(invited) * each,
            "bytes_up": memory["bytes_up"] + sum(heard) * each,
            "drift": drift[0],
            "heard": torch.tensor(heard[0]),
        }
        return Estimate(z, memory, round(self.epochs * sum(examples)))

    def _round(self, w: Tensor, cohort: list[int], t: int) -> tuple:
        """Return z, the drift, how many were invited and heard, and how many examples they have."""
        nodes = self._nodes(1 if self._clients else self.clients)
        nodes = {client: nodes[client] for client in cohort if client in nodes}
        heard = self._send(w, nodes, t)
        log.info("round %d: heard of %d of %d clients", t, len(heard), len(cohort))
        if not heard:  # the iterate stays where it is
            return torch.zeros_like(w), w.new_zeros(()), len(nodes), 0, 0.0
        # In the order of their numbers: a sum depends on it.
        trained, sizes = zip(*(heard[client] for client in sorted(heard)), strict=True)
        updates, weights = torch.stack(trained) - w, w.new_tensor(sizes)
        drift = weights @ updates.norm(dim=1) / weights.sum()
        return -self.aggregate(updates, weights), drift, len(nodes), len(heard), sum(sizes)

    def _first_memory(self, w: Tensor) -> dict:
        zero = torch.zeros((), dtype=torch.float64)
        heard = torch.tensor(0)
        return {"bytes_down": zero, "bytes_up": zero, "drift": w.new_zeros(()), "heard": heard}

    def _send(self, w: Tensor, nodes: dict[int, int], t: int) -> dict[int, tuple[Tensor, float]]:
        """Send w to these clients' nodes; return w_k and n_k of those who answer."""
        content = RecordDict({"weights": _record(w), "round": ConfigRecord({"t": t})})
        clients, heard = {node: client for client, node in nodes.items()}, {}
        replies, faults = self._ask(clients, MessageType.TRAIN, content, self.timeout)
        for reply in replies:
            client = clients[reply.metadata.src_node_id]
            try:
                heard[client] = _answer_of(reply, w)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("client %d answers what is no answer, left out: %s", client, error)
                faults.append(f"client {client} answers what is no answer: {error}")
        if faults and not heard:
            raise RuntimeError(f"no client could do its part in round {t}; one says: {faults[0]}")
        return heard

    def _ask(self, nodes: Iterable[int], kind: str, content, timeout: float) -> tuple[list, list]:
        """Return the answers of those nodes that answer in time, and what others say went wrong."""
        messages = [Message(content, node, kind, ttl=timeout) for node in nodes]
        replies = self.grid.send_and_receive(messages, timeout=timeout) if messages else []
        answers, faults = [], []
        for reply in replies:
            if not reply.has_error():
                answers.append(reply)
                continue
            log.warning("node %d: %s", reply.metadata.src_node_id, reply.error.reason)
            if reply.error.code not in SILENCE:
                faults.append((reply.error.reason or "?").strip().splitlines()[-1])
        return answers, faults

    def _nodes(self, enough: int) -> dict[int, int]:
        """Return client → node of those that are there, once enough of them are."""
        end = time.monotonic() + self.wait
        while True:
            here = set(self.grid.get_node_ids())
            new = here - self._clients.keys()
            replies, _ = self._ask(new, MessageType.QUERY, RecordDict(), self.timeout)
            for reply in replies:
                self._note(reply.metadata.src_node_id, reply.content["number"]["client"])
            # Of two nodes with one number the later one counts: it has been started again.
            found = {k: node for node, k in self._clients.items() if node in here}
            found.pop(None, None)
            if len(found) >= enough:
                return found
            if time.monotonic() > end:
                raise TimeoutError(
                    f"after {self.wait:g} s {len(found)} of {self.clients} clients are there, of "
                    f"{enough} needed: start nodes with partition-id=0 … {self.clients - 1}."
                )
            time.sleep(PAUSE_S)

    def _note(self, node: int, client) -> None:
        if not (isinstance(client, int) and 0 <= client < self.clients):
            log.warning("node %d is client %s: there are %d", node, client, self.clients)
            client = None
        self._clients[node] = client


class InProcess(Grid):
    """A grid without a network: its nodes 1 … K are calls of the app, one after the other.

    The messages are Flower's, and nothing is sent. From then on this process is the server of a
    run, number 1, as Flower wants to know it of whoever makes a message.

    Args:
        app: of `client_app`.
        clients: K; client k is node k + 1.
    """

    def __init__(self, app: ClientApp, clients: int):
        self.app = app
        self.clients = clients
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of the nodes."""
        return range(1, self.clients + 1)

    def config_of(self, node: int) -> dict:
        """Return the configuration with which a node would have been started."""
        return {"partition-id": node - 1}

    def answer(self, message: Message) -> Message:
        """Return what a node answers."""
        node = message.metadata.dst_node_id
        return self.app(message, Context(1, node, self.config_of(node), RecordDict(), {}))

    def send_and_receive(self, messages, *, timeout=None) -> list[Message]:
        """Return the answers to all messages."""
        return [self.answer(message) for message in messages]

    run = push_messages = pull_messages = set_run = create_message = None  # `OverGrid` calls none


def _number_of(context: Context) -> int:
    if "partition-id" not in context.node_config:
        raise ValueError('a node needs a number: --node-config "partition-id=0", and so on.')
    return int(context.node_config["partition-id"])


def _record(w: Tensor) -> ArrayRecord:
    return ArrayRecord({"w": Array(w.detach().cpu().numpy())})


def _weights_of(message: Message) -> Tensor:
    return torch.from_numpy(message.content["weights"]["w"].numpy().copy())


def _answer_of(reply: Message, w: Tensor) -> tuple[Tensor, float]:
    """Return w_k and n_k, or raise if they cannot be."""
    trained, size = _weights_of(reply), float(reply.content["size"]["examples"])
    if trained.shape != w.shape or trained.dtype != w.dtype:
        raise ValueError(f"{trained.dtype} of shape {tuple(trained.shape)}")
    if not 0 < size < math.inf:
        raise ValueError(f"{size:g} examples")
    return trained.to(w.device), size
