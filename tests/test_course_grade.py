"""Grading a folder: whose a notebook is, which one counts, tables, pages, going on again."""

import csv
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import course_class
import pytest
from bs4 import BeautifulSoup
from course_class import A3, SOLUTION, STUB, notebook

from optcore.course import cells, sandbox
from optcore.course import grade as grading
from optcore.course.__main__ import main, moment
from optcore.course.grade import Submission, collect, grade, last, read_roster
from optcore.course.probes import attempt
from optcore.course.sandbox import NoSandbox

DUE = datetime(2026, 12, 1, 12, tzinfo=UTC)
FULL, PART = notebook(SOLUTION), course_class.PARTLY["carl"][0]
ROSTER = "id,last_name,first_name,email\nada,Lovelace,Ada,ada@b.c\nemmy,Noether,Emmy,\n"
CANVAS = (
    "Student,ID,SIS User ID,SIS Login ID,Section,A3 Adam (77),A31 (78)\n"
    "    Points Possible,,,,,100,10\n"
    '"Lovelace, Ada",101,s1,ada,One,,\n"Noether, Emmy",102,s2,emmy,One,,\n'
)


@pytest.fixture
def class_(tmp_path):
    """Write files into the folder of submissions, changed so many hours after `DUE`."""

    def write(files: dict[str, str], hours: float = 0):
        for name, text in files.items():
            path = tmp_path / "submissions" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed = (DUE + timedelta(hours=hours)).timestamp()
            os.utime(path, (changed, changed))
        return tmp_path / "submissions"

    return write


@pytest.fixture
def runs(monkeypatch):
    """Run what is handed in here, in this process; the jobs' inputs, a list a notebook."""
    inputs = []

    def run_jobs(folder, jobs, forbids, *, unsafe):
        assert [path.name for path in folder.iterdir()] == [jobs[0]["file"]]
        inputs.append([job["cases"] for job in jobs])
        sources = cells.read_cells(folder / jobs[0]["file"])
        answers = [(job, cells.define(sources, job["answer"])) for job in jobs]
        return [
            [attempt(job["probe"], answer, case, "cpu") for case in job["cases"]]
            for job, answer in answers
        ]

    monkeypatch.setattr(grading, "run_jobs", run_jobs)
    monkeypatch.setattr(grading, "check_sandbox", lambda: None)
    return inputs


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_command(class_, tmp_path, capsys):
    folder, out = class_({"ada.ipynb": FULL, "emmy (1).ipynb": PART}), tmp_path / "grades"
    assert main(["grade", "A3", str(folder), "--out", str(out), "--unsafe"]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    rows = table(out / "grades.csv")
    assert [(row["student_id"], row["score"]) for row in rows] == [
        ("ada", "100"),
        ("emmy (1)", "86"),
    ]
    assert len([*(out / "feedback").iterdir()]) == 2


def test_the_command_takes_a_due_date_and_a_roster(class_, tmp_path, runs):
    folder, roster = class_({"ada.ipynb": FULL}, 1), written(tmp_path / "roster.csv", ROSTER)
    command = ["grade", "A3", str(folder), "--out", str(tmp_path), "--roster", str(roster)]
    assert main([*command, "--due", "2026-12-01T12:00+00:00", "--late", "25"]) == 0
    assert [row["score"] for row in table(tmp_path / "grades.csv")] == ["75", "0"]
    assert moment("2026-12-01T12:00+00:00") == DUE and moment("2026-12-01").tzinfo


def test_without_a_sandbox_nothing_is_graded(class_, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    command = ["grade", "A3", str(class_({"ada.ipynb": FULL})), "--out", str(tmp_path / "grades")]
    assert main(command) == 1
    assert "bubblewrap is not installed" in capsys.readouterr().err
    assert not (tmp_path / "grades").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"late": -1}, "late must be a number of percent from 0 to 100, got -1"),
        ({"late": float("nan")}, "late must be a number of percent from 0 to 100, got nan"),
        ({"folder": Path("nowhere")}, "folder must hold notebooks of students, and nowhere holds"),
        ({"roster": "name\nada\n"}, "roster must have a column `id` and a row a student"),
        ({"roster": "id\n"}, "roster must have a column `id` and a row a student"),
        ({"roster": "id\nada\nada \n"}, "roster must name a student once; .* has 'ada' twice"),
    ],
)
def test_what_is_refused(class_, tmp_path, runs, changed, words):
    if "roster" in changed:
        changed = {"roster": written(tmp_path / "roster.csv", changed["roster"])}
    arguments = {"folder": class_({"ada.ipynb": FULL}), "out": tmp_path / "grades"} | changed
    with pytest.raises(ValueError, match=words):
        grade(A3, **arguments)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("ada.ipynb", "ada"),
        ("Ada Lovelace.IPYNB", "Ada Lovelace"),
        ("ada (1).ipynb", "ada (1)"),
        ("ada.ipynb (1)", "ada"),
        ("ada.ipynb.txt", "ada"),
        ("ada.ipynb.json", "ada"),
        ("ada/A3/Untitled 7.ipynb", "ada"),
        ("=1+1.ipynb", "=1+1"),
        (" ada .ipynb", "ada"),
    ],
)
def test_whose_a_notebook_is_without_a_roster(class_, name, id):
    found, left_out = collect(class_({name: FULL}), None)
    assert [*found] == [id] and not left_out
    assert found[id] == [Submission(name, DUE)]


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("ada.ipynb", "ada"),
        ("lovelaceada_LATE_101_5555_A3-1.ipynb", "101"),
        ("ada_102_5555_A3.ipynb", None),  # two
        ("adam.ipynb", None),
        ("101b.ipynb", None),
        ("2101.ipynb", None),
        ("x+y/A3.ipynb", "x+y"),
        ("102/ada.ipynb", "102"),
        ("Lovelace Ada_102_assignsubmission_file/final.ipynb", "102"),
    ],
)
def test_whose_a_notebook_is_by_the_roster(class_, name, id):
    found, left_out = collect(class_({name: FULL}), dict.fromkeys(("ada", "101", "102", "x+y")))
    assert [*found] == ([id] if id else []) and [*left_out] == ([] if id else [name])


