"""The ledger: which claims each chapter owes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

LEDGER: dict[str, dict] = tomllib.loads(
    Path(__file__).parents[1].joinpath("ledger.toml").read_text(encoding="utf-8")
)


def problems(
    ledger: Mapping[str, dict], pages: set[str], checked: Mapping[str, set[str]]
) -> Iterator[tuple[str, str]]:
    """Where the pages and the ledger disagree, as pairs of a chapter and a sentence.

    A chapter of the ledger that is not among the pages is not yet written, which is no problem. A
    page that is no chapter, such as an appendix, may hold claims of any chapter that is built.

    Args:
        ledger: the chapters by name, each with its list of `claims`.
        pages: the names of the pages that are built.
        checked: the ids of the claims that each page checks.
    """
    owner = {id: name for name, chapter in ledger.items() for id in chapter["claims"]}
    appendices = set().union(*(ids for name, ids in checked.items() if name not in ledger))
    for name in sorted(pages):
        found = checked.get(name, set())
        owed = ledger[name]["claims"] if name in ledger else []
        if missing := [id for id in owed if id not in found | appendices]:
            yield name, f"claims of the ledger that are not checked: {', '.join(missing)}"
        for id in sorted(found - set(owed)):
            if id not in owner:
                yield name, f"claim {id} is not in the ledger"
            elif name in ledger or owner[id] not in pages:
                yield name, f"claim {id} belongs to the chapter {owner[id]}"
