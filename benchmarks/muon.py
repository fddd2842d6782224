"""Muon on the hidden matrices of transformers: optcore against torch, side by side.

    python benchmarks/muon.py [--record]

A layer has four matrices d×d, one 4d×d and one d×4d. All variants take turns in one process; the
tables show medians. With `--record` the numbers go to benchmarks/results/muon-<device>.json, which
the Muon chapter reads. Exits with 1 if optcore takes more of torch's time than the limits allow.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from timing import device_name, devices, heading, medians

import optcore.optim
from optcore.rules.muon import orthogonalize, polar_express_coefficients

MODELS = {(4, 128): 31, (6, 256): 15, (12, 768): 5}  # (layers, d): repetitions
LIMITS = {"cpu": {(4, 128): 0.55, (6, 256): 0.75, (12, 768): 0.8}}
LIMIT_ON_A_GPU = 0.5
STEPS = 5
RESULTS = Path(__file__).parent / "results"


def derived(steps: int) -> list[tuple[float, float, float]]:
    """Return the best quintics for singular values of 0.01 and more."""
    return polar_express_coefficients(steps, lower=0.01, cushion=0.0)


VARIANTS: dict[str, Callable] = {
    "torch": torch.optim.Muon,
    "optcore": optcore.optim.Muon,
    "optcore, torch's products": lambda p: optcore.optim.Muon(p, gram=False),
    # Not the same updates. For σ ≥ 0.01 ‖D‖_F three derived steps have a smaller worst error than
    # the five of the quintic, four a much smaller one (chapter 6).
    "optcore, 3 derived steps": lambda p: optcore.optim.Muon(p, ns_coefficients=derived(3)),
    "optcore, 4 derived steps": lambda p: optcore.optim.Muon(p, ns_coefficients=derived(4)),
    "optcore, Polar Express": lambda p: optcore.optim.Muon(p, method="polar_express"),
}


def shapes(layers: int, d: int) -> list[tuple[int, int]]:
    """Return the hidden matrices of the model."""
    return layers * ([(d, d)] * 4 + [(4 * d, d), (d, 4 * d)])


def operations(layers: int, d: int) -> float:
    """Return the floating-point operations of torch's products: T (4m²n + 2m³) a matrix."""
    sides = (sorted(shape) for shape in shapes(layers, d))
    return sum(STEPS * (4 * m * m * n + 2 * m**3) for m, n in sides)


def matrices(layers: int, d: int, device: str) -> list[torch.Tensor]:
    """Return parameters with gradients."""
    params = [torch.randn(s, device=device).div_(s[1] ** 0.5) for s in shapes(layers, d)]
    for p in params:
        p.requires_grad_().grad = torch.randn_like(p)
    return params


def steps_of(layers: int, d: int, device: str, repetitions: int) -> list[dict]:
    """Time a step of every variant on one model; one set of parameters serves all."""
    params = matrices(layers, d, device)
    tasks = {name: make(params).step for name, make in VARIANTS.items()}
    seconds = medians(tasks, repetitions, device)
    gflop = operations(layers, d) / 1e9
    print(f"\nA step, {layers} layers, d = {d}, {device}: {gflop:.1f} GFLOP in torch's order")
    print(f"{'':28}{'ms':>10}{'ratio':>8}{'GFLOP/s':>10}")
    for name, s in seconds.items():
        print(f"{name:28}{1e3 * s:10.2f}{s / seconds['torch']:8.2f}{gflop / s:10.0f}")
    return [
        {"what": name, "d": d, "layers": layers, "seconds": s, "ratio": s / seconds["torch"]}
        for name, s in seconds.items()
    ]


def orthogonalizations(d: int, device: str, count: int = 8) -> list[dict]:
    """Time the decomposition against the iteration, and one by one against all at once."""
    G = torch.randn(count, d, d, device=device)
    tasks = {
        "svd": lambda: [orthogonalize(g, "svd") for g in G],
        "newton-schulz, float32": lambda: [orthogonalize(g) for g in G],
        "newton-schulz, float32, batched": lambda: orthogonalize(G),
        "newton-schulz, bfloat16": lambda: [orthogonalize(g) for g in G.bfloat16()],
        "newton-schulz, bfloat16, batched": lambda: orthogonalize(G.bfloat16()),
    }
    seconds = medians(tasks, 3, device)
    print(f"\n{count} matrices {d}×{d}, {device}")
    print(f"{'':34}{'ms':>10}{'ratio':>8}")
    for name, s in seconds.items():
        print(f"{name:34}{1e3 * s:10.2f}{s / seconds['svd']:8.3f}")
    return [
        {"what": name, "d": d, "layers": None, "seconds": s, "ratio": s / seconds["svd"]}
        for name, s in seconds.items()
    ]


def record(device: str, rows: list[dict], load: tuple[float, ...]) -> None:
    """Write the numbers and where they come from."""
    found = {
        "date": date.today().isoformat(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "load": [round(x, 2) for x in load],
        "rows": [
            {**row, "seconds": float(f"{row['seconds']:.4g}"), "ratio": round(row["ratio"], 3)}
            for row in rows
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"muon-{device}.json"
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nwritten: {file}")


def main() -> int:
    """Print the tables for every device; return the exit code."""
    too_slow = []
    for device in devices():
        torch.manual_seed(0)
        load = os.getloadavg()
        print(f"{heading(device)}; medians; ratio: to the first")
        rows = []
        for (layers, d), repetitions in MODELS.items():
            rows += steps_of(layers, d, device, repetitions)
            limit = LIMITS.get(device, {}).get((layers, d), LIMIT_ON_A_GPU)
            ratio = next(r["ratio"] for r in rows[::-1] if r["what"] == "optcore")
            print(f"optcore over torch: {ratio:.2f}, limit {limit}")
            if ratio > limit:
                too_slow.append((device, layers, d))
        for d in (64, 128, 256, 512):
            rows += orthogonalizations(d, device)
        if "--record" in sys.argv:
            record(device, rows, load)
    print(f"\nabove the limit: {too_slow or 'none'}")
    return int(bool(too_slow))


if __name__ == "__main__":
    sys.exit(main())
