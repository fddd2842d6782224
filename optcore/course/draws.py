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


def calls(
    arguments, *outputs: str, dtype: str = "float64", watch: bool = False, **settings
) -> Draw:
    """Inputs of `probes.calls`; each `arguments[i](rng)` draws those of a call: arrays, numbers."""

    def draw(rng):
        listed = [[np.asarray(x).tolist() for x in one(rng)] for one in arguments]
        inputs = {"calls": listed, "outputs": list(outputs)}
        return inputs | {"settings": settings, "dtype": dtype, "watch": watch}

    return draw
