"""Grade a folder of submissions: run each in the sandbox, compare its numbers, write the grades.

What a notebook gets depends on its bytes and on the assignment's version, and on nothing else: the
inputs that its answers are tried on are drawn from a hash of both.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tqdm import tqdm

from optcore.course import pages, reading
from optcore.course.compare import usual_cause, verdicts
from optcore.course.model import Assignment, Question
from optcore.course.sandbox import NoSandbox, check_sandbox, run_jobs

# Browsers and mail programs add to a name: `A3.ipynb (1)`, `A3.ipynb.txt`.
NOTEBOOK = re.compile(r"(?P<stem>.+)\.ipynb( ?\(\d+\)|\.json|\.txt)?", re.IGNORECASE)
LARGEST = 32 << 20  # bytes of a notebook: read as JSON they become thirty times as many
UNANSWERED = "It is not answered."
READING = "reading.csv"

NBGRADER = ("assignment", "duedate", "timestamp", "student_id", "last_name", "first_name")
NBGRADER += ("email", "raw_score", "late_submission_penalty", "score", "max_score")
CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")


@dataclass(frozen=True)
class Submission:
    """A notebook: its path below the folder of submissions, and when it was last changed."""

    name: str
    time: datetime


@dataclass(frozen=True)
class Grade:
    """A student's grade.

    Args:
        student: the row of the roster.
        submission: the one that counts, if there is any.
        results: what was said of each question; None where nothing was graded.
        late: the fraction of the points that lateness costs.
        points: those of each question, before that; None where nobody has read it yet.
        remarks: what whoever read a question says of it.
        problem: why a submission could not be graded.
    """

    student: dict[str, str]
    submission: Submission | None
    results: dict[str, dict] | None
    late: float
    points: dict[str, float | None]
    remarks: dict[str, str]
    problem: str = ""

    @property
    def raw(self) -> float:
        """The points of all questions."""
        return sum(filter(None, self.points.values()))

    @property
    def penalty(self) -> float:
        """The points that lateness costs."""
        return round(self.raw * self.late, 2)

    @property
    def score(self) -> float:
        """The points that are left."""
        return round(self.raw - self.penalty, 2)


def grade(
    assignment: Assignment,
    folder: Path,
    out: Path,
    *,
    roster: Path | None = None,
    due: datetime | None = None,
    late: float = 10.0,
    unsafe: bool = False,
) -> list[Grade]:
    """Grade the submissions to an assignment and write tables and pages.

    Of several notebooks of a student the last one that is on time counts; if none is, the last one.
    `out` gets `grades.csv`, `canvas.csv`, `index.html` and `feedback/`. `out/graded/` holds what
    was said of each notebook, so that an interrupted run goes on where it stopped. What a person
    reads is in `out/reading/`; the points go into `out/reading.csv`, and count in the next run.

    Args:
        assignment: what was asked.
        folder: holds the submissions to this assignment, in any folders, under any names.
        out: a folder for the results.
        roster: a CSV file with a column `id`, or Canvas's export. A submission is that of the
            student whose id stands in the outermost part of its path that holds one. Without a
            roster the outermost part of the path is the student's id.
        due: the end, with a time zone; what was last changed after it is late.
        late: percent of the points for each day begun after `due`.
        unsafe: run student code with this user's rights where there is no sandbox.

    Raises:
        NoSandbox: there is none.
        ValueError: an argument is out of range, the folder holds no notebook, the roster no ids, or
            `reading.csv` what is no number of points.
    """
    if not 0 <= late <= 100:
        raise ValueError(f"late must be a number of percent from 0 to 100, got {late!r}.")
    if not unsafe:
        check_sandbox()
    entered = reading.read_table(out / READING, assignment.to_read)
    students = read_roster(roster) if roster else None
    found, left_out = collect(folder, students)
    if not found:
        why = "".join(f" {name}: {reason}" for name, reason in [*left_out.items()][:1])
        raise ValueError(f"folder must hold notebooks of students, and {folder} holds none.{why}")
    if students is None:
        students = {id: _student({"id": id}) for id in sorted(found)}
    grades, rows = [], []
    for id, student in tqdm(students.items(), desc=assignment.id, unit="student"):
        submission = last(found[id], due) if id in found else None
        results, problem = None, ""
        if submission:
            try:
                results = graded(assignment, folder / submission.name, out / "graded", unsafe)
            except NoSandbox as error:  # this machine's fault, and no reason for 0 points
                problem = str(error)
        points, remarks = {}, {}
        for question in assignment.questions if results else ():
            points[question.id] = question.score(results[question.id]["verdicts"])
        for id in assignment.to_read if results else ():
            row = _to_read(assignment, id, student, folder / submission.name)
            points[id], remarks[id] = entered.get(reading.key(row), (None, ""))
            rows.append(row)
        lost = _lost(submission, due, late) if submission else 0.0
        grades.append(Grade(student, submission, results, lost, points, remarks, problem))
    _write_tables(assignment, grades, out, due)
    if assignment.readings:
        for student, question, _ in reading.write_table(out / READING, rows, entered):
            left_out[f"{READING}: {student}, {question}"] = "It was said of another notebook."
    pages.write(assignment, grades, folder, left_out, out)
    return grades


def read_roster(path: Path) -> dict[str, dict[str, str]]:
    """The students of a CSV file, by id, with nbgrader's columns and Canvas's.

    Raises:
        ValueError: there is no column `id` or `ID`, or an id stands there twice.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"id", "ID"} & rows[0].keys():
        raise ValueError(f"roster must have a column `id` and a row a student; {path} has not.")
    students = {}
    for student in map(_student, rows):
        if student["id"] in students:
            raise ValueError(
                f"roster must name a student once; {path} has {student['id']!r} twice."
            )
        if student["id"]:  # Canvas has a row of the points possible
            students[student["id"]] = student
    return students


