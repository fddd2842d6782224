"""A class hands in A3, right, partly right, wrong and hostile: what each gets, and how long.

    python benchmarks/course.py

Grades the class of tests/course_class.py as `python -m optcore.course grade` does, in the sandbox.
Exits with 1 if a grade is not the one that it should be, or a limit is missed.
"""

from __future__ import annotations

import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import course_class as students  # noqa: E402

from optcore.course.grade import grade, graded  # noqa: E402
from optcore.course.sandbox import NoSandbox, check_sandbox  # noqa: E402

MEDIAN_LIMIT, TOTAL_LIMIT = 5.0, 600.0  # seconds


def main() -> int:
    """Grade the class and print the table."""
    try:
        check_sandbox()
    except NoSandbox as error:
        sys.exit(str(error))
    address = "127.0.0.1", 0  # a port that is open, for whoever tries to call out
    with tempfile.TemporaryDirectory() as scratch, socket.create_server(address) as server:
        folder, out = Path(scratch, "submissions"), Path(scratch, "grades")
        folder.mkdir()
        port = server.getsockname()[1]
        groups = (
            students.RIGHT_ONES,
            students.PARTLY,
            students.WRONG,
            students.hostile(folder, port),
        )
        class_, seconds = {id: entry for group in groups for id, entry in group.items()}, {}
        for id, (text, *_) in class_.items():
            (folder / f"{id}.ipynb").write_text(text, encoding="utf-8")
        for id in class_:
            start = time.perf_counter()
            graded(students.A3, folder / f"{id}.ipynb", out / "graded", unsafe=False)
            seconds[id] = time.perf_counter() - start
        start = time.perf_counter()
        grades = {g.student["id"]: g for g in grade(students.A3, folder, out)}
        again = time.perf_counter() - start
    missed = 0
    questions = [question.id for question in students.A3.questions]
    print(f"{'student':12}{''.join(f'{id:>5}' for id in questions)}  points  should  seconds")
    for id, (_, points, _) in class_.items():
        got = grades[id]
        each = "".join(f"{got.points[question]:5g}" for question in questions)
        mark = "" if got.score == points else "  ✗"
        print(f"{id:12}{each}{got.score:8g}{points:8g}{seconds[id]:9.1f}{mark}")
        missed += got.score != points
    total, median = sum(seconds.values()), statistics.median(seconds.values())
    print(f"{len(class_)} submissions in {total:.0f} s, {median:.1f} s at the median")
    print(f"the tables and pages, of what was graded already: {again:.1f} s")
    return int(missed > 0 or total > TOTAL_LIMIT or median > MEDIAN_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
