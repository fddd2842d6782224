"""Release an assignment, look at its solutions, and grade what comes back."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from optcore.course.grade import grade
from optcore.course.model import load
from optcore.course.nbgrader import export
from optcore.course.release import NotReleased, release
from optcore.course.sandbox import NoSandbox
from optcore.course.solutions import solutions


def main(arguments: list[str]) -> int:
    """Run a command; a refusal is a sentence on standard error, and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m optcore.course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("release", help="write the student's notebook")
    command.add_argument("assignment", help="A3, for instance")
    command.add_argument("--out", type=Path, default=Path("_build/release"), metavar="FOLDER")
    command.add_argument("--nbgrader", action="store_true", help="into a folder of nbgrader's")
    command = commands.add_parser("solutions", help="write the solved notebook, for instructors")
    command.add_argument("assignment", help="A3, for instance")
    command.add_argument("--out", type=Path, default=Path("_build/solutions"), metavar="FOLDER")
    command = commands.add_parser("grade", help="grade a folder of notebooks")
    command.add_argument("assignment", help="A3, for instance")
    command.add_argument("folder", type=Path, help="the submissions")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    command.add_argument("--roster", type=Path, metavar="CSV", help="the students, a row each")
    command.add_argument("--due", type=moment, help="2026-12-01T23:59, for instance")
    command.add_argument("--late", type=float, default=10, help="percent a day (default: 10)")
    command.add_argument("--unsafe", action="store_true", help="grade without a sandbox")
    given = vars(parser.parse_args(arguments))
    name, assignment, out = (given.pop(key) for key in ("command", "assignment", "out"))
    try:
        if name == "release":
            write = export if given["nbgrader"] else release
            print(write(load(assignment), out))
            return 0
        if name == "solutions":
            print(solutions(load(assignment), out))
            return 0
        grades = grade(load(assignment), given.pop("folder"), out, **given)
    except (NoSandbox, NotReleased, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped: the same command goes on where this one was.", file=sys.stderr)
        return 130
    problems = [f"{g.submission.name} was not graded: {g.problem}" for g in grades if g.problem]
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    waits = sum(None in grade.points.values() for grade in grades)
    if waits:
        print(f"Still to be read by a person: {waits} of {len(grades)}, {out / 'reading.csv'}")
    print(out / "index.html")
    return 1 if problems else 0


def moment(text: str) -> datetime:
    """A date and time, of this machine's time zone where it names none."""
    return datetime.fromisoformat(text).astimezone()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
