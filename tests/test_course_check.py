"""`check` in a student's notebook: the first place where numbers part, how far, and why."""

import json
import math
import re

import pytest
import torch

from optcore.course import begin, cells, check, checks
from optcore.course.compare import first_difference, fits, verdicts
from optcore.course.model import load
from optcore.course.probes import attempt
from optcore.course.probes import judged as judged_rows

A3 = load("A3")
SOLUTION, STUB = (A3.sources(solved=solved) for solved in (True, False))
WALK = {
    "w": [0.0, 1.0],
    "gradients": [[1.0, 2.0], [3.0, 4.0]],
    "settings": {"lr": 0.5},
    "dtype": "float64",
    "watch": False,
}


@pytest.fixture(autouse=True)
def a3(capsys):
    begin("A3")
    capsys.readouterr()


def sgd(w, z, state, *, lr):
    return w - lr * z, state


def code_lines(sources):
    """The lines of some cells that are long enough to be told from others."""
    return {line.strip() for source in sources for line in source.splitlines() if len(line) > 30}


def test_begin_prints_what_there_is(capsys):
    begin("A3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A3 Adam, AMSGrad and AdamW: 100 points"
    assert lines[2] == "  q2  adam  25"
    assert len(lines) == 6


@pytest.mark.parametrize("question", A3.questions, ids=lambda question: question.id)
def test_a_right_answer(question, capsys):
    check(question.id, cells.define(SOLUTION, question.answer))
    visible = [case for case in question.cases if case.visible]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [f"✓ {question.id}  {case.name}" for case in visible]
    assert (
        lines[-1] == f"{question.answer} is right where it was tried. Hidden cases are graded, too."
    )


@pytest.mark.parametrize("question", A3.questions, ids=lambda question: question.id)
def test_an_answer_that_is_not_there_yet(question, capsys):
    check(question.id, cells.define(STUB, question.answer))
    text = f"{question.id}  {question.answer} is not answered yet: {question.points:g} points.\n"
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("question", A3.questions, ids=lambda question: question.id)
def test_each_listed_mistake_is_named_and_the_solution_is_not(question, capsys):
    secret = code_lines(SOLUTION) - code_lines(STUB)
    for wrong in question.wrong:
        check(question.id, cells.define(question.variant(SOLUTION, wrong), question.answer))
        text = capsys.readouterr().out
        assert text.splitlines()[-1] == f"Usual cause: {wrong.cause}"
        assert "✗" in text and not any(line in text for line in secret)


def test_the_first_step_that_parts_and_by_how_much(capsys):
    right = cells.define(SOLUTION, "adam")

    def adam(w, z, state, **settings):
        w, state = right(w, z, state, **settings)
        return w + (1e-3 if state[0] == 3 else 0), state

    check("q2", adam)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "✗ q2  five steps with the usual settings"
    assert re.fullmatch(
        r" +step 3, w_next: off by up to 0.001, where the reference is -?\d[.\d]*\.", lines[1]
    )
    assert not any(line.startswith("Usual cause") for line in lines)


def test_a_case_that_passes_beside_one_that_fails(capsys):
    (inside,) = [w for w in A3.questions[1].wrong if "inside" in w.cause]
    check("q2", cells.define(A3.questions[1].variant(SOLUTION, inside), "adam"))
    marks = [line[0] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert marks == ["✓", "✗", " ", "✓"]


def test_an_error_comes_with_its_line(capsys):
    sources = [
        "def adam(w, z, state=None, **settings):\n    return step(w, z), state",
        "def step(w, z):\n    return undefined * z",
    ]
    check("q2", cells.define(sources, "adam"))
    wanted = "NameError: name 'undefined' is not defined, in `return undefined * z`."
    assert capsys.readouterr().out.splitlines()[1].strip() == wanted


@pytest.mark.parametrize("begun", [True, False])
def test_bad_arguments(begun):
    if not begun:
        checks._opened.clear()
        with pytest.raises(ValueError, match="First say which assignment this is: begin"):
            check("q1", len)
        return
    with pytest.raises(ValueError, match=r"question must be one of \['q1', .*'q5'\], got 'q9'"):
        check("q9", len)
    with pytest.raises(TypeError, match="answer must be a function, got 3"):
        check("q1", 3)
    with pytest.raises(ValueError, match=r"assignment must be one of \[.*'A3'.*\], got 'B1'"):
        begin("B1")


def test_the_visible_numbers_hold_no_code_and_no_hidden_case():
    text = (checks.RELEASED / "A3.json").read_text(encoding="utf-8")
    data = json.loads(text)
    assert not any(line in text for line in code_lines(SOLUTION))
    for question in A3.questions:
        names = [case["name"] for case in data["questions"][question.id]["cases"]]
        assert names == [case.name for case in question.cases if case.visible]
        assert names and len(names) < len(question.cases)


def strange(answer):
    """What is said of an answer to `steps`."""
    return attempt("steps", answer, WALK, "cpu")["error"]


class Equal:
    def __eq__(self, other):
        return True


class Strange(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda w: None, "It must return the pair (w_next, state), and returned None"),
        (lambda w: w, "It must return the pair (w_next, state), and returned a Tensor"),
        (lambda w: (w, 1, 2), "It must return the pair (w_next, state), and returned a tuple of 3"),
        (lambda w: (1.0, None), "w_next must be a torch.Tensor, and is a float"),
        (lambda w: (Equal(), None), "w_next must be a torch.Tensor, and is a Equal"),
        (lambda w: (w.as_subclass(Strange), 0), "w_next must be a torch.Tensor, and is a Strange"),
        (lambda w: (w.view(1, 2), 0), "w_next must have the shape (2,), and has (1, 2)"),
        (
            lambda w: (w.float(), 0),
            "w_next must have the dtype torch.float64, and has torch.float32",
        ),
        (lambda w: (w.to("meta"), 0), "w_next must have the device cpu, and has meta"),
    ],
)
def test_what_is_no_answer(returned, text):
    assert strange(lambda w, z, state, lr: returned(w)) == text


