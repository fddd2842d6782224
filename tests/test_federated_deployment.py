"""The README's commands for several machines, all on one; the simulation of `make federated`."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from optcore import rules
from optcore.federated import FedAvg
from optcore.run import run

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "examples/federated")]
import app  # noqa: E402
import federated as runner  # noqa: E402

NODES, LOST, ROUNDS, TIMEOUT_S, LIMIT_S = 3, 2, 2, 60, 240


def settings(**ours):
    project = tomllib.loads((runner.APP / "pyproject.toml").read_text(encoding="utf-8"))
    return project["tool"]["flwr"]["app"]["config"] | ours


def commands():
    """Return the README's commands by their first words, and its lines for Flower's settings."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Federated, on several machines")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    found = {}
    for line in re.sub(r" \\\n *", " ", "".join(blocks)).splitlines():
        words = shlex.split(line, comments=True)
        key = next((w for w in words if w in ("authority", "node", "register")), words[:2])
        found[key if isinstance(key, str) else " ".join(key)] = words
    config = next(block for block in blocks if "[superlink.server]" in block)
    return found, re.sub(r"^    ", "", config, flags=re.MULTILINE)


class Deployment:
    """The README's commands, with another address, another folder and small data."""

    def __init__(self, flower, folder):
        self.flower, self.port = flower, runner.free_port()
        self.found, config = commands()
        config = config.replace("/the/path/of", str(folder))
        (folder / "config.toml").write_text(self.here(config), encoding="utf-8")

    def here(self, text):
        for theirs, ours in {
            "federation.example": "localhost",
            ":8000": f":{self.port}",
            "0.0.0.0": "127.0.0.1",
            "examples/": f"{ROOT}/examples/",
        }.items():
            text = text.replace(theirs, ours)
        return text

    def command(self, key, node=0, *more):
        words = [self.here(word) for word in self.found[key]]
        words = [re.sub(r"\bnode-0\b", f"node-{node}", word) for word in words]
        words = [word.replace("partition-id=0", f"partition-id={node}") for word in words]
        words = [sys.executable if word == "python" else word for word in words]
        return [*words, *more]

    def run(self, key, node=0):
        return self.flower.run(self.command(key, node), LIMIT_S)

    def start_link(self):
        command = self.command("flower-superlink --host")
        command[command.index("8000")] = str(self.port)
        self.flower.start("superlink", command)
        ready = "Application startup complete"
        self.flower.wait(ready, LIMIT_S, lambda: ready in self.flower.log("superlink"))

    def activated(self):
        return set(re.findall(r"Activated node_id=(\d+)", self.flower.log("superlink")))

    def start_node(self, number, key=None):
        command = self.command("flower-supernode --superlink", number)
        command += ["--port", str(runner.free_port())]  # of its own, since all are on one machine
        if key is not None:
            command[command.index("--auth-supernode-private-key") + 1] = f"keys/node-{key}"
        return self.flower.start(f"node-{number if key is None else key}", command)


