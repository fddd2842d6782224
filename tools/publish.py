"""Write what the Pages branch serves: the site, and notebooks that run wherever they are opened.

    python tools/publish.py    _build/html becomes _build/publish (`make publish` builds it first)

Beside the page of each chapter or assignment lies its notebook, as the site executed it: with a
still of every figure, with a first cell that installs `optcore` from the commit that is checked
out, and without links that need the other files of the book. Addresses are those of the repository
in which this runs (book/_ext/executed/repository.py); none is written here.
"""

import base64
import io
import posixpath
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from notebooks import METADATA
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from executed import repository  # noqa: E402

SITE = ROOT / "_build" / "html"
EXECUTED = ROOT / "_build" / "jupyter_execute" / "book"
TARGET = ROOT / "_build" / "publish"
FIRST_CELL = ROOT / "tools" / "first_cell.py"
STILL_WIDTH, STILL_COLORS = 640, 64

# Code and formulas, left alone; or [text](page.ipynb#heading) and ![picture](folder/file.png), both
# relative to the folder of the book. The text may hold one pair of brackets.
CODE_OR_LINK = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$"
    r"|(?P<link>(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]"
    r"\((?P<path>(?!\w+:|/)[\w./-]+\.\w+)(?P<anchor>#[\w-]*)?\))",
    re.DOTALL,
)

# What a chapter that imports these needs beyond the package's own dependencies.
EXTRAS = {"optcore.federated.flower": "federated", "optcore.federated.privacy": "privacy"}

NOTE = """\
> **Note.** This is {what} of {book}, to be run from top to bottom. The cell above installs the
> book's package, from commit `{commit}`. {machine}
"""
WITH_DEVICE = (
    "**With a GPU** (in Colab: *Runtime → Change runtime type*) what this chapter trains on data "
    "runs there. **Without one** the same cells run on the processor, in a minute or two. The "
    "claims and their bounds are the same; last digits may differ."
)
WITHOUT_DEVICE = "It computes on the processor, in a minute or two: a GPU would change nothing."


class CannotPublish(Exception):
    """Something that `make publish` needs is missing; the text says what."""


def first_cell(address: str, commit: str, code: str = "") -> NotebookNode:
    """The cell that installs `optcore` and whatever else is missing for a chapter of this code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = list(project["dependencies"])
    for module, extra in EXTRAS.items():
        needed += project["optional-dependencies"][extra] if module in code else []
    bounds = {re.match(r"[\w.-]+", bound)[0]: bound for bound in needed}
    lines = "".join(f'    "{name}": "{bound}",\n' for name, bound in bounds.items())
    source = FIRST_CELL.read_text(encoding="utf-8").rstrip()
    for mark, text in {
        "@ADDRESS@": address,
        "@COMMIT@": commit,
        '"@DEPENDENCIES@"': "{\n" + lines + "}",
    }.items():
        source = source.replace(mark, text)
    return folded(nbformat.v4.new_code_cell(source, id="install"))


def note(commit: str, site: str, on_device: bool, folder: str) -> NotebookNode:
    """The cell that says where the notebook comes from and what it does with a GPU."""
    name = "*Optimization, Executed*"
    machine = WITH_DEVICE if on_device else WITHOUT_DEVICE
    text = NOTE.format(
        what="a chapter" if folder == "book" else "an assignment",
        book=f"[{name}]({site})" if site else name,
        commit=commit[:10],
        machine=machine,
    )
    return nbformat.v4.new_markdown_cell(text.rstrip(), id="note")


def published(
    executed: NotebookNode, address: str, commit: str, site: str, folder: str = "book"
) -> NotebookNode:
    """The notebook to publish, of one that the site has executed; `folder` is where it lies."""
    cells = [nbformat.from_dict(cell) for cell in executed.cells]
    code = [cell for cell in cells if cell.cell_type == "code"]
    on_device = any(re.search(r"\bdevice\(", cell.source) for cell in code)
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = without_relative_links(cell.source, site, folder)
    for cell in code:
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        cell.outputs = [output for old in cell.outputs if (output := small(old, alt))]
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if alt:
            cell.metadata["alt"] = alt  # nbconvert's place for it
        if "hide-input" in cell.metadata.get("tags", []):
            folded(cell)
    metadata = {**METADATA, "colab": {"provenance": [], "toc_visible": True}}
    if on_device:
        metadata["accelerator"] = "GPU"
        metadata["colab"]["gpuType"] = "T4"
    source = "\n".join(cell.source for cell in code)
    first = first_cell(address, commit, source)
    cells = [first, note(commit, site, on_device, folder), *cells]
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def folded(cell: NotebookNode) -> NotebookNode:
    """The cell with its code hidden until one asks for it: in Colab, and in JupyterLab."""
    cell.metadata["cellView"] = "form"
    cell.metadata["jupyter"] = {"source_hidden": True}
    return cell


def small(output: NotebookNode, alt: str) -> NotebookNode | None:
    """An output's text, and a still if it is a figure; nothing of a warning."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = {kind: text for kind, text in output.data.items() if kind == "text/plain"}
    if "image/png" in output.data:
        data["image/png"] = still(output.data["image/png"])
        words = re.fullmatch(r"\[interactive figure: (.*)\]", data.get("text/plain", ""), re.DOTALL)
        metadata = {"image/png": {"alt": words[1] if words else alt}}
    elif any(kind.startswith("image/") for kind in output.data):
        raise CannotPublish("A figure has no PNG, of which a still could be made.")
    else:
        metadata = {}
    return nbformat.v4.new_output(
        output.output_type,
        data,
        metadata=metadata,
        **{key: output[key] for key in ["execution_count"] if key in output},
    )


