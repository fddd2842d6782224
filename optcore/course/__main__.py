"""python -m optcore.course release A3 [--out FOLDER]"""

import argparse
import sys
from pathlib import Path

from optcore.course.model import load
from optcore.course.release import NotReleased, release


def main(arguments: list[str]) -> int:
    """Run a command; a refusal is a sentence on standard error, and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m optcore.course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("release", help="write the student's notebook")
    command.add_argument("assignment", help="A3, for instance")
    command.add_argument("--out", type=Path, default=Path("_build/release"), metavar="FOLDER")
    given = parser.parse_args(arguments)
    try:
        print(release(load(given.assignment), given.out))
    except (NotReleased, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
