"""How pytest runs the chapters (nbval: each cell, its text output compared), and `--shuffle`."""

import random
from functools import cache

from nbval.plugin import IPyNbCell

from optcore.data import mnist_available


@cache
def on_digits() -> bool:
    return not mnist_available()


def pytest_addoption(parser):
    text = "run the tests in the random order of this seed (the cells of a chapter keep theirs)"
    parser.addoption("--shuffle", type=int, metavar="SEED", help=text)


def pytest_configure(config):
    # Without MNIST the chapters run on digits and print other numbers: run them, but do not
    # compare. A cell that raises, as a failed claim does, fails all the same.
    if config.option.nbval and on_digits():
        config.option.nbval_lax = True


def pytest_report_header(config):
    lines = []
    if config.option.shuffle is not None:
        lines.append(f"The tests run in the order of --shuffle={config.option.shuffle}.")
    if config.option.nbval and on_digits():
        lines.append(
            "MNIST is not available: the chapters run on digits, their outputs are not compared."
        )
    return lines


def pytest_itemcollected(item):
    # The notebooks in git hold no HTML. Every output that has HTML has a plain text as well, and
    # that is compared.
    if isinstance(item, IPyNbCell) and "text/html" not in item.parent.skip_compare:
        item.parent.skip_compare += ("text/html",)


def pytest_collection_modifyitems(config, items):
    if config.option.shuffle is not None:
        cells = [item for item in items if isinstance(item, IPyNbCell)]
        tests = [item for item in items if not isinstance(item, IPyNbCell)]
        random.Random(config.option.shuffle).shuffle(tests)
        items[:] = cells + tests