def test_a_rule_gets_its_state_back():
    def rule(w, z, state, *, lr):
        t = (state or 0) + 1
        return w - lr * t * z, t

    assert attempt("steps", rule, WALK, "cpu") == {
        "rows": {"step 1, w_next": [-0.5, 0.0], "step 2, w_next": [-3.5, -4.0]}
    }


@pytest.mark.parametrize(
    ("rule", "label"),
    [
        (lambda w, z, state, lr: (w.sub_(lr * z), 0), "step 1, what it changed in w and z"),
        (lambda w, z, state, lr: (w - z.mul_(lr), 0), "step 1, what it changed in w and z"),
        (None, "step 2, the same call again, w_next"),
    ],
)
def test_changes_in_place_are_seen(rule, label):
    count = torch.zeros(1)

    def counting(w, z, state, *, lr):
        first = state is None
        state = count if first else state.add_(1)
        return w - lr * z * (state.item() or 1), state

    inputs = WALK | {"watch": True}
    right = attempt("steps", sgd, inputs, "cpu")["rows"]
    found = attempt("steps", rule or counting, inputs, "cpu")
    assert first_difference(found, right, 1e-4).startswith(label + ": off by")


def test_calls_with_one_output_and_with_several():
    inputs = {
        "calls": [[[1.0, 2.0], 3], [[4.0], 5]],
        "outputs": [["a", 0]],
        "settings": {"b": 1},
        "dtype": "float32",
        "watch": True,
    }
    assert attempt("calls", lambda x, n, b: x * n + b, inputs, "cpu") == {
        "rows": {
            "call 1, a": [4.0, 7.0],
            "call 1, argument 1 after it": [1.0, 2.0],
            "call 2, a": [21.0],
            "call 2, argument 1 after it": [4.0],
        }
    }
    inputs |= {"outputs": [["a", 0], ["b", 0]], "watch": False}
    assert attempt("calls", lambda x, n, b: (x, -x), inputs, "cpu")["rows"] == {
        "call 1, a": [1.0, 2.0],
        "call 1, b": [-1.0, -2.0],
        "call 2, a": [4.0],
        "call 2, b": [-4.0],
    }
    for returned, shown in ((1, "a int"), ((1, 2, 3), "a tuple of 3")):
        text = f"It must return the tuple (a, b), and returned {shown}"
        assert attempt("calls", lambda x, n, b, y=returned: y, inputs, "cpu") == {"error": text}


def test_whole_numbers_stay_whole():
    inputs = {
        "calls": [[[0.5, 1.5], [1, 0]]],
        "outputs": [["a", 0]],
        "settings": {},
        "watch": False,
    }
    inputs["dtype"] = "float32"
    assert attempt("calls", lambda x, i: x[i], inputs, "cpu")["rows"] == {"call 1, a": [1.5, 0.5]}


