import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from optcore import widgets
from optcore.widgets import Choice, Line, Scene, Slider, explore

PIXEL = 0.2  # half a tenth from rounding, a tenth from leaving out points
STEPS = np.arange(60)
LR = Slider("lr", np.linspace(0.01, 0.11, 11).round(2), 0.04, "η")
BETA = Slider("beta", np.linspace(0, 0.9, 10).round(1), 0.5, "β")
PLANE = Scene((-3, 3), (-2, 2), "w₁", "w₂")
LOSS = Scene((0, 60), (1e-6, 10), "t", "f(w)", yscale="log")


def momentum(lr, beta):
    """Heavy ball from (1, 1) on ½(x² + 25 y²): the iterates, (60, 2)."""
    curvature, w, m = np.array([1.0, 25.0]), np.ones((60, 2)), np.zeros(2)
    for t in range(59):
        m = beta * m + curvature * w[t]
        w[t + 1] = w[t] - lr * m
    return w


def draw_two(lr, beta):
    w = momentum(lr, beta)
    loss = 0.5 * (w**2 @ [1, 25])
    return (
        [Line(*w.T, "iterates", "line+dots")],
        [Line(STEPS, loss, "loss", color=1)],
        f"{lr} {beta}",
    )


def draw_one(lr):
    return [Line([0, 1, 2], [0, lr, 1])]


@pytest.fixture
def shown(monkeypatch):
    """Call explore() and return its bundle."""

    def call(*args, alt="A figure.", **kwargs):
        bundles = []
        monkeypatch.setattr(
            widgets, "display", lambda bundle, raw: bundles.append(bundle) if raw else None
        )
        explore(*args, alt=alt, **kwargs)
        (bundle,) = bundles
        return bundle

    return call


def data_of(page):
    """What the script is called with, beside the figure's name."""
    return json.loads(re.search(r'\("\w+", ({.*})\);</script>', page)[1])


def decode(code):
    """Pieces of points, in tenths of a pixel."""
    pieces, here = [], np.zeros(2, dtype=int)
    for word in code.split(" "):
        steps, bits, shift = [], 0, 0
        for letter in word:
            part = ord(letter) - 63
            bits |= (part & 31) << shift
            shift += 5
            if part < 32:
                steps.append(~(bits >> 1) if bits & 1 else bits >> 1)
                bits = shift = 0
        points = here + np.cumsum(np.reshape(steps, (-1, 2)).astype(int), axis=0)
        pieces.append(points)
        here = points[-1] if len(points) else here
    return pieces


def in_pixels(scene, page, number, x, y):
    """Where data lie in the plot of scene `number`, from the page's own inner svg."""
    width, height = re.findall(r'<svg x="[^"]*" y="[^"]*" width="([^"]*)" height="([^"]*)"', page)[
        number
    ]
    f = np.log10 if scene.yscale == "log" else np.asarray
    u = float(width) * (np.asarray(x) - scene.xlim[0]) / (scene.xlim[1] - scene.xlim[0])
    v = (f(y) - f(scene.ylim[0])) / (f(scene.ylim[1]) - f(scene.ylim[0]))
    return np.stack([u, float(height) * (1 - v)], axis=1)


def distance(points, line):
    """From each point to a polyline, the greatest."""
    a, b = line[:-1], line[1:]
    length = np.maximum(((b - a) ** 2).sum(-1), 1e-12)
    t = np.clip(((points[:, None] - a) * (b - a)).sum(-1) / length, 0, 1)
    return np.linalg.norm(points[:, None] - a - t[..., None] * (b - a), axis=-1).min(1).max()


def test_bundle_has_both_faces(shown):
    bundle = shown(draw_two, [PLANE, LOSS], LR, BETA, alt="Heavy ball & <friends>.")
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"] == "[interactive figure: Heavy ball & <friends>.]"
    assert bundle["image/png"].startswith("iVBOR")
    page = bundle["text/html"]
    assert 'role="img" aria-label="Heavy ball &amp; &lt;friends&gt;."' in page
    assert 'role="img" aria-label="f(w) against t"' in page
    assert page.count('type="range"') == 2


