"""How the chapters are tested: pytest runs each cell (nbval) and compares its text output."""

from functools import cache

from nbval.plugin import IPyNbCell

from optcore.data import mnist_available


@cache
def on_digits() -> bool:
    return not mnist_available()


def pytest_configure(config):
    # Without MNIST the chapters run on digits and print other numbers: run them, but do not
    # compare. A cell that raises, as a failed claim does, fails all the same.
    if config.option.nbval and on_digits():
        config.option.nbval_lax = True


def pytest_report_header(config):
    if config.option.nbval and on_digits():
        return "MNIST is not available: the chapters run on digits, their outputs are not compared."
    return None


def pytest_itemcollected(item):
    # The notebooks in git hold no HTML. Every output that has HTML has a plain text as well, and
    # that is compared.
    if isinstance(item, IPyNbCell) and "text/html" not in item.parent.skip_compare:
        item.parent.skip_compare += ("text/html",)
