"""Deliberate mistakes, each of which the tests must catch: `python tests/mutants.py [word …]`.

A mutant replaces one string of one file of optcore in a copy of the tree and runs the tests of that
module. With words given, only the mutants of the files whose names contain one of them are run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2

# (file, where in it the search for `old` begins): [(old, new), …]
MUTANTS = {
    ("rules/momentum.py", "def sgd("): [
        ("return w - lr * z", "return w + lr * z"),
        ("return w - lr * z", "return w - lr * z.sign()"),
        ('    check_step(w, z, nonnegative={"lr": lr})\n', ""),
    ],
    ("rules/momentum.py", "def heavy_ball("): [
        ("+ beta * (w - w_prev)", "- beta * (w - w_prev)"),
        ("w - lr * z + beta", "w - (1 - beta) * lr * z + beta"),
        ("Previous(w)", "Previous(w_prev)"),
        ("w_prev = w if state", "w_prev = 0 * w if state"),
    ],
    ("rules/momentum.py", "def heavy_ball_average("): [
        ("+ (1 - beta) * z\n", "+ z\n"),
        ("= beta * v_prev + (1 - beta)", "= (1 - beta) * v_prev + beta"),
        ("v_prev = 0 if state is None", "v_prev = z if state is None"),
        ("return w - lr * v,", "return w - lr / (1 - beta) * v,"),
    ],
    ("rules/momentum.py", "def heavy_ball_sum("): [
        ("v = beta * v_prev + z\n", "v = beta * (v_prev + z)\n"),
        ("v = beta * v_prev + z\n", "v = beta * v_prev + (1 - beta) * z\n"),
        ("return w - lr * v,", "return w - lr * (z + beta * v),"),
    ],
    ("rules/momentum.py", "def nesterov("): [
        ("u_next + beta * (u_next - u)", "u_next + beta * (u_next - w)"),
        ("u_next + beta * (u_next - u)", "w + beta * (u_next - u)"),
        ("Previous(u_next)", "Previous(w)"),
        ("u = w if state is None", "u = w - lr * z if state is None"),
    ],
    ("rules/momentum.py", "def nesterov_one_line("): [
        ("w_prev - lr * z_prev", "w_prev + lr * z_prev"),
        ("(w, 0) if state", "(w, z) if state"),
        ("beta * ((w - lr * z) -", "beta * (w -"),
    ],
    ("rules/momentum.py", "def nesterov_gradient_correction("): [
        ("beta * (z - z_prev)", "(z - z_prev)"),
        (" + beta * (z - z_prev)", ""),
        ("(0, 0) if state", "(0, z) if state"),
    ],
    ("rules/momentum.py", "def nesterov_look_ahead("): [
        ("v = beta * v_prev + z", "v = v_prev + z"),
        ("w - lr * v, V", "w - lr * beta * v, V"),
    ],
    ("rules/momentum.py", "def _look_ahead_point("): [
        ("w - lr * beta * state.v", "w - lr * state.v"),
        ("w - lr * beta * state.v", "w"),
    ],
    ("rules/momentum.py", "def nesterov_two_gradients("): [
        ("VelocityAndPrevious(v, w)", "VelocityAndPrevious(v, w - lr * v)"),
        ("beta * (z - z_prev)", "beta * (z_prev - z)"),
        ("(*z, 0) if state", "(*z, *z) if state"),
    ],
    ("rules/momentum.py", "def _this_and_previous_point("): [
        ("(w, state.w)", "(state.w, w)"),
    ],
    ("rules/checks.py", "def check_step("): [
        ("if w.shape != z.shape:", "if False:"),
        ("0 <= value < math.inf", "0 <= value"),
        ("0 <= value < 1", "0 <= value <= 1"),
    ],
    ("optim/momentum.py", "class SGD"): [
        ('1 - group["dampening"]', "1"),
        ("] = z.clone()", '] = z.clone() * (1 - group["dampening"])'),
        ("] = z.clone()", "] = z"),
        ("z.add(b, alpha=beta) if", "b.add(z, alpha=beta) if"),
        (".mul_(beta).add_(z, alpha=1", ".mul_(beta).add_(z, alpha=-1"),
        ('alpha=-float(group["lr"])', 'alpha=float(group["lr"])'),
        ('nesterov=group["nesterov"]', "nesterov=False"),
        ('maximize=group["maximize"]', "maximize=False"),
        ('weight_decay=group["weight_decay"]', "weight_decay=0.0"),
        ('dampening=group["dampening"]', "dampening=0.0"),
        ("is_first_step=first", "is_first_step=False"),
        ("is_first_step=first", "is_first_step=True"),
        ("[p.grad for p in params]", "[p.grad.mul_(1.0001) for p in params]"),
        ("(p.device, p.dtype, buffer is None)", "(p.device, p.dtype, False)"),
        ("increment_version([*params, *buffers])", "set_multithreading_enabled(True)"),
    ],
    ("optim/base.py", "FUSED = {"): [
        ('"cpu": (torch.float32, torch.float64)', '"cpu": (torch.float32, torch.bfloat16)'),
    ],
    ("optim/base.py", "def can_be_fused("): [
        ("and p.is_contiguous()", ""),
        ("and z.is_contiguous()", ""),
        ("and buffer.is_contiguous()", ""),
    ],
    ("optim/momentum.py", "class HeavyBall"): [
        (".mul_(beta).add_(z, alpha=-lr)", ".add_(z, alpha=-lr).mul_(beta)"),
        (".mul_(beta).add_(z, alpha=-lr)", ".mul_(beta).add_(z, alpha=-lr * (1 - beta))"),
        ("p.add_(displacement)", "p.sub_(displacement)"),
        ("alpha=1 - beta)", "alpha=1)"),
        ("alpha=1 - beta)", "alpha=beta)"),
        ("p.add_(v, alpha=-lr)", "p.add_(v, alpha=-lr / (1 - beta))"),
        ('"exp_avg")', '"displacement")'),
    ],
    ("optim/momentum.py", "class Nesterov"): [
        ("p.add_(z, alpha=-lr).add_(displacement, alpha=beta)", "p.add_(displacement)"),
        (".add_(displacement, alpha=beta)", ".add_(displacement)"),
        (".mul_(beta).add_(z, alpha=-lr)", ".mul_(beta).add_(z, alpha=lr)"),
    ],
    ("optim/base.py", "def gradient_of("): [
        ("p.grad.neg() if group", "p.grad.neg_() if group"),
        ('p.grad.neg() if group["maximize"]', "p.grad.neg() if False"),
        ("return z.add(p, alpha", "return z.add_(p, alpha"),
        ("return z.add(p, alpha=group", "return z.sub(p, alpha=group"),
    ],
    ("optim/base.py", "def add_param_group("): [
        ("            self.param_groups.pop()\n", ""),
    ],
    ("optim/base.py", "def step("): [
        ("torch.enable_grad()", "torch.no_grad()"),
        ("return loss", "return None"),
        ('group.get("differentiable", False)', "False"),
        ("if p.grad is not None]", "]"),
    ],
    ("optim/base.py", "def __setstate__("): [
        ("group.setdefault(name, value)", "pass"),
    ],
    ("optim/base.py", "def _check_group("): [
        ("0 <= lr < math.inf", "0 <= lr"),
        ("0 <= momentum < 1", "0 <= momentum"),
        ("0 <= decay < math.inf", "decay < math.inf"),
        ("if not (p.is_floating_point() or p.is_complex())", "if False"),
    ],
    ("optim/base.py", "def _check_gradients("): [
        (" or z.isfinite().all()", ""),
        ("z.sum().isfinite() or", "True or"),
    ],
    ("estimators.py", "class FullBatch"): [
        ("for w in places", "for w in places[:1] * len(places)"),
        ("return self.problem.gradient(w)", "return self.problem._gradient(w, None)"),
        ("tuple(self.problem.gradient(w) for", "tuple(self.problem._gradient(w, None) for"),
    ],
    ("estimators.py", "class MiniBatch"): [
        ("replace=self.replace)", "replace=True)"),
        ("replace=self.replace)", "replace=False)"),
        ("torch.Generator().manual_seed(seed)", "torch.default_generator"),
        ("manual_seed(seed)", "manual_seed(0)"),
        ("draw(self.size,", "draw(1,"),
        ("self.problem.gradient(w, sample)", "self.problem._gradient(w, sample)"),
        (
            "tuple(self.problem.gradient(w, sample) for w in places)",
            "tuple(self(w) for w in places) if places[1:] else "
            "tuple(self.problem.gradient(w, sample) for w in places)",
        ),
        ("if size < 1", "if size < 0"),
        ("size > problem.n", "size >= problem.n"),
    ],
    ("problems.py", "def draw("): [
        ("if replace:", "if not replace:"),
        (
            "torch.randint(self.n, (size,), generator=generator)",
            "torch.randint(self.n - 1, (size,), generator=generator)",
        ),
    ],
    ("problems.py", "def gradient("): [
        ("if sample is None else len(sample)", "if sample is None else 1"),
        ("(self.n or 1) if", "1 if"),
    ],
    ("problems.py", "class Quadratic"): [
        ("* gap).sum(-1) / 2", "* gap).sum(-1)"),
        ("sample.mean(0)", "sample.sum(0)"),
        ("self.noise_root.mT", "self.noise_root"),
        (
            "Q @ torch.diag(spectrum.double()) @ Q.T",
            "Q.T @ torch.diag(spectrum.double()) @ Q + 0.1 * Q.T",
        ),
        ("self.spectrum.min().item()", "self.spectrum[-1].item()"),
        ("torch.randn(size, *like.shape,", "torch.randn(size, like.shape[-1],"),
    ],
    ("problems.py", "class QuantileSearch"): [
        ("(sample <= w)", "(sample >= w)"),
        ("+ density - self.q * w", "- self.q * w"),
        ("icdf(torch.tensor(q", "icdf(torch.tensor(1 - q"),
    ],
    ("problems.py", "class LogisticRegression"): [
        ("self.l2 / 2 * w.square()", "self.l2 * w.square()"),
        (".flatten() + self.l2 * w", ".flatten()"),
        ("outer.flatten(1) + self.l2 * w", "outer.flatten(1)"),
        ("(2 if classes == 2 else 1)", "1"),
        ("(self.n * self.l2)", "self.l2"),
        ("[-columns / 2, columns / 2]", "[columns / 2, -columns / 2]"),
        ("return probabilities - ", "return 1.001 * probabilities - "),
    ],
    ("problems.py", "class Objective"): [
        ("if sample is None else sample", "if True else sample"),
        ("grad(self.f)(w, i.unsqueeze(0))", "grad(self.f)(w, 0 * i.unsqueeze(0))"),
    ],
    ("problems.py", "class Network"): [
        ("if index < p.numel()", "if index <= p.numel()"),
        ("y[indices])", "y[indices.flip(0)])"),
    ],
    ("run.py", "def run("): [
        ("schedule(t)", "schedule(t - 1)"),
        ("schedule(t)", "schedule(t + 1)"),
        ("rule(w, z, state, **hyper)", "rule(w, z, None, **hyper)"),
        ("problem.evaluations - spent", "problem.evaluations"),
        ("w if project is None else project(w)", "w"),
        ("        if t in recorded:\n", "        if True:\n"),
        ("    note(0)\n", ""),
        ("problem.start.clone()", "problem.start"),
        ("        _check_gradient(z, t, problem, history)\n", ""),
        ("if not loss.isfinite().all()", "if loss.isnan().any()"),
        ("history.w = w\n", "pass\n"),
        ("estimator.at(points(", "tuple(estimator(p) for p in points("),
    ],
    ("run.py", "def _append("): [
        (".numpy().copy()", ".numpy()"),
    ],
    ("run.py", "def _record_times("): [
        ("steps + 1, every), steps}", "steps + 1, every)}"),
        ("range(every, steps + 1", "range(1, steps + 1"),
        ("2 ** (k / 4)", "2 ** (k / 2)"),
    ],
    ("run.py", "def _check_gradient("): [
        ("parameter_at(entry)", "parameter_at(0)"),
    ],
    ("run.py", "def _worst("): [
        ('"NaN" if', '"NaN" if not'),
    ],
    ("schedules.py", "def constant("): [
        ("lambda t: lr", "lambda t: lr / t"),
    ],
    ("schedules.py", "def power("): [
        ("lr * t**-exponent", "lr * (t + 1) ** -exponent"),
        ("t**-exponent", "t**exponent"),
        ('    _nonnegative("exponent", exponent)\n', ""),
    ],
    ("schedules.py", "def inverse_time("): [
        ("2 / (mu * (t + offset))", "2 / (mu * t + offset)"),
        ("2 / (mu", "1 / (mu"),
        ("if not 0 < mu", "if not 0 <= mu"),
        ("-1 < offset", "-1 <= offset"),
    ],
    ("claims.py", "def check("): [
        ("low <= measured <= high", "low < measured <= high"),
        ("low <= measured <= high", "low <= measured < high"),
        ("math.isfinite(measured) and ", ""),
        ("Claim(id, sentence, measured, text)", "Claim(id, sentence, high, text)"),
        ("re.fullmatch", "re.match"),
        ("(-math.inf, bound)", "(0, bound)"),
    ],
    ("claims.py", "def _bound_text("): [
        ("≥", "≤"),
    ],
    ("claims.py", "def loglog_slope("): [
        ("np.polyfit(np.log(x), np.log(y), 1)[0]", "np.polyfit(np.log(y), np.log(x), 1)[0]"),
        ("(x > 0)", "(x >= 0)"),
    ],
    ("data.py", "def mnist("): [
        ("/ 255", "/ 256"),
        ("x[:cut], y[:cut], x[cut:], y[cut:]", "x[-cut:], y[-cut:], x[:-cut], y[:-cut]"),
        ("y[cut:], x_test", "y[:10_000], x_test"),
    ],
    ("data.py", "def digits("): [
        ("bunch.target[order]", "bunch.target"),
        ("default_rng(0)", "default_rng()"),
    ],
    ("data.py", "def _mnist_file("): [
        ('known_hash=f"md5:{MNIST_MD5[name]}"', "known_hash=None"),
        ("in MIRRORS", "in MIRRORS[:1]"),
        ("(OSError, ValueError)", "OSError"),
    ],
    ("data.py", "def device("): [
        (" and dtype != torch.float64", ""),
    ],
}


def mutated(file: str, place: str, old: str, new: str) -> str:
    source = (ROOT / "optcore" / file).read_text(encoding="utf-8")
    before, found, after = source.partition(place)
    if not found or old not in after:
        sys.exit(f"{file} has no {old!r} after {place!r}: bring the table up to date.")
    return before + place + after.replace(old, new, 1)


def test_file(file: str) -> str:
    # What all of a floor share is tested through its first users.
    shared = {"optim/base.py": "optim/momentum.py", "rules/checks.py": "rules/momentum.py"}
    return "tests/test_" + shared.get(file, file).replace("/", "_")


def passes(tree: Path, file: str) -> bool:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        test_file(file),
    ]
    settings = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, **settings}, capture_output=True, text=True
    )
    if done.returncode > 1:
        sys.exit(f"pytest could not run {test_file(file)}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def new_tree(folder: str, number: int) -> Path:
    tree = Path(folder) / str(number)
    shutil.copytree(ROOT / "optcore", tree / "optcore")
    shutil.copytree(ROOT / "tests", tree / "tests")
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tree)
    return tree


def main(words: list[str]) -> int:
    chosen = [
        (file, place, old, new)
        for (file, place), replacements in MUTANTS.items()
        for old, new in replacements
        if not words or any(word in file for word in words)
    ]
    sources = [mutated(*mutant) for mutant in chosen]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        trees = SimpleQueue()
        for number in range(WORKERS):
            trees.put(new_tree(folder, number))

        def caught(file: str, source: str | None) -> bool:
            tree = trees.get()
            target = tree / "optcore" / file
            original = target.read_text(encoding="utf-8")
            try:
                target.write_text(source or original, encoding="utf-8")
                return not passes(tree, file)
            finally:
                target.write_text(original, encoding="utf-8")
                trees.put(tree)

        files = sorted({mutant[0] for mutant in chosen})
        for file, red in zip(files, pool.map(caught, files, [None] * len(files)), strict=True):
            if red:
                sys.exit(f"{test_file(file)} fails without any mutant: repair that first.")
        escaped = 0
        results = pool.map(caught, [mutant[0] for mutant in chosen], sources)
        for (file, place, old, new), was_caught in zip(chosen, results, strict=True):
            escaped += not was_caught
            verdict = "caught " if was_caught else "ESCAPED"
            print(f"{verdict}  {file}  {place}  {old!r} → {new!r}", flush=True)
    print(f"{len(chosen) - escaped} of {len(chosen)} caught")
    return int(escaped > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
