"""What hostile submissions get, in the sandbox: `course_class.py` holds them."""

import importlib
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import course_class
import pytest

from optcore.course import sandbox
from optcore.course.grade import graded
from optcore.course.sandbox import OPTCORE, NoSandbox, check_sandbox

# Enough for what is right, and what is endless ends soon.
QUICK = [replace(question, seconds=2) for question in course_class.A3.questions]
A3 = replace(course_class.A3, questions=QUICK)

try:
    check_sandbox()
    SKIPPED = ""
except NoSandbox as error:
    SKIPPED = str(error)
ATTACKS = course_class.hostile("/nowhere", 0)
sandboxed = pytest.mark.skipif(bool(SKIPPED), reason=SKIPPED)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Grade the hostile part of the class: what is said of each question of each."""
    folder = tmp_path_factory.mktemp("submissions")
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(2) as pool:
        class_ = course_class.hostile(folder, server.getsockname()[1])
        for id, (text, *_) in class_.items():
            (folder / f"{id}.ipynb").write_text(text, encoding="utf-8")
        paths = [folder / f"{id}.ipynb" for id in class_]
        results = pool.map(lambda path: graded(A3, path, folder / "graded", unsafe=False), paths)
        return dict(zip(class_, results, strict=True))


@sandboxed
@pytest.mark.parametrize("id", ATTACKS)
def test_an_attack_gets_what_it_should_and_costs_no_other_question_its_points(said, id):
    _, points, words = ATTACKS[id]
    got = {q.id: q.score(said[id][q.id]["verdicts"]) for q in A3.questions}
    assert sum(got.values()) == points, said[id]
    assert all(got[q.id] == q.points for q in A3.questions if q.id != "q2")
    assert any(words in text for text in said[id]["q2"]["verdicts"]), said[id]["q2"]


def test_an_attack_that_finds_the_solution_where_it_is_not_hidden(tmp_path):
    """Without the sandbox the thief gets away with it, so the test above can fail."""
    path = tmp_path / "x.ipynb"
    path.write_text(course_class.hostile(tmp_path, 0)["steals"][0], encoding="utf-8")
    found = graded(A3, path, tmp_path / "graded", unsafe=True)
    assert not any(found["q2"]["verdicts"])


def test_what_is_forbidden_is_hidden_wherever_it_is_shown(tmp_path, monkeypatch):
    """An environment behind a link is shown under both names; a module lies in its cache, too."""
    package = tmp_path / "place" / "lib" / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "folder").mkdir()
    for file in (
        "__init__.py",
        "module.py",
        f"__pycache__/module.{sys.implementation.cache_tag}.pyc",
    ):
        (package / file).touch()
    (tmp_path / "link").symlink_to(tmp_path / "place")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "link"))
    monkeypatch.syspath_prepend(tmp_path / "link" / "lib")
    options = sandbox._bubblewrap(tmp_path, ("package.folder", "package.module"))
    pairs = [*pairwise(options)]
    for root in ("link", "place"):
        there = tmp_path / root / "lib" / "package"
        assert ("--tmpfs", str(there / "folder")) in pairs
        for file in ("module.py", f"__pycache__/module.{sys.implementation.cache_tag}.pyc"):
            assert ("/dev/null", str(there / file)) in pairs


def test_the_worker_does_not_wait_for_what_the_child_took_back(monkeypatch):
    """A child can open its pipe's other end, and read what the worker was about to read."""
    monkeypatch.syspath_prepend(OPTCORE / "course")
    for name in ("cells", "worker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    worker = importlib.import_module("worker")
    monkeypatch.setattr(worker, "answer", lambda *a: time.sleep(20))
    monkeypatch.setattr(worker.select, "select", lambda *a: ([1], [], []))
    begun = time.monotonic()
    (found,) = worker.results({"seconds": 0.1, "cases": [0]})
    assert "more than the" in found["error"] and time.monotonic() - begun < 10


# Deliberate mistakes that these tests must catch: tests/mutants.py.
MUTANTS = {
    ("course/sandbox.py", "def _bubblewrap("): [
        ('"--unshare-all", ', '"--unshare-ipc", "--unshare-pid", '),
        ('["/usr", "/lib", "/lib64"', '["/"'),
    ],
    ("course/worker.py", "def results("): [
        ("stopped or used.ru_utime + used.ru_stime > job", "used.ru_utime > 9 + job"),
        ("left <= 0", "left <= -60"),
        ("os.set_blocking(reading, False)", "pass"),
        ("len(data) <= ANSWER:", "True:"),
    ],
    ("course/worker.py", "def result_of("): [
        ("if all(type(number) is float for number in numbers)", "if True"),
        ("RecursionError", "OSError"),
    ],
    ("course/worker.py", "def confine("): [
        ("taken + MEMORY, taken + MEMORY", "resource.RLIM_INFINITY, resource.RLIM_INFINITY"),
        ("filter_calls(*calls, prlimit=PRLIMIT[platform.machine()])", "pass"),
    ],
    ("course/worker.py", "def main("): [
        ("step.overloads()", '["default"]'),
        ("kernels.m = None", "pass"),
    ],
    ("course/worker.py", "def filter_calls("): [
        ("(0x15, 0, 2, prlimit)", "(0x15, 2, 2, prlimit)"),
    ],
    ("course/sandbox.py", "def _hide("): [
        ("Path(path).resolve()) for", "Path(path)) for"),
        (".exists():", ".exists() and False:"),
    ],
}
