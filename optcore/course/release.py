"""Release an assignment: refuse what would be graded wrongly, then write what students get."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

from optcore.course.checks import RELEASED
from optcore.course.compare import verdicts
from optcore.course.model import FOLDER, Assignment, Question, short, without_solutions
from optcore.course.sandbox import run_jobs

ROOT = FOLDER.parents[1]
FEWEST_WRONG = 8
DRAWS = 8  # of the inputs, on which a mistake must cost the same
VISIBLE = "visible"  # the seed of what `check` tries
SOLVED, UNTOUCHED = "the solution", "the untouched version"


class NotReleased(RuntimeError):
    """An assignment is not fit to be released; the text says why, a line a reason."""


def release(assignment: Assignment, folder: Path) -> Path:
    """Verify an assignment and write the student's notebook.

    The numbers that `check` compares with go to `optcore/course/released`, which is part of the
    package. The notebook installs optcore from the commit that is checked out, so they must be
    committed first.

    Raises:
        NotReleased: `verify` refuses, a notebook does not run from top to bottom, `check`'s numbers
            are new, or the repository's address or commit is not known.
    """
    verify(assignment)
    target, text = RELEASED / f"{assignment.id}.json", released(assignment)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
        raise NotReleased(f"{target} is new: commit it, then release {assignment.id} again.")
    from nbclient.exceptions import CellExecutionError  # with the tools, not of the package

    notebooks, publish = book_tools()
    solved = assignment.text.read_text(encoding="utf-8")
    try:
        for source in (solved, without_solutions(solved)):
            notebooks.execute(notebooks.from_text(source))
        address, commit = publish.origin()
    except (CellExecutionError, publish.CannotPublish) as error:
        raise NotReleased(str(error)) from error
    student = notebooks.from_text(without_solutions(solved))
    site = publish.repository.site_url(ROOT)
    student = publish.published(student, address, commit, site, "book/assignments")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{assignment.id}.ipynb"
    publish.nbformat.write(student, path)
    return path


def book_tools():
    """The chapters' tools, `notebooks` and `publish`, which are not of the package."""
    sys.path.insert(0, str(ROOT / "tools"))
    import notebooks
    import publish

    return notebooks, publish


def verify(assignment: Assignment) -> None:
    """Refuse an assignment that would be graded wrongly.

    Raises:
        NotReleased: the solution does not get all points; the student's version gets some, or does
            not run; a question lists fewer than eight wrong answers, or one that loses nothing, or
            that loses more or less as the inputs are drawn; what a person reads has no rubric.
    """
    solution, stub = (assignment.sources(solved=solved) for solved in (True, False))
    text, seed = assignment.text.read_text(encoding="utf-8"), assignment.version
    reasons = ["A mark of a solution is left."] if "SOLUTION" in without_solutions(text) else []
    for id, points in assignment.to_read.items():
        reasons += [] if points else [f"{id} has no section with a rubric."]
    answers = {}
    for question in assignment.questions:
        wrong = {w.cause: question.variant(solution, w) for w in question.wrong}
        answers[question] = {SOLVED: solution, UNTOUCHED: stub, **wrong}
        if len(wrong) < FEWEST_WRONG:
            reasons.append(f"{question.id} lists fewer than {FEWEST_WRONG} wrong answers.")
    for question, found in _results(answers, seed, assignment.forbids).items():
        references = question.measure(solution, seed)
        reasons += _reasons(question, found, [r.get("rows", {}) for r in references])
        reasons += [] if reasons else _luck(question, answers[question], seed)
    if reasons:
        raise NotReleased("\n".join(reasons))


def released(assignment: Assignment) -> str:
    """What `check` needs to know, as JSON: the visible cases, numbers, and causes, but no code."""
    solution, stub = (assignment.sources(solved=solved) for solved in (True, False))
    questions = {}
    for question in assignment.questions:
        visible = [i for i, case in enumerate(question.cases) if case.visible]
        inputs, right, untouched, *wrong = (
            [short(result[i]) for i in visible]
            for result in (
                question.inputs(VISIBLE),
                question.measure(solution, VISIBLE),
                question.measure(stub, VISIBLE),
                *(question.measure(question.variant(solution, w), VISIBLE) for w in question.wrong),
            )
        )
        questions[question.id] = {
            "answer": question.answer,
            "points": question.points,
            "probe": question.probe,
            "rtol": question.rtol,
            "cases": [
                {"name": question.cases[i].name, "inputs": given, **result}
                for i, given, result in zip(visible, inputs, right, strict=True)
            ],
            "stub": _without_labels(untouched),
            "wrong": {
                w.cause: _without_labels(results)
                for w, results in zip(question.wrong, wrong, strict=True)
            },
        }
    data = {"title": assignment.title, "questions": questions, "to_read": assignment.to_read}
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"


def _without_labels(results: list[dict]) -> list[list[list[float]] | None]:
    """Rows alone, which the reference has labels for; None where the answer raises."""
    return [list(r["rows"].values()) if "rows" in r else None for r in results]


def _results(answers, seed, forbids) -> dict[Question, dict[str, list[dict]]]:
    """The results of each question's answers, by the worker that also grades."""
    jobs = []
    with tempfile.TemporaryDirectory() as folder:
        for question, notebooks in answers.items():
            for sources in notebooks.values():
                jobs.append(question.job(f"{len(jobs)}.ipynb", seed))
                cells = [{"cell_type": "code", "source": source} for source in sources]
                Path(folder, jobs[-1]["file"]).write_text(json.dumps({"cells": cells}))
        results = iter(run_jobs(Path(folder), jobs, forbids, unsafe=True))
    return {q: {name: next(results) for name in notebooks} for q, notebooks in answers.items()}


def _reasons(question: Question, found, references) -> list[str]:
    """What is wrong with the grades of a question's answers, in sentences."""
    texts = {name: verdicts(results, references, question.rtol) for name, results in found.items()}
    reasons = [f"{question.id}: the solution fails. {text}" for text in texts.pop(SOLVED) if text]
    if not all(math.isfinite(x) for rows in references for row in rows.values() for x in row):
        reasons.append(f"{question.id}: the solution's numbers are not all finite.")
    if any("error" in result for result in found[UNTOUCHED]):
        reasons.append(f"{question.id}: the untouched version fails. {texts[UNTOUCHED]}")
    if got := question.score(texts.pop(UNTOUCHED)):
        reasons.append(f"{question.id}: the untouched version gets {got:g} points, not 0.")
    for name, verdict in texts.items():
        if question.score(verdict) == question.points:
            reasons.append(f"{question.id}: a wrong answer gets all points. {name}")
    return reasons


def _luck(question: Question, answers: dict[str, list[str]], seed: str) -> list[str]:
    """The answers that get more on some inputs than on others, in sentences."""
    scores = {name: set() for name in answers}
    for seed in (f"{seed} {i}" for i in range(DRAWS)):
        references = [result["rows"] for result in question.measure(answers[SOLVED], seed)]
        for name, sources in answers.items():
            texts = verdicts(question.measure(sources, seed), references, question.rtol)
            scores[name].add(question.score(texts))
    return [
        f"{question.id}: an answer gets {sorted(got)} points, as the inputs are drawn. {name}"
        for name, got in scores.items()
        if len(got) > 1
    ]
