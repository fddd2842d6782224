"""Deliberate mistakes, each of which the tests must catch: `python tests/mutants.py [word …]`.

A mutant replaces one string of one file of optcore in a copy of the tree and runs the tests that
must catch it: those of the test file whose table `MUTANTS` lists it. With words given, only mutants
of files whose names contain one of them are run.
"""

import importlib
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


def tables() -> dict[str, dict]:
    """Return the `MUTANTS` of each test file that has some, by the file's name."""
    sys.path.insert(0, str(ROOT / "tests"))
    found = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if "\nMUTANTS = {" in path.read_text(encoding="utf-8"):
            found[path.name] = importlib.import_module(path.stem).MUTANTS
    return found


def mutated(file: str, place: str, old: str, new: str) -> str:
    source = (ROOT / "optcore" / file).read_text(encoding="utf-8")
    before, found, after = source.partition(place)
    if not found or old not in after:
        sys.exit(f"{file} has no {old!r} after {place!r}: bring the table up to date.")
    return before + place + after.replace(old, new, 1)


def passes(tree: Path, test_file: str) -> bool:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"tests/{test_file}",
    ]
    settings = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, **settings}, capture_output=True, text=True
    )
    if done.returncode > 2:  # 2: the mutant raises while the tests are collected
        sys.exit(f"pytest could not run {test_file}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def new_tree(folder: str, number: int) -> Path:
    tree = Path(folder) / str(number)
    shutil.copytree(ROOT / "optcore", tree / "optcore")
    shutil.copytree(ROOT / "tests", tree / "tests")
    for name in ("book/_ext", "book/assignments", "tools"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tree)
    return tree


def main(words: list[str]) -> int:
    chosen = [
        (test_file, file, place, old, new)
        for test_file, table in tables().items()
        for (file, place), replacements in table.items()
        for old, new in replacements
        if not words or any(word in file for word in words)
    ]
    sources = [mutated(*mutant) for _, *mutant in chosen]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        trees = SimpleQueue()
        for number in range(WORKERS):
            trees.put(new_tree(folder, number))

        def caught(test_file: str, file: str, source: str | None = None) -> bool:
            tree = trees.get()
            target = tree / "optcore" / file
            original = target.read_text(encoding="utf-8")
            try:
                target.write_text(source or original, encoding="utf-8")
                return not passes(tree, test_file)
            finally:
                target.write_text(original, encoding="utf-8")
                trees.put(tree)

        one_each = list({mutant[0]: mutant[:2] for mutant in chosen}.values())
        for (test_file, _), red in zip(
            one_each, pool.map(caught, *zip(*one_each, strict=True)), strict=True
        ):
            if red:
                sys.exit(f"{test_file} fails without any mutant: repair that first.")
        escaped = 0
        tests, files, *_ = zip(*chosen, strict=True)
        results = pool.map(caught, tests, files, sources)
        for (_, file, place, old, new), was_caught in zip(chosen, results, strict=True):
            escaped += not was_caught
            verdict = "caught " if was_caught else "ESCAPED"
            print(f"{verdict}  {file}  {place}  {old!r} → {new!r}", flush=True)
    print(f"{len(chosen) - escaped} of {len(chosen)} caught")
    return int(escaped > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
