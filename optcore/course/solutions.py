"""The instructor's view of an assignment: the solved notebook, and how each question is graded."""

from __future__ import annotations

from pathlib import Path

from optcore.course.model import Assignment, Question, Reading
from optcore.course.release import ROOT, book_tools


def solutions(assignment: Assignment, folder: Path) -> Path:
    """Write the notebook with its solutions, executed, for JupyterLab.

    After each answer stand its cases and the mistakes that lose points; code that students are
    given is folded.
    """
    notebooks, publish = book_tools()
    notebook = notebooks.from_text(assignment.text.read_text(encoding="utf-8"))
    notebooks.execute(notebook)
    markdown, site = publish.nbformat.v4.new_markdown_cell, publish.repository.site_url(ROOT)
    cells = [markdown("*For instructors: with solutions, and how they are graded.*", id="title")]
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = publish.without_relative_links(cell.source, site, "book/assignments")
        elif "### BEGIN SOLUTION" not in cell.source:
            cell.metadata["jupyter"] = {"source_hidden": True}
        for question in assignment.questions:
            if cell.source.startswith(f"def {question.answer}("):
                cells.append(markdown(_graded(question), id=f"{question.id}-graded"))
    for reading in assignment.readings:
        cells.append(markdown(_expected(assignment, reading), id=f"{reading.id}-expected"))
    notebook.cells = cells
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{assignment.id}.ipynb"
    publish.nbformat.write(notebook, path)
    return path


def _graded(question: Question) -> str:
    seen = {True: "`check` tries it, too", False: "hidden"}
    cases = [f"| {c.name} | {c.points:g} | {seen[c.visible]} |" for c in question.cases]
    wrong = [f"| {w.cause} | {_code(w.old)} | {_code(w.new)} |" for w in question.wrong]
    return "\n".join(
        (
            f"**How {question.id} is graded**: {question.points:g} points\n",
            *("| case | points | |", "|---|---|---|", *cases),
            "\n**Mistakes that lose points**\n",
            *("| mistake | instead of | it says |", "|---|---|---|", *wrong),
        )
    )


def _expected(assignment: Assignment, reading: Reading) -> str:
    points = assignment.to_read[reading.id]
    return f"**{reading.id}, read by a person**: {points:g} points. {reading.expected}"


def _code(text: str) -> str:
    """A piece of code in a table's cell."""
    lines = [line.strip().replace("|", "\\|") for line in text.splitlines()]
    return "<br>".join(f"`{line}`" for line in lines if line) or "nothing"
