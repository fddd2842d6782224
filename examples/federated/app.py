"""Federated averaging as a Flower app; `pyproject.toml` beside this file has the settings.

A node reads all of MNIST and keeps to its part, so that one machine can play all of them. Where
each node has examples of its own, `federation` reads those instead: see `client_app`.
"""

import functools
import time

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import nn
from torch.nn.functional import cross_entropy

from optcore import rules
from optcore.data import Data, digits, mnist_or_digits
from optcore.federated import FedAvg, coordinate_median, dirichlet, iid, mean, ring, shards
from optcore.federated.flower import OverGrid, client_app
from optcore.federated.server import trimmed_mean
from optcore.problems import LogisticRegression, Network
from optcore.run import run

AGGREGATES = {
    "mean": mean,
    "coordinate_median": coordinate_median,
    "trimmed_mean": trimmed_mean(0.2),
}
COLUMNS = ("t", "heard", "loss", "accuracy", "drift", "bytes_up", "seconds")


def one_of(name: str, choices: dict, setting: str):
    """Return the choice of that name."""
    if name not in choices:
        raise ValueError(f"{setting} must be one of {', '.join(choices)}, got {name}.")
    return choices[name]


@functools.cache
def data(name: str) -> Data:
    """Return the data set."""
    return one_of(name, {"mnist": mnist_or_digits, "digits": digits}, "data")()


def problem_of(config: dict, x: torch.Tensor, y: torch.Tensor):
    """Return the model on these examples."""
    x = x.to(one_of(config["dtype"], {"float32": torch.float32, "float64": torch.float64}, "dtype"))

    def net():
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(config["seed"])
            module = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 10))
        return Network(module.to(x.dtype), x, y, cross_entropy)

    models = {"logistic": lambda: LogisticRegression(x, y, l2=1e-4), "net": net}
    return one_of(config["model"], models, "model")()


def federation(config: dict) -> FedAvg:
    """Return what the clients do."""
    images, K, seed = data(config["data"]), config["clients"], config["seed"]
    x, y = (a[: config["examples"] or None] for a in (images.x, images.y))
    partitions = {
        "iid": lambda y: iid(y, K, seed=seed),
        "ring": lambda y: ring(y, K, seed=seed),
        "shards": lambda y: shards(y, K, seed=seed),
        "dirichlet": lambda y: dirichlet(y, K, alpha=config["alpha"], seed=seed),
    }
    return FedAvg(
        problem_of(config, x, y),
        one_of(config["partition"], partitions, "partition")(y),
        lr=config["lr"],
        rule=rule_of(config["rule"]),
        epochs=config["epochs"],
        batch=config["batch"] or None,
        proximal=config["proximal"],
        seed=seed,
    )


def rule_of(name: str):
    """Return the rule of that name, at its defaults."""
    return one_of(name, {name: getattr(rules, name) for name in rules.__all__}, "a rule")


@functools.lru_cache(1)
def _federation(settings: tuple) -> FedAvg:
    return federation(dict(settings))


client = client_app(lambda context: _federation(tuple(sorted(context.run_config.items()))))
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and print what became of them on the images kept for validation."""
    config, images = context.run_config, data(context.run_config["data"])
    problem = problem_of(config, images.x_val, images.y_val)
    x = images.x_val.to(problem.start.dtype)
    rounds = OverGrid(
        problem,
        grid,
        clients=config["clients"],
        cohort=config["cohort"] or None,
        epochs=config["epochs"],
        aggregate=one_of(config["aggregate"], AGGREGATES, "aggregate"),
        timeout=config["timeout"],
        wait=config["timeout"],
        seed=config["seed"],
    )
    start = time.monotonic()
    columns = {
        "loss": problem.loss,
        "accuracy": lambda w: problem.accuracy(w, x, images.y_val),
        "seconds": lambda w: time.monotonic() - start,
    }
    history = run(
        rounds,
        rule_of(config["server-rule"]),
        lr=config["server-lr"],
        steps=config["rounds"],
        record=columns,
    )
    print(*(f"{name:>9}" for name in COLUMNS))
    for row in zip(*(history[name] for name in COLUMNS), strict=True):
        print(*(f"{value:9.4g}" for value in row))
    if config["out"]:
        torch.save(history.checkpoint, config["out"])