def collect(
    folder: Path, students: dict[str, dict] | None
) -> tuple[dict[str, list[Submission]], dict[str, str]]:
    """The notebooks of each student, and why other files were left out, by name."""
    found, left_out = {}, {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith((".", "__MACOSX")) for part in name.parts) or path.is_dir():
            continue  # checkpoints, and what macOS adds to an archive
        ids = _ids(name, students)
        if path.is_symlink() or not path.is_file():
            left_out[str(name)] = "It is a link, or no file."
        elif not NOTEBOOK.fullmatch(path.name):
            left_out[str(name)] = "It is no notebook."
        elif not os.access(path, os.R_OK):
            left_out[str(name)] = "It cannot be read."
        elif path.stat().st_size > LARGEST:
            left_out[str(name)] = f"It is larger than {LARGEST >> 20} MB."
        elif len(ids) != 1:
            left_out[str(name)] = f"Its path names {len(ids)} students of the roster, not one."
        else:
            try:
                time = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
            except (ValueError, OverflowError, OSError):  # an archive can hold any number
                left_out[str(name)] = "When it was last changed is no date."
                continue
            found.setdefault(ids[0], []).append(Submission(str(name), time))
    return found, left_out


def last(submissions: list[Submission], due: datetime | None) -> Submission:
    """The last one that is on time; if none is, the last one."""
    on_time = [s for s in submissions if due is None or s.time <= due]
    return max(on_time or submissions, key=_order)


def graded(assignment: Assignment, path: Path, store: Path, unsafe: bool) -> dict[str, dict]:
    """What is said of each question: a sentence for each case, and the usual cause.

    It is read from the store, if this notebook was graded before.

    Raises:
        NoSandbox: the worker did not answer for all questions.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "submission.ipynb")
        shutil.copyfile(path, copy)
        seed = hashlib.sha256(assignment.version.encode() + copy.read_bytes()).hexdigest()
        kept = store / f"{seed}.json"
        if kept.exists():
            return json.loads(kept.read_text(encoding="utf-8"))
        jobs = [question.job(copy.name, seed) for question in assignment.questions]
        found = run_jobs(Path(folder), jobs, assignment.forbids, unsafe=unsafe)
    solution, stub = (assignment.sources(solved=solved) for solved in (True, False))
    results = {
        question.id: _judged(question, given, seed, solution, stub)
        for question, given in zip(assignment.questions, found, strict=True)
    }
    store.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(results), encoding="utf-8")
    part.replace(kept)  # at once: what was interrupted leaves no half a file
    return results


def _to_read(assignment: Assignment, id: str, student: dict[str, str], path: Path) -> dict:
    """A row of `reading.csv`; its page is the student's."""
    return {
        "student_id": _text(student["id"]).encode(errors="backslashreplace").decode(),
        "question": id,
        "most": f"{assignment.to_read[id]:g}",
        # With a letter first, it is no number to a spreadsheet.
        "notebook": f"n{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}",
        "page": pages.reading_page(student["id"]),
    }


