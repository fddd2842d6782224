"""What draws a case's inputs for a probe, from a function that draws arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.random.Generator], dict]


def steps(arrays, *, dtype: str = "float64", watch: bool = False, **settings) -> Draw:
    """Inputs of `probes.steps`; `arrays(rng)` draws w and the gradients, step by step."""

    def draw(rng):
        w, gradients = arrays(rng)
        inputs = {"w": w.tolist(), "gradients": gradients.tolist()}
        return inputs | {"settings": settings, "dtype": dtype, "watch": watch}

    return draw


def calls(arguments, *outputs, dtype: str = "float64", watch: bool = False, **settings) -> Draw:
    """Inputs of `probes.calls`; each `arguments[i](rng)` draws those of a call: arrays, numbers.

    An output is the name of what is like the first argument, or a pair of a name and a form.
    """

    def draw(rng):
        inputs = {"calls": [_lists(one(rng)) for one in arguments], "outputs": _forms(outputs)}
        return inputs | {"settings": settings, "dtype": dtype, "watch": watch}

    return draw


def oracle(arguments, *outputs, budget: int, l2: float, limit: float = 0.0, **settings) -> Draw:
    """Inputs of `probes.oracle`, in float64; `arguments(rng)` draws a problem, (x, y), and those.

    `limit` is for `slope`, of which the first output must be W.
    """

    def draw(rng):
        (x, y), *drawn = arguments(rng)
        inputs = {"x": x.tolist(), "y": y.tolist(), "l2": l2, "budget": budget, "limit": limit}
        inputs |= {"arguments": _lists(drawn), "outputs": _forms(outputs), "settings": settings}
        return inputs | {"dtype": "float64"}

    return draw


def _lists(values) -> list:
    return [np.asarray(value).tolist() for value in values]


def _forms(outputs) -> list:
    return [[output, 0] if isinstance(output, str) else list(output) for output in outputs]