def test_calls_that_change_an_argument():
    inputs = {"calls": [[[1.0], [2.0]]], "outputs": [["a", 0]], "settings": {}, "dtype": "float64"}
    found = attempt("calls", lambda x, y: x + y.neg_(), inputs | {"watch": True}, "cpu")["rows"]
    assert found["call 1, argument 1 after it"] == [1.0]
    assert found["call 1, argument 2 after it"] == [-2.0]
    assert len(attempt("calls", torch.add, inputs | {"watch": False}, "cpu")["rows"]) == 1


def test_outputs_of_any_form():
    """Like an argument, of a given shape, or a number of Python's."""
    inputs = {
        "calls": [[[0.5, 1.5], [1, 0]]],
        "outputs": [["order", 1], ["table", [2, 1]], ["mean", []], ["count", None]],
        "settings": {},
        "dtype": "float64",
        "watch": False,
    }

    def found(*returned):
        return attempt("calls", lambda x, i: returned, inputs, "cpu")

    right = (torch.tensor([3, 4]), torch.ones(2, 1).double(), torch.tensor(2.0).double(), 5)
    assert found(*right)["rows"] == {
        "call 1, order": [3.0, 4.0],
        "call 1, table": [1.0, 1.0],
        "call 1, mean": [2.0],
        "call 1, count": [5.0],
    }
    for place, wrong, text in (
        (0, torch.ones(2).double(), "order must have the dtype torch.int64, and has torch.float64"),
        (1, torch.ones(2).double(), "table must have the shape (2, 1), and has (2,)"),
        (1, torch.ones(2, 1), "table must have the dtype torch.float64, and has torch.float32"),
        (2, 2.0, "mean must be a torch.Tensor, and is a float"),
        (3, torch.tensor(5), "count must be an int or a float, and is a Tensor"),
        (3, True, "count must be an int or a float, and is a bool"),
    ):
        assert found(*right[:place], wrong, *right[place + 1 :]) == {"error": text}


ASK = {
    "x": [[1.0, 2.0], [0.5, -1.0], [-2.0, 0.25]],
    "y": [0, 1, 1],
    "l2": 0.1,
    "budget": 5,
    "limit": 0.4,
    "arguments": [[[0.5, 0.25], [-0.5, 1.0]], [2, 0]],
    "outputs": [["W", 0]],
    "settings": {"lr": 0.5},
    "dtype": "float64",
}


def slope_at(W, batch=None):
    """The gradient of autograd, over a batch or everything."""
    x, y = torch.tensor(ASK["x"]).double(), torch.tensor(ASK["y"])
    x, y = (x, y) if batch is None else (x[batch], y[batch])
    W = torch.as_tensor(W).double().clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ W, y) + ASK["l2"] / 2 * W.square().sum()
    return torch.autograd.grad(loss, W)[0]


def test_an_oracle_answers_and_counts():
    start = torch.tensor(ASK["arguments"][0]).double()

    def method(W, gradient, batch, *, lr):
        z = gradient(W, batch)
        gradient(W, torch.tensor([0, 0, 1]))
        return W.sub_(lr * z)

    rows = attempt("oracle", method, ASK, "cpu")["rows"]
    wanted = start - 0.5 * slope_at(start, torch.tensor([2, 0]))
    assert rows["W"] == pytest.approx(wanted.flatten().tolist(), rel=1e-12)
    assert rows["evaluations that it asked for"] == [5.0]

    inputs = ASK | {"outputs": [["start", 0]]}  # what is returned is compared, not what was given
    rows = attempt("oracle", lambda W, gradient, b, lr: W.mul_(2), inputs, "cpu")["rows"]
    assert rows["start"] == (2 * start).flatten().tolist()


@pytest.mark.parametrize(
    "batch", [(torch.arange(3),), (slice(None),), (...,), torch.ones(3, dtype=torch.bool)]
)
def test_an_oracle_counts_examples_whatever_a_batch_is(batch):
    found = attempt("oracle", lambda W, gradient, b, lr: gradient(W, batch), ASK, "cpu")
    assert found["rows"]["evaluations that it asked for"] == [3.0]


