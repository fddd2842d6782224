"""The contest of chapter 8 at its full size: SGD, Adam and SVRG on all of MNIST's training images.

    python benchmarks/contest.py [--record]

Multinomial logistic regression, λ = 1e-3, on 50 000 images of 28×28 pixels in float32, batches of
500, 30 passes for everyone; the rate by a grid of six, which are the rows of one run, then five
seeds, each with batches of its own. The gap is F(w) − F*, in float64, with F* by scikit-learn's
Newton-CG. With `--record` the curves go into `results`, from where the chapter reads them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from timing import device_name, heading

from optcore import device, rules
from optcore.data import mnist
from optcore.estimators import SVRG, MiniBatch
from optcore.problems import LogisticRegression
from optcore.run import run

L2, BATCH, PASSES, RATES, SEEDS, LOOKS = 1e-3, 500, 30, 6, 5, 10
RESULTS = Path(__file__).parent / "results"


class Contest:
    """The problem on the device, and who judges it in float64."""

    def __init__(self, place: torch.device):
        data = mnist()
        self.problem = LogisticRegression(data.x.to(place), data.y.to(place), l2=L2)
        self.x_val, self.y_val = data.x_val.to(place), data.y_val.to(place)
        self.judge = LogisticRegression(data.x.double(), data.y, l2=L2)
        self.best = self.judge.loss(self.judge.optimum)

    def gap(self, w: torch.Tensor) -> torch.Tensor:
        """Return F(w) − F* of each row."""
        return self.judge.loss(w.double().cpu()) - self.best

    def accuracy(self, w: torch.Tensor) -> torch.Tensor:
        """Return the share of validation images that each row gets right."""
        return torch.tensor([self.problem.accuracy(row, self.x_val, self.y_val) for row in w])

    def compete(self, make, options: dict, rule, lowest: float) -> dict:
        """Search the rate, run five seeds with it, return what they did."""
        start, n = self.problem.start, self.problem.n
        cost = 2 * BATCH + n / options["every"] if options else BATCH
        steps = int(PASSES * n / cost)
        grid = lowest * 2.0 ** torch.arange(RATES, device=start.device)
        tried = run(make(self.problem, BATCH, shared=True, **options), rule, lr=grid.unsqueeze(1),
                    steps=steps, every=None, w=start.expand(RATES, -1))  # fmt: skip
        gaps = self.gap(tried.w)
        lr = grid[np.nanargmin(gaps.numpy())].item()
        history = run(make(self.problem, BATCH, seed=1, **options), rule, lr=lr, steps=steps,
                      w=start.expand(SEEDS, -1), every=max(1, steps // LOOKS),
                      record={"gap": self.gap, "accuracy": self.accuracy})  # fmt: skip
        return {
            "lr": lr,
            "grid": grid.tolist(),
            "gaps of the grid": gaps.tolist(),
            "passes": (history["evaluations"] / n).tolist(),
            "gap": history["gap"].tolist(),
            "accuracy": history["accuracy"].tolist(),
        }


def rounded(value):
    """Return the same with four digits."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else float(f"{value:.4g}")


def main() -> int:
    """Print the table, and record the curves if asked."""
    place, load = device(), os.getloadavg()
    print(heading(place.type))
    contest = Contest(place)
    n = contest.problem.n
    entries = {
        "SGD": (MiniBatch, {}, rules.sgd, 0.08),
        "Adam": (MiniBatch, {}, rules.adam, 0.0008),
        "SVRG, m = n/10 samples": (SVRG, {"every": n // 10 // BATCH}, rules.sgd, 0.16),
        "SVRG, m = n/10 steps": (SVRG, {"every": n // 10}, rules.sgd, 0.16),
        "SVRG, m = 2n samples": (SVRG, {"every": 2 * n // BATCH}, rules.sgd, 0.16),
    }
    rows = {}
    print(f"{'':26}{'rate':>9}{'gap':>11}{'at least':>11}{'at most':>11}{'accuracy':>10}{'s':>7}")
    for name, entry in entries.items():
        start = time.perf_counter()
        rows[name] = found = contest.compete(*entry)
        gaps, accuracy = np.array(found["gap"][-1]), np.mean(found["accuracy"][-1])
        numbers = "".join(f"{x:11.2e}" for x in (gaps.mean(), gaps.min(), gaps.max()))
        seconds = time.perf_counter() - start
        print(f"{name:26}{found['lr']:9.2g}{numbers}{accuracy:10.2%}{seconds:7.0f}", flush=True)
    if "--record" in sys.argv:
        file = RESULTS / f"contest-{place.type}.json"
        about = {
            "date": date.today().isoformat(),
            "device": device_name(place.type),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "load": [round(x, 2) for x in load],
            "images": n,
        }
        text = json.dumps({**about, "rows": rounded(rows)}, indent=1, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
        print(f"written: {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
