"""The pages of a grading: feedback for each student, what a person reads, and a summary.

All that comes from a submission or from a roster is escaped; a page loads nothing.
"""

from __future__ import annotations

import hashlib
import re
from html import escape
from pathlib import Path
from statistics import mean, median

from optcore.course.reading import section

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem .2rem 0; text-align: left; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
li { overflow-wrap: anywhere; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
pre.text { font: inherit; } pre.code { border-left: 3px solid; padding-left: 1rem; }
img { max-width: 100%; background: white; } .wide { overflow-x: auto; } rect { fill: #3b76af; }
text { fill: currentColor; font-size: 12px; text-anchor: middle; }
"""
BINS = 10


def write(assignment, grades: list, folder: Path, left_out: dict[str, str], out: Path) -> None:
    """Write index.html, feedback/ and reading/, of grades as `grade.grade` makes them."""
    for place in ("feedback", "reading"):
        (out / place).mkdir(parents=True, exist_ok=True)
    for grade in grades:
        if grade.results:
            _save(out / _feedback(grade), _student_page(assignment, grade))
        if grade.results and assignment.readings:
            page = _to_read(assignment, grade, folder / grade.submission.name)
            _save(out / reading_page(grade.student["id"]), page)
    _save(out / "index.html", _summary(assignment, grades, left_out))


def _save(path: Path, text: str) -> None:
    # Messages and the names of files may hold what is no text.
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _feedback(grade) -> str:
    return f"feedback/{_name(grade.student['id'])}.html"


def reading_page(id: str) -> str:
    """The address of the page with what a person reads of a student's notebook."""
    return f"reading/{_name(id)}.html"


def _name(id: str) -> str:
    """The name of a student's pages: no two ids share one, whatever they are made of."""
    digest = hashlib.sha256(id.encode(errors="backslashreplace")).hexdigest()
    words = re.sub(r"[^\w.@-]", "-", id)[:50]
    return f"{words}-{digest[:8]}"


def _to_read(assignment, grade, path: Path) -> str:
    body = [f"<p>{escape(path.name)}. Points and remarks go into reading.csv.</p>"]
    for reading in assignment.readings:
        body += [f"<h2>{reading.id}: {assignment.to_read[reading.id]:g} points</h2>", "<ul>"]
        body += [f"<li>{p:g}: {escape(words)}</li>" for p, words in assignment.rubric(reading.id)]
        body += ["</ul>", f"<p><em>A full answer.</em> {escape(reading.expected)}</p>", "<hr>"]
        body += section(path, reading.id)
    return _page(f"{assignment.id} {assignment.title}: {grade.student['Student']}", body)


def _student_page(assignment, grade) -> str:
    when = f"{grade.submission.time:%Y-%m-%d %H:%M %Z}"
    body = [f"<p><strong>{grade.score:g} of {assignment.points:g} points</strong></p>"]
    if grade.late:
        body.append(f"<p>Late: {grade.penalty:g} of {grade.raw:g} points are taken off.</p>")
    body.append(f"<p>Graded: {escape(grade.submission.name)}, last changed {when}.</p>")
    for question in assignment.questions:
        result = grade.results[question.id]
        got = f"{grade.points[question.id]:g} of {question.points:g}"
        body += [f"<h2>{question.id} {escape(question.answer)}: {got}</h2>", "<ul>"]
        for case, text in zip(question.cases, result["verdicts"], strict=True):
            line = f"{'✗' if text else '✓'} {case.name} ({case.points:g})"
            body.append(f"<li>{escape(line)}<br>{escape(text)}</li>")
        body.append("</ul>")
        if result["cause"]:
            body.append(f"<p>Usual cause: {escape(result['cause'])}</p>")
    for id, most in assignment.to_read.items():
        points, remark = grade.points[id], grade.remarks[id]
        got = "not read yet" if points is None else f"{points:g} of {most:g}"
        body += [f"<h2>{id}, read by a person: {got}</h2>", f"<p>{escape(remark)}</p>"]
    title = f"{assignment.id} {assignment.title}: {grade.student['Student']}"
    return _page(title, body)


def _summary(assignment, grades, left_out) -> str:
    scores = [grade.score for grade in grades if grade.results]
    text = f"{len(scores)} of {len(grades)} students are graded"
    if scores:
        of = f"of {assignment.points:g} points"
        text += f": mean {mean(scores):.1f}, median {median(scores):g} {of}"
    waits = [grade for grade in grades if None in grade.points.values()]
    if waits:
        text += f". Still to be read by a person: {len(waits)}"
    body = [
        f"<p>{text}.</p>",
        _histogram(scores, assignment.points),
        '<div class="wide"><table>',
    ]
    ids = [*(question.id for question in assignment.questions), *assignment.to_read]
    heads = ("Student", "Score", *ids, "Late", "Submission")
    body.append(f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>")
    for grade in grades:
        name = escape(grade.student["Student"])
        link = f'<a href="{escape(_feedback(grade))}">{name}</a>' if grade.results else name
        points = [_points(grade.points.get(id)) for id in ids]
        if grade.results:
            link_to = escape(reading_page(grade.student["id"]))
            read = points[len(assignment.questions) :]
            points[len(assignment.questions) :] = [f'<a href="{link_to}">{p}</a>' for p in read]
        numbers = ["–" if grade.problem else f"{grade.score:g}", *points, f"{grade.late:.0%}"]
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        submission = escape(grade.submission.name) if grade.submission else "none"
        body.append(f"<tr><td>{link}</td>{cells}<td>{submission}</td></tr>")
    body.append("</table></div>")
    problems = {grade.submission.name: grade.problem for grade in grades if grade.problem}
    for title, files in (("Not graded", problems), ("Left out", left_out)):
        if files:
            items = [f"<li>{escape(name)}: {escape(why)}</li>" for name, why in files.items()]
            body += [f"<h2>{title}</h2>", "<ul>", *items, "</ul>"]
    return _page(f"{assignment.id} {assignment.title}: grades", body)


def _points(points: float | None) -> str:
    return "–" if points is None else f"{points:g}"


def _histogram(scores: list[float], most: float) -> str:
    """How many scores lie in each tenth of the points, as a picture."""
    counts = [0] * BINS
    for score in scores:
        counts[min(int(score / most * BINS), BINS - 1)] += 1
    unit, bars = 100 / max(max(counts), 1), []
    for i, count in enumerate(counts):
        x, height = 50 * i, unit * count
        bars.append(f'<rect x="{x + 2}" y="{120 - height:.1f}" width="46" height="{height:.1f}"/>')
        bars.append(f'<text x="{x + 25}" y="{115 - height:.1f}">{count or ""}</text>')
        ends = f"{most * i / BINS:g}–{most * (i + 1) / BINS:g}"
        bars.append(f'<text x="{x + 25}" y="136">{ends}</text>')
    label = f"Histogram: how many students have how many points, by tenths: {counts}"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 500 140" width="500">'
        f"{''.join(bars)}</svg>"
    )


def _page(title: str, body: list[str]) -> str:
    title = escape(title)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>",
            *body,
            "</html>\n",
        )
    )