def _judged(question: Question, found: list[dict], seed: str, solution, stub) -> dict:
    references = [result["rows"] for result in question.measure(solution, seed)]
    texts, cause = verdicts(found, references, question.rtol), ""
    if any(texts):
        mistakes = {w.cause: question.variant(solution, w) for w in question.wrong}
        mistakes = {UNANSWERED: stub} | mistakes
        wrong = {cause: question.measure(sources, seed) for cause, sources in mistakes.items()}
        cause = usual_cause(found, wrong, question.rtol)
    return {"verdicts": texts, "cause": cause}


def _student(row: dict[str, str]) -> dict[str, str]:
    """A student with all columns of both tables, from a row that has some."""
    row = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    id = row.get("id") or row.get("ID", "")
    last, _, first = row.get("Student", "").partition(", ")
    row = {"last_name": last, "first_name": first, "email": ""} | row
    name = ", ".join(filter(None, (row["last_name"], row["first_name"])))
    canvas = dict.fromkeys(CANVAS, "") | {"Student": name or id, "ID": id}
    return canvas | row | {"id": id}


def _ids(name: Path, students: dict[str, dict] | None) -> list[str]:
    """The students that the outermost part of a path names that names any."""
    if students is None:
        notebook = NOTEBOOK.fullmatch(name.parts[0])
        return [(notebook["stem"] if notebook else name.parts[0]).strip()]
    for part in name.parts:
        # As a word of its own: `ada` is in `ada_A3.ipynb`, and not in `adam.ipynb`.
        ids = [i for i in students if re.search(rf"(?<![^\W_]){re.escape(i)}(?![^\W_])", part)]
        if ids:
            return ids
    return []


def _order(submission: Submission):
    """By time, then by name, in which `A3-10` comes after `A3-2` and `A3`."""
    path = Path(submission.name)
    stem = NOTEBOOK.fullmatch(path.name)["stem"]
    words = re.split(r"(\d+)", str(path.with_name(stem)))
    return submission.time, [int(w) if i % 2 else w for i, w in enumerate(words)]


def _lost(submission: Submission, due: datetime | None, late: float) -> float:
    """The fraction of the points that a submission loses."""
    if due is None:
        return 0.0
    days = max(0, math.ceil((submission.time - due) / timedelta(days=1)))
    return min(1.0, days * late / 100)


def _write_tables(assignment: Assignment, grades: list[Grade], out: Path, due) -> None:
    """grades.csv and canvas.csv; a submission that could not be graded is in neither."""
    header = grades[0].student
    # Canvas knows an assignment by its full title, as its own export has it.
    title = next((c for c in header if re.match(rf"{assignment.id}\b", c)), assignment.id)
    rows = []
    for grade in grades:
        if not grade.problem:
            row = {
                "assignment": assignment.id,
                "duedate": due or "",
                "timestamp": grade.submission.time if grade.submission else "",
                "student_id": grade.student["id"],
                "raw_score": grade.raw,
                "late_submission_penalty": grade.penalty,
                "score": grade.score,
                "max_score": assignment.points,
                title: grade.score,
            }
            rows.append({key: _text(value) for key, value in (grade.student | row).items()})
    for file, columns in (("grades.csv", NBGRADER), ("canvas.csv", (*CANVAS, title))):
        path = out / file
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as target:
            writer = csv.DictWriter(target, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def _text(value) -> str:
    """A cell of a table that no spreadsheet takes for a formula."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    # LibreOffice begins a cell after a semicolon and a tab, too.
    return re.sub(r"(^|[;\t])(?=\s*[=+@-])", r"\1'", text)
