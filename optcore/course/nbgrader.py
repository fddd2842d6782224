"""Export an assignment for nbgrader: its text with solutions, and a cell with points for each case.

A section that a person reads gets a cell with points for what is written there.

nbgrader runs student code with the grader's rights, in the notebook's own process: see *Teaching
with this book* for what that means. `grade` does neither.
"""

from __future__ import annotations

from pathlib import Path

from optcore.course.model import RUBRIC, STUB, Assignment, Question, short
from optcore.course.release import ROOT, book_tools, verify

CONFIG = f"""\
c = get_config()
c.ClearSolutions.code_stub = {{"python": "{STUB}"}}  # so that what is not answered yet runs
"""
WRITTEN = "*Your sentences.*"
MANUAL = {"cell_type": "markdown", "solution": True, "locked": False}
HIDDEN = "### BEGIN HIDDEN TESTS\n{}\n### END HIDDEN TESTS"


def export(assignment: Assignment, folder: Path) -> Path:
    """Write `source/A3/A3.ipynb` and `nbgrader_config.py` into the folder of a course.

    Raises:
        NotReleased: the assignment would be graded wrongly.
        FileExistsError: there is another `nbgrader_config.py`.
    """
    verify(assignment)
    notebooks, publish = book_tools()
    notebook = notebooks.from_text(assignment.text.read_text(encoding="utf-8"))
    site, solved, cells = publish.repository.site_url(ROOT), assignment.sources(solved=True), []
    heading, most = "", assignment.to_read
    for number, cell in enumerate(notebook.cells):
        cell.metadata.clear()
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = publish.without_relative_links(cell.source, site, "book/assignments")
            heading = cell.source.split()[1] if cell.source.startswith("## ") else heading
            if heading in most and RUBRIC.search(cell.source):
                read = publish.nbformat.v4.new_markdown_cell(WRITTEN, id=heading)
                metadata = _metadata(heading, points=most[heading])
                read.metadata["nbgrader"] = metadata | MANUAL
                cells.append(read)
        if "### BEGIN SOLUTION" in cell.source:
            cell.metadata["nbgrader"] = _metadata(f"solution-{number}", solution=True)
        for question in assignment.questions:
            if cell.source.startswith(f"def {question.answer}("):
                cells += _tests(question, solved, assignment.version, publish.nbformat.v4)
    notebook.cells = cells
    config = folder / "nbgrader_config.py"
    if config.exists() and config.read_text(encoding="utf-8") != CONFIG:
        raise FileExistsError(f"{config} is there; it needs these lines:\n{CONFIG}")
    path = folder / "source" / assignment.id / f"{assignment.id}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(CONFIG, encoding="utf-8")
    publish.nbformat.write(notebook, path)
    return path


def _tests(question: Question, solved: list[str], seed: str, v4) -> list:
    """A locked cell for each case, with its points."""
    cells, results = [], question.measure(solved, seed)
    inputs = question.inputs(seed)
    for i, (case, given, result) in enumerate(zip(question.cases, inputs, results, strict=True)):
        arguments = f"{question.answer}, {question.probe!r}, {given}, {short(result['rows'])}"
        source = f"expect({arguments}, rtol={question.rtol})"
        source = source if case.visible else HIDDEN.format(source)
        source = f"# {case.name}\nfrom optcore.course import expect\n\n{source}"
        cell = v4.new_code_cell(source, id=f"{question.id}-{i}")
        cell.metadata["nbgrader"] = _metadata(cell.id, points=case.points)
        cells.append(cell)
    return cells


def _metadata(id: str, *, solution: bool = False, points: float = 0) -> dict:
    return {
        "schema_version": 3,
        "grade_id": id,
        "cell_type": "code",
        "solution": solution,
        "grade": not solution,
        "locked": not solution,
        "task": False,
        **({} if solution else {"points": points}),
    }
