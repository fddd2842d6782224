"""The published notebooks: how they install optcore, where their links lead, what they hold."""

import base64
import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from optcore import widgets

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import publish  # noqa: E402
import published as runner  # noqa: E402

ADDRESS, COMMIT, SITE = "git+https://host/owner/name", "c0ffee" * 6, "https://site/name/"
NOTEBOOKS = sorted([*ROOT.glob("book/*.ipynb"), *ROOT.glob("book/assignments/*.ipynb")])
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def png(width=900, height=500):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGBA").save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def published(*cells, site=SITE):
    return publish.published(new_notebook(cells=list(cells)), ADDRESS, COMMIT, site)


@pytest.fixture
def machine(monkeypatch):
    """Run the first cell on a machine with these packages; return the packages pip was given."""

    class Package:
        def __init__(self, name, version="1", origin=None):
            self.name, self.version, self.origin = name, version, origin

        def read_text(self, _):
            return self.origin

    def run(names, origin=None, returncode=0):
        here = {name: Package(name) for name in names}
        if origin:
            here["optcore"] = Package("optcore", origin=origin)

        def distribution(name):
            if name in here:
                return here[name]
            raise importlib.metadata.PackageNotFoundError(name)

        calls = []

        def pip(command, **_):
            options = command.index("-c")
            kept = Path(command[options + 1]).read_text(encoding="utf-8").splitlines()
            calls.append((kept, command[options + 2 :]))
            return subprocess.CompletedProcess(command, returncode, "", "no network")

        monkeypatch.setattr(importlib.metadata, "distribution", distribution)
        monkeypatch.setattr(subprocess, "run", pip)
        exec(publish.first_cell(ADDRESS, COMMIT).source, {})
        return calls

    return run


OTHERS = ("torch", "numpy", "matplotlib", "scikit-learn", "scipy", "ipython")
OPTCORE = ["--no-deps", "--force-reinstall", f"{ADDRESS}@{COMMIT}"]


def test_first_cell_installs_optcore_of_the_commit_and_what_is_missing(machine):
    (kept, first), (_, second) = machine(OTHERS)
    assert kept == ["torch==1", "numpy==1"]
    assert first == OPTCORE
    assert [re.match(r"\w+", bound)[0] for bound in second] == ["pooch", "psutil", "tqdm"]


def test_first_cell_is_silent_where_all_is_installed(machine, capsys):
    assert (
        machine([*OTHERS, "pooch", "psutil", "tqdm"], origin=json.dumps({"commit_id": COMMIT}))
        == []
    )
    assert (
        machine([*OTHERS, "pooch", "psutil", "tqdm"], origin='{"dir_info": {"editable": true}}')
        == []
    )
    assert capsys.readouterr() == ("", "")


def test_first_cell_replaces_the_optcore_of_another_commit(machine):
    calls = machine(
        [*OTHERS, "pooch", "psutil", "tqdm"], origin=json.dumps({"commit_id": "another"})
    )
    assert [packages for _, packages in calls] == [OPTCORE]


def test_first_cell_says_what_could_not_be_installed(machine):
    with pytest.raises(RuntimeError, match=r"name@c0ffee.* could not be installed.\nno network"):
        machine(OTHERS, returncode=1)


def test_every_dependency_is_looked_for():
    source = publish.first_cell(ADDRESS, COMMIT).source
    needed = importlib.metadata.requires("optcore") or []
    names = {re.match(r"[\w.-]+", line)[0] for line in needed if "extra" not in line}
    assert names == set(re.findall(r'^    "([\w-]+)": ', source, re.MULTILINE))


def test_a_chapter_that_needs_an_extra_installs_it():
    plain = publish.first_cell(ADDRESS, COMMIT, "from optcore.federated import FedAvg").source
    assert "flwr" not in plain
    assert "dp-accounting" not in plain
    chapter = (publish.ROOT / "book/text/federated.md").read_text(encoding="utf-8")
    source = publish.first_cell(ADDRESS, COMMIT, chapter).source
    assert '"flwr": "flwr>=' in source
    assert '"dp-accounting": "dp-accounting>=' in source


