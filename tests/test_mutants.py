"""The table of deliberate mistakes is up to date: each still finds the words that it replaces."""

import ast

import pytest
from mutants import MUTANTS, ROOT, mutated


@pytest.mark.parametrize(("file", "place"), MUTANTS, ids=str)
def test_every_mistake_can_be_made(file, place):
    original = (ROOT / "optcore" / file).read_text(encoding="utf-8")
    for old, new in MUTANTS[file, place]:
        source = mutated(file, place, old, new)
        assert source != original
        ast.parse(source)  # a mistake that is no Python would be caught for the wrong reason
