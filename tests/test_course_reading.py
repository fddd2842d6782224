"""What a person reads: the page, the table for the points, and what becomes of them."""

import base64
import csv
import json
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup
from course_class import A3, SOLUTION

from optcore.course import grade as grading
from optcore.course import model
from optcore.course.__main__ import main
from optcore.course.grade import grade
from optcore.course.model import Reading, load
from optcore.course.probes import attempt
from optcore.course.reading import key, read_table, section, write_table

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
MOST = {"q6": 10.0}
ROW = {"student_id": "ada", "question": "q6", "most": "10", "notebook": "n1", "page": "p"}


def notebook(*cells):
    """A notebook's text: text cells, or code cells with their outputs."""
    listed = []
    for cell in cells:
        source, *outputs = cell if isinstance(cell, tuple) else (cell,)
        kind = "code" if isinstance(cell, tuple) else "markdown"
        listed.append({"cell_type": kind, "source": source, "outputs": outputs, "metadata": {}})
    return json.dumps({"cells": listed})


def shown(tmp_path, text, question="q6"):
    path = tmp_path / "x.ipynb"
    path.write_text(text, encoding="utf-8")
    return BeautifulSoup("".join(section(path, question)), "html.parser")


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_section_is_shown_with_its_figure_and_nothing_of_its_neighbours(tmp_path):
    figure = {"data": {"image/png": base64.encodebytes(PNG).decode(), "text/plain": "<Figure>"}}
    printed = {"name": "stdout", "text": ["one\n", "two"]}
    page = shown(
        tmp_path,
        notebook(
            "## q5 Before",
            "## q6 Discussion",
            ("plot()", figure, printed),
            "My *three* sentences.\n## not a heading of a cell",
            "## q7 After",
        ),
    )
    texts = [pre.get_text() for pre in page.find_all("pre")]
    assert texts[:3] == ["## q6 Discussion", "plot()", "one\ntwo"]
    assert len(texts) == 4 and texts[3].startswith("My *three* sentences.")
    (image,) = page.find_all("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG


def test_a_section_ends_where_another_question_begins(tmp_path):
    page = shown(
        tmp_path,
        notebook(
            ("## q6 is answered by this function",),
            "## q6 Discussion",
            ("## plot\nplot()",),
            "## My answer\nThree sentences.",
            "## q6 once more",
            "## q7 After",
        ),
    )
    texts = [pre.get_text() for pre in page.find_all("pre")]
    assert [text[:9] for text in texts] == ["## q6 Dis", "## plot\np", "## My ans", "## q6 onc"]


def test_a_small_picture_of_very_many_pixels_is_left_out(tmp_path):
    for side, there in ((4096, True), (4097, False)):
        header = (13).to_bytes(4, "big") + b"IHDR" + 2 * side.to_bytes(4, "big")
        figure = {"data": {"image/png": base64.b64encode(PNG[:8] + header).decode()}}
        page = shown(tmp_path, notebook("## q6 x", ("f()", figure)))
        assert bool(page.find("img")) == there


def test_without_its_heading_all_text_is_shown(tmp_path):
    page = shown(tmp_path, notebook("# A1", ("code()",), "My sentences."))
    assert "There is no heading “q6”" in page.get_text()
    assert [pre.get_text() for pre in page.find_all("pre")] == ["# A1", "My sentences."]
    assert not shown(tmp_path, notebook("## q6 Last", "words")).find("p")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"data": {"image/png": "<script>alert(1)</script>"}}, "no PNG"),
        ({"data": {"image/png": base64.b64encode(b"<svg onload=alert(1)>").decode()}}, "no PNG"),
        ({"data": {"image/png": 5}}, "cannot be read"),
        ({"data": 5}, "cannot be read"),
        (5, "cannot be read"),
        ({"text": 5}, "cannot be read"),
        ({"data": {"text/html": "<script>alert(1)</script>"}}, ""),
        ({"data": {"image/svg+xml": "<svg onload=alert(1)>"}}, ""),
        ({"text": "<script>alert(1)</script>"}, "<script>alert(1)</script>"),
        ({"ename": "ValueError", "evalue": "<b>no</b>"}, "<b>no</b>"),
        ({"text": "x" * 50_000}, "x\n…"),
    ],
)
def test_nothing_of_a_notebook_is_markup(tmp_path, output, words):
    page = shown(tmp_path, notebook("## q6 <img src=x onerror=alert(1)>", ("<b>", output)))
    assert words in page.get_text() and len(page.get_text()) < 25_000
    assert not page.find(["script", "svg", "b", "img"])


