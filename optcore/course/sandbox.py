"""The trusted side of grading: start the worker in a sandbox, hand it jobs, take back data.

The sandbox is bubblewrap (`bwrap`, Debian's package `bubblewrap`): no network, no processes but its
own, and of the file system only Python, its packages, optcore and one folder, all read-only, and
64 MB to write. In it `worker` limits time, memory and what can be started.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from optcore.course.probes import judged

OPTCORE = Path(__file__).resolve().parents[1]
WORKER = "optcore/course/worker.py"
DISK = 64 << 20  # bytes
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}


class NoSandbox(RuntimeError):
    """Student code cannot be run safely here; the text says why."""


def check_sandbox() -> None:
    """Raise `NoSandbox` unless student code can be confined on this machine."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise NoSandbox("Student code can be confined on Linux only, on x86_64 or aarch64.")
    if not shutil.which("bwrap"):
        raise NoSandbox("bubblewrap is not installed: `apt-get install bubblewrap`.")
    command = [*_bubblewrap(Path("/usr"), ()), sys.executable, "-c", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSandbox(f"bubblewrap does not work here: {done.stderr.strip()}")


def run_jobs(folder: Path, jobs: list[dict], forbids=(), *, unsafe=False) -> list[list[dict]]:
    """One result a case for each job, `{"rows": …}` or `{"error": sentence}`: data, not facts.

    Args:
        folder: what the jobs may read; nothing else of this machine but Python and optcore.
        jobs: `file` in the folder, `answer`, `probe`, `cases` (the inputs) and `seconds`.
        forbids: names of modules that the assignment forbids.
        unsafe: run the jobs with this user's rights, without the sandbox.

    Raises:
        NoSandbox: the worker did not answer for all jobs.
    """
    order = {"jobs": jobs, "forbids": forbids, "sandboxed": not unsafe}
    with tempfile.TemporaryDirectory() as scratch:
        if unsafe:
            command, home = [sys.executable], scratch
            order["path"] = str(OPTCORE.parent)
            order["jobs"] = [{**job, "file": str(folder.resolve() / job["file"])} for job in jobs]
        else:
            command, home = [*_bubblewrap(folder, forbids), sys.executable], "/tmp"
            order["path"] = "/course"
            order["jobs"] = [{**job, "file": f"/submission/{job['file']}"} for job in jobs]
        done = subprocess.run(
            [*command, "-B", str(Path(order["path"]) / WORKER)],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            cwd=scratch,
            env={**ENVIRONMENT, "HOME": home, "PATH": os.environ["PATH"]},
            check=False,
        )
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != len(jobs):
        raise NoSandbox(f"The worker ended early: {done.stderr.strip()[-2000:]}")
    found = zip(jobs, map(json.loads, lines), strict=True)
    return [
        [judged(job["probe"], *pair) for pair in zip(results, job["cases"], strict=True)]
        for job, results in found
    ]


def _bubblewrap(folder: Path, forbids) -> list[str]:
    """The command that starts a program in the sandbox, with the folder as /submission."""
    shown = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
    shown += sorted({sys.base_prefix, sys.prefix, os.path.realpath(sys.prefix)})
    options = ["--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534"]
    options += ["--gid", "65534", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    options += ["--as-pid-1", "--proc", "/proc", "--dev", "/dev"]
    # First, since an environment may lie in /tmp.
    options += ["--size", str(DISK), "--tmpfs", "/tmp"]
    for path in shown:
        options += ["--ro-bind-try", path, path]
    options += ["--ro-bind", str(OPTCORE), "/course/optcore"]
    for name in forbids:
        options += _hide(name, shown)
    options += ["--ro-bind", str(folder.resolve()), "/submission"]
    options += ["--remount-ro", "/dev"]
    return ["bwrap", *options, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _hide(name: str, shown: list[str]) -> list[str]:
    """The options that leave a module's places empty, so that nobody reads what it holds."""
    package, _, inner = name.partition(".")
    place = find_spec(package)
    if place is None:
        return []
    found = Path(place.origin).parent.resolve().joinpath(*inner.split("."))
    # A folder that is shown twice, as that of an environment behind a link is, has it twice.
    roots = [(Path(path), Path(path).resolve()) for path in shown]
    roots += [(Path("/course/optcore"), OPTCORE)]
    places = {to / found.relative_to(root) for to, root in roots if found.is_relative_to(root)}
    options = []
    for inside in sorted(places):
        if found.is_dir():
            options += ["--tmpfs", str(inside), "--remount-ro", str(inside)]
        else:
            options += ["--ro-bind", "/dev/null", f"{inside}.py"]
            if Path(cache_from_source(f"{found}.py")).exists():
                options += ["--ro-bind", "/dev/null", cache_from_source(f"{inside}.py")]
    return options