def still(png: str) -> str:
    """A picture of at most `STILL_WIDTH` pixels and `STILL_COLORS` colours; PNGs in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    if picture.width > STILL_WIDTH:
        height = round(picture.height * STILL_WIDTH / picture.width)
        picture = picture.resize((STILL_WIDTH, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    method = Image.Quantize.MAXCOVERAGE  # keeps the colour of a thin line
    few = picture.quantize(STILL_COLORS, method, dither=Image.Dither.NONE)
    few.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def without_relative_links(markdown: str, site: str, folder: str = "book") -> str:
    """Links to other pages lead to the site, or where its address is not known are plain text."""

    def replace(found: re.Match) -> str:
        if not found["link"]:
            return found[0]
        if not site:
            return found["text"]
        path = posixpath.normpath(f"{folder}/{found['path']}")
        path = re.sub(r"\.(ipynb|md)$", ".html", path)
        return f"{found['image']}[{found['text']}]({site}{path}{found['anchor'] or ''})"

    return CODE_OR_LINK.sub(replace, markdown)


def notebooks(address: str, commit: str, site: str) -> dict[str, NotebookNode]:
    """All chapters and assignments as they are published, by their path in the folder `book`."""
    result, book = {}, ROOT / "book"
    for path in sorted([*book.glob("*.ipynb"), *book.glob("assignments/*.ipynb")]):
        name, folder = path.relative_to(book).as_posix(), path.parent.relative_to(ROOT).as_posix()
        if not (ran := EXECUTED / name).exists():
            raise CannotPublish(f"The site has not executed {path.name}: run `make book` first.")
        executed = nbformat.read(ran, as_version=4)
        committed = nbformat.read(path, as_version=4)
        if [c.source for c in executed.cells] != [c.source for c in committed.cells]:
            raise CannotPublish(f"{path.name} has changed since the site was built: `make book`.")
        result[name] = published(executed, address, commit, site, folder)
    return result


def origin() -> tuple[str, str]:
    """The address that pip installs `optcore` from, and the commit that is checked out."""
    address, commit = repository.install_address(ROOT), repository.git(ROOT, "rev-parse", "HEAD")
    if not address:
        raise CannotPublish(
            "The repository's address is not known, and without it a notebook cannot install "
            "optcore: set BOOK_REPOSITORY to it."
        )
    if not commit:
        raise CannotPublish("This is no git repository, so there is no commit to install from.")
    if repository.git(ROOT, "status", "--porcelain"):
        raise CannotPublish("There are changes that no commit holds: commit them, then publish.")
    return address, commit


def write() -> None:
    """Write the folder."""
    address, commit = origin()
    made = notebooks(address, commit, repository.site_url(ROOT))
    if repository.repository_url(ROOT).startswith(repository.GITHUB):
        for name in made:
            page = (SITE / "book" / name).with_suffix(".html").read_text(encoding="utf-8")
            if f"/blob/{repository.PAGES_BRANCH}/book/{name}" not in page:
                raise CannotPublish(
                    f"The page of {name} has no Colab button: remove _build and build it again, "
                    "with the repository's address."
                )
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.copytree(SITE, TARGET)
    (TARGET / ".nojekyll").touch()  # else GitHub leaves out the folders that begin with _
    for name, notebook in made.items():
        # The second is what the page's download button gives.
        for folder in ("book", "_sources/book"):
            nbformat.write(notebook, TARGET / folder / name)
    print(f"{len(made)} notebooks and the site are in {TARGET}.")


if __name__ == "__main__":
    try:
        write()
    except CannotPublish as error:
        sys.exit(str(error))
