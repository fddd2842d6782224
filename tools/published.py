"""Run the published notebooks as someone would who has nothing but them, and try their figures.

    python tools/published.py [CHAPTER ...]               in fresh environments, old and new
    python tools/published.py --in PYTHON FOLDER [...]    FOLDER's notebooks, with that Python

Each notebook lies alone in an empty folder, and its kernel finds neither this checkout nor optcore.
It must run from top to bottom, draw every figure of which it holds a still, leave torch and numpy
as they were, and install nothing a second time. Then, where there is a Chromium, the notebook is
exported as a page and a slider of each live figure is moved, offline.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
# The first is as old as optcore takes it; what is not named comes as new as pip finds it.
ENVIRONMENTS = {
    "oldest": [
        "torch==2.9.0",
        "numpy==1.26.4",
        "matplotlib==3.8.4",
        "scikit-learn==1.4.2",
        "scipy==1.11.4",
        "ipywidgets==7.7.1",
        "ipython==7.34.0",
        "ipykernel==6.17.1",
    ],
    "newest": ["torch", "numpy", "matplotlib", "ipywidgets", "scikit-learn", "ipykernel"],
}
KEPT = ("torch", "numpy")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 600
LIVE = re.compile(r'<div class="explore" data-explore=')
# Move the first control of each live figure and note whether its curves follow.
MOVE = """
<script>
addEventListener("load", async () => {
  const answers = [];
  for (const figure of document.querySelectorAll(".explore")) {
    const drawn = () => [...figure.querySelectorAll("path")].map((p) => p.getAttribute("d")).join();
    const before = drawn();
    const control = figure.querySelector("input[type=range], input[type=radio]:not(:checked)");
    if (control && control.type == "range") {
      control.value = control.value == control.max ? control.min : control.max;
      control.dispatchEvent(new Event("input", { bubbles: true }));
      control.dispatchEvent(new Event("change", { bubbles: true }));
    } else if (control) control.click();
    await new Promise((done) => setTimeout(done, 300));
    answers.push(before != "" && drawn() != before);
  }
  document.body.dataset.answers = JSON.stringify(answers);
});
</script>
"""


class Failed(Exception):
    """A published notebook does not do what it should; the text says what."""


def ask(python: str, code: str) -> str:
    """What a Python prints when it runs some code, away from this checkout."""
    command = [python, "-c", code]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


def versions(python: str, *names: str) -> str:
    """The versions of some packages, or a dash."""
    return ask(
        python,
        "from importlib.metadata import distributions\n"
        "found = {d.metadata['Name'].lower(): d.version for d in distributions()}\n"
        f"print(*(f'{{n}} {{found.get(n, \"–\")}}' for n in {names!r}), sep=', ')",
    )


def packages(python: str) -> set[str]:
    """The names of all that is installed."""
    code = "from importlib.metadata import distributions\n"
    code += "print(*(package.metadata['Name'] for package in distributions()))"
    return set(ask(python, code).split())


def uninstall(python: str, names: set[str]) -> None:
    """Remove what a notebook has installed, for the next to find the machine as this one did."""
    if names:
        command = [python, "-m", "pip", "uninstall", "-q", "-y", "--root-user-action=ignore"]
        subprocess.run([*command, *sorted(names)], check=True)


def figures(notebook) -> list[int]:
    """The number of PNGs of each cell."""
    return [
        sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        for cell in notebook.cells
    ]


def run(python: str, path: Path, folder: Path) -> Path:
    """Execute a notebook that lies alone in a folder, and check what it leaves behind."""
    notebook = nbformat.read(path, as_version=4)
    expected = figures(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kernel = folder / "kernels" / "published"
    kernel.mkdir(parents=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "published", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(folder)
    alone = folder / "alone"
    alone.mkdir()
    shutil.copy(path, alone)
    resources = {"metadata": {"path": str(alone)}}
    client = NotebookClient(
        notebook, kernel_name="published", timeout=TIMEOUT_S, resources=resources
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise Failed(f"{error.ename}: {error.evalue}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise Failed(str(error).strip().splitlines()[0]) from error
    if notebook.cells[0].outputs:
        raise Failed("The cell that installs optcore prints something.")
    if (drawn := figures(notebook)) != expected:
        raise Failed(f"Pictures by cell: {drawn} were drawn, the stills are {expected}.")
    if notebook.metadata.get("widgets"):
        raise Failed("A widget's state is saved in the notebook.")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                print(f"  warns: {output.text.strip().splitlines()[0]}")
    ran = folder / path.name
    nbformat.write(notebook, ran)
    return ran


def installs_again(python: str, path: Path) -> bool:
    """Whether the first cell runs pip or prints anything where its work is done."""
    source = nbformat.read(path, as_version=4).cells[0].source
    no_pip = "import subprocess\nsubprocess.run = None  # whoever calls it fails\n"
    return ask(python, no_pip + source) != ""


def move_sliders(path: Path) -> int:
    """Export an executed notebook and move a slider of each live figure; return how many."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        print("  There is no Chromium here: the sliders were not tried.")
        return 0
    from nbconvert import HTMLExporter  # a notebook server without a browser may lack it

    page = path.with_suffix(".html")
    html, _ = HTMLExporter().from_filename(str(path))
    if missing := re.findall(r"<img(?![^>]*\balt=\"[^\"]+\")[^>]{,80}", html):
        raise Failed(f"{len(missing)} pictures have no alternative text.")
    page.write_text(html.replace("</body>", MOVE + "</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=60000"]
    command += [f"--user-data-dir={path.parent / 'browser'}", page.as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300).stdout
    found = re.search(r'data-answers="([^"]*)"', seen)
    answers = json.loads(found[1]) if found else None
    if answers != [True] * len(LIVE.findall(html)):
        raise Failed(f"Of the live figures these answer to their first control: {answers}.")
    return len(answers)


def try_all(python: str, folder: Path, chapters: list[str]) -> bool:
    """Run a folder's notebooks with one Python; return whether all did what they should."""
    if "optcore" in packages(python):
        raise Failed("optcore is installed there already: take an environment without it.")
    print(ask(python, "import sys; print('Python', sys.version.split()[0], end='')"), end=", ")
    print(versions(python, *KEPT, "matplotlib", "scikit-learn", "scipy", "ipython", "ipykernel"))
    passed = True
    for path in sorted([*folder.glob("*.ipynb"), *folder.glob("assignments/*.ipynb")]):
        if chapters and path.stem not in chapters:
            continue
        before, kept, start = packages(python), versions(python, *KEPT), time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            try:
                ran = run(python, path, Path(place))
                if versions(python, *KEPT) != kept:
                    raise Failed(f"It has replaced {kept} by {versions(python, *KEPT)}.")
                if installs_again(python, path):
                    raise Failed("The first cell is not silent where optcore is installed.")
                seconds = time.perf_counter() - start
                new = ", ".join(sorted(packages(python) - before))
                print(
                    f"  {path.stem}: {sum(figures(nbformat.read(ran, 4)))} pictures, "
                    f"{move_sliders(ran)} live figures answer, {seconds:.0f} s; installed {new}",
                    flush=True,
                )
            except Failed as error:
                passed = False
                print(f"  {path.stem} FAILED: {error}", flush=True)
        uninstall(python, packages(python) - before)
    return passed


def main(arguments: list[str]) -> int:
    """Run what the command line asks for."""
    os.environ.pop("PYTHONPATH", None)
    if arguments[:1] == ["--in"]:
        if len(arguments) < 3:
            sys.exit(__doc__)
        _, python, folder, *chapters = arguments
        return 0 if try_all(python, Path(folder), chapters) else 1
    sys.path.insert(0, str(ROOT / "tools"))
    import publish

    address, commit = f"git+{ROOT.as_uri()}", publish.repository.git(ROOT, "rev-parse", "HEAD")
    passed = True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "notebooks")
        (folder / "assignments").mkdir(parents=True)
        for name, notebook in publish.notebooks(address, commit, site="").items():
            nbformat.write(notebook, folder / name)
        for name, wanted in ENVIRONMENTS.items():
            print(f"The {name} versions:", end=" ", flush=True)
            python = str(Path(place, name, "bin", "python"))
            subprocess.run([sys.executable, "-m", "venv", Path(place, name)], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
            passed &= try_all(python, folder, arguments)
            shutil.rmtree(Path(place, name))
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as error:
        sys.exit(str(error))