def test_a_picture_that_is_too_large_is_left_out(tmp_path):
    large = base64.b64encode(PNG + b"\0" * (4 << 20)).decode()
    page = shown(tmp_path, notebook("## q6 x", ("f()", {"data": {"image/png": large}})))
    assert not page.find("img") and "too large" in page.get_text()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", '{"cells": 5}', '{"cells": [5]}', '{"cells": [{"source": 5}]}']
)
def test_what_is_no_notebook(tmp_path, text):
    assert "no notebook, or a damaged one" in shown(tmp_path, text).get_text()


def test_a_section_without_end_is_cut(tmp_path):
    page = shown(tmp_path, notebook("## q6 x", *["word"] * 1000))
    assert len(page.find_all("pre")) == 100 and "There is more." in page.get_text()


def test_what_is_entered_comes_back_and_nothing_is_lost(tmp_path):
    path = tmp_path / "reading.csv"
    assert read_table(path, MOST) == {}
    emmy = ROW | {"student_id": "emmy"}
    assert write_table(path, [dict(ROW), dict(emmy)], {}) == []
    rows = table(path)
    assert [row["points"] for row in rows] == ["", ""]
    rows[0] |= {"points": "7.5", "remark": "Which floor?"}
    rows[1] |= {"remark": "later"}
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    entered = read_table(path, MOST)
    assert entered == {key(ROW): (7.5, "Which floor?"), key(emmy): (None, "later")}
    # Another notebook of Ada's counts now.
    assert write_table(path, [ROW | {"notebook": "n2"}, dict(emmy)], entered) == [key(ROW)]
    assert read_table(path, MOST) == entered
    assert [(r["notebook"], r["points"]) for r in table(path)] == [
        ("n2", ""),
        ("n1", ""),
        ("n1", "7.5"),
    ]


@pytest.mark.parametrize("points", ["11", "-1", "seven", "nan", "inf", "1 000"])
def test_points_that_are_none(tmp_path, points):
    path = tmp_path / "reading.csv"
    write_table(path, [dict(ROW)], {})
    path.write_text(path.read_text(encoding="utf-8").replace("q6,,", f"q6,{points},"))
    with pytest.raises(
        ValueError, match=f"number from 0 to 10, or empty, got '{points}' in line 2"
    ):
        read_table(path, MOST)


def test_a_decimal_comma_is_one(tmp_path):
    path = tmp_path / "reading.csv"
    write_table(path, [dict(ROW)], {})
    path.write_text(path.read_text(encoding="utf-8").replace("q6,,", 'q6,"7,5",'))
    assert read_table(path, MOST) == {key(ROW): (7.5, "")}


