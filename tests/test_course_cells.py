"""What counts of a student's notebook: the answer's name, and what it depends on."""

import json

import pytest

from optcore.course.cells import define, read_cells

TRAINING = "raise SystemExit('a cell that trains was run')\nw = 1"


def test_imports_definitions_and_constants_count():
    sources = [
        "import math as m\nfrom math import *",
        "SCALE: float = 2\nSCALE *= 3\nOFFSETS = [0, 0]\nOFFSETS[1] = 5",
        "def helper(x, by=SCALE):\n    return by * x",
        "class Adder:\n    def __call__(self, x):\n        return helper(x) + OFFSETS[1]",
        "if SCALE > 5:\n    add = Adder()\nelse:\n    add = None",
        "def answer(x):\n    return add(x) + m.floor(pi)",
    ]
    assert define(sources, "answer")(1) == 6 + 5 + 3


@pytest.mark.parametrize(
    "cell",
    [
        "for w in (1, 2):\n    raise SystemExit",
        "raise SystemExit",
        "answer(1)\nexit()",
        "history = exit()",
        "w, history = exit(), 1",
        "import a_package_that_nobody_has",
        "check = None\ncheck('q1', answer)",
        "this is no Python",
        "%matplotlib inline\nexit()",
        "answer(",
        "x = '\0'",
        "x = " + "-" * 100_000 + "1",
        "return 1",
        "history = math.pi and exit()",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_other_cells_are_not_run(cell, first):
    # `w` and `history` are local names of the answer, not the module's.
    cells = [
        "import math",
        "def answer(x, w=0):\n    w = history = math.floor(x)\n"
        "    return [w for w in [w]][0] + history",
    ]
    assert define([cell, *cells] if first else [*cells, cell], "answer")(2) == 4


def test_a_call_on_a_line_of_its_own_is_not_run():
    sources = ["import math\nscale = [1]\nscale.append(2)\ndef answer():\n    return scale"]
    assert define(sources, "answer")() == [1]


def test_a_patch_of_something_needed_is_run():
    sources = ["import types\nm = types.SimpleNamespace()", "m.x = 3", "def answer():\n return m.x"]
    assert define(sources, "answer")() == 3


def test_attributes_inside_a_function_bind_nothing():
    sources = ["x = 1", "def train(x):\n    x.y = exit()", "def answer():\n    return x"]
    sources.insert(2, "def broken(a=exit()):\n    x.y = 1")
    assert define(sources, "answer")() == 1


def test_magics_are_left_out():
    sources = ["%%time\n!pip install torch\ntwo = 2\n%precision 3", "def answer():\n    return two"]
    assert define(sources, "answer")() == 2


def test_the_last_definition_counts():
    sources = ["def answer():\n    return 1", "answer = lambda: 2", "def answer():\n    return 1 +"]
    assert define(sources, "answer")() == 2


def test_cells_that_were_moved():
    sources = ["doubled = 2 * base", "def answer():\n    return doubled", "base = 3"]
    assert define(sources, "answer")() == 6


def test_a_dependency_that_fails_costs_only_what_needs_it():
    sources = ["import no_such_package", "x = 1 / 0", "def answer(ok):\n    return 1 if ok else x"]
    answer = define(sources, "answer")
    assert answer(True) == 1
    with pytest.raises(NameError):
        answer(False)


def test_annotations_are_not_evaluated():
    assert define(["def answer(x: Tensor) -> Nothing:\n    return x"], "answer")(1) == 1


def test_globals_of_a_function_count():
    sources = ["count = 0", "def answer():\n    global count\n    count += 1\n    return count"]
    answer = define(sources, "answer")
    assert [answer(), answer()] == [1, 2]


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        ([], ""),
        (["def other():\n    pass"], ""),
        (["answer = other"], " NameError: name 'other' is not defined."),
        (["def answer(:\n    pass"], r" SyntaxError: invalid syntax \(<cell 1>, line 1\)."),
        (["answer = 1 / 0"], " ZeroDivisionError: division by zero."),
    ],
)
def test_no_answer(sources, why):
    with pytest.raises(LookupError, match=f"The notebook defines no `answer`.{why}$"):
        define(sources, "answer")


@pytest.mark.parametrize("lines", [True, False])
def test_only_the_sources_of_code_cells_are_read(tmp_path, lines):
    source = ["a = 1\n", "b = 2"] if lines else "a = 1\nb = 2"
    cells = [
        {"cell_type": "markdown", "source": "c = 3"},
        {"cell_type": "code", "source": source},
        {"cell_type": "raw", "source": "d = 4"},
    ]
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert read_cells(path) == ["a = 1\nb = 2"]


# Deliberate mistakes that these tests must catch: tests/mutants.py.
MUTANTS = {
    ("course/cells.py", "def read_cells("): [
        ('if cell["cell_type"] == "code"', ""),
        ('"".join(source)', "source"),
    ],
    ("course/cells.py", "def define("): [
        ("except Exception", "except ImportError"),
        ("except Exception", "except SyntaxError"),
        ("c.binds & needed or c.star", "c.binds & needed"),
        ("c.binds & needed or c.star", "True"),
        ("needed = needed.union(*(c.uses for c in more))", "pass"),
        ("c in chosen]", "c]"),
        (
            "except NameError as error:\n                failed.append",
            "except KeyError as error:\n                failed.append",
        ),
        ("complaints.append(error)\n        if", "raise\n        if"),
        ("if len(failed) == len(waiting)", "if True"),
        ("complaints[:1]", "complaints[1:]"),
    ],
    ("course/cells.py", "class _Statement:"): [
        ("s.is_assigned() or s.is_imported()", "s.is_assigned()"),
        ("s.is_assigned() or s.is_imported()", "s.is_imported()"),
        ("ast.FunctionDef | ast.AsyncFunctionDef", "ast.AsyncFunctionDef"),
        ("ast.Attribute | ast.Subscript)", "ast.Attribute)"),
        ("ast.Attribute | ast.Subscript)", "ast.Subscript)"),
        ("if isinstance(n.ctx, ast.Store)", ""),
        ("__future__.annotations.compiler_flag", "0"),
    ],
    ("course/cells.py", "def _statements("): [
        ('"pass\\n" if', '"" if False and'),
        ('("%", "!")', '("%",)'),
    ],
    ("course/cells.py", "def _globals("): [
        (" if symbol.is_global()", ""),
        ("names.union(*(_globals(child) for child in table.get_children()))", "names"),
    ],
}