def test_the_readmes_commands_train_over_tls_with_keys(tmp_path):
    out = tmp_path / "checkpoint.pt"
    with runner.Processes(tmp_path) as flower:
        flower.environment |= {"PYTHONPATH": str(ROOT)}
        here = Deployment(flower, tmp_path)
        here.run("authority")
        for k in range(NODES + 1):  # the server is never told of the last one
            here.run("node", k)
        assert (tmp_path / "keys/server.key").stat().st_mode & 0o077 == 0
        assert (tmp_path / "keys/node-0").stat().st_mode & 0o077 == 0
        here.start_link()
        registered = [
            re.search(r"SuperNode (\d+)", here.run("register", k))[1] for k in range(NODES)
        ]
        nodes = [here.start_node(k) for k in range(NODES)]
        stranger = here.start_node(0, key=NODES)
        assert flower.wait("a wrong key is refused", LIMIT_S, stranger.poll) != 0
        assert "Failed to activate SuperNode" in flower.log(f"node-{NODES}")
        flower.wait("all nodes are there", LIMIT_S, lambda: here.activated() == set(registered))

        command = here.command("flwr run")
        config = f'clients={NODES} rounds={ROUNDS} data="digits" partition="dirichlet" model="net"'
        command[-1] = f'{config} timeout={TIMEOUT_S}.0 out="{out}"'
        training = flower.start("run", command)
        received = "Receiving: train message"
        flower.wait(
            "the last round has begun",
            LIMIT_S,
            lambda: flower.log(f"node-{LOST}").count(received) == ROUNDS or training.poll(),
        )
        nodes[LOST].kill()
        nodes[LOST].wait()  # what it has started goes on until nothing of it is left, no zombie
        flower.wait("the run has ended", 2 * LIMIT_S, lambda: training.poll() is not None)
        said = flower.log("run")
        heard = re.findall(r"round \d: heard of (\d) of 3 clients", said)
        assert heard == ["3", "2"], said + flower.logs()
        assert training.returncode == 0
        assert here.activated() == set(registered)  # the stranger has taken no one's place
        assert [node.poll() for node in nodes[:LOST]] == [None] * LOST
        forced = flower.end()
    assert runner.Processes(tmp_path).alive() == []
    assert forced == []

    # The same rounds, all clients at once; in the last one without the one that was lost.
    federation = app.federation(
        settings(clients=NODES, data="digits", partition="dirichlet", model="net")
    )
    first = run(federation, rules.sgd, lr=1.0, steps=1)
    local = {"epochs": federation.epochs, "batch": federation.batch, **federation.hyper}
    others = FedAvg(federation.problem, federation.parts[:LOST], chunk=federation.chunk, **local)
    expected = run(others, rules.sgd, lr=1.0, steps=ROUNDS, resume=first.checkpoint)
    checkpoint = torch.load(out, weights_only=True)
    assert checkpoint.t == ROUNDS
    assert (checkpoint.w - expected.w).abs().max() <= 1e-6
    assert (expected.w - first.w).norm() > 0.1  # they had something to do


@pytest.mark.parametrize(("names", "code"), [([], 1), (["authority"], 1), (["other", "x"], 1)])
def test_keys_says_how_it_is_used(names, code, tmp_path):
    with runner.Processes(tmp_path) as flower, pytest.raises(runner.Failed, match="authority HOST"):
        flower.run([sys.executable, str(ROOT / "examples/federated/keys.py"), *names], 30)


def test_keys_replaces_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "examples/federated/keys.py"), "node", "a"]
    with runner.Processes(tmp_path) as flower:
        flower.run(command, 30)
        with pytest.raises(runner.Failed, match="exists"):
            flower.run(command, 30)


def test_the_simulation_gives_the_same_weights_and_leaves_no_process(tmp_path, capfd):
    ours = {"clients": 5, "data": "digits", "dtype": "float64", "rounds": 2, "cohort": 2}
    ours |= {"server-rule": "adam", "server-lr": 0.02, "seed": 1}
    out = tmp_path / "checkpoint.pt"
    given = {name: str(value) for name, value in {**ours, "out": out}.items()}
    runner.simulate(given, tmp_path / "flower", LIMIT_S)
    assert "round 2: heard of 2 of 2 clients" in capfd.readouterr().out
    assert runner.Processes(tmp_path / "flower").alive() == []
    federation = app.federation(settings(**ours))
    federation.cohort = 2
    expected = run(federation, rules.adam, lr=0.02, steps=2)
    assert (torch.load(out, weights_only=True).w - expected.w).abs().max() <= 1e-12


def test_a_run_that_fails_is_a_failure_with_its_reason(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runner, "HOME", tmp_path)
    monkeypatch.setattr(runner.simulate, "__defaults__", (tmp_path, LIMIT_S))
    assert runner.main(["data=nothing", "clients=1"]) == 1
    assert "data must be one of mnist, digits, got nothing" in capfd.readouterr().err
    assert runner.Processes(tmp_path).alive() == []


@pytest.mark.parametrize("setting", ["client=3", "lr", "="])
def test_a_setting_that_is_none_is_named(setting, tmp_path, capsys):
    assert runner.main([setting]) == 1
    assert "setting" in capsys.readouterr().err