def test_an_oracle_does_not_answer_beyond_its_budget():
    text = "It asks for more than its budget of 5 evaluations"
    greedy = [3, 3]

    def method(W, gradient, batch, *, lr):
        for count in greedy:
            W = W - lr * gradient(W, torch.arange(count))
        return W

    assert attempt("oracle", method, ASK, "cpu") == {"error": text}
    assert attempt("slope", method, ASK, "cpu") == {"error": text}
    greedy[1] = 2
    assert "rows" in attempt("oracle", method, ASK, "cpu")


def test_weights_are_judged_by_the_slope_there():
    start = torch.tensor(ASK["arguments"][0]).double()
    steep, label = slope_at(start).norm().item(), "‖∇F(W)‖, or 0.4 where it is less"
    assert steep > 0.4

    def judged(returned, **changed):
        return attempt("slope", lambda W, gradient, batch, lr: returned, ASK | changed, "cpu")

    assert judged(start)["rows"] == {label: [pytest.approx(steep, rel=1e-12)]}
    W = start
    for _ in range(30):
        W = W - 0.3 * slope_at(W)
    assert slope_at(W).norm() < 0.4
    assert judged(W)["rows"] == {label: [0.4]}
    assert math.isnan(judged(math.nan * start)["rows"][label][0])
    assert judged(None) == {"error": "W must be a torch.Tensor, and is None"}


@pytest.mark.parametrize("rows", [{}, {"W": ["1"]}, {"W": [1.0, 2.0, 3.0]}, {"W": None}])
def test_rows_of_weights_that_somebody_else_wrote(rows):
    """What the sandbox hands out may be anything: it is judged, or it is no result."""
    wanted = {"error": "What came back from its process is no result"}
    assert judged_rows("slope", {"rows": rows}, ASK) == wanted


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ([1.0, 2.0], ""),
        ([1.0, 2.0 + 1.9e-4], ""),
        ([1.0 + 1.9e-4, 2.0], ""),  # in units of the row's largest
        ([1.0, 2.0 + 2.1e-4], "a: off by up to 0.00021, where the reference is 2."),
        ([1.0, -2.0], "a: off by up to 4, where the reference is 2."),
        ([math.nan, 2.0], "a: not all numbers are finite."),
        ([1.0, math.inf], "a: not all numbers are finite."),
        ([1.0], "a: there are no 2 numbers."),
        ([1.0, 2.0, 3.0], "a: there are no 2 numbers."),
        ([1.0, "2.0"], "a: there are no 2 numbers."),
        ([1.0, True], "a: there are no 2 numbers."),
        ([1.0, 10**400], "a: there are no 2 numbers."),
        ([1.0, [2.0]], "a: there are no 2 numbers."),
        ({"0": 1.0, "1": 2.0}, "a: there are no 2 numbers."),
        (None, "a: there are no 2 numbers."),
    ],
)
def test_rows_are_compared(row, text):
    assert first_difference({"rows": {"a": row}}, {"a": [1.0, 2.0]}, 1e-4) == text


def test_rows_of_zeros_and_the_first_of_several():
    reference = {"a": [0.0, 0.0], "b": [1.0]}
    assert not first_difference({"rows": {"a": [0.0, 1e-13], "b": [1.0]}}, reference, 1e-4)
    found = first_difference({"rows": {"b": [2.0], "a": [0.0, 1e-11]}}, reference, 1e-4)
    assert found == "a: off by up to 1e-11, where the reference is 0."
    assert first_difference({"rows": {}}, reference, 1e-4) == "a: there are no 2 numbers."
    assert first_difference({"error": "It is late"}, reference, 1e-4) == "It is late."
    results = [{"rows": reference}, {"rows": {}}]
    assert verdicts(results, [reference] * 2, 1e-4) == ["", "a: there are no 2 numbers."]


def test_a_mistake_that_gives_no_numbers_is_known_by_them():
    """A wrong answer whose rows hold NaN can be named; nothing else is taken for it."""
    nan, wrong = math.nan, [{"rows": {"a": [math.nan, 2.0]}}]
    assert fits([{"rows": {"a": [nan, 2.0001]}}], wrong, 1e-4)
    for row in ([nan, 2.1], [1.0, 2.0], [2.0, nan], [nan, nan]):
        assert not fits([{"rows": {"a": row}}], wrong, 1e-4)
    grown = [{"rows": {"a": [math.inf, 2.0]}}]
    assert fits(grown, grown, 1e-4)
    for row in ([-math.inf, 2.0], [math.inf, 3.0], [nan, 2.0], [1e300, 2.0]):
        assert not fits([{"rows": {"a": row}}], grown, 1e-4)


