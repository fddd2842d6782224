"""Claims: the stable line, the number in the metadata, the failures."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from optcore.claims import ClaimFailed, check, html, loglog_slope, measure, typeset


@pytest.fixture
def notebook():
    """A shell as in a notebook, where outputs carry metadata."""
    yield InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("measured", "bound", "text"),
    [
        (0.25, 0.5, "≤ 0.5"),
        (0.5, 0.5, "≤ 0.5"),
        (3e-13, 1e-12, "≤ 1e-12"),
        (-5, (-math.inf, -4.0), "≤ -4"),
        (-0.98, (-1.05, -0.95), "in [-1.05, -0.95]"),
        (-0.95, (-1.05, -0.95), "in [-1.05, -0.95]"),
        (-1.05, (-1.05, -0.95), "in [-1.05, -0.95]"),
        (1000, (2, math.inf), "≥ 2"),
        (2, (2, math.inf), "≥ 2"),
        (7, (7, 7), "in [7, 7]"),
        (torch.tensor(0.25), 0.5, "≤ 0.5"),
        (np.float32(0.25), 0.5, "≤ 0.5"),
        (0.25, np.float64(0.5), "≤ 0.5"),
        (0.25, (torch.tensor(0.0), torch.tensor(0.5)), "in [0, 0.5]"),
    ],
)
def test_a_claim_that_holds(notebook, measured, bound, text):
    with capture_output() as captured:
        assert check("3.2", "The forms agree.", measured, bound) is None
    (output,) = captured.outputs
    assert output.data["text/plain"] == f"✓ 3.2  The forms agree.  [{text}]"
    assert set(output.data) == {"text/plain", "text/html"}
    assert output.metadata == {
        "claim": {
            "id": "3.2",
            "sentence": "The forms agree.",
            "measured": float(measured),
            "rounded": measure("3.2", "The forms agree.", measured, bound).rounded,
            "bound": text,
            "passed": True,
        }
    }
    json.dumps(output.metadata)  # a notebook is JSON


@pytest.mark.parametrize(
    ("measured", "bound", "number"),
    [
        ([0.1, 0.3, 0.2], 0.5, 0.3),
        ([3.0, 2.0, 9.0], (2, math.inf), 2.0),
        ([-1.0, -0.96, -1.02], (-1.05, -0.95), -0.96),
        ([-1.0, -0.98, -1.04], (-1.05, -0.95), -1.04),
        ([0.5], 0.5, 0.5),
        ({"a": 0.1, "b": 0.3}.values(), 0.5, 0.3),
        ((x / 10 for x in range(4)), 0.5, 0.3),
        (np.array([0.1, 0.3]), 0.5, 0.3),
        (torch.tensor([0.1, 0.3], dtype=torch.float64), 0.5, 0.3),
        ([torch.tensor(0.25), np.float32(0.125)], 0.5, 0.25),
    ],
)
def test_several_numbers_that_all_meet_the_bound(notebook, measured, bound, number):
    with capture_output() as captured:
        check("3.2", "The forms agree.", measured, bound)
    assert captured.outputs[0].metadata["claim"]["measured"] == number


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("bad", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (0.75, "0.75")])
@pytest.mark.parametrize("bound", [0.5, (0.0, 0.5)])
def test_one_of_several_is_outside(notebook, place, bad, shown, bound):
    measured = [0.1, 0.2]
    measured.insert(place, bad)
    with pytest.raises(ClaimFailed, match=f"3.2: measured {shown}, but the bound is "):
        check("3.2", "The forms agree.", measured, bound)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_not_finite_above_a_lower_bound(notebook, place, bad):
    measured = [3.0]
    measured.insert(place, bad)
    with pytest.raises(ClaimFailed, match=f"measured {bad}, but"):
        check("3.2", "The forms agree.", measured, (2, math.inf))


@pytest.mark.parametrize("function", [check, measure])
@pytest.mark.parametrize("nothing", [[], (), np.array([]), torch.zeros(0)])
def test_nothing_measured(nothing, function):
    with pytest.raises(ValueError, match="measured holds no number: nothing was measured"):
        function("3.2", "A sentence.", nothing, 1.0)


@pytest.mark.parametrize(
    ("measured", "bound"),
    [
        (0.5000001, 0.5),
        (math.nan, 0.5),
        (-math.inf, 0.5),
        (math.inf, (0.5, math.inf)),
        (math.nan, (0.0, 1.0)),
        (-1.06, (-1.05, -0.95)),
        (-0.94, (-1.05, -0.95)),
        (1.9, (2, math.inf)),
    ],
)
def test_a_claim_that_fails(notebook, measured, bound):
    claim = measure("10.12", "The forms agree.", measured, bound)
    assert claim.passed is False
    assert str(claim) == f"✗ 10.12  The forms agree.  [{claim.bound}]"
    with capture_output() as captured, pytest.raises(ClaimFailed) as error:
        check("10.12", "The forms agree.", measured, bound)
    assert str(error.value).startswith(f"10.12: measured {measured:.6g}, but the bound is ")
    assert str(error.value).endswith("The forms agree.")
    assert not captured.outputs
    assert isinstance(error.value, AssertionError)


def test_measured_without_a_word(notebook, capsys):
    with capture_output() as captured:
        claim = measure("3.2", "The forms agree.", [0.25, 0.125], (0, 0.5))
    assert asdict(claim) == {
        "id": "3.2",
        "sentence": "The forms agree.",
        "measured": 0.125,
        "rounded": "0.12",
        "bound": "in [0, 0.5]",
        "passed": True,
    }
    assert str(claim) == "✓ 3.2  The forms agree.  [in [0, 0.5]]"
    assert not captured.outputs
    assert not capsys.readouterr().out


def test_in_a_script_the_line_is_printed(capsys):
    check("3.2", "The forms agree.", 0.25, 0.5)
    assert capsys.readouterr().out == "✓ 3.2  The forms agree.  [≤ 0.5] measured 0.25\n"


def test_in_a_notebook_a_reader_sees_the_number(notebook):
    with capture_output() as captured:
        check("3.2", "At most σ_min < ‖G‖_F", 3e-15, 1e-12)
    page = captured.outputs[0].data["text/html"]
    assert "✓ 3.2</b> At most σ<sub>min</sub> &lt; ‖G‖<sub>F</sub> – " in page
    assert "measured <b>10⁻¹⁵</b></span>" in page.replace("10⁻¹⁴", "10⁻¹⁵")
    assert "bound ≤ 10⁻¹²</span>" in page
    failed = measure("3.2", "It holds", 0.75, 0.5)
    assert "✗ 3.2</b> It holds" in failed._repr_html_() and ">0.75<" in failed._repr_html_()


@pytest.mark.parametrize(
    ("measured", "bound", "text"),
    [
        (0, 1, "0"),
        (2.0, 9, "2"),
        (-3, 9, "−3"),
        (0.25, 1, "0.25"),
        (0.0996, 1, "0.10"),
        (1.996, 3, "2.0"),
        (-0.7617, 1, "−0.76"),
        (9.197, 99, "9.2"),
        (161.6, 999, "160"),
        (996.0, 9999, "1000"),
        (9960.5, 9999, "9960"),  # with two digits it would miss its bound
        (0.9968, 0.997, "0.997"),
        (1.995, (1.99, 1.999), "1.995"),
        (2.02, (2.01, math.inf), "2.02"),
        (0.0123, 1, "0.012"),
        (0.000123, 1, "0.00012"),
        (0.00009, 1, "10⁻⁴"),
        (1.3e-15, 1, "10⁻¹⁵"),
        (-4e-15, 1, "−10⁻¹⁴"),
        (12345.6, 1e6, "1.2 × 10⁴"),
        (-8.57e21, 1, "−8.6 × 10²¹"),
        (8.569e21, (1, math.inf), "8.6 × 10²¹"),
    ],
)
def test_what_is_measured_is_rounded(measured, bound, text):
    assert measure("3.2", "A sentence.", measured, bound).rounded == text


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("σ_min, B_crit and ‖G‖_F", "σ<sub>min</sub>, B<sub>crit</sub> and ‖G‖<sub>F</sub>"),
        ("485/‖G‖_F times", "485/‖G‖<sub>F</sub> times"),
        ("T^(−1/2), κ^0.5", "T<sup>−1/2</sup>, κ<sup>0.5</sup>"),
        ("θ_t + β(θ_t − θ_{t−1})", "θ<sub>t</sub> + β(θ<sub>t</sub> − θ<sub>t−1</sub>)"),
        ("w_t^2, r_t of F_t(w_{t+1})^*", None),
        ("(G Gᵀ)^(−1/2)", "(G Gᵀ)<sup>−1/2</sup>"),
        ("10^-4 and 2^10", "10<sup>−4</sup> and 2<sup>10</sup>"),
        ("≤ 1e-12", "≤ 10⁻¹²"),
        ("in [-2.5e-08, 1e+06]", "in [−2.5 × 10⁻⁸, 10⁶]"),
        ("in [10000, 100000]", "in [10\u202f000, 100\u202f000]"),
        ("12345.6, 0x12345, 792/12250, 1234", "12345.6, 0x12345, 792/12250, 1234"),
        ("of 2 000, 1 200.", "of 2\u202f000, 1\u202f200."),
        ("in [420, 420]", "= 420"),
        ("in [0, 0.5], in [5, 50], within [1, 1]", "in [0, 0.5], in [5, 50], within [1, 1]"),
        ("≤ -0.4, not-0.4", "≤ −0.4, not-0.4"),
        ("state_dict, my_x_t, a.b_c", "state_dict, my_x_t, a.b_c"),
        ("torch.optim.SGD(nesterov=True)", "torch.optim.SGD(nesterov=True)"),
        ("Adam(weight_decay=λ, p_norm=2)", "Adam(weight_decay=λ, p_norm=2)"),
        ("method='polar_express', 0x1e5", "method=&#x27;polar_express&#x27;, 0x1e5"),
        ("a < b & c", "a &lt; b &amp; c"),
    ],
)
def test_plain_text_is_typeset(text, page):
    if page is None:
        kinds = [("", "w"), ("sub", "t"), ("sup", "2"), ("", ", r"), ("sub", "t"), ("", " of F")]
        kinds += [("sub", "t"), ("", "(w"), ("sub", "t+1"), ("", ")"), ("sup", "*")]
        assert typeset(text) == kinds
    else:
        assert html(text) == page


@pytest.mark.parametrize("function", [check, measure])
@pytest.mark.parametrize("id", ["3", "3.", "three", "3.2.1", "", "3.2 "])
def test_bad_ids(id, function):
    with pytest.raises(ValueError, match="id must look like '3.2', got"):
        function(id, "A sentence.", 0.0, 1.0)


@pytest.mark.parametrize("function", [check, measure])
@pytest.mark.parametrize(
    "bound",
    [
        math.nan,
        math.inf,
        -math.inf,
        (1, 0),
        (0, math.nan),
        (-math.inf, math.inf),
        (0, 1, 2),
        [0, 1],
        None,
        "1",
    ],
)
def test_bad_bounds(bound, function):
    with pytest.raises(
        ValueError, match=r"bound must be a number or an interval \(low, high\), got"
    ):
        function("3.2", "A sentence.", 0.5, bound)


@pytest.mark.parametrize("exponent", [-2.0, -0.5, 0.0, 1.0])
def test_slope_of_a_power_law(exponent):
    x = torch.logspace(0, 3, 20, dtype=torch.float64)
    assert loglog_slope(x, 3 * x**exponent) == pytest.approx(exponent, abs=1e-12)


def test_slope_is_least_squares():
    # Through (0, 0), (1, 0), (2, 3) in logarithms: slope 3/2.
    assert loglog_slope([1, math.e, math.e**2], [1, 1, math.e**3]) == pytest.approx(1.5)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_slope_wants_positive_numbers(bad):
    for x, y in (([1, bad], [1, 2]), ([1, 2], [1, bad])):
        with pytest.raises(ValueError, match="x and y must hold positive finite numbers"):
            loglog_slope(x, y)


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("claims.py", "class Claim:"): [
        ("'✓' if self.passed else '✗'", "'✓'"),
    ],
    ("claims.py", "def check("): [
        ("if not claim.passed", "if False"),
        ("raise ClaimFailed", "raise ValueError"),
        (', "measured", claim.rounded', ""),
        ('str(claim), "text/html"', 'claim.rounded, "text/html"'),
    ],
    ("claims.py", "def _repr_html_("): [
        ("'✓' if self.passed else '✗'".replace("'", '"'), '"✓"'),
        ("html(self.sentence)", "escape(self.sentence)"),
        ("html(self.bound)", "escape(self.bound)"),
    ],
    ("claims.py", "def _rounded("): [
        ("abs(x) < 100", "True"),
        ('"−" * (x < 0) + power', "power"),
        ("abs(x) < 1e-4", "abs(x) < 1e-5"),
        ("while not low <= float", "while False and float"),
        ("int(exponent) >= 4", "int(exponent) >= 5"),
        ("digits - 1 - int(exponent)", "digits - int(exponent)"),
    ],
    ("claims.py", "SCRIPTED ="): [
        ("(?<![\\w.])", ""),
        ("(?![\\w=])", ""),
        ('"sub" if mark == "_"', '"sub" if mark == "^"'),
        ("|[-−]?", "|"),
        ('"" if match[1] == "1" else ', ""),
        ("escape(piece) for", "piece for"),
        ("(?!\\.?\\d)", "(?![\\d.])"),
        ("\\d{5,}", "\\d{4,}"),
        ("(?<![\\w.,/])\\d{5", "(?<![\\w.,])\\d{5"),
        ("(?!\\w|[.,]\\d)", "(?!\\w)"),
        ("\\bin \\[(", "in \\[("),
        ("\\1\\]", "\\1"),
    ],
    ("claims.py", "def measure("): [
        ("low <= number <= high", "low < number <= high"),
        ("low <= number <= high", "low <= number < high"),
        ("math.isfinite(number) and ", ""),
        ("bool(low <= number <= high)", "low <= number <= high"),
        ("sentence, number, rounded", "sentence, high, rounded"),
        ("re.fullmatch", "re.match"),
        ("(-math.inf, bound)", "(0, bound)"),
    ],
    ("claims.py", "def _nearest("): [
        (" if math.isfinite(x) else math.inf", ""),
        ("max(low - x, x - high)", "x - high"),
        ("max(low - x, x - high)", "low - x"),
        ("max(numbers", "min(numbers"),
        (' and getattr(measured, "ndim", 1) > 0', ""),
    ],
    ("claims.py", "def _bound_text("): [
        ("≥", "≤"),
    ],
    ("claims.py", "def loglog_slope("): [
        ("np.polyfit(np.log(x), np.log(y), 1)[0]", "np.polyfit(np.log(y), np.log(x), 1)[0]"),
        ("(x > 0)", "(x >= 0)"),
    ],
}
