"""Releasing an assignment: what is refused, and what the student's notebook holds."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from optcore.course import checks, model, release
from optcore.course.__main__ import main
from optcore.course.model import load, without_solutions
from optcore.course.release import NotReleased, released, verify

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import publish  # noqa: E402

# An assignment of one question, which its test files can spoil.
TEXT = '''\
# B1 Doubling

```python
def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    y = 2 * x
    return y
    ### END SOLUTION
    return x
```

```python
print(double(1))
```
'''
GRADING = '''\
"""How B1 is graded."""

from optcore.course.model import Assignment, Case, Question, Wrong


def draw(rng):
    calls = [[rng.standard_normal(2).tolist()] for _ in range(2)]
    outputs, settings = [["y", 0]], {"settings": {}, "dtype": "float64", "watch": False}
    return {"calls": calls, "outputs": outputs} | settings


CASES = Case("two numbers", 3, draw, visible=True), Case("two more", 2, draw)
WRONG = tuple(Wrong(f"It is {n} times x.", "2 * x", f"{n} * x") for n in (-2, -1, 0, 1, 3, 4, 5, 6))
ASSIGNMENT = Assignment("B1", "Doubling", (Question("q1", "double", "calls", CASES, WRONG),))
'''


@pytest.fixture
def b1(tmp_path, monkeypatch):
    """Write B1, with a string of its text or of its grading replaced, and load it."""
    monkeypatch.setattr(model, "FOLDER", tmp_path)
    monkeypatch.setattr(checks, "RELEASED", tmp_path)
    monkeypatch.setattr(release, "RELEASED", tmp_path)

    def written(old="", new=""):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / "B1.md").write_text(TEXT.replace(old, new), encoding="utf-8")
        (tmp_path / "B1.py").write_text(GRADING.replace(old, new), encoding="utf-8")
        return load("B1")

    return written


def test_a_good_assignment_is_not_refused(b1):
    verify(b1())


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("y = 2 * x", "y = 2 * x + 1 - 1\n    raise ValueError", "q1: the solution fails. Value"),
        ("    return x\n", "    return 2 * x\n", "q1: the untouched version gets 5 points, not 0."),
        ("    return x\n", "    return None\n", "q1: the untouched version fails."),
        ("    ### END", "    ## END", "A mark of a solution is left."),
        ("(-2, -1, 0, 1, 3, 4, 5, 6)", "(-2, -1, 0, 1, 3, 4, 5)", "q1 lists fewer than 8 wrong"),
        ("(-2, -1, 0, 1, 3, 4, 5, 6)", "(-2, -1, 0, 1, 3, 4, 5, 2.00001)", "gets all points. It"),
        (
            "(-2, -1, 0, 1, 3, 4, 5, 6)",
            "(-2, -1, 0, 1, 3, 4, 5, '(2 if x.sum() > 0 else 3)')",
            r"q1: an answer gets \[0, .*\] points, as the inputs are drawn. It is \(2 if",
        ),
        ('"2 * x"', '"3 * x"', "q1: double does not hold '3 \\* x'."),
        ("def double", "def twice", "q1: double does not hold"),
        ('"double"', '"treble"', "q1: treble does not hold"),
        ("2 * x\n    return y", "2 * x\n    return y, y", "q1: the solution fails. y must be"),
        ("y = 2 * x", "y = 2 * x + 0 * x / 0", "q1: the solution's numbers are not all finite"),
    ],
)
def test_what_is_refused(b1, old, new, reason):
    with pytest.raises((NotReleased, ValueError), match=reason):
        verify(b1(old, new))


def test_a_solution_must_not_use_a_forbidden_module(b1):
    b1("y = 2 * x", "import torch\n    torch.optim.SGD([x])\n    y = 2 * x")
    grading = (model.FOLDER / "B1.py").read_text(encoding="utf-8")
    forbidding = grading.replace("WRONG),)", "WRONG),), ('torch.optim',)")
    (model.FOLDER / "B1.py").write_text(forbidding, encoding="utf-8")
    with pytest.raises(NotReleased, match="RuntimeError: torch.optim is not allowed in this"):
        verify(load("B1"))


def test_the_inputs_depend_on_the_seed_and_on_nothing_else(b1):
    (question,) = b1().questions
    assert question.inputs("a") == question.inputs("a")
    first, second = question.inputs("a")
    assert first != second and first != question.inputs("b")[0]
    assert b1().version == b1().version != b1("Twice x", "Twice").version


def test_without_solutions():
    text = without_solutions(TEXT)
    assert '    """Twice x."""\n    # Your code here.\n    return x\n' in text
    assert "2 * x" not in text and "SOLUTION" not in text
    marks = "### BEGIN SOLUTION\na\n### END SOLUTION\nb\n"
    assert without_solutions(marks + marks) == "# Your code here.\nb\n" * 2


@pytest.mark.parametrize(
    ("id", "reason"), [("C1", "There is no assignment 'C1' in"), ("B1", "q1 lists fewer than 8")]
)
def test_a_refusal_of_the_command(b1, tmp_path, capsys, id, reason):
    b1("4, 5, 6)", "4, 5)")
    assert main(["release", id, "--out", str(tmp_path / "out")]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "B1.json").exists()


@pytest.fixture
def released_b1(b1, tmp_path, monkeypatch):
    """Release B1, with a string replaced, into a folder; its visible numbers are there."""
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/someone/book")

    def path(old="", new=""):
        assignment = b1(old, new)
        (tmp_path / "B1.json").write_text(released(assignment), encoding="utf-8")
        return release.release(assignment, tmp_path / "out")

    return path


@pytest.mark.parametrize("name", ["y", "double(2) - 2"])
def test_a_notebook_that_does_not_run_is_refused(released_b1, tmp_path, name):
    # One runs in neither version, the other divides by zero where there is no solution.
    with pytest.raises(NotReleased, match="NameError|ZeroDivisionError"):
        released_b1("double(1)", f"1 / ({name})")
    assert not (tmp_path / "out").exists()


def test_new_visible_numbers_must_be_committed_first(b1, tmp_path):
    with pytest.raises(NotReleased, match="B1.json is new: commit it, then release B1 again"):
        release.release(b1(), tmp_path / "out")
    assert (tmp_path / "B1.json").read_text(encoding="utf-8") == released(b1())
    (tmp_path / "B1.json").write_text("{}")
    with pytest.raises(NotReleased, match="B1.json is new"):
        release.release(b1(), tmp_path / "out")


def test_the_students_notebook(released_b1, monkeypatch):
    monkeypatch.setattr(
        publish, "origin", lambda: ("git+https://github.com/someone/book", "c0" * 20)
    )
    notebook = nbformat.read(released_b1(), as_version=4)
    nbformat.validate(notebook)
    first, note, title, double, last = notebook.cells
    assert '"git+https://github.com/someone/book", "' + "c0" * 20 in first.source
    assert (
        "This is an assignment of [*Optimization, Executed*](https://someone.github." in note.source
    )
    assert title.source == "# B1 Doubling"
    assert double.source == without_solutions(TEXT.split("```python\n")[1].split("\n```")[0])
    for cell in (first, double, last):
        assert not cell.outputs and cell.execution_count is None
    assert not double.metadata and not last.metadata


def test_without_an_address_nothing_is_written(released_b1, tmp_path, monkeypatch):
    monkeypatch.setattr(publish.repository, "install_address", lambda root: "")
    with pytest.raises(NotReleased, match="The repository's address is not known"):
        released_b1()
    assert not (tmp_path / "out").exists()


def test_the_export_for_nbgrader(b1, tmp_path, capsys):
    b1()
    command = ["release", "B1", "--nbgrader", "--out", str(tmp_path)]
    assert main(command) == main(command) == 0
    path = tmp_path / "source" / "B1" / "B1.ipynb"
    assert capsys.readouterr().out == f"{path}\n" * 2
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    marks = [cell.metadata.get("nbgrader", {}) for cell in notebook.cells]
    assert [mark.get("points") for mark in marks] == [None, None, 3, 2, None]
    assert [mark.get("solution") for mark in marks] == [None, True, False, False, None]
    assert len({mark["grade_id"] for mark in marks if mark}) == 3
    _, solution, visible, hidden, _ = [cell.source for cell in notebook.cells]
    assert solution in TEXT and "HIDDEN" not in visible
    assert re.search(r"^### BEGIN HIDDEN TESTS\n.*\n### END HIDDEN TESTS$", hidden, re.MULTILINE)
    for factor in (2, 1):
        for test in (visible, hidden):
            namespace = {"double": lambda x, factor=factor: factor * x}
            if factor == 2:
                exec(test, namespace)
                continue
            with pytest.raises(AssertionError, match="call 1, y: off by up to"):
                exec(test, namespace)


def test_the_export_changes_no_configuration_but_its_own(b1, tmp_path, capsys):
    b1()
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()", encoding="utf-8")
    assert main(["release", "B1", "--nbgrader", "--out", str(tmp_path)]) == 1
    assert "it needs these lines:\nc = get_config()\nc.ClearSolutions" in capsys.readouterr().err
    assert not (tmp_path / "source").exists()


READ = """\

