"""What the benchmarks share: tasks take turns in one process, medians, and where they ran."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def devices() -> list[str]:
    """Return the names of the kinds of device to be measured."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def device_name(device: str) -> str:
    """Return the name of the GPU, or the processor's where Linux tells it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "CPU")


def heading(device: str) -> str:
    """Return a line on versions, threads, device and load."""
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    threads = torch.get_num_threads()
    return f"torch {torch.__version__}, {threads} threads, {device_name(device)}; load {load}"


def synchronize(device: str) -> None:
    """Wait until the device has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def medians(tasks: dict[str, Callable], repetitions: int, device: str) -> dict[str, float]:
    """Return the median seconds of each task; they take turns, after two turns to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(-2, repetitions):
        for name, task in tasks.items():
            synchronize(device)
            start = time.perf_counter()
            task()
            synchronize(device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
