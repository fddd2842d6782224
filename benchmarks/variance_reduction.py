"""Variance reduction against scikit-learn and cyanure: evaluations and seconds to a gap.

    python benchmarks/variance_reduction.py [--all]

Multinomial logistic regression on MNIST's first 10 000 training images, λ = 1e-3, in float64; the
intercept is the weight of a constant pixel. With `--all` in float32, and on all 60 000, too: half
an hour. The gap is F(w) − F*, with F* by L-BFGS in float64 until no entry of the gradient exceeds
1e-9. All run on one thread, since scikit-learn's stochastic solvers know no other, and are told by
CPU seconds. scikit-learn cannot be watched: it is run anew with more and more passes. cyanure tells
its gaps every five passes, but not how many gradients they took.

Then what a grid of learning rates costs beside one run, and what `Backward` costs beside the passes
that its estimator needs. Sixteen rates are sixteen times the arithmetic: no run of them can take
less than its matrix products, two for each batch, which are timed beside it. Exits with 1 if
optcore's best takes more evaluations or seconds than the best stochastic peer, a grid of 16 more
than three times its products, or `Backward` a tenth more than its passes.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from cyanure.estimators import Classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from threadpoolctl import threadpool_limits
from timing import heading, medians
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from optcore import rules
from optcore.backward import Backward
from optcore.data import mnist
from optcore.estimators import SAGA, SARAH, STORM, SVRG, MiniBatch
from optcore.problems import LogisticRegression
from optcore.run import run

L2, GAPS = 1e-3, (1e-6, 1e-10)
PASSES = (16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256)
GRID_LIMIT, BACKWARD_LIMIT = 3.0, 1.1


def images(n: int, dtype: torch.dtype) -> LogisticRegression:
    """Return the problem on the first n training images."""
    data = mnist()
    x, y = torch.cat([data.x, data.x_val])[:n], torch.cat([data.y, data.y_val])[:n]
    return LogisticRegression(x.to(dtype), y, l2=L2)


def minimum(problem: LogisticRegression) -> float:
    """Return F*."""

    def value(w):
        w = torch.from_numpy(w)
        return problem.loss(w).item(), problem.gradient(w).numpy()

    options = {"maxiter": 5000, "maxcor": 50, "gtol": 1e-9, "ftol": 0.0, "maxfun": 20_000}
    start = problem.start.numpy()
    found = scipy.optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    assert np.abs(found.jac).max() <= 1e-9, np.abs(found.jac).max()
    return found.fun


# A contestant yields F, evaluations and CPU seconds, again and again.


def ours(make: Callable, beta: float, lr: float = 0.2) -> Callable:
    """Return a contestant of optcore: heavy ball, looked at after every half pass of steps."""

    def solve(problem, F):
        estimator, checkpoint, seconds = make(problem), None, 0.0
        settings = {"lr": lr, "beta": beta, "every": None}
        for steps in itertools.count(problem.n // 200, problem.n // 200):
            start = time.process_time()
            history = run(estimator, rules.heavy_ball, steps=steps, resume=checkpoint, **settings)
            seconds += time.process_time() - start
            checkpoint = history.checkpoint
            yield F(history.w), checkpoint.evaluations, seconds

    return solve


def sklearn(solver: str, all_passes: tuple = PASSES) -> Callable:
    """Return a contestant of scikit-learn: a new run for every number of passes."""

    def solve(problem, F):
        for passes in all_passes:
            model = SklearnLogisticRegression(
                C=1 / (problem.n * L2), fit_intercept=False, solver=solver, tol=0, max_iter=passes
            )
            start = time.process_time()
            model.fit(problem.x.numpy(), problem.y.numpy())
            seconds = time.process_time() - start
            yield F(torch.from_numpy(model.coef_.T.copy()).flatten()), problem.n * passes, seconds

    return solve


def cyanure(solver: str, passes: int) -> Callable:
    """Return a contestant of cyanure, which does not tell its evaluations."""

    def solve(problem, F):
        model = Classifier(
            loss="multiclass-logistic", penalty="l2", lambda_1=L2, fit_intercept=False,
            solver=solver, tol=1e-30, max_iter=passes, verbose=False, n_threads=1,
        )  # fmt: skip
        start = time.process_time()
        model.fit(problem.x.numpy(), problem.y.numpy())
        seconds = time.process_time() - start
        for done, value in model.optimization_info_[0, :2].T:
            yield value, math.nan, seconds * done / passes

    return solve


OURS = {
    "optcore: SAGA, heavy ball": ours(lambda p: SAGA(p, 100), 0.9),
    "optcore: SVRG, heavy ball": ours(lambda p: SVRG(p, 100, every=p.n // 100), 0.9),
    "optcore: SARAH, heavy ball": ours(lambda p: SARAH(p, 100, every=p.n // 100), 0.9),
}
STOCHASTIC = {
    "scikit-learn: sag": sklearn("sag"),
    "scikit-learn: saga": sklearn("saga"),
    "cyanure: svrg": cyanure("svrg", 150),
    "cyanure: acc-svrg": cyanure("acc-svrg", 50),
}
# An iteration of L-BFGS is at least one evaluation of every example.
OTHERS = {"scikit-learn: lbfgs": sklearn("lbfgs", (80, 100, 120, 150, 200, 300, 500))}


def race(n: int, dtype: torch.dtype) -> list[str]:
    """Print the table of one problem; return what optcore has lost."""
    problem, judge = images(n, dtype), images(n, torch.float64)
    best = minimum(judge)
    print(f"\n{n:,} images, {dtype}: passes and CPU seconds, load {os.getloadavg()[0]:.1f}")
    print(f"{'':28}" + "".join(f"{f'to a gap of {gap:g}':>24}" for gap in GAPS), flush=True)
    reached = {}
    for name, solve in (OURS | STOCHASTIC | OTHERS).items():
        found = reached[name] = {}
        for value, evaluations, seconds in solve(problem, lambda w: judge.loss(w.double()).item()):
            for gap in GAPS:
                if value - best <= gap and gap not in found:
                    found[gap] = evaluations / n, seconds
            if len(found) == len(GAPS) or evaluations > PASSES[-1] * n or math.isnan(value):
                break
        cells = (
            f"{found[g][0]:14.1f}{found[g][1]:10.2f}" if g in found else f"{'-':>24}" for g in GAPS
        )
        print(f"{name:28}" + "".join(cells), flush=True)

    lost = []
    for gap in GAPS:
        for what, index in (("passes", 0), ("seconds", 1)):
            mine, theirs = (
                np.nanmin([reached[name].get(gap, (math.inf,) * 2)[index] for name in names])
                for names in (OURS, STOCHASTIC)
            )
            if mine > theirs:
                lost.append(f"{n:,} images, {dtype}, gap {gap:g}: {mine:.2f} {what}, {theirs:.2f}")
    return lost


def grid() -> list[str]:
    """Print what 16 learning rates in one run cost beside one; return what is above the limit."""
    problem, over = images(10_000, torch.float64), []
    print(f"\n16 learning rates as rows of one run{'over one rate':>22}{'over its products':>20}")
    x, w = problem.x[:100].contiguous(), torch.zeros(problem.x.shape[1], 160, dtype=torch.float64)
    residuals = torch.zeros(100, 160, dtype=torch.float64)

    def products():
        for _ in range(100):
            x @ w, residuals.T @ x

    for name, estimator, rule in (
        ("mini-batch, sgd", MiniBatch(problem, 100, shared=True), rules.sgd),
        ("mini-batch, Adam", MiniBatch(problem, 100, shared=True), rules.adam),
        ("SVRG, sgd", SVRG(problem, 100, every=100, shared=True), rules.sgd),
        ("SAGA, sgd", SAGA(problem, 100, shared=True), rules.sgd),
    ):

        def task(estimator=estimator, rule=rule, **rows):
            return lambda: run(estimator, rule, steps=100, every=None, **rows)

        rates = torch.logspace(-4, -2, 16, dtype=torch.float64).unsqueeze(1)
        grid = task(lr=rates, w=problem.start.expand(16, -1))
        seconds = medians({"one": task(lr=0.01), "grid": grid, "products": products}, 7, "cpu")
        batches = grid().checkpoint.evaluations / 100
        ratio = seconds["grid"] / (seconds["products"] * batches / 100)
        print(f"{name:36}{seconds['grid'] / seconds['one']:22.2f}{ratio:20.2f}", flush=True)
        over += [f"grid, {name}: {ratio:.2f}"] if ratio > GRID_LIMIT else []
    return over


def network() -> list[str]:
    """Print what `Backward` costs beside its passes; return what is above the limit."""
    data = mnist()
    x, y = data.x[:1280].view(-1, 1, 28, 28), data.y[:1280]
    loader = DataLoader(TensorDataset(x, y), 128)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    x, y = x[:128], y[:128]

    def plain():
        module.zero_grad()
        cross_entropy(module(x), y).backward()

    tasks = {"backward()": (plain, 1)}
    for name, passes, estimator, options in (
        ("mini-batch", 1, MiniBatch, {}),
        ("STORM", 2, STORM, {}),
        ("SVRG, between snapshots", 2, SVRG, {"every": 10**6}),
    ):
        backward = Backward(module, loader, cross_entropy, estimator, **options)

        def step(backward=backward):
            module.zero_grad()
            backward(x, y)

        tasks[name] = step, passes
    seconds = medians({name: task for name, (task, _) in tasks.items()}, 31, "cpu")
    over = []
    print("\nBackward on a small CNN, batches of 128: time over that of its passes by backward()")
    for name, (_, passes) in tasks.items():
        ratio = seconds[name] / seconds["backward()"] / passes
        print(f"{name:28}{ratio:10.2f}", flush=True)
        over += [f"Backward, {name}: {ratio:.2f}"] if ratio > BACKWARD_LIMIT else []
    return over


def main(arguments: list[str]) -> int:
    """Print all tables; return 1 if something is above a limit."""
    sizes = (10_000, 60_000) if "--all" in arguments else (10_000,)
    dtypes = (torch.float64, torch.float32) if "--all" in arguments else (torch.float64,)
    print(heading("cpu"))
    above = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped early on purpose
        warnings.simplefilter("ignore", UserWarning)
        torch.set_num_threads(1)
        for n in sizes:
            for dtype in dtypes:
                above += race(n, dtype)
        above += grid() + network()
    print("\n".join(f"ABOVE: {line}" for line in above) or "\noptcore is ahead of all, and cheap")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