## q2 Discussion

Words.

| points | for |
|---|---|
| 7 | words |
"""


@pytest.fixture
def b1_read(b1):
    """B1 with a question that a person reads, with or without a rubric."""

    def load_it(rubric=READ):
        b1()
        text, grading = model.FOLDER / "text" / "B1.md", model.FOLDER / "B1.py"
        text.write_text(TEXT + rubric, encoding="utf-8")
        code = grading.read_text(encoding="utf-8").replace(
            "import Assignment", "import Reading, Assignment"
        )
        code = code.replace("WRONG),)", "WRONG),), readings=(Reading('q2', 'It says this.'),)")
        grading.write_text(code, encoding="utf-8")
        return load("B1")

    return load_it


def test_what_a_person_reads_needs_a_rubric(b1_read):
    verify(b1_read())
    with pytest.raises(NotReleased, match="q2 has no section with a rubric"):
        verify(b1_read("\n## q2 Discussion\n\nWords.\n"))
    with pytest.raises(NotReleased, match="q2 has no section with a rubric"):
        verify(b1_read(READ.replace("## q2", "## q20")))


def test_what_a_person_reads_has_points_in_nbgrader_too(b1_read, tmp_path):
    b1_read()
    assert main(["release", "B1", "--nbgrader", "--out", str(tmp_path)]) == 0
    notebook = nbformat.read(tmp_path / "source" / "B1" / "B1.ipynb", as_version=4)
    nbformat.validate(notebook)
    mark = notebook.cells[-1].metadata["nbgrader"]
    assert (mark["points"], mark["grade"], mark["solution"], mark["locked"]) == (
        7,
        True,
        True,
        False,
    )
    assert mark["cell_type"] == notebook.cells[-1].cell_type == "markdown"


def test_the_instructors_view(b1_read, tmp_path, capsys):
    b1_read()
    assert main(["solutions", "B1", "--out", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / "B1.ipynb"
    assert capsys.readouterr().out == f"{path}\n"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    title, _, double, graded, printing, _, expected = notebook.cells
    assert title.source.startswith("*For instructors: with solutions")
    assert "y = 2 * x" in double.source and "jupyter" not in double.metadata
    assert printing.metadata["jupyter"] == {"source_hidden": True}
    assert [cell for cell in notebook.cells if "jupyter" in cell.metadata] == [printing]
    assert printing.outputs[0].text == "2\n"
    lines = graded.source.splitlines()
    assert lines[0] == "**How q1 is graded**: 5 points"
    assert (
        "| two numbers | 3 | `check` tries it, too |" in lines
        and "| two more | 2 | hidden |" in lines
    )
    assert "| It is 3 times x. | `2 * x` | `3 * x` |" in lines
    assert expected.source == "**q2, read by a person**: 7 points. It says this."


# Deliberate mistakes that these tests must catch: tests/mutants.py.
MUTANTS = {
    ("course/model.py", "SOLUTION = "): [
        ("\\n.*?^", "\\n.*^"),
        ("re.MULTILINE | re.DOTALL", "re.DOTALL"),
    ],
    ("course/model.py", "def inputs("): [
        ("{seed} {self.name}", "{seed}"),
        ("{seed} {self.name}", "{self.name}"),
    ],
    ("course/model.py", "def score("): [
        ("if not text", ""),
        ("case.points for", "1 for"),
    ],
    ("course/model.py", "def variant("): [
        ("if result == sources", "if False"),
    ],
    ("course/model.py", "def version("): [
        ("self.text, ", ""),
    ],
    ("course/model.py", "def without_solutions("): [
        ('found["indent"] + STUB', "STUB"),
    ],
    ("course/model.py", "def load("): [
        ("if id not in there", "if False"),
    ],
    ("course/release.py", "def release("): [
        ("verify(assignment)\n", "\n"),
        ("or target.read_text", "and target.read_text"),
        ("(solved, without_solutions(solved))", "(solved,)"),
        ("from_text(without_solutions(solved))\n    site", "from_text(solved)\n    site"),
        ("publish.CannotPublish", "ZeroDivisionError"),
    ],
    ("course/release.py", "def verify("): [
        ('if "SOLUTION" in', 'if "SOLUTIONS" in'),
        ("< FEWEST_WRONG", "< 7"),
        ("if reasons:", "if False:"),
        ("assignment.forbids)", "())"),
    ],
    ("course/release.py", "def _luck("): [
        ("range(DRAWS)", "range(1)"),
        ("if len(got) > 1", "if not got"),
    ],
    ("course/release.py", "def released("): [
        ("if case.visible", ""),
        ("_without_labels(untouched)", "untouched"),
    ],
    ("course/checks.py", "def expect("): [("if text:", "if False:")],
    ("course/solutions.py", "def solutions("): [('elif "###', 'if "###')],
    ("course/solutions.py", "def _graded("): [
        ("seen[c.visible]", "seen[not c.visible]"),
        ("_code(w.new)", "_code(w.old)"),
    ],
    ("course/model.py", "def rubric("): [("## {id} ", "## {id}"), (r"(?=^## |\Z)", r"\Z")],
    ("course/nbgrader.py", "def export("): [
        ("heading in most and", "heading in most or"),
        ("metadata | MANUAL", "metadata"),
        ("!= CONFIG", "== CONFIG"),
        ("if config.exists() and", "if"),
    ],
    ("course/nbgrader.py", "def _tests("): [
        ("if case.visible", "if not case.visible"),
        ("points=case.points", "points=1"),
    ],
    ("course/nbgrader.py", "def _metadata("): [('"solution": solution', '"solution": False')],
    ("course/release.py", "def _reasons("): [
        ("if text]", "if not text]"),
        ('if any("error" in', 'if all("errors" in'),
        ("if got :=", "if False and"),
        ("math.isfinite(x)", "True"),
        ("== question.points", "> question.points"),
    ],
}
