"""Rounds of federated averaging: optcore against a loop over clients and Flower's simulation.

    python benchmarks/federated.py [--all]

The app of examples/federated, on MNIST: every client has 50 images and makes 5 steps of 10, from
the same seeds everywhere, so that all three end with the same weights, which is checked. The loop
is what one would write: one module, torch.optim.SGD, client after client. optcore and the loop take
turns, and the table shows medians; Flower's is the median round after the first, in which its
actors start. Flower at 1 000 clients takes minutes: only with `--all`.

Then what a round of 1 000 clients costs beside one of 100, in time, and in memory where 100 train
at once (on Linux). Exits with 1 if a limit is missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import torch
from timing import heading, medians
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "examples/federated")]
import app  # noqa: E402
import federated as runner  # noqa: E402

from optcore import rules  # noqa: E402
from optcore.run import run  # noqa: E402

EACH, ROUNDS = 50, 3
CLIENTS = {10: 15, 100: 7, 1000: 3}  # repetitions
MODELS = ("logistic", "net")
LOOP_LIMIT, FLOWER_LIMIT, LINEAR_LIMIT, MEMORY_LIMIT = 3.0, 20.0, 1.3, 1.3
MEMORY = ((100, 100), (300, 100), (1000, 100), (1000, 1000))  # clients, chunk


def settings(model: str, clients: int) -> dict:
    """Return the app's settings."""
    project = tomllib.loads((runner.APP / "pyproject.toml").read_text(encoding="utf-8"))
    ours = {"model": model, "clients": clients, "examples": EACH * clients, "partition": "iid"}
    return project["tool"]["flwr"]["app"]["config"] | ours | {"batch": 10, "rounds": ROUNDS + 1}


def module_of(federation) -> torch.nn.Module:
    """Return the model as a loop has it."""
    problem = federation.problem
    if hasattr(problem, "module"):
        module = problem.module
        torch.nn.utils.vector_to_parameters(problem.start.clone(), module.parameters())
        return module
    module = torch.nn.Linear(problem.x.shape[1] - 1, problem.shape[1])
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    return module


