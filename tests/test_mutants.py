"""The tables of deliberate mistakes are up to date: each still finds the words that it replaces."""

import ast

import pytest
from mutants import ROOT, mutated, tables

PLACES = {
    f"{file} {place}": (file, place, replacements)
    for table in tables().values()
    for (file, place), replacements in table.items()
}


@pytest.mark.parametrize(("file", "place", "replacements"), PLACES.values(), ids=PLACES)
def test_every_mistake_can_be_made(file, place, replacements):
    original = (ROOT / "optcore" / file).read_text(encoding="utf-8")
    for old, new in replacements:
        source = mutated(file, place, old, new)
        assert source != original
        ast.parse(source)  # a mistake that is no Python would be caught for the wrong reason


def test_there_are_tables():
    assert len(PLACES) > 50