def test_a_table_without_a_column(tmp_path):
    (tmp_path / "reading.csv").write_text("student_id,question,points\nada,q6,5\n")
    with pytest.raises(ValueError, match="must have the column 'remark', in line 2"):
        read_table(tmp_path / "reading.csv", MOST)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A3 with a question that a person reads; `run_jobs` runs here."""
    text = tmp_path / "text" / "A3.md"
    text.parent.mkdir()
    rubric = (
        "\n\n## q6 Discussion\n\nWords.\n\n| points | for |\n|---|---|\n| 6 | a <b> |\n| 4 | c |\n"
    )
    text.write_text(A3.text.read_text(encoding="utf-8") + rubric, encoding="utf-8")
    (tmp_path / "A3.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(model, "FOLDER", tmp_path)

    def run_jobs(folder, jobs, forbids, *, unsafe):
        from optcore.course import cells

        sources = cells.read_cells(folder / jobs[0]["file"])
        return [
            [attempt(j["probe"], cells.define(sources, j["answer"]), c, "cpu") for c in j["cases"]]
            for j in jobs
        ]

    monkeypatch.setattr(grading, "run_jobs", run_jobs)
    monkeypatch.setattr(grading, "check_sandbox", lambda: None)
    return replace(A3, readings=(Reading("q6", "It says <that>."),))


def test_a_rubric_is_the_points(read):
    assert read.rubric("q6") == [(6, "a <b>"), (4, "c")]
    assert read.to_read == {"q6": 10} and read.points == 110
    assert replace(read, readings=(Reading("q5", ""),)).to_read == {"q5": 0}


def test_points_that_a_person_gives_count_in_the_next_run(read, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    answered = json.loads(notebook(*[(source,) for source in SOLUTION], "## q6 D", "I say <so>."))
    (folder / "ada.ipynb").write_text(json.dumps(answered), encoding="utf-8")
    (got,) = grade(read, folder, out)
    assert got.score == 100 and got.points["q6"] is None
    index = BeautifulSoup((out / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert "Still to be read by a person: 1." in index.get_text()
    page = out / index.find("a", string="–")["href"]
    text = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text("|")
    for words in ("q6: 10 points", "6: a <b>", "It says <that>.", "I say <so>."):
        assert words in text
    (row,) = table(out / "reading.csv")
    assert row["page"] == f"reading/{page.name}" and row["most"] == "10"
    row |= {"points": "8", "remark": "A <good> figure."}
    entered = {key(row): (8.0, row["remark"])}
    write_table(out / "reading.csv", [row], entered)
    (got,) = grade(read, folder, out)
    assert (got.score, got.points["q6"], got.remarks["q6"]) == (108, 8, "A <good> figure.")
    (feedback,) = (out / "feedback").iterdir()
    text = BeautifulSoup(feedback.read_text(encoding="utf-8"), "html.parser").get_text("|")
    assert "q6, read by a person: 8 of 10" in text and "A <good> figure." in text
    assert table(out / "grades.csv")[0]["max_score"] == "110"
    # Another notebook has to be read again; what was said of the first one is kept, and reported.
    (folder / "ada.ipynb").write_text(json.dumps(answered) + "\n", encoding="utf-8")
    (got,) = grade(read, folder, out)
    assert got.score == 100 and len(table(out / "reading.csv")) == 2
    index = (out / "index.html").read_text(encoding="utf-8")
    assert "reading.csv: ada, q6: It was said of another notebook." in index


def test_the_command_says_what_is_left_to_read(read, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("optcore.course.__main__.load", lambda id: read)
    (tmp_path / "in").mkdir()
    text = notebook(*[(source,) for source in SOLUTION])
    (tmp_path / "in" / "ada.ipynb").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    assert main(["grade", "A3", str(tmp_path / "in"), "--out", str(out)]) == 0
    wanted = f"Still to be read by a person: 1 of 1, {out / 'reading.csv'}\n"
    assert capsys.readouterr().out.startswith(wanted)


@pytest.mark.parametrize("id", ["A1", "A2", "A4", "A5", "A6"])
def test_the_books_rubrics_have_ten_points(id):
    assignment = load(id)
    assert [*assignment.to_read.values()] == [10] and assignment.points == 100


# Deliberate mistakes that these tests must catch: tests/mutants.py.
MUTANTS = {
    ("course/model.py", 'def points(self) -> float:\n        """What all questions are worth, '): [
        (" + sum(self.to_read.values())", ""),
    ],
    ("course/reading.py", "def read_table("): [
        ('.replace(",", ".")', ""),
        ("not 0 <= points <= limit", "points > limit"),
        ('or row["remark"].strip()', ""),
        ('max(",;\\t", key=sample.count)', '","'),
        ('"utf-8-sig"', '"utf-8"'),
    ],
    ("course/reading.py", "def write_table("): [
        ("kept.pop(key(row)", "kept.get(key(row)"),
        ("in kept.items()", "in ()"),
    ],
    ("course/reading.py", "def section("): [
        ("parts[:PARTS]", "parts"),
        ("i > begins[0] and ", ""),
        (" and id != question", ""),
        ('if kind != "code"', "if True"),
        ("RecursionError", "OSError"),
    ],
    ("course/reading.py", "def _picture("): [
        ("not data.startswith(PNG) or ", ""),
        (" or len(data) > PICTURE", ""),
        (" or width * height > PIXELS", ""),
    ],
    ("course/reading.py", "def _shortened("): [("escape(text", "str(text"), ("[:TEXT]", "")],
    ("course/grade.py", "def _to_read("): [("path.read_bytes()", "b''")],
    ("course/pages.py", "def _to_read("): [
        ("escape(words)", "words"),
        ("escape(reading.expected)", "reading.expected"),
    ],
    ("course/pages.py", "for id, most in assignment"): [("escape(remark)", "remark")],
}