def loop(federation, rounds: int, module: torch.nn.Module) -> list[torch.Tensor]:
    """Return the parameters after that many rounds, one client after the other."""
    problem, images = federation.problem, app.data("mnist")
    x, y = images.x[: problem.n], images.y[: problem.n]
    w = [p.detach().clone() for p in module.parameters()]
    for t in range(1, rounds + 1):
        total, weight = [torch.zeros_like(p) for p in w], 0
        for client, part in enumerate(federation.parts):
            with torch.no_grad():
                for p, sent in zip(module.parameters(), w, strict=True):
                    p.copy_(sent)
            rate = federation.hyper["lr"]
            optimizer = torch.optim.SGD(module.parameters(), lr=rate, weight_decay=problem.l2)
            for batch in federation.work_of(client, t):
                optimizer.zero_grad()
                cross_entropy(module(x[batch]), y[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                for s, p in zip(total, module.parameters(), strict=True):
                    s.add_(p, alpha=len(part))
            weight += len(part)
        w = [s / weight for s in total]
    return w


def flat(model: str, w: list[torch.Tensor]) -> torch.Tensor:
    """Return the loop's parameters in the order of optcore's."""
    if model == "net":
        return torch.cat([p.flatten() for p in w])
    return torch.cat([w[0].T, w[1].unsqueeze(0)]).flatten()


def flower(model: str, clients: int) -> tuple[float, torch.Tensor]:
    """Return the seconds of a round of Flower's, and its weights."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "checkpoint.pt"
        names = ("model", "clients", "examples", "partition", "batch", "rounds")
        given = {name: str(settings(model, clients)[name]) for name in names}
        with (Path(folder) / "log").open("w+", encoding="utf-8") as log:
            done = subprocess.run(
                [sys.executable, str(ROOT / "tools/federated.py"), f"out={out}"]
                + [f"{name}={value}" for name, value in given.items()],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            if done.returncode:
                log.seek(0)
                sys.exit(log.read())
        checkpoint = torch.load(out, weights_only=True)
    return statistics.median(checkpoint.records["seconds"].diff()[1:].tolist()), checkpoint.w


def race(model: str, flowers: tuple[int, ...]) -> tuple[list[str], dict[int, float]]:
    """Print the table of a model; return what is below its limit, and our seconds."""
    print(f"\n{model}: rounds a second")
    print(f"{'clients':>8}{'optcore':>10}{'loop':>10}{'Flower':>10}{'× loop':>9}{'× Flower':>10}")
    missed, seconds = [], {}
    for clients, repetitions in CLIENTS.items():
        federation = app.federation(settings(model, clients))
        module = module_of(federation)
        start = [p.detach().clone() for p in module.parameters()]

        def ours(rounds=ROUNDS, federation=federation):
            return run(federation, rules.sgd, lr=1.0, steps=rounds, every=rounds).w

        def theirs(rounds=ROUNDS, federation=federation, module=module, start=start):
            with torch.no_grad():
                for p, first in zip(module.parameters(), start, strict=True):
                    p.copy_(first)
            return loop(federation, rounds, module)

        close(ours(), flat(model, theirs()), f"the loop's, {model}, {clients} clients")
        times = medians({"ours": ours, "loop": theirs}, repetitions, "cpu")
        mine, its = times["ours"] / ROUNDS, times["loop"] / ROUNDS
        seconds[clients] = mine
        row, faster = f"{clients:8}{1 / mine:10.2f}{1 / its:10.2f}", f"{its / mine:9.1f}"
        if clients == 100 and its / mine < LOOP_LIMIT:
            missed.append(f"{model}, {clients} clients: {its / mine:.1f} × the loop")
        if clients not in flowers:
            print(f"{row}{'-':>10}{faster}{'-':>10}", flush=True)
            continue
        its, weights = flower(model, clients)
        close(ours(ROUNDS + 1), weights, f"Flower's, {model}, {clients} clients")
        print(f"{row}{1 / its:10.2f}{faster}{its / mine:10.0f}", flush=True)
        if its / mine < FLOWER_LIMIT:
            missed.append(f"{model}, {clients} clients: {its / mine:.1f} × Flower")
    return missed, seconds


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    """Exit if weights differ by more than rounding."""
    difference = (ours - theirs).abs().max().item()
    if not difference <= 1e-5:
        sys.exit(f"the weights are not {what}: they differ by {difference:g}")


def peak(clients: int, chunk: int) -> float:
    """Return the MB that a round takes at most, beside what is there before it.

    With this setting glibc returns what is freed. Left to itself it keeps some for later, more in
    one run than in the next.
    """
    command = [sys.executable, __file__, "--peak", str(clients), str(chunk)]
    given = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=given)
    return float(done.stdout)


def peak_here(clients: int, chunk: int) -> None:
    """Print the MB that two rounds have taken in this process."""
    federation = app.federation(settings("net", clients))
    federation.chunk = chunk
    small = app.federation(settings("net", 10))
    run(small, rules.sgd, lr=1.0, steps=1)  # what torch needs at any size
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that from now on
    run(federation, rules.sgd, lr=1.0, steps=2, every=2)
    print((status("VmHWM") - before) / 1024)


def status(name: str) -> int:
    """Return what Linux knows of this process, in KB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> int:
    """Print the tables; return the exit code."""
    if sys.argv[1:2] == ["--peak"]:
        peak_here(int(sys.argv[2]), int(sys.argv[3]))
        return 0
    print(f"{heading('cpu')}; medians")
    flowers = tuple(CLIENTS) if "--all" in sys.argv else (10, 100)
    missed = []
    for model in MODELS:
        below, seconds = race(model, flowers)
        growth = seconds[1000] / (10 * seconds[100])
        print(f"a client among 1 000 takes {growth:.2f} × the time of one among 100")
        missed += below
        if growth > LINEAR_LIMIT:
            missed.append(f"{model}: {growth:.2f} × the time for a client among 1 000")
    print(f"\nnet: MB beside the data and the program\n{'clients':>8}{'at once':>10}{'MB':>8}")
    taken = {}
    for clients, chunk in MEMORY if sys.platform == "linux" else ():
        taken[clients, chunk] = peak(clients, chunk)
        print(f"{clients:8}{chunk:10}{taken[clients, chunk]:8.0f}", flush=True)
    # Beside a chunk that trains lies what the one before it has made: from two on.
    if taken and taken[1000, 100] > MEMORY_LIMIT * taken[300, 100]:
        missed.append(f"memory: {taken[1000, 100]:.0f} MB for 1 000, {taken[300, 100]:.0f} for 300")
    print(f"\nlimits missed: {'; '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
