"""`check` in a student's notebook: the visible cases, and what a teacher would say about them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from optcore.course.compare import first_difference, fits, labelled, usual_cause, verdicts
from optcore.course.probes import attempt
from optcore.data import device

RELEASED = Path(__file__).parent / "released"
_opened: dict = {}


def begin(assignment: str) -> None:
    """Choose the assignment that `check` is about, and print what its questions are worth.

    Raises:
        ValueError: it has not been released.
    """
    there = sorted(path.stem for path in RELEASED.glob("*.json"))
    if assignment not in there:
        raise ValueError(f"assignment must be one of {there}, got {assignment!r}.")
    _opened.update(json.loads((RELEASED / f"{assignment}.json").read_text(encoding="utf-8")))
    questions = _opened["questions"]
    worth = {id: (question["answer"], question["points"]) for id, question in questions.items()}
    worth |= {id: ("read by a person", points) for id, points in _opened["to_read"].items()}
    print(f"{assignment} {_opened['title']}: {sum(p for _, p in worth.values()):g} points")
    for id, (what, points) in worth.items():
        print(f"  {id}  {what}  {points:g}")


def check(question: str, answer) -> None:
    """Try an answer on the question's visible cases, and print what is right and what is not.

    The inputs lie where `device(torch.float64)` says. Where the answer's numbers part from the
    reference's, it prints the first place, the size of the difference and, if it is known, the
    usual cause. The grader tries other inputs, and cases that are not visible.

    Args:
        question: "q1", "q2", …
        answer: the function to try.

    Raises:
        ValueError: no assignment was begun, or it has no such question.
        TypeError: the answer is no function.
    """
    if not _opened:
        raise ValueError('First say which assignment this is: begin("A3"), for instance.')
    if question not in _opened["questions"]:
        raise ValueError(f"question must be one of {[*_opened['questions']]}, got {question!r}.")
    if not callable(answer):
        raise TypeError(f"answer must be a function, got {answer!r}.")
    asked = _opened["questions"][question]
    name, cases, probe = asked["answer"], asked["cases"], asked["probe"]
    where = device(torch.float64)
    results = [attempt(probe, answer, case["inputs"], where) for case in cases]
    references = [case["rows"] for case in cases]
    if fits(results, labelled(references, asked["stub"]), asked["rtol"]):
        print(f"{question}  {name} is not answered yet: {asked['points']:g} points.")
        return
    texts = verdicts(results, references, asked["rtol"])
    for case, text in zip(cases, texts, strict=True):
        print(f"{'✗' if text else '✓'} {question}  {case['name']}" + (text and f"\n    {text}"))
    wrong = {cause: labelled(references, rows) for cause, rows in asked["wrong"].items()}
    if not any(texts):
        print(f"{name} is right where it was tried. Hidden cases are graded, too.")
    elif cause := usual_cause(results, wrong, asked["rtol"]):
        print(f"Usual cause: {cause}")


def expect(answer, probe: str, inputs: dict, rows: dict[str, list[float]], *, rtol: float) -> None:
    """A test of an answer, as `optcore.course.nbgrader` writes it into a notebook.

    Args:
        answer: the function to try.
        probe, inputs: what is measured of it, on what: `optcore.course.probes`.
        rows: the reference's numbers.
        rtol: how far a number may be off, in units of the largest of its row.

    Raises:
        AssertionError: the numbers part, with a sentence on where.
    """
    text = first_difference(attempt(probe, answer, inputs, "cpu"), rows, rtol)
    if text:
        raise AssertionError(text)