def test_what_is_left_out(class_, monkeypatch):
    monkeypatch.setattr(grading, "LARGEST", len(FULL))
    folder = class_({"ada.ipynb": FULL, "big.ipynb": FULL + " ", "ada.py": "", "a/ada.zip": ""})
    class_({".ipynb_checkpoints/ada.ipynb": FULL, "x/._ada.ipynb": "", "__MACOSX/a.ipynb": ""})
    (folder / "linked.ipynb").symlink_to(folder / "ada.ipynb")
    (folder / "folder").symlink_to(folder / "a")
    os.mkfifo(folder / "pipe.ipynb")
    found, left_out = collect(folder, None)
    assert [*found] == ["ada"]
    assert left_out == {
        "a/ada.zip": "It is no notebook.",
        "ada.py": "It is no notebook.",
        "big.ipynb": "It is larger than 0 MB.",
        "linked.ipynb": "It is a link, or no file.",
        "pipe.ipynb": "It is a link, or no file.",
    }


def test_one_file_of_an_archive_does_not_stop_the_run(class_, monkeypatch):
    folder = class_({"ada.ipynb": FULL, "closed.ipynb": FULL, "old.ipynb": FULL})
    access, from_time = grading.os.access, grading.datetime.fromtimestamp
    os.utime(folder / "old.ipynb", (1, 1))

    class Dates(grading.datetime):
        @classmethod
        def fromtimestamp(cls, time):
            if time == 1:  # not every file system keeps a time that is no date
                raise ValueError("year 33658 is out of range")
            return from_time(time)

    monkeypatch.setattr(grading, "datetime", Dates)
    monkeypatch.setattr(  # to root everything is open
        grading.os, "access", lambda path, mode: path.name != "closed.ipynb" and access(path, mode)
    )
    found, left_out = collect(folder, None)
    assert [*found] == ["ada"]
    assert left_out == {
        "closed.ipynb": "It cannot be read.",
        "old.ipynb": "When it was last changed is no date.",
    }


