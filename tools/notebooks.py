"""Turn book/text/*.md into executed notebooks, and tell when they have drifted apart.

    python tools/notebooks.py            write book/*.ipynb, and book/assignments/*.ipynb
    python tools/notebooks.py --check    exit 1 and name the notebooks that differ from their text

Of an assignment the notebook is the students' version, without solutions.

A notebook keeps its text outputs and execution counts, which the tests compare. All else that a run
leaves behind is dropped, so that the file is small and a second run gives the same bytes.
"""

import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from optcore.course.model import without_solutions
from optcore.data import mnist_available

BOOK = Path(__file__).resolve().parents[1] / "book"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def from_text(text: str) -> NotebookNode:
    """The notebook that Jupytext Markdown describes, not executed."""
    notebook = jupytext.reads(text, fmt="md")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: set[str] = set()
    for cell in notebook.cells:
        # An id from the source stays the same when another cell is inserted before it.
        source, id = cell.source, ""
        while not id or id in seen:
            id = hashlib.sha256(source.encode()).hexdigest()[:8]
            source += "\n"
        seen.add(id)
        cell.id = id
    return notebook


def execute(notebook: NotebookNode) -> None:
    """Run the notebook in place, in the folder of the book."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        coalesce_streams=True,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(BOOK)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel adds its version


def keep_text(notebook: NotebookNode) -> None:
    """Drop what a run leaves behind but text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data = {k: v for k, v in output.data.items() if k == "text/plain"}
                output.metadata = {}


def differs(notebook: NotebookNode, path: Path) -> bool:
    """Whether the file differs from the notebook in anything but its outputs."""
    if not path.exists():
        return True
    committed = nbformat.read(path, as_version=4)
    for cell in committed.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return committed != notebook


def main(arguments: list[str]) -> int:
    """Write the notebooks, or with `--check` only compare them."""
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    texts = {}
    for path in sorted([*BOOK.glob("text/*.md"), *BOOK.glob("assignments/text/*.md")]):
        text = path.read_text(encoding="utf-8")
        texts[path.parents[1] / f"{path.stem}.ipynb"] = without_solutions(text)
    there = sorted([*BOOK.glob("*.ipynb"), *BOOK.glob("assignments/*.ipynb")])
    drifted = [path for path in there if path not in texts]
    if not arguments and not mnist_available():
        sys.exit("The committed notebooks hold MNIST's numbers, and MNIST is not available here.")
    for path, text in texts.items():
        notebook = from_text(text)
        if arguments:
            drifted += [path] if differs(notebook, path) else []
            continue
        print(f"executing {path.name}", flush=True)
        execute(notebook)
        keep_text(notebook)
        nbformat.write(notebook, path)
    for path in drifted:
        print(f"{path.name} is not what its text makes it: run `make notebooks`, or remove it.")
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
