"""What a person reads: a page with a student's section and the rubric, and a table for the points.

The notebook comes from anybody. Its text is escaped, its pictures are taken if they are PNGs, and
nothing else of it gets onto the page.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import math
import re
from html import escape
from pathlib import Path

COLUMNS = ("student_id", "question", "points", "remark", "most", "notebook", "page")
TEXT, PICTURE = 20_000, 4 << 20  # characters, and bytes, of what is shown of a cell or an output
PIXELS = 1 << 24  # of a picture, which may be small as a file
PARTS = 100  # cells and outputs that are shown
PNG = b"\x89PNG\r\n\x1a\n"


def key(row: dict) -> tuple[str, str, str]:
    """What a row's points belong to."""
    return row["student_id"], row["question"], row["notebook"]


def read_table(path: Path, most: dict[str, float]) -> dict[tuple, tuple[float | None, str]]:
    """The points and the remarks that somebody has entered, by `key`; None without points.

    Args:
        path: the table, if there is one yet.
        most: the points that each question is worth.

    Raises:
        ValueError: a column is missing, or points are no number from 0 to the most.
    """
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        sample = file.readline()
        file.seek(0)
        # A spreadsheet of another language writes semicolons.
        rows = list(csv.DictReader(file, delimiter=max(",;\t", key=sample.count)))
    entered = {}
    for number, row in enumerate(rows, 2):
        if missing := [column for column in COLUMNS[:6] if row.get(column) is None]:
            raise ValueError(f"{path} must have the column {missing[0]!r}, in line {number}, too.")
        text, limit = row["points"].strip(), most.get(row["question"], math.inf)
        try:
            points = float(text.replace(",", ".")) if text else None
        except ValueError:
            points = math.nan
        if text and not 0 <= points <= limit:
            raise ValueError(
                f"{path}: points must be a number from 0 to {limit:g}, or empty, got {text!r} in "
                f"line {number}."
            )
        if text or row["remark"].strip():
            entered[key(row)] = points, row["remark"].strip()
    return entered


def write_table(path: Path, rows: list[dict], entered: dict) -> list[tuple[str, str, str]]:
    """Write the table: a row for each section to be read, and all that was entered before.

    What was entered for a notebook that does not count stays, at the end: the keys of that.
    """
    kept = dict(entered)
    for row in rows:
        points, row["remark"] = kept.pop(key(row), (None, ""))
        row["points"] = "" if points is None else f"{points:g}"
    for (student, question, notebook), (points, remark) in kept.items():
        row = {"student_id": student, "question": question, "notebook": notebook}
        row["points"] = "" if points is None else f"{points:g}"
        rows.append(row | {"remark": remark})
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as target:
        writer = csv.DictWriter(target, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)
    return [*kept]


def section(path: Path, question: str) -> list[str]:
    """The cells under a question's heading, as HTML; of a notebook without it, all text cells."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8-sig"))["cells"]
        texts = [("".join(cell["source"]), cell.get("cell_type")) for cell in cells]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ["<p>The file is no notebook, or a damaged one.</p>"]
    # A comment in code, or a student's own heading in an answer, is none of a question.
    heads = [(i, re.match(r"## (q\d+) ", s)) for i, (s, kind) in enumerate(texts) if kind != "code"]
    heads = [(i, head[1]) for i, head in heads if head]
    if begins := [i for i, id in heads if id == question]:
        ends = [i for i, id in heads if i > begins[0] and id != question]
        parts, shown = [], cells[begins[0] : min(ends, default=None)]
    else:
        parts = [f"<p>There is no heading “{question}”: these are all cells of text.</p>"]
        shown = [cell for cell in cells if cell.get("cell_type") == "markdown"]
    parts += [part for cell in shown for part in _cell(cell)]
    return parts[:PARTS] + ["<p>There is more.</p>"] * (len(parts) > PARTS)


def _cell(cell: dict) -> list[str]:
    parts = [f"<pre class='{'code' if cell.get('cell_type') == 'code' else 'text'}'>"]
    parts[0] += f"{_shortened(''.join(cell['source']))}</pre>"
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        parts += _output(output)
    return parts


def _output(output) -> list[str]:
    try:
        data = output.get("data", {})
        if "image/png" in data:
            return [_picture("".join(data["image/png"]))]
        text = output.get("text") or data.get("text/plain") or output.get("evalue", "")
        return [f"<pre class='output'>{_shortened(''.join(text))}</pre>"] if text else []
    except (AttributeError, TypeError):
        return ["<p>An output cannot be read.</p>"]


def _picture(encoded: str) -> str:
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    # After the mark come a length, a name, and then the picture's width and height.
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    if not data.startswith(PNG) or len(data) > PICTURE or width * height > PIXELS:
        return "<p>There is a picture that is no PNG, or too large a one.</p>"
    source = base64.b64encode(data).decode()
    return f"<img alt='a figure of the student’s' src='data:image/png;base64,{source}'>"


def _shortened(text: str) -> str:
    return escape(text[:TEXT] + ("\n…" if len(text) > TEXT else ""))
