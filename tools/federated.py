"""Run the app of examples/federated in Flower's simulation: `python tools/federated.py`.

    python tools/federated.py [NAME=VALUE ...]

The settings are those of its pyproject.toml: `clients=4 model=net rounds=5`. Nothing is asked of
the network: telemetry and update checks are off. Flower keeps its files in _build/federated, and no
process of it is left. Exits with 1 if the run fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "examples" / "federated"
HOME = ROOT / "_build" / "federated"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Each client is a process: threads of their own would only be in each other's way.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
START_S, END_S = 120, 20


class Failed(Exception):
    """A process of Flower's did not do what it should; the message says which, and its log."""


class Processes:
    """Processes that are started here, with all that they start; none outlives the `with`.

    Flower starts some of its processes in sessions of their own. So all of them are known by
    the folder that is their FLWR_HOME.
    """

    def __init__(self, home: Path, **environment: str):
        self.home = home
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self.environment = {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(home)}
        self.environment |= environment
        self.started: dict[str, tuple[subprocess.Popen, Path]] = {}

    def __enter__(self) -> Processes:
        self.home.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_) -> None:
        self.end()

    def start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen:
        """Start a process that goes on, with a log of its own."""
        log = self.home / f"{name}.log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                cwd=self.home,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.started[name] = process, log
        return process

    def run(self, command: list[str], seconds: float) -> str:
        """Run a command to its end, and return what it prints."""
        try:
            done = subprocess.run(
                command,
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{' '.join(command)}: no end after {seconds:g} s{self.logs()}") from error
        if done.returncode:
            said = f"{done.stdout}{done.stderr}".strip()
            raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{said}{self.logs()}")
        return done.stdout

    def wait(self, what: str, seconds: float, check: Callable[[], object]) -> object:
        """Return what `check` returns once that is true, or raise after that many seconds."""
        end = time.monotonic() + seconds
        while not (found := check()):
            if time.monotonic() > end:
                raise Failed(f"not after {seconds:g} s: {what}{self.logs()}")
            time.sleep(0.2)
        return found

    def log(self, name: str) -> str:
        """Return what a process has printed so far."""
        return self.started[name][1].read_text(encoding="utf-8", errors="replace")

    def logs(self, lines: int = 15) -> str:
        """Return the last lines of each process."""
        tails = {name: self.log(name).splitlines()[-lines:] for name in self.started}
        return "".join(f"\n--- {name}\n" + "\n".join(tail) for name, tail in tails.items())

    def alive(self) -> list[psutil.Process]:
        """Return the processes that are alive, whoever started them for us."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("FLWR_HOME") == str(self.home)
                if ours and process.pid != os.getpid() and process.status() != "zombie":
                    found.append(process)
        return found

    def end(self) -> list[str]:
        """End what was started, first by asking; return what had to be ended by force."""
        forced = []
        for process, _ in self.started.values():
            process.terminate()
        end = time.monotonic() + END_S
        while self.alive() and time.monotonic() < end:
            for process, _ in self.started.values():
                process.poll()
            time.sleep(0.2)
        for process in self.alive():
            with contextlib.suppress(psutil.Error):
                forced.append(" ".join(process.cmdline()))
                process.kill()
        for process, _ in self.started.values():
            process.wait(END_S)
        return forced


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answers(address: str) -> bool:
    """Whether a SuperLink answers there, over HTTP."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def toml(value: str) -> str:
    """Return a setting as TOML has it: what is no number and no truth value is a string."""
    try:
        tomllib.loads(f"x = {value}")
    except tomllib.TOMLDecodeError:
        return json.dumps(value)
    return value


def simulate(settings: dict[str, str], home: Path = HOME, seconds: float | None = None) -> None:
    """Run the app in a simulation, print its log, and raise `Failed` if it fails."""
    defaults = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))
    defaults = defaults["tool"]["flwr"]["app"]["config"]
    if unknown := settings.keys() - defaults.keys():
        raise Failed(f"there is no setting {unknown.pop()!r}; there are {', '.join(defaults)}.")
    clients = settings.get("clients", defaults["clients"])
    with Processes(home) as flower:
        address = f"127.0.0.1:{free_port()}"
        connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\n'
        (home / "config.toml").write_text(f"{connection}insecure = true\n", encoding="utf-8")
        port = address.split(":")[1]
        link = ["flower-superlink", "--simulation", "--insecure", "--host", "127.0.0.1"]
        flower.start("superlink", [*link, "--port", port])
        flower.wait("the SuperLink answers", START_S, lambda: answers(address))
        command = ["flwr", "run", str(APP), "--format", "json"]
        command += ["--federation-config", f"num-supernodes={clients} client-resources-num-cpus=1"]
        if settings:
            pairs = " ".join(f"{name}={toml(value)}" for name, value in settings.items())
            command += ["--run-config", pairs]
        number = json.loads(flower.run(command, START_S))["run-id"]
        # Where that takes longer Flower takes it for lost and tries again, for ever.
        begun = f"Started task [0-9]+ of run {number}"
        flower.wait("the run begins", START_S, lambda: re.search(begun, flower.log("superlink")))
        subprocess.run(
            ["flwr", "log", number, "--stream"],
            env=flower.environment,
            cwd=home,
            check=True,
            timeout=seconds,
        )

        def ended():
            listed = flower.run(["flwr", "list", "--run-id", number, "--format", "json"], START_S)
            run = json.loads(listed)["runs"][0]
            return run if run["status"].startswith("finished") else None

        run = flower.wait("the run has ended", START_S, ended)
        if run["status"] != "finished:completed":
            raise Failed(f"the run ended as {run['status']}: {run['status-details']}")


def main(arguments: list[str]) -> int:
    """Run the app with these settings; return the exit code."""
    try:
        if wrong := [argument for argument in arguments if "=" not in argument]:
            raise Failed(f"a setting is NAME=VALUE, got {wrong[0]}.")
        simulate(dict(argument.split("=", 1) for argument in arguments))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, then, too
    sys.exit(main(sys.argv[1:]))