@pytest.mark.parametrize(
    ("hours", "counts"),
    [
        ({"b": -2, "a": -1}, "a"),
        ({"b": -1, "a": 0, "c": 1}, "a"),  # the moment itself is on time
        ({"b": 1, "a": 2}, "a"),
        ({"A3": 0, "A3-10": 0, "A3-2": 0}, "A3-10"),
        ({"A3": 0, "A3 (2)": 0}, "A3 (2)"),
        ({"1": 0, "²": 0}, "²"),
    ],
)
def test_which_of_several_counts(hours, counts):
    submissions = [Submission(f"{n}.ipynb", DUE + timedelta(hours=h)) for n, h in hours.items()]
    assert last(submissions, DUE).name == f"{counts}.ipynb"
    latest = max(submissions, key=lambda submission: submission.time).time
    assert last(submissions, None).time == latest


@pytest.mark.parametrize(
    ("hours", "late", "penalty"),
    [(0, 10, 0), (0.1, 10, 8.6), (24, 10, 8.6), (24.1, 10, 17.2), (240.5, 10, 86), (30, 0, 0)],
)
def test_lateness_costs_points_by_the_day(class_, tmp_path, runs, hours, late, penalty):
    (got,) = grade(A3, class_({"ada.ipynb": PART}, hours), tmp_path, due=DUE, late=late)
    assert (got.raw, got.penalty, got.score) == (86, penalty, 86 - penalty)
    (row,) = table(tmp_path / "grades.csv")
    assert row["raw_score"] == "86" and float(row["late_submission_penalty"]) == penalty
    page = next((tmp_path / "feedback").iterdir()).read_text(encoding="utf-8")
    assert ("Late:" in page) == (penalty > 0)


def test_the_tables(class_, tmp_path, runs):
    folder = class_({"ada/A3.ipynb": FULL}, -1)
    grades = grade(A3, folder, tmp_path, roster=written(tmp_path / "r.csv", ROSTER), due=DUE)
    first, second = table(tmp_path / "grades.csv")
    assert datetime.fromisoformat(first.pop("timestamp")) == DUE - timedelta(hours=1)
    assert datetime.fromisoformat(first.pop("duedate")) == DUE
    assert first == {
        "assignment": "A3",
        "student_id": "ada",
        "last_name": "Lovelace",
        "first_name": "Ada",
        "email": "ada@b.c",
        "raw_score": "100",
        "late_submission_penalty": "0",
        "score": "100",
        "max_score": "100",
    }
    assert second["student_id"] == "emmy" and second["score"] == "0" and not second["timestamp"]
    assert table(tmp_path / "canvas.csv")[0] == {
        "Student": "Lovelace, Ada",
        "ID": "ada",
        "SIS User ID": "",
        "SIS Login ID": "",
        "Section": "",
        "A3": "100",
    }
    assert [g.score for g in grades] == [100, 0] and grades[1].submission is None