def test_a_mistake_fits_only_if_it_fits_everywhere():
    results = [{"rows": {"a": [1.0]}}, {"rows": {"a": [2.0]}}]
    assert fits(results, results, 1e-4)
    assert not fits(results, [results[0], results[0]], 1e-4)
    assert not fits(results, [results[0], {"error": ""}], 1e-4)
    assert not fits([results[0], {"error": ""}], results, 1e-4)


# Deliberate mistakes that these tests must catch: tests/mutants.py.
MUTANTS = {
    ("course/checks.py", "def begin("): [
        ('question["points"])', "1)"),
        ('_opened["to_read"].items()', "()"),
    ],
    ("course/checks.py", "def check("): [
        ("if not callable(answer)", "if False"),
        ("if not _opened", "if False"),
        ('if fits(results, labelled(references, asked["stub"])', "if False and (results"),
        ("if not any(texts)", "if not all(texts)"),
        ("if text else '✓'", "if not text else '✓'"),
    ],
    ("course/compare.py", "def verdicts("): [
        ("first_difference(result, reference, rtol) for", '"" for'),
    ],
    ("course/compare.py", "def first_difference("): [
        ("np.array(row)", "np.array(row) + 1"),
    ],
    ("course/compare.py", "def fits("): [
        ("return all(", "return any("),
        ('"error" not in other and', ""),
    ],
    ("course/compare.py", "def _numbers("): [
        ("len(row) != length", "False"),
        ("not isinstance(row, list) or ", ""),
        ("type(number) is float", "isinstance(number, float | int)"),
    ],
    ("course/compare.py", "def _close("): [
        ("rtol * scale + 1e-12", "rtol * np.abs(right[finite]) + 1e-12"),
        ("rtol * scale + 1e-12", "rtol * scale"),
        ("close.all()", "close.any()"),
        ("<= rtol", "< -rtol"),
        ("np.array_equal(numbers[~finite], right[~finite], equal_nan=True)", "True"),
        (", equal_nan=True", ""),
    ],
    ("course/probes.py", "def steps("): [
        ("w, state = w_next, state_next", "w = w_next"),
        ("w, state = w_next, state_next", "state = state_next"),
        ("(w - given[0])", "(w - w)"),
        ("(z - given[1])", "(z - z)"),
        (
            "z.clone(), state, **settings))\n            rows",
            "z.clone(), None, **settings))\n            rows",
        ),
    ],
    ("course/probes.py", "def calls("): [
        ('if inputs["watch"] and', "if"),
    ],
    ("course/probes.py", "def oracle("): [
        ("asked += labels.numel()", "asked += len(batch)"),
        ("asked > budget", "asked >= budget"),
        ("y[batch]", "y[:len(batch)]"),
        ('inputs["l2"])', "0)"),
        ("*arguments[1:], ", ""),
        ('**inputs["settings"]', ""),
    ],
    ("course/probes.py", "def logistic_gradient("): [
        ("/ len(x)", ""),
        ("+ l2 * W", ""),
    ],
    ("course/probes.py", "def judge_slope("): [
        ("limit if slope <= limit else slope", "slope"),
        ("slope <= limit", "not slope > limit"),
    ],
    ("course/probes.py", "def judged("): [
        (' or "error" in result', ""),
        ("(KeyError, TypeError, ValueError, RuntimeError)", "KeyError"),
    ],
    ("course/probes.py", "def _outputs("): [
        ("len(returned) != len(outputs)", "False"),
        ("type(output) not in (int, float)", "not isinstance(output, int | float)"),
        ("_of_shape(form, inputs, arguments[0])", "arguments[0]"),
    ],
    ("course/probes.py", "def _of_shape("): [
        ('getattr(torch, inputs["dtype"])', "torch.float32"),
    ],
    ("course/probes.py", "def _argument("): [
        ("torch.int64 if whole else", ""),
    ],
    ("course/probes.py", "def described("): [
        ("own[-1]", "own[0]"),
        ('"<cell", ', ""),
    ],
    ("course/probes.py", "def _numbers("): [
        ("type(x) is not torch.Tensor", "not isinstance(x, torch.Tensor)"),
        ('("shape", "dtype", "device")', '("dtype", "device")'),
        ('("shape", "dtype", "device")', '("shape", "device")'),
        ('("shape", "dtype", "device")', '("shape", "dtype")'),
    ],
}
