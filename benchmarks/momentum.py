"""SGD with momentum on 20 million float32 parameters: optcore against torch, side by side.

    python benchmarks/momentum.py

All variants take turns in one process; the table shows the median of a step. The floor is 20 bytes
a parameter: read the gradient, read and write the parameter and its buffer. Exits with 1 if optcore
takes more than 1.2 times as long as torch's best.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

import torch

import optcore.optim

SETTINGS = {"lr": 1e-3, "momentum": 0.9}
LAYOUTS = {"20 tensors of 1 M": (20, 1_000_000), "500 tensors of 40 k": (500, 40_000)}
VARIANTS = {
    "optcore": lambda p: optcore.optim.SGD(p, **SETTINGS),
    "optcore, error_if_nonfinite": lambda p: optcore.optim.SGD(
        p, error_if_nonfinite=True, **SETTINGS
    ),
    "torch, fused": lambda p: torch.optim.SGD(p, fused=True, **SETTINGS),
    "torch, foreach": lambda p: torch.optim.SGD(p, foreach=True, **SETTINGS),
    "torch, loop": lambda p: torch.optim.SGD(p, foreach=False, fused=False, **SETTINGS),
}
BYTES_A_PARAMETER = 20
REPETITIONS = 21
LIMIT = 1.2


def seconds_of_a_step(optimizer, device: str) -> float:
    """Time one step, to its end on the device."""
    synchronize(device)
    start = time.perf_counter()
    optimizer.step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until the device has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def extra_memory_of_a_step(optimizer, device: str) -> str:
    """Peak memory of a step above what is held before and after it; known on CUDA only."""
    if device != "cuda":
        return "–"
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    optimizer.step()
    return f"{(torch.cuda.max_memory_allocated() - held) / 1e6:.0f} MB"


def medians(count: int, size: int, device: str) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds and extra memory of a step, by variant.

    One set of parameters and gradients serves all; each variant has its own buffers.
    """
    params = [torch.randn(size, device=device, requires_grad=True) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizers = {name: make(params) for name, make in VARIANTS.items()}
    for optimizer in optimizers.values():
        for _ in range(2):
            optimizer.step()
    seconds = {name: [] for name in optimizers}
    for _ in range(REPETITIONS):
        for name, optimizer in optimizers.items():
            seconds[name].append(seconds_of_a_step(optimizer, device))
    memory = {name: extra_memory_of_a_step(o, device) for name, o in optimizers.items()}
    return {name: statistics.median(times) for name, times in seconds.items()}, memory


def report(layout: str, device: str) -> float:
    """Print the table of one layout; return optcore's time over torch's best."""
    count, size = LAYOUTS[layout]
    seconds, memory = medians(count, size, device)
    best = min(s for name, s in seconds.items() if name.startswith("torch"))
    print(f"\n{layout}, {device}")
    print(f"{'':28}{'ms a step':>10}{'ratio':>8}{'GB/s':>8}{'extra memory':>14}")
    for name, s in seconds.items():
        rate = BYTES_A_PARAMETER * count * size / s / 1e9
        print(f"{name:28}{1e3 * s:10.2f}{s / best:8.2f}{rate:8.1f}{memory[name]:>14}")
    return seconds["optcore"] / best


def main() -> int:
    """Print a table for every device and layout; return the exit code."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    names = ["CPU", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {', '.join(names)}")
    print(f"load average {load}; medians of {REPETITIONS}; ratio: to torch's best")
    print(f"GB/s: {BYTES_A_PARAMETER} bytes a parameter, the least there is to move, over the time")
    ratios = [report(layout, device) for device in devices for layout in LAYOUTS]
    verdict = "within" if max(ratios) <= LIMIT else "ABOVE"
    print(f"\noptcore over torch's best: at most {max(ratios):.2f}, {verdict} the limit of {LIMIT}")
    return int(max(ratios) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
