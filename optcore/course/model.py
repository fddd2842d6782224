"""An assignment: its text with solutions, and how each question of it is graded.

`book/assignments/text/A3.md` is what people read and solve, as Jupytext Markdown; what stands
between `### BEGIN SOLUTION` and `### END SOLUTION` is for instructors. `book/assignments/A3.py`
holds the `Assignment`. Neither is part of the package, so a course can keep both to itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optcore.course import cells
from optcore.course.probes import attempt

FOLDER = Path(__file__).resolve().parents[2] / "book" / "assignments"
STUB = "# Your code here."
SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION$", re.MULTILINE | re.DOTALL
)
# Where update rules are to be had, ours or others'.
RULES = ("torch.optim", "optcore.rules", "optcore.optim", "optax")
RULES += ("jax.example_libraries", "sklearn.neural_network")
RUBRIC = re.compile(r"^\| *(\d+(?:\.\d+)?) *\|(.*)\|$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """Inputs on which an answer is tried.

    Args:
        name: what is tried, in a few words for the student.
        points: what it is worth.
        draw: from a NumPy generator, the inputs that the question's probe takes, as JSON.
        visible: whether `check` tries it, too, on inputs of its own.
    """

    name: str
    points: float
    draw: Callable[[np.random.Generator], dict]
    visible: bool = False

    def inputs(self, seed: str) -> dict:
        """The inputs of a seed, with short numbers."""
        number = int.from_bytes(hashlib.sha256(f"{seed} {self.name}".encode()).digest()[:8])
        return short(self.draw(np.random.default_rng(number)))


@dataclass(frozen=True)
class Wrong:
    """A wrong answer: the solution with `old` replaced by `new`, and a sentence that names it."""

    cause: str
    old: str
    new: str


@dataclass(frozen=True)
class Question:
    """A question that is answered by a function.

    Args:
        id: "q1", "q2", …
        answer: the function's name.
        probe: how it is measured: a name in `probes.PROBES`.
        cases: what it is tried on, and the points.
        wrong: wrong answers, each of which must lose points.
        seconds: of the processor, for all cases together.
        rtol: how far a number may be off, in units of the largest one of its row.
    """

    id: str
    answer: str
    probe: str
    cases: tuple[Case, ...]
    wrong: tuple[Wrong, ...]
    seconds: int = 10
    rtol: float = 1e-4

    @property
    def points(self) -> float:
        """What all cases are worth."""
        return sum(case.points for case in self.cases)

    def score(self, verdicts: list[str]) -> float:
        """The points for the cases about which there is nothing to say."""
        pairs = zip(self.cases, verdicts, strict=True)
        return sum(case.points for case, text in pairs if not text)

    def inputs(self, seed: str) -> list[dict]:
        """The inputs of all cases."""
        return [case.inputs(f"{seed} {self.id}") for case in self.cases]

    def job(self, file: str, seed: str) -> dict:
        """What `sandbox.run_jobs` takes."""
        return {
            "file": file,
            "answer": self.answer,
            "probe": self.probe,
            "cases": self.inputs(seed),
            "seconds": self.seconds,
        }

    def measure(self, sources: list[str], seed: str) -> list[dict]:
        """The results of trusted cells, computed in this process."""
        function = cells.define(sources, self.answer)
        return [attempt(self.probe, function, inputs, "cpu") for inputs in self.inputs(seed)]

    def variant(self, sources: list[str], wrong: Wrong) -> list[str]:
        """The solution's cells with a wrong answer in them.

        Raises:
            ValueError: the cell that defines the answer does not hold `old`.
        """
        place = re.compile(rf"^def {self.answer}\(", re.MULTILINE)
        result = [s.replace(wrong.old, wrong.new) if place.search(s) else s for s in sources]
        if result == sources:
            raise ValueError(f"{self.id}: {self.answer} does not hold {wrong.old!r}.")
        return result


@dataclass(frozen=True)
class Reading:
    """A question that a person reads; its section of the text ends with a rubric.

    Args:
        id: "q6", as in the section's heading.
        expected: what a full answer says, for whoever reads.
    """

    id: str
    expected: str


@dataclass(frozen=True)
class Assignment:
    """An assignment; `forbids` names the modules that an answer must not use."""

    id: str
    title: str
    questions: tuple[Question, ...]
    forbids: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()

    @property
    def points(self) -> float:
        """What all questions are worth, those that a person reads too."""
        return sum(question.points for question in self.questions) + sum(self.to_read.values())

    @property
    def to_read(self) -> dict[str, float]:
        """The points of each question that a person reads: the sum of its rubric."""
        return {r.id: sum(points for points, _ in self.rubric(r.id)) for r in self.readings}

    def rubric(self, id: str) -> list[tuple[float, str]]:
        """Points, and for what, from the table at the end of a section; nothing without one."""
        text = self.text.read_text(encoding="utf-8")
        section = re.search(rf"^## {id} .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        lines = RUBRIC.findall(section[0]) if section else []
        return [(float(points), words.strip()) for points, words in lines]

    @property
    def text(self) -> Path:
        """The Jupytext file, with solutions."""
        return FOLDER / "text" / f"{self.id}.md"

    @property
    def version(self) -> str:
        """A hash of all that decides about a grade; nobody without the solutions knows it."""
        files = self.text, FOLDER / f"{self.id}.py"
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def sources(self, *, solved: bool) -> list[str]:
        """The code cells, with solutions or as students get them."""
        import jupytext  # not needed by `check`, so not one of optcore's dependencies

        text = self.text.read_text(encoding="utf-8")
        notebook = jupytext.reads(text if solved else without_solutions(text), fmt="md")
        return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def without_solutions(text: str) -> str:
    """A text without what stands between the marks."""
    return SOLUTION.sub(lambda found: found["indent"] + STUB, text)


def load(id: str) -> Assignment:
    """The assignment of an id, from `book/assignments`.

    Raises:
        ValueError: there is none.
    """
    there = sorted(path.stem for path in FOLDER.glob("*.py"))
    if id not in there:
        raise ValueError(f"There is no assignment {id!r} in {FOLDER}; there are: {there}.")
    spec = importlib.util.spec_from_file_location(f"assignment_{id}", FOLDER / f"{id}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ASSIGNMENT


def short(value):
    """JSON with its numbers rounded to six digits."""
    if isinstance(value, dict):
        return {key: short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [short(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
