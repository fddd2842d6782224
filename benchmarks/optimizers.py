"""A step of SGD and the adaptive methods on float32 parameters: optcore against torch.

    python benchmarks/optimizers.py

20 million parameters, in few tensors and in many, and how the time grows towards them. All variants
take turns in one process; the tables show the median of a step. GB/s is the floor over the time,
the floor being the least there is to move: read the gradient, read and write the parameter and its
buffers. Extra memory is the peak of a step above what is held before it. Exits with 1 if optcore
takes more than 1.1 times as long as torch's best, or more extra memory than the least of torch's.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from timing import devices, heading, medians
from torch.profiler import ProfilerActivity, profile

import optcore.optim

LAYOUTS = {"20 tensors of 1 M": (20, 1_000_000), "500 tensors of 40 k": (500, 40_000)}
GROWTH = {"0.2 M": (20, 10_000), "2 M": (20, 100_000), "20 M": (20, 1_000_000)}
# Row: (class, arguments, bytes a parameter).
METHODS = {
    "SGD": ("SGD", {}, 12),
    "SGD, momentum": ("SGD", {"momentum": 0.9}, 20),
    "Adagrad": ("Adagrad", {}, 20),
    "RMSprop": ("RMSprop", {}, 20),
    "RMSprop, momentum": ("RMSprop", {"momentum": 0.9}, 28),
    "RMSprop, centered": ("RMSprop", {"centered": True}, 28),
    "Adam": ("Adam", {}, 28),
    "AdamW": ("AdamW", {}, 28),
    "AMSGrad": ("Adam", {"amsgrad": True}, 36),
}
REPETITIONS = 15
LIMIT = 1.1
SCALARS = 1024  # bytes: numbers that a step makes, whatever the size of the parameters


def variants(name: str, options: dict) -> dict[str, Callable]:
    """Return how to make the optimizer here and in each of torch's ways."""
    ways = {"torch, fused": {"fused": True}, "torch, foreach": {"foreach": True}}
    if name == "RMSprop":
        del ways["torch, fused"]
    ways["torch, loop"] = {"foreach": False}
    peers = {
        label: lambda p, way=way: getattr(torch.optim, name)(p, lr=1e-4, **options, **way)
        for label, way in ways.items()
    }
    return {"optcore": lambda p: getattr(optcore.optim, name)(p, lr=1e-4, **options), **peers}


def parameters(count: int, size: int, device: str) -> list[torch.Tensor]:
    """Return parameters with gradients."""
    params = [torch.randn(size, device=device, requires_grad=True) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def step_seconds(params, makers: dict[str, Callable], device: str) -> dict[str, float]:
    """Median seconds of a step, by variant; one set of parameters serves all."""
    steps = {label: make(params).step for label, make in makers.items()}
    return medians(steps, REPETITIONS, device)


def extra_bytes(params, makers: dict[str, Callable], device: str) -> dict[str, float]:
    """Peak bytes of a step above those held before it, by variant."""
    measured = {}
    for label, make in makers.items():
        optimizer = make(params)
        optimizer.step()  # makes the state
        measured[label] = peak_bytes(optimizer.step, device)
    return measured


def peak_bytes(work: Callable, device: str) -> float:
    """Return the most bytes that `work` holds beyond what was there before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def check_peak_bytes(device: str) -> None:
    """Raise unless a peak of 6 MB is measured as one: a silent zero would pass every limit."""

    def work():
        a, b = torch.empty(1_000_000, device=device), torch.empty(500_000, device=device)
        del a
        c = torch.empty(250_000, device=device)
        del b, c

    measured = peak_bytes(work, device)
    if not 6e6 <= measured < 6.1e6:
        raise RuntimeError(f"a peak of 6 MB was measured as {measured / 1e6:.3f} MB")


def report(layout: str, device: str) -> list[str]:
    """Print the table of one layout; return what is above the limits."""
    count, size = LAYOUTS[layout]
    params = parameters(count, size, device)
    print(f"\n{layout}, {device}")
    print(f"{'':32}{'ms a step':>10}{'ratio':>8}{'GB/s':>8}{'extra memory':>14}")
    above = []
    for method, (name, options, floor) in METHODS.items():
        makers = variants(name, options)
        seconds = step_seconds(params, makers, device)
        memory = extra_bytes(params, makers, device)
        best = min(s for label, s in seconds.items() if label.startswith("torch"))
        for label, s in seconds.items():
            rate = floor * count * size / s / 1e9
            row = f"{method + ': ' + label:32}{1e3 * s:10.2f}{s / best:8.2f}{rate:8.1f}"
            print(f"{row}{memory[label] / 1e6:11.1f} MB", flush=True)
        where = f"{method}, {layout}, {device}"
        if seconds["optcore"] > LIMIT * best:
            above.append(f"{where}: {seconds['optcore'] / best:.2f} times torch's best")
        least = min(b for label, b in memory.items() if label.startswith("torch"))
        if memory["optcore"] > least + SCALARS:
            above.append(f"{where}: {(memory['optcore'] - least) / 1e6:.3f} MB above torch's least")
    return above


def report_growth(device: str) -> None:
    """Print nanoseconds a parameter at each size, and the ratio to torch's best."""
    print(f"\nHow it grows, 20 tensors, {device}: ns a parameter of optcore (ratio)")
    print(f"{'':16}" + "".join(f"{size:>16}" for size in GROWTH))
    sizes = {label: parameters(count, size, device) for label, (count, size) in GROWTH.items()}
    for method, (name, options, _) in METHODS.items():
        cells = []
        for params in sizes.values():
            seconds = step_seconds(params, variants(name, options), device)
            best = min(s for label, s in seconds.items() if label.startswith("torch"))
            each = 1e9 * seconds["optcore"] / sum(p.numel() for p in params)
            cells.append(f"{each:8.2f} ({seconds['optcore'] / best:.2f})")
        print(f"{method:16}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def main() -> int:
    """Print a table for every device and layout; return the exit code."""
    above = []
    for device in devices():
        print(f"{heading(device)}; medians of {REPETITIONS}; ratio: to torch's best")
        print(f"floor in bytes a parameter: { {m: row[2] for m, row in METHODS.items()} }")
        check_peak_bytes(device)
        above += [line for layout in LAYOUTS for line in report(layout, device)]
        report_growth(device)
        print(f"\nat the end: {heading(device)}")
    print("\n".join(f"ABOVE: {line}" for line in above) or f"every method is within {LIMIT}")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
