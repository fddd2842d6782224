"""The matrix of processors: each value occurs, and the workflow runs the cells of the tool."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from nbval.plugin import IPyNbCell

from conftest import pytest_collection_modifyitems

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
sys.path.insert(0, str(ROOT / "tools"))
import portable  # noqa: E402


def tool(*arguments):
    command = [sys.executable, ROOT / "tools/portable.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("ATEN_CPU_CAPABILITY", {"default", "avx2", None}),
        ("ONEDNN_MAX_CPU_ISA", {"AVX2", "AVX512_CORE", "AVX512_CORE_BF16", None}),
        ("OMP_NUM_THREADS", {"1", "2", "4"}),
        ("MKL_NUM_THREADS", {"1", "2", "4"}),
    ],
)
def test_each_value_of_each_setting_occurs(variable, values, monkeypatch):
    monkeypatch.setenv(variable, "set by the caller")
    assert {portable.environment(cell).get(variable) for cell in portable.CELLS} == values


def test_the_rest_of_the_environment_stays(monkeypatch):
    monkeypatch.setenv("OPTCORE_DATA", "somewhere")
    for cell in portable.CELLS:
        assert portable.environment(cell)["PATH"] == os.environ["PATH"]
        assert portable.environment(cell)["OPTCORE_DATA"] == "somewhere"


def test_what_is_left_out_exists():
    for name in portable.NOT_NUMERIC:
        assert (ROOT / f"tests/test_{name}.py").exists()


def test_the_list_is_json():
    assert json.loads(tool("--list").stdout) == list(portable.CELLS)


def test_an_unknown_cell_is_named():
    done = tool("default-avx2-3")
    assert done.returncode == 1
    assert "no cell default-avx2-3" in done.stderr


def test_a_failing_cell_fails_the_run(monkeypatch, tmp_path, capsys):
    (tmp_path / "conftest.py").write_bytes((ROOT / "conftest.py").read_bytes())
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    monkeypatch.setattr(portable, "LOGS", tmp_path / "logs")
    cell = next(iter(portable.CELLS))
    for part, (passed, failed, code) in {
        "test_it.py": ("1", "1", 1),
        "test_it.py::test_good": ("1", "0", 0),
        "test_missing.py": ("0", "0", 1),
    }.items():
        monkeypatch.setattr(portable, "PARTS", {"tests": [str(tmp_path / part)]})
        assert portable.main([cell]) == code
        row = capsys.readouterr().out.splitlines()[-1].split()
        assert row[:5] == [cell, "tests", "FAILED" if code else "passed", passed, failed]


def test_shuffle_shuffles_the_tests_and_no_cell_of_a_chapter():
    def order(seed):
        items = [*cells, *range(50)]
        pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(shuffle=seed)), items)
        return items

    cells = [IPyNbCell.__new__(IPyNbCell) for _ in range(10)]
    assert order(None) == [*cells, *range(50)]
    assert order(1) == order(1) != order(2)
    for seed in (1, 2):
        assert order(seed)[:10] == cells
        assert order(seed)[10:] != list(range(50)) == sorted(order(seed)[10:])


def test_the_workflow_runs_the_cells_of_the_tool():
    jobs = WORKFLOW["jobs"]
    lists = [step for step in jobs["test"]["steps"] if "portable.py --list" in step.get("run", "")]
    assert f"steps.{lists[0]['id']}.outputs.cells" in jobs["test"]["outputs"]["cells"]
    assert jobs["portable"]["needs"] == "test"
    matrix = jobs["portable"]["strategy"]["matrix"]
    assert matrix == {"cell": "${{ fromJSON(needs.test.outputs.cells) }}"}
    assert jobs["portable"]["steps"][-1]["run"] == "make test-portable CELLS=${{ matrix.cell }}"


def test_the_workflow_may_only_read_and_pins_what_it_uses():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in WORKFLOW["jobs"].values():
        assert "permissions" not in job
        for action in (step["uses"] for step in job["steps"] if "uses" in step):
            assert re.fullmatch(r"actions/(checkout|setup-python)@[0-9a-f]{40}", action)