@pytest.mark.parametrize(
    ("text", "linked", "plain"),
    [
        ("[a](b.ipynb)", f"[a]({SITE}book/b.html)", "a"),
        (
            "[a](b.ipynb#c-1), [d](e.md)",
            f"[a]({SITE}book/b.html#c-1), [d]({SITE}book/e.html)",
            "a, d",
        ),
        ("[`f[0]`, $x$](b.md#c)", f"[`f[0]`, $x$]({SITE}book/b.html#c)", "`f[0]`, $x$"),
        ("[*n* [1]](b.md)", f"[*n* [1]]({SITE}book/b.html)", "*n* [1]"),
        ("![a](_static/b.svg)", f"![a]({SITE}book/_static/b.svg)", "a"),
        ("[two\nlines](b.md)", f"[two\nlines]({SITE}book/b.html)", "two\nlines"),
    ],
)
def test_relative_links_lead_to_the_site_or_are_plain(text, linked, plain):
    assert publish.without_relative_links(text, SITE) == linked
    assert publish.without_relative_links(text, "") == plain


@pytest.mark.parametrize(
    "text",
    [
        "[a](https://doi.org/10.1/b.c)",
        "[a](#b)",
        "`[a](b.md)`",
        "```\n[a](b.md)\n```",
        r"$[\eta](t)$ and $f[a](s.t)$ x",
        "[a] (b.md)",
    ],
)
def test_other_links_and_code_stay(text):
    assert publish.without_relative_links(text, SITE) == text
    assert publish.without_relative_links(text, "") == text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("site", [SITE, ""])
def test_no_link_of_a_chapter_dies_when_it_travels_alone(path, site):
    folder = path.parent.relative_to(ROOT).as_posix()
    notebook = nbformat.read(path, as_version=4)
    notebook = publish.published(notebook, ADDRESS, COMMIT, site, folder)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:href|src)=\"([^\"]+)", text)
    assert [t for t in targets if not re.match(r"https?://|#", t)] == []
    pages = {target.split("#")[0] for target in targets if target.startswith(SITE)} - {SITE}
    for page in pages:
        name = page.removeprefix(f"{SITE}book/").removesuffix(".html")
        assert any((ROOT / "book" / f"{name}{end}").exists() for end in (".ipynb", ".md")), page


def test_a_notebook_asks_for_a_gpu_if_it_uses_one():
    notebook = published(new_code_cell("where = device()"))
    assert notebook.metadata.accelerator == "GPU"
    assert set(notebook.metadata) == {"kernelspec", "language_info", "colab", "accelerator"}
    assert "**With a GPU**" in notebook.cells[1].source
    assert "**Without one**" in notebook.cells[1].source
    assert f"[*Optimization, Executed*]({SITE})" in notebook.cells[1].source
    notebook = published(new_code_cell("1 + 1"), site="")
    assert "accelerator" not in notebook.metadata
    assert "a GPU would change nothing" in notebook.cells[1].source
    assert "](" not in notebook.cells[1].source


def test_a_notebook_holds_stills_and_text_only():
    figure = new_output(
        "display_data",
        {"image/png": png(), "text/plain": "<Figure size>"},
        metadata={"image/png": {"width": 900}},
    )
    live = new_output(
        "display_data",
        {
            "text/html": "<script>",
            "image/png": png(),
            "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
            "text/plain": "[interactive figure: A ball.]",
        },
    )
    claim = new_output("display_data", {"text/plain": "✓", "text/html": "<b>"}, metadata={"a": 1})
    streams = [new_output("stream", name=name, text=name) for name in ("stdout", "stderr")]
    metadata = {"tags": ["hide-input"], "mystnb": {"image": {"alt": "A curve."}}, "execution": {}}
    cell = new_code_cell("f()", outputs=[figure, live, claim, *streams], metadata=metadata)
    notebook = published(cell)
    figure, live, claim, stream = notebook.cells[2].outputs
    for output, alt in ((figure, "A curve."), (live, "A ball.")):
        assert set(output.data) == {"image/png", "text/plain"}
        assert output.metadata == {"image/png": {"alt": alt}}
        assert len(output.data["image/png"]) < 50_000
        picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
        assert picture.size == (640, 356)
    assert (claim.data, claim.metadata) == ({"text/plain": "✓"}, {})
    assert stream.name == "stdout"
    assert set(notebook.cells[2].metadata) == {"tags", "alt", "cellView", "jupyter"}


def test_what_the_site_has_executed_can_be_published():
    made = publish.notebooks(ADDRESS, COMMIT, SITE)
    assert set(made) == {p.relative_to(ROOT / "book").as_posix() for p in NOTEBOOKS}
    for name, notebook in made.items():
        figures = [
            o
            for c in notebook.cells
            for o in c.get("outputs", [])
            if "image/png" in o.get("data", {})
        ]
        assert figures or name.startswith("assignments")
        assert all(o.metadata["image/png"]["alt"] for o in figures), name
        assert len(nbformat.writes(notebook)) < 1_000_000


