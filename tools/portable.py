"""Run the tests and the pages as on other processors: other kernels, threads and orders of tests.

    python tools/portable.py            run all cells of the matrix
    python tools/portable.py CELL ...   run some of them
    python tools/portable.py --list     print the cells' names as JSON

A cell says up to which instruction set PyTorch's own kernels, oneDNN's products and the two
libraries of linear algebra (MKL in PyTorch, OpenBLAS in NumPy) may go, and on how many threads.
Only a setting that the processor has changes anything; nothing here makes an old processor newer.
What pytest prints is kept in `_build/portable`.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "_build" / "portable"

# The libraries of linear algebra follow PyTorch's kernels. "native" is what the processor offers.
KERNELS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "native": {},
}
ONEDNN = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "native": {},
}
# Each value of each factor occurs, each of the kernels and numbers of threads twice.
CELLS = {
    f"{kernels}-{onednn}-{threads}": {
        **KERNELS[kernels],
        **ONEDNN[onednn],
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "MKL_DYNAMIC": "FALSE",  # else MKL takes no more threads than there are cores
        "OPENBLAS_NUM_THREADS": str(threads),
    }
    for kernels, onednn, threads in [
        ("default", "avx2", 1),
        ("default", "native", 4),
        ("avx2", "avx2", 4),
        ("avx2", "avx512", 2),
        ("native", "bf16", 1),
        ("native", "native", 2),
    ]
}
# These read text, HTML and scripts, or test this tool: they compute nothing that a kernel changes.
NOT_NUMERIC = (
    *("extension", "federated_deployment", "mutants", "notebooks", "portable", "publish", "site"),
    "widgets",
)
PARTS = {
    "tests": ["tests", *(f"--ignore=tests/test_{name}.py" for name in NOT_NUMERIC)],
    # Threads that outnumber the cores are slow.
    "pages": ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "book"],
}


def environment(cell: str) -> dict[str, str]:
    """The environment of a cell: nothing that a caller set for his own processor gets in."""
    ours = set().union(*CELLS.values())
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {"OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1", **kept, **CELLS[cell]}


def run(cell: str, part: str) -> tuple[bool, str]:
    """Run one part of a cell; return whether it passed, and its line of the table."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log, counts = LOGS / f"{cell}.{part}.log", LOGS / f"{cell}.{part}.xml"
    counts.unlink(missing_ok=True)
    seed = random.randrange(10**6)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PARTS[part]]
    command += [f"--shuffle={seed}", f"--junitxml={counts}"]
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(cell), stdout=output, stderr=subprocess.STDOUT
        )
    seconds = time.perf_counter() - start
    suite = {"tests": "0", "failures": "0", "errors": "0", "skipped": "0"}
    if counts.exists():  # not if pytest itself has failed
        suite = ElementTree.parse(counts).getroot()[0].attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    passed = int(suite["tests"]) - int(suite["skipped"]) - failed
    verdict = "passed" if done.returncode == 0 else "FAILED"
    line = f"{cell:18} {part:6} {verdict:7} {passed:6} {failed:7} {seconds:8.0f} {seed:7}"
    if done.returncode:
        tail = log.read_text(encoding="utf-8").splitlines()[-40:]
        print(*tail, f"… the last lines of {log}", sep="\n")
    print(line, flush=True)
    return done.returncode == 0, line


def main(arguments: list[str]) -> int:
    """Run the cells named, or all; exit 1 if anything failed."""
    if arguments == ["--list"]:
        print(json.dumps(list(CELLS)))
        return 0
    if unknown := [cell for cell in arguments if cell not in CELLS]:
        sys.exit(f"There is no cell {unknown[0]}. The cells are {', '.join(CELLS)}.")
    results = [run(cell, part) for cell in arguments or CELLS for part in PARTS]
    print(f"\n{'cell':18} {'part':6} {'':7} {'passed':>6} {'failed':>7} {'seconds':>8} {'seed':>7}")
    print(*(line for _, line in results), sep="\n")
    return 0 if all(passed for passed, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