def test_canvas_gets_its_own_columns_back(class_, tmp_path, runs):
    roster = written(tmp_path / "roster.csv", "\ufeff" + CANVAS)
    grade(A3, class_({"noetheremmy_102_9_A3.ipynb": PART}), tmp_path, roster=roster)
    header = (tmp_path / "canvas.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == CANVAS.splitlines()[0].removesuffix(",A31 (78)")
    assert [row["A3 Adam (77)"] for row in table(tmp_path / "canvas.csv")] == ["0", "86"]
    names = [(row["last_name"], row["first_name"]) for row in table(tmp_path / "grades.csv")]
    assert names == [("Lovelace", "Ada"), ("Noether", "Emmy")]
    assert read_roster(roster)["101"]["SIS Login ID"] == "ada"


@pytest.mark.parametrize(
    ("id", "text"),
    [(id, f"'{id}") for id in ("=HYPERLINK(1)", "+1", "-1", "@a")]
    + [("x;=1", "x;'=1"), ("x\t@a", "x\t'@a"), ("x; =1", "x;' =1"), ("x;y-1=", "x;y-1=")],
)
def test_no_cell_is_a_formula(class_, tmp_path, runs, id, text):
    """Nor are those that a spreadsheet makes of one at a semicolon or a tab."""
    grade(A3, class_({f"{id}.ipynb": FULL}), tmp_path)
    assert table(tmp_path / "grades.csv")[0]["student_id"] == text
    assert table(tmp_path / "canvas.csv")[0]["Student"] == text


def test_an_interrupted_run_goes_on_and_grades_nothing_twice(class_, tmp_path, runs, monkeypatch):
    texts = {f"s{i}.ipynb": notebook(SOLUTION, number=i) for i in range(4)}
    folder, run_jobs = class_(texts), grading.run_jobs

    def interrupted(*arguments, **settings):
        if len(runs) == 2:
            raise KeyboardInterrupt
        return run_jobs(*arguments, **settings)

    monkeypatch.setattr(grading, "run_jobs", interrupted)
    assert main(["grade", "A3", str(folder), "--out", str(tmp_path)]) == 130
    assert not (tmp_path / "grades.csv").exists()
    monkeypatch.setattr(grading, "run_jobs", run_jobs)
    for _ in range(2):
        grade(A3, folder, tmp_path)
        assert len(runs) == 4 and len(table(tmp_path / "grades.csv")) == 4


def test_half_a_file_of_the_store_is_not_taken(class_, tmp_path, runs, monkeypatch):
    folder = class_({"ada.ipynb": FULL})
    monkeypatch.setattr(Path, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        grade(A3, folder, tmp_path)
    monkeypatch.undo()
    assert not [*(tmp_path / "graded").glob("*.json")]


def test_the_same_submission_gets_the_same_inputs_and_another_one_others(class_, tmp_path, runs):
    folder = class_({"ada.ipynb": PART, "emmy.ipynb": PART, "paul.ipynb": PART + "\n"})
    first = grade(A3, folder, tmp_path / "a")
    assert len(runs) == 2 and runs[0] != runs[1]
    assert grade(A3, folder, tmp_path / "b") == first and runs[2:] == runs[:2]
    assert first[0].results == first[1].results != first[2].results
    assert first[0].score == first[2].score


def test_another_version_of_the_assignment_grades_again(class_, tmp_path, runs, monkeypatch):
    folder = class_({"ada.ipynb": FULL})
    grade(A3, folder, tmp_path)
    monkeypatch.setattr(type(A3), "version", "another")
    grade(A3, folder, tmp_path)
    assert len(runs) == 2 and runs[0] != runs[1]


def test_what_this_machine_fails_to_grade_gets_no_points_and_no_row(
    class_, tmp_path, runs, monkeypatch, capsys
):
    folder, run_jobs = class_({"ada.ipynb": FULL, "emmy.ipynb": PART}), grading.run_jobs

    def failing(folder, *arguments, **settings):
        if (folder / "submission.ipynb").read_text(encoding="utf-8") == FULL:
            raise NoSandbox("The worker ended early: <no reason>")
        return run_jobs(folder, *arguments, **settings)

    monkeypatch.setattr(grading, "run_jobs", failing)
    assert main(["grade", "A3", str(folder), "--out", str(tmp_path)]) == 1
    assert "ada.ipynb was not graded: The worker ended early" in capsys.readouterr().err
    for file in ("grades.csv", "canvas.csv"):
        assert len(table(tmp_path / file)) == 1
    page = BeautifulSoup((tmp_path / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert "ada.ipynb: The worker ended early: <no reason>" in page.get_text()
    assert page.find("td", string="ada").find_next("td").get_text() == "–"
    monkeypatch.setattr(grading, "run_jobs", run_jobs)
    assert main(["grade", "A3", str(folder), "--out", str(tmp_path)]) == 0


def test_the_feedback_page(class_, tmp_path, runs):
    grade(A3, class_({"carl.ipynb": PART}), tmp_path)
    (path,) = (tmp_path / "feedback").iterdir()
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    assert page.h1.get_text() == "A3 Adam, AMSGrad and AdamW: carl"
    assert page.strong.get_text() == "86 of 100 points"
    assert [h.get_text() for h in page.find_all("h2")][:2] == [
        "q1 moments: 15 of 15",
        "q2 adam: 11 of 25",
    ]
    lines = [li.get_text(" ") for li in page.find_all("ul")[1].find_all("li")]
    assert lines[0].strip() == "✓ five steps with the usual settings (8)"
    assert lines[1].startswith("✗ five steps with a short memory and a large ε (7) step 1, w_next:")
    assert "Usual cause: ε stands inside the root." in page.get_text()


def test_an_unanswered_question_is_called_so(class_, tmp_path, runs):
    (got,) = grade(A3, class_({"ada.ipynb": notebook(STUB)}), tmp_path)
    assert {result["cause"] for result in got.results.values()} == {"It is not answered."}
    assert got.score == 0


def test_pages_are_told_apart_and_hold_no_markup_of_a_students(class_, tmp_path, runs):
    raising = "def adam(*a, **k):\n    raise ValueError('<script>alert(1)</script>')"
    text = notebook(course_class.answered("adam", raising))
    ids = ["a b", "a-b", "<b>", "&amp;", "a..", "é" * 120]
    grade(
        A3,
        class_({f"{id}.ipynb": text for id in ids[:-1]} | {f"{ids[-1]}/x.ipynb": text}),
        tmp_path,
    )
    index = BeautifulSoup((tmp_path / "index.html").read_text(encoding="utf-8"), "html.parser")
    links = {a.get_text(): tmp_path / a["href"] for a in index.find_all("a")}
    assert sorted(links) == sorted(ids)
    assert {*links.values()} == {*(tmp_path / "feedback").iterdir()} and len({*links.values()}) == 6
    for id, path in links.items():
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        assert page.h1.get_text().endswith(f": {id}")
        assert "ValueError: <script>alert(1)</script>, in" in page.get_text()
        assert not page.find("script") and not page.find("b")


def test_what_is_no_text_is_written_as_it_can_be(class_, tmp_path, runs):
    name = os.fsdecode(b"\xff.ipynb")
    text = course_class.hostile(tmp_path, 0)["no_text"][0]
    (got,) = grade(A3, class_({name: text}), tmp_path)
    assert got.score == 75
    (path,) = (tmp_path / "feedback").iterdir()
    assert "ValueError: \\ud800" in path.read_text(encoding="utf-8")
    assert table(tmp_path / "grades.csv")[0]["student_id"] == "\\udcff"


def test_the_summary(class_, tmp_path, runs):
    folder = class_(
        {"ada.ipynb": FULL, "carl.ipynb": PART, "x.pdf": "", "paul.ipynb": notebook(STUB)}
    )
    roster = written(tmp_path / "roster.csv", "id\nada\ncarl\npaul\nsofia\n")
    grade(A3, folder, tmp_path, roster=roster)
    page = BeautifulSoup((tmp_path / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert "3 of 4 students are graded: mean 62.0, median 86 of 100 points." in page.get_text()
    assert page.svg["aria-label"].endswith("by tenths: [1, 0, 0, 0, 0, 0, 0, 0, 1, 1]")
    heights = [float(rect["height"]) for rect in page.find_all("rect")]
    assert heights == [100, *[0] * 7, 100, 100]
    rows = [[td.get_text() for td in tr.find_all("td")] for tr in page.find_all("tr")[1:]]
    assert rows[1] == ["carl", "86", "15", "11", "20", "20", "20", "0%", "carl.ipynb"]
    assert rows[3] == ["sofia", "0", "–", "–", "–", "–", "–", "0%", "none"]
    assert "x.pdf: It is no notebook." in page.get_text()
    assert not page.find(src=True) and not page.find("link")


def test_where_nobody_is_found_the_first_file_says_why(class_, tmp_path, runs):
    roster = written(tmp_path / "roster.csv", "id\nada\nemmy\n")
    with pytest.raises(ValueError, match="none. paul.ipynb: Its path names 0 students of the rost"):
        grade(A3, class_({"paul.ipynb": FULL}), tmp_path, roster=roster)


# Deliberate mistakes that these tests must catch: tests/mutants.py.
MUTANTS = {
    ("course/grade.py", "def penalty("): [("self.raw * self.late", "self.late")],
    ("course/grade.py", "def score("): [("self.raw - self.penalty", "self.raw")],
    ("course/grade.py", "def grade("): [
        ("if not 0 <= late <= 100", "if late < 0 or late > 100"),
        ("if not unsafe:", "if unsafe:"),
        ("if not found:", "if False:"),
        ("except NoSandbox", "except ZeroDivisionError"),
        ("_lost(submission, due, late)", "_lost(submission, due, 10)"),
    ],
    ("course/grade.py", "def read_roster("): [
        ('"utf-8-sig"', '"utf-8"'),
        ("in students:", "in []:"),
        ('if student["id"]:', "if True:"),
        ('not {"id", "ID"} & rows[0].keys()', "False"),
    ],
    ("course/grade.py", "def collect("): [
        ('(".", "__MACOSX")', '(".",)'),
        ('(".", "__MACOSX")', '("__MACOSX",)'),
        ("path.is_symlink() or ", ""),
        (" or not path.is_file()", ""),
        ("> LARGEST", "> LARGEST + 1"),
        ("not os.access(path, os.R_OK)", "False"),
        ("except (ValueError", "except (KeyError"),
        ("len(ids) != 1", "not ids"),
        ("ids[0], []).append", "ids[0], [])[:].append"),
    ],
    ("course/grade.py", "def last("): [
        ("s.time <= due", "s.time < due"),
        ("due is None or ", ""),
        ("on_time or submissions", "submissions"),
        ("key=_order", "key=lambda s: s.time"),
        ("max(", "min("),
    ],
    ("course/grade.py", "def graded("): [
        ("assignment.version.encode() + ", ""),
        (" + copy.read_bytes()", ""),
        ("if kept.exists()", "if False"),
        ("run_jobs(Path(folder)", "run_jobs(path.parent"),
        ("part.write_text", "kept.write_text"),
    ],
    ("course/grade.py", "def _judged("): [
        ("if any(texts)", "if not any(texts)"),
        ("{UNANSWERED: stub} | mistakes", "mistakes"),
        ("question.measure(solution, seed)", 'question.measure(solution, "")'),
    ],
    ("course/grade.py", "def _student("): [
        (".strip()", ""),
        ('row.get("ID", "")', '""'),
        ("name or id", "name"),
        ("canvas | row |", "row | canvas |"),
    ],
    ("course/grade.py", "def _ids("): [
        ("re.escape(i)", "i"),
        (r"(?<![^\W_])", ""),
        (r"(?![^\W_])", ""),
        (r"(?![^\W_])", r"(?!\w)"),
        ("name.parts:", "name.parts[::-1]:"),
        (".strip()", ""),
    ],
    ("course/grade.py", "def _order("): [
        ("int(w) if i % 2", "int(w) if w.isdigit()"),
        ("int(w) if i % 2 else w", "w"),
        ("path.with_name(stem)", "path"),
    ],
    ("course/grade.py", "def _lost("): [
        ("max(0, ", "("),
        ("min(1.0, ", "(1 * "),
        ("math.ceil", "math.floor"),
    ],
    ("course/grade.py", "def _write_tables("): [
        ("if not grade.problem", "if True"),
        (r"\b", ""),
        ("grade.student | row", "row | grade.student"),
        ('errors="backslashreplace"', 'errors="strict"'),
        ('"raw_score": grade.raw', '"raw_score": grade.score'),
    ],
    ("course/grade.py", "def _text("): [
        ("[=+@-]", "[+@-]"),
        ("[=+@-]", "[=@-]"),
        ("[=+@-]", "[=+@]"),
        ("[=+@-]", "[=+-]"),
        ("|[;", "|[,"),
        (";\\t]", ";]"),
        (r"\s*", ""),
    ],
    ("course/pages.py", "def write("): [("if grade.results", "if grade.submission")],
    ("course/pages.py", "def _save("): [('errors="backslashreplace"', 'errors="strict"')],
    ("course/pages.py", "def _feedback("): [('errors="backslashreplace"', 'errors="strict"')],
    ("course/pages.py", "words = "): [("-{digest[:8]}", ""), ("[:50]", "")],
    ("course/pages.py", "def _student_page("): [
        ("if text else '✓'", "if not text else '✓'"),
        ("escape(text)", "text"),
        ("if grade.late", "if True"),
    ],
    ("course/pages.py", "def _summary("): [
        ("escape(grade.student", "str(grade.student"),
        ("escape(name)", "name"),
        ("escape(why)", "why"),
        ("if grade.results]", "]"),
    ],
    ("course/pages.py", "def _histogram("): [("BINS - 1)", "BINS)"), ("unit * count", "count")],
    ("course/pages.py", "def _page("): [("title = escape(title)", "title = title")],
}