def test_a_figure_without_a_png_is_refused():
    output = new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": ""})
    with pytest.raises(publish.CannotPublish, match="no PNG"):
        published(new_code_cell("f()", outputs=[output]))


@pytest.fixture
def environment(monkeypatch):
    for name in ("BOOK_REPOSITORY", "BOOK_SITE", "GITHUB_REPOSITORY", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


@pytest.mark.parametrize(
    ("given", "install", "site"),
    [
        (
            "git@github.com:Owner/name.git",
            "git+https://github.com/Owner/name",
            "//owner.github.io/name/",
        ),
        ("https://github.com/Owner/owner.github.io", None, "//owner.github.io/"),
        ("https://gitlab.com/owner/name", "git+https://gitlab.com/owner/name", ""),
        ("git+file:///a/copy", "git+file:///a/copy", ""),
        ("/a/folder", "", ""),
    ],
)
def test_addresses_are_those_of_the_repository(environment, given, install, site):
    environment("BOOK_REPOSITORY", given)
    repository = publish.repository
    if install is not None:
        assert repository.install_address(ROOT) == install
    assert repository.site_url(ROOT) == (f"https:{site}" if site else "")
    environment("BOOK_SITE", "https://book.example")
    assert repository.site_url(ROOT) == "https://book.example/"


def test_addresses_in_an_action_are_those_of_the_fork(environment):
    environment("GITHUB_REPOSITORY", "fork/name")
    assert publish.repository.install_address(ROOT) == "git+https://github.com/fork/name"


@pytest.mark.parametrize(
    "url", ["https://github.com/owner/name", "https://gitlab.com/owner/name", ""]
)
def test_the_colab_button_opens_the_published_notebook(environment, tmp_path, url):
    class Config:
        html_theme_options = {"launch_buttons": {"colab_url": "x"}, "repository_branch": "main"}

    class App:
        srcdir = tmp_path

    Config.html_theme_options = dict(Config.html_theme_options)
    environment("BOOK_REPOSITORY", url or "nowhere")
    publish.repository.set_buttons(App, Config)
    options = Config.html_theme_options
    assert ("launch_buttons" in options) == url.startswith("https://github.com")
    assert options.get("repository_url", "") == url
    assert options["repository_branch"] == ("gh-pages" if url else "main")


def test_nothing_is_published_without_an_address(environment, capsys):
    environment("BOOK_REPOSITORY", "nowhere")
    with pytest.raises(publish.CannotPublish, match="set BOOK_REPOSITORY"):
        publish.write()


def test_no_address_of_a_repository_is_typed():
    files = [*ROOT.glob("tools/*.py"), *WORKFLOWS, ROOT / "_config.yml", ROOT / "Makefile"]
    for file in [*files, ROOT / "book/_ext/executed/repository.py"]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"git(hub|lab)\.com/\w|\w\.github\.io", text), file


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_pinned_limited_and_know_the_branch(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for name in re.findall(r"uses: (\S+)", text):
        assert name.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job or job["uses"].startswith("./")
    branches = set(re.findall(r"\bgh-pages\b|\bpages-branch\b", text))
    assert branches <= {publish.repository.PAGES_BRANCH}


@pytest.mark.skipif(not any(map(shutil.which, runner.BROWSERS)), reason="there is no Chromium")
def test_a_dead_slider_is_found(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
    widgets.explore(
        lambda a: [widgets.Line([0, 1], [0, a])],
        widgets.Scene((0, 1), (0, 1), "x", "y"),
        widgets.Slider("a", [0.2, 0.5, 0.8], 0.5),
        alt="A line.",
    )
    cell = new_code_cell("", outputs=[new_output("display_data", shown[0])])
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("a"), cell]), path)
    assert runner.move_sliders(path) == 1
    html = cell.outputs[0].data["text/html"]
    cell.outputs[0].data["text/html"] = re.sub(r"<script>.*</script>", "", html, flags=re.DOTALL)
    nbformat.write(new_notebook(cells=[cell]), path)
    with pytest.raises(runner.Failed, match=r"\[False\]"):
        runner.move_sliders(path)


def test_the_example_of_the_readme_prints_what_it_says(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n([^`]*)```\n\n((?:    .*\n)+)", text).groups()
    exec(code, {})
    assert capsys.readouterr().out.split() == printed.split()
