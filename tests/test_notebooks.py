"""The committed notebooks: executed, small, and the same as their text."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(ROOT.glob("book/*.ipynb"))
pytestmark = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_was_executed_from_top_to_bottom(path):
    # nbval compares nothing in a notebook without outputs, so it would pass on a stripped one.
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


def test_holds_text_outputs_only(path):
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in code_cells(path):
        assert "execution" not in cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            assert set(output.get("data", {"text/plain": ""})) == {"text/plain"}
            assert not output.get("metadata")


def test_its_outputs_are_small_and_name_no_folder_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    # What is not text that somebody wrote: one picture is more than this.
    assert len(json.dumps([cell.outputs for cell in code_cells(path)])) < 20_000
    assert not any(folder in text for folder in (str(ROOT), str(Path.home()) + "/", "/tmp/"))


def test_code_cells_are_short(path):
    long = [cell.source for cell in code_cells(path) if len(cell.source.splitlines()) > 20]
    assert not long


def test_no_claim_measures_by_the_max_of_python(path):
    # `max([0.1, nan])` is 0.1: `check` takes all the numbers, and np.max is NaN if one of them is.
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check":
                names = {getattr(x, "id", "") for x in ast.walk(node.args[2])}
                assert not names & {"max", "min"}, ast.unparse(node)


def test_a_changed_notebook_is_named(path, tmp_path):
    """The drift check sees a changed source, a changed metadata entry and a missing file."""
    for folder in ("tools", "book/text"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        ROOT / "tools/notebooks.py",
        path,
        path.parent / "text" / f"{path.stem}.md",
    ):
        target = tmp_path / file.relative_to(ROOT)
        target.write_bytes(file.read_bytes())
    copy = tmp_path / path.relative_to(ROOT)

    def drifted():
        command = [sys.executable, tmp_path / "tools/notebooks.py", "--check"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode == 0) == (result.stdout == ""), result.stderr
        return path.name in result.stdout

    assert not drifted()
    notebook = nbformat.read(copy, as_version=4)
    notebook.cells[-1].source += " "
    nbformat.write(notebook, copy)
    assert drifted()
    notebook.cells[-1].source = notebook.cells[-1].source[:-1]
    notebook.cells[-1].metadata["tags"] = ["changed"]
    nbformat.write(notebook, copy)
    assert drifted()
    copy.unlink()
    assert drifted()