def test_html_is_deterministic_self_contained_and_small(shown):
    page = shown(draw_two, [PLANE, LOSS], LR, BETA)["text/html"]
    assert page == shown(draw_two, [PLANE, LOSS], LR, BETA)["text/html"]
    assert len(page.encode()) < 60_000
    for forbidden in ("http", "src=", "url(", "@import", "fetch("):
        assert forbidden not in page
    other = shown(draw_one, PLANE, LR)["text/html"]
    name = r'data-explore="(\w+)"'
    assert re.search(name, page)[1] != re.search(name, other)[1]
    assert f'("{re.search(name, page)[1]}", {{' in page  # the script is told which figure
    # Two figures that start alike are still two.
    bent = shown(lambda lr: [Line([0, 1, 2], [0, min(lr, 0.05), 1])], PLANE, LR)["text/html"]
    assert data_of(bent)["frames"][3] == data_of(other)["frames"][3]
    assert re.search(name, bent)[1] != re.search(name, other)[1]


def test_frames_are_what_draw_returned(shown):
    page = shown(draw_two, [PLANE, LOSS], LR, BETA)["text/html"]
    frames = data_of(page)["frames"]
    assert len(frames) == 110
    for index in (0, 35, 79, 109):  # the last slider runs fastest
        lr, beta = LR.values[index // 10], BETA.values[index % 10]
        path, loss, note = frames[index]
        assert note == f"{lr} {beta}"
        w = momentum(lr, beta)
        wanted = in_pixels(PLANE, page, 0, *w.T)
        assert distance(wanted, np.concatenate(decode(path)) / 10) < PIXEL
        wanted = in_pixels(LOSS, page, 1, STEPS, 0.5 * (w**2 @ [1, 25]))
        visible = (wanted[:, 1] >= 0) & (wanted[:, 1] <= wanted[0, 1] + 1000)
        drawn = np.concatenate(decode(loss)) / 10
        inside = drawn[:, 1].max() - 5
        assert distance(wanted[visible & (wanted[:, 1] < inside)], drawn) < PIXEL


def test_dots_are_not_left_out(shown):
    line = Line(np.linspace(0, 2, 20), np.linspace(0, 1, 20), kind="dots")
    page = shown(lambda lr: [line], PLANE, LR)["text/html"]
    (piece,) = decode(data_of(page)["frames"][0][0])
    assert np.abs(piece / 10 - in_pixels(PLANE, page, 0, line.x, line.y)).max() <= 0.051
    assert page.split("data-dots")[1].split("/>")[0].count("h0") == 20


def test_the_page_shows_the_start_without_a_script(shown):
    page = shown(draw_two, [PLANE, LOSS], LR, BETA)["text/html"]
    line = re.search(r'<path data-line="0" [^>]*? d="([^"]*)"', page)[1]
    drawn = np.array(re.findall(r"-?\d+", line), dtype=int).reshape(-1, 2)
    frame = data_of(page)["frames"][3 * 10 + 5]
    assert (drawn == np.concatenate(decode(frame[0]))).all()
    assert re.findall(r'max="\d+" value="(\d+)"', page) == ["3", "5"]
    assert f">{frame[-1]}</p>" in page and ">η = 0.04, β = 0.5</p>" in page
    assert (
        ">Said &lt; otherwise.</p>"
        in shown(draw_one, PLANE, LR, caption_start="Said < otherwise.")["text/html"]
    )


def test_the_script_finds_every_moving_line(shown):
    page = shown(draw_two, [PLANE, LOSS], LR, BETA)["text/html"]
    numbers = re.findall('data-line="(.*?)"', page)
    assert numbers == ["0", "0", "1"]  # a line and its dots, then the loss
    assert len(data_of(page)["frames"][0]) == 2 + 1


def test_the_picture_shows_the_start(shown):
    def png(start, y=(1, 0.5, 1)):
        slider = Slider("lr", [1, 2], start)
        lines = [Line([0, 30, 60], y)]
        bundle = shown(lambda lr: [Line([0, 60], [1, lr]), *lines], LOSS, slider, caption_start="s")
        return bundle["image/png"]

    assert png(1) == png(1) != png(2)
    assert png(1, (1, 0, 1)) == png(1, (1, np.nan, 1))


def test_values_are_shown_in_their_format(shown):
    slider = Slider("lr", [-0.001, 0.5], 0.5, "η", format=".0e")
    page = shown(draw_one, PLANE, slider)["text/html"]
    assert html.escape('["−1e−03", "5e−01"]') in page and "<output>5e−01</output>" in page


def test_a_note_is_set_as_text(shown):
    page = shown(lambda lr: ([Line([0], [0])], "-0.8 after 20 000 steps, to 1e-12"), PLANE, LR)
    note = "−0.8 after 20\u202f000 steps, to 10⁻¹²"
    assert data_of(page["text/html"])["frames"][0][-1] == note
    assert f">{note}</p>" in page["text/html"]


BROWSERS = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
BROWSER = next(filter(None, BROWSERS), None)
MOVE = """<script>
  const root = document.querySelector(".explore"), heights = [];
  for (const value of [0, 1, 2]) {
    root.querySelector("input").value = value;
    root.querySelector("input").dispatchEvent(new Event("input"));
    heights.push(root.offsetHeight);
  }
  document.body.dataset.heights = heights;
</script>"""


@pytest.mark.skipif(not BROWSER, reason="there is no Chromium")
def test_the_figure_keeps_its_height(shown, tmp_path):
    # The longest of the notes is not the tallest.
    notes = {1: "i" * 80, 2: "short", 3: "W W W W W W " * 6}
    slider = Slider("lr", [1, 2, 3], 2)
    page = shown(lambda lr: ([Line([0], [0])], notes[lr]), PLANE, slider)["text/html"]
    file = tmp_path / "page.html"
    file.write_text(f'<meta charset="utf-8"><div style="width: 340px">{page}</div>{MOVE}', "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", file.as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    heights = re.search(r'data-heights="(\d+),(\d+),(\d+)"', seen).groups()
    assert len(set(heights)) == 1, heights


def test_a_choice_is_a_group_of_buttons(shown):
    seen = []
    method = Choice("method", ["SGD", "<Adam>"], "<Adam>", "by")

    def draw(lr, method):
        seen.append(method)
        return [Line([0, 1], [0, lr])]

    bundle = shown(draw, PLANE, LR, method)
    assert set(seen) == {"SGD", "<Adam>"}
    page = bundle["text/html"]
    assert re.findall(r'type="radio" value="(\d)" autocomplete="off"( checked)?>(.*?)<', page) == [
        ("0", "", "SGD"),
        ("1", " checked", "&lt;Adam&gt;"),
    ]
    assert 'role="radiogroup" aria-label="by"' in page and "by = &lt;Adam&gt;" in page
    assert len(data_of(page)["frames"]) == 2 * len(LR.values)


@pytest.mark.parametrize("y", [[0, np.nan, 0, 1], [0, np.inf, 0, 1], [0, 1e308 * 10, 0, 1]])
def test_a_gap_breaks_the_line(shown, y):
    x = [-1, 0, 1, 2]
    page = shown(lambda lr: [Line(x, y, kind="line+dots"), Line(x, y)], PLANE, LR)["text/html"]
    dotted, line, _ = data_of(page)["frames"][0]
    assert [len(piece) for piece in decode(dotted)] == [1, 2]
    assert [len(piece) for piece in decode(line)] == [2]  # a point alone is no line


def test_nothing_is_drawn_outside_the_axes(shown):
    far = Line([-1, 0, 1, 1e200, 2], [0, 1e6, 0, 0, -1e6], kind="line+dots")
    page = shown(lambda lr: [far], PLANE, LR)["text/html"]
    drawn = np.concatenate(decode(data_of(page)["frames"][0][0])) / 10
    low, high = in_pixels(PLANE, page, 0, *np.transpose([[-3, 2], [3, -2]]))
    assert (drawn >= low - 7).all() and (drawn <= high + 7).all()
    # The way up to 10⁶ leaves the axes where it should: almost straight above -1.
    (x,) = drawn[(drawn[:, 1] < 0)][:1, 0]
    assert abs(x - in_pixels(PLANE, page, 0, [-1], [0])[0, 0]) < PIXEL
    assert 'overflow="hidden"' in page


def test_zero_on_a_log_axis_is_a_gap_and_an_empty_line_is_empty(shown):
    lines = [Line([0, 1, 2, 3], [1, 0, 1, 1]), Line([], []), Line([1], [np.nan])]
    page = shown(lambda lr: lines, LOSS, LR)["text/html"]
    gap, empty, nothing, _ = data_of(page)["frames"][0]
    assert [len(piece) for piece in decode(gap)] == [2]
    assert empty == nothing == ""


def test_drag_scales_the_first_scene_only(shown):
    page = shown(draw_two, [PLANE, LOSS], LR, BETA, drag=True, start=(-1.5, 1))["text/html"]
    data = data_of(page)
    assert data["drag"]["start"] == [-1.5, 1] and data["drag"]["reach"] == [3, 2]
    index = 3 * 10 + 5
    origin = in_pixels(PLANE, page, 0, [0], [0])
    coded = np.concatenate(decode(data["frames"][index][0])) / 10
    w = momentum(0.04, 0.5)
    for start in ([-1.5, 1], [0.3, -2], [0, 0]):
        drawn = coded * np.divide(start, data["drag"]["reach"]) + origin
        assert distance(in_pixels(PLANE, page, 0, *(w * start).T), drawn) < PIXEL
    # The static picture starts where the handle will be, and its origin is the data's.
    line = re.search(r'<path data-line="0" [^>]*? d="M(-?\d+) (-?\d+)', page)
    wanted = in_pixels(PLANE, page, 0, [-1.5], [1]) - origin
    assert np.abs(np.array(line.groups(), dtype=int) / 10 - wanted).max() <= 0.051
    view = re.findall(r'<svg x="[^>]*viewBox="(\S+) (\S+) ', page)
    assert np.abs(np.array(view[0], dtype=float) / 10 + origin).max() < 0.1
    assert view[1] == ("0", "0")
    still = data_of(shown(draw_two, [PLANE, LOSS], LR, BETA)["text/html"])
    assert "drag" not in still and still["frames"][index][1:] == data["frames"][index][1:]


def test_a_diverging_run_can_be_dragged_close_to_the_optimum(shown):
    page = shown(draw_two, [PLANE, LOSS], LR, BETA, drag=True, start=(1, 1))["text/html"]
    data = data_of(page)
    coded = np.concatenate(decode(data["frames"][-10][0])) / 10  # lr = 0.11, beta = 0
    shrunk = coded * np.divide([0.02, 0.02], data["drag"]["reach"])
    height = np.abs(shrunk[:, 1]).max()
    assert height > 200  # still leaves the plot


def test_text_is_escaped(shown):
    scene = Scene((0, 1), (0, 1), "x < y", "a & b", "<b>")
    bundle = shown(
        lambda lr: ([Line([0], [0], "</svg>")], "p < 0.05 </script><script>"),
        scene,
        Slider("lr", [1, 2], 1, '"η"<'),
        alt='say "x < y"',
    )
    page = bundle["text/html"]
    for text in ("x < y", "a & b", "<b>", "</svg>", '"η"<', 'say "x < y"'):
        assert html.escape(text) in page
    assert data_of(page)["frames"][0][-1] == "p < 0.05 </script><script>"
    assert page.count("</script>") == page.count("<script") == 1


def test_integers_stay_integers(shown):
    seen = []
    shown(lambda lr: seen.append(lr) or [Line([0], [0])], PLANE, Slider("lr", range(1, 4), 2))
    assert all(type(value) is int for value in seen) and set(seen) == {1, 2, 3}


@pytest.mark.parametrize(
    ("limits", "scale", "texts"),
    [
        ((-3, 3), "linear", ["−3", "−2", "−1", "0", "1", "2", "3"]),
        ((0, 1), "linear", ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ((1e-8, 10), "log", ["10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²", "10⁰"]),
        ((1e-2, 10), "log", ["10⁻²", "10⁻¹", "10⁰", "10¹"]),
        ((1, 100), "log", ["10⁰", "10¹", "10²"]),
        ((0.5, 30), "log", ["0.5", "1", "2", "5", "10", "20"]),
        ((3, 4), "log", ["3", "3.2", "3.4", "3.6", "3.8", "4"]),
        ((0, 30000), "linear", ["0", "10000", "20000", "30000"]),
        ((0, 0.3), "linear", ["0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.3"]),
        ((-0.0003, 0.0003), "linear", ["−0.0002", "0", "0.0002"]),
    ],
)
def test_ticks(limits, scale, texts):
    assert [text for _, text in widgets._ticks(limits, scale)] == texts


BAD_FIGURES = [
    (lambda call: call(draw_one, PLANE), "sliders must be one or two, got 0"),
    (lambda call: call(draw_one, PLANE, LR, BETA, LR), "sliders must be one or two, got 3"),
    (lambda call: call(draw_one, PLANE, LR, LR), "different names, got 'lr' twice"),
    (
        lambda call: call(draw_one, [PLANE] * 3, LR),
        "scene must be one Scene or a list of two, got 3",
    ),
    (lambda call: call(draw_one, PLANE, LR, alt=" "), "alt must describe the figure"),
    (
        lambda call: call(draw_one, [PLANE, LOSS], LR),
        r"draw must return \(list of Line, list of Line\)",
    ),
    (
        lambda call: call(lambda lr: [1], PLANE, LR),
        r"draw must return .list of Line.*\{'lr': 0.01\}",
    ),
    (lambda call: call(lambda lr: None, PLANE, LR), "draw must return .list of Line.* got None"),
    (lambda call: call(lambda lr: ([], 3), PLANE, LR), r"draw must return .* got \(\[\], 3\)"),
    (lambda call: call(lambda lr: ([], "a\nb"), PLANE, LR), "draw must return .* note of one line"),
    (
        lambda call: call(lambda lr: [Line([0], [0])] * (1 + (lr > 0.05)), PLANE, LR),
        "draw must return the same lines",
    ),
    (lambda call: call(draw_one, PLANE, LR, start=(0, 0)), "start is allowed only with drag=True"),
    (lambda call: call(draw_one, PLANE, LR, drag=True), "start must be a point inside .* got None"),
    (lambda call: call(draw_one, PLANE, LR, drag=True, start=(4, 0)), r"start .* got \(4, 0\)"),
    (lambda call: call(draw_one, LOSS, LR, drag=True, start=(1, 1)), "drag=True needs linear axes"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FIGURES)
def test_bad_figures_are_refused(shown, make, message):
    with pytest.raises(ValueError, match=message):
        make(shown)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slider("lr", [], 1), r"values of 'lr' must be a list of numbers, got \[\]"),
        (lambda: Slider("lr", 3, 3), "values of 'lr' must be a list of numbers, got 3"),
        (lambda: Slider("lr", [1, 2], 1.5), r"start of 'lr' must be one of \[1, 2\], got 1.5"),
        (lambda: Choice("a", "SGD", "SGD"), "values of 'a' must be names, got 'SGD'"),
        (lambda: Choice("a", [1, 2], 1), r"values of 'a' must be names, got \[1, 2\]"),
        (lambda: Choice("a", ["b"], "c"), r"start of 'a' must be one of \['b'\], got 'c'"),
        (
            lambda: Line([1, 2], [1]),
            r"x and y must be vectors of one length, got \(2,\) and \(1,\)",
        ),
        (lambda: Line([1], [1], kind="bars"), "kind must be one of .* got 'bars'"),
        (lambda: Line([1], [1], color=6), "color must be 0 … 5, got 6"),
        (lambda: Scene((1, 0), (0, 1), "x", "y"), r"xlim must be finite, low < high, got \(1, 0\)"),
        (lambda: Scene((0, 1), (0, np.inf), "x", "y"), "ylim must be finite"),
        (
            lambda: Scene((0, 1), (0, 1), "x", "y", yscale="log"),
            "ylim must be positive on a log axis",
        ),
        (lambda: Scene((0, 1), (0, 1), "x", "y", xscale="sqrt"), "xscale must be one of .* 'sqrt'"),
    ],
)
def test_bad_parts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("widgets.py", "def explore("): [
        ("frames[values] = _frame(", "frames[values[::-1]] = _frame("),
        ("slider.values[slider.start_index]", "slider.values[0]"),
        ("caption_start or ", ""),
        ("if _looks(lines) != _looks(frames[first][0]):", "if False:"),
    ],
    ("widgets.py", "def _frame("): [
        ("n_scenes + 1 ", "n_scenes "),
        (' and "\\n" not in note', ""),
        ("isinstance(note, str) and ", ""),
        ("readable(note)", "note"),
    ],
    ("widgets.py", "class _Axes"): [
        ("1 - _fraction(y,", "_fraction(y,"),
        ("if draggable:", "if False:"),
        ("FAR if self.draggable else BLEED", "BLEED"),
        ('line.kind == "line")\n        points', "True)\n        points"),
        ("remove_nans=True", "remove_nans=False"),
        ("np.rint(path", "np.floor(path"),
    ],
    ("widgets.py", "def _encode("): [
        ("~(step << 1)", "step << 1"),
        ("            x, y = u, v\n", ""),
    ],
    ("widgets.py", "def _page("): [
        ("draggable and i == 0", "draggable"),
        ("_started(lines, reach)", "lines"),
        ("+ [note]", "+ ['']"),
        ('.replace("<", "\\\\u003c")', ""),
        ("(body + payload)", "body"),
        ("_started(lines, start), note", "lines, note"),
        ("{escape(still)}", "{still}"),
    ],
    ("widgets.py", "def _range("): [
        ("slider.start_index}", "0}"),
        ('"{escape(labels)}"', '"{labels}"'),
    ],
    ("widgets.py", "def _buttons("): [
        ("i == choice.start_index", "i == 0"),
        ("{escape(value)}", "{value}"),
    ],
    ("widgets.py", "def _png("): [
        ('"nonpositive": "mask"', '"nonpositive": "clip"'),
    ],
}
