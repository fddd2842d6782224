"""Rules in combination: where a rule wants its gradients, and one rule made of two."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

import torch
from torch import Tensor


def points_of(rule: Callable) -> Callable[..., tuple[Tensor, ...]] | None:
    """Return the rule's `points`, also through `functools.partial`, or `None` if it has none.

    What a partial has bound is handed on: `points_of(partial(rule, beta=0.9))` knows β.
    """
    if isinstance(rule, functools.partial):
        points = points_of(rule.func)
        return points and functools.partial(points, *rule.args, **rule.keywords)
    return getattr(rule, "points", None)


def is_of_matrices(rule: Callable) -> bool:
    """Whether a rule, or what `functools.partial` made of one, takes the last two dimensions of w
    for a matrix, as `muon` does: it has an attribute `of_matrices` then.
    """
    while isinstance(rule, functools.partial):
        rule = rule.func
    return getattr(rule, "of_matrices", False)


def by_layer(network, *, matrices: Callable, others: Callable, exclude: Collection[str] = ()):
    r"""One rule for the matrices of a network, another for the rest, as one rule of the flat w.

    Matrices are the parameters with two dimensions or more; a kernel is the matrix (out, all the
    others). `run(MiniBatch(network, 32), by_layer(network, matrices=muon, others=adam), lr=0.02,
    others={"lr": 3e-4}, …)`: hyper-parameters go to both rules, those in the mappings `matrices`
    and `others` to one of them, where they take precedence.
    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/, who leave embeddings
    and the head to AdamW: name them in `exclude`.

    Args:
        network: has `unflatten`, as `optcore.problems.Network`.
        matrices, others: rules whose gradients are taken at the iterate.
        exclude: names of matrices that are `others`'.

    Returns:
        A rule `(w, z, state, **hyper) -> (w_next, state)`, its state a dict with the state of each
        parameter by name. `w` may have rows in front, and tensors among the hyper-parameters
        broadcast against it.

    Raises:
        ValueError: `exclude` names no parameter, or a rule takes its gradients elsewhere.
    """
    shapes = {name: p.shape for name, p in network.unflatten(network.start).items()}
    if unknown := set(exclude) - set(shapes):
        raise ValueError(f"exclude names no parameter of the network: {', '.join(unknown)}.")
    for rule in (matrices, others):
        if points_of(rule):
            raise ValueError("by_layer wants rules whose gradients are taken at the iterate.")

    def rule(w, z, state=None, **hyper):
        own = {True: hyper.pop("matrices", {}), False: hyper.pop("others", {})}
        w_of, z_of = network.unflatten(w), network.unflatten(z)
        w_next, state_next = [], {}
        for name, shape in shapes.items():
            matrix = len(shape) >= 2 and name not in exclude
            form = (*w.shape[:-1], *((shape[0], -1) if matrix else shape))

            def of_parameter(value, name=name, form=form):
                # What differs from entry to entry, or from row to row, is split as w is.
                split = isinstance(value, Tensor) and value.ndim > 0
                return network.unflatten(value.expand_as(w))[name].reshape(form) if split else value

            part, state_next[name] = (matrices if matrix else others)(
                w_of[name].reshape(form),
                z_of[name].reshape(form),
                state and state[name],
                **{key: of_parameter(value) for key, value in {**hyper, **own[matrix]}.items()},
            )
            w_next.append(part.reshape(*w.shape[:-1], -1))
        return torch.cat(w_next, -1), state_next

    return rule
