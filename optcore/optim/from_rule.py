"""Any pure rule as a `torch.optim.Optimizer`: one of `optcore.rules`, or your own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from optcore.optim.base import CheckedOptimizer, check_rate, name_of, rate_of, state_dtype
from optcore.rules import points_of

# Arguments of a group that are not the rule's; the last is a scheduler's.
OURS = {"params", "param_names", "maximize", "error_if_nonfinite", "initial_lr"}


class FromRule(CheckedOptimizer):
    """A rule `(w, z, state, *, lr, …) -> (w_next, state)`, applied to each parameter::

        optimizer = FromRule(model.parameters(), heavy_ball, lr=0.1, beta=0.9)

    Groups, schedulers, closures, named parameters, `state_dict` and loading are torch's. The rule
    is run as it is, on copies: an optimizer written by hand, as `SGD` or `Adam`, is faster. It runs
    once for each parameter when that is added, on ones: there it refuses wrong hyper-parameters.

    A rule with `points`, as `nesterov_look_ahead`, wants `step(closure)`: the closure is evaluated
    with the parameters at each of the places, and should draw no new sample. Its first loss is
    returned, and a parameter without a gradient at one of its places stays.

    Args:
        params: real tensors, named tensors or groups, as in torch; a group may have its own
            hyper-parameters. For parameters of half precision the rule computes in float32.
        rule: pure; `state` is `None` at first, then a tensor, or a tuple or named tuple of tensors
            and numbers. An `lr` is handed over as a tensor without dimensions.
        maximize: ascend.
        error_if_nonfinite: as in `SGD`.
        hyper: the rule's own arguments; what has a default may be left out.

    State: the entries of the rule's state by name or, of a tuple, by number; "state" for a tensor.

    Raises:
        TypeError: the rule has no such argument, needs one that is not given, keeps something else
            in its state, or a parameter is complex.
        ValueError: the rule refuses a hyper-parameter, the parameter list is empty, a rule with
            `points` has no closure, or what was loaded is not the rule's state.
        RuntimeError: a gradient is sparse.
    """

    # Whether the rule treats every number by itself: it may then have complex ones as pairs.
    entrywise = False

    def __init__(
        self,
        params,
        rule: Callable,
        /,
        *,
        maximize: bool = False,
        error_if_nonfinite: bool = False,
        **hyper,
    ):
        self.rule, self._kind, self._keys = rule, type(None), ()
        every = inspect.signature(rule).parameters.values()
        named = [
            a  # after w, z and the state
            for i, a in enumerate(every)
            if a.kind is a.KEYWORD_ONLY or (i > 2 and a.kind is a.POSITIONAL_OR_KEYWORD)
        ]
        given = {a.name: a.default for a in named if a.default is not a.empty} | hyper
        open_ended = any(a.kind is a.VAR_KEYWORD for a in every)
        self._names = list(given) if open_ended else [a.name for a in named]
        self._refuse_unknown(hyper)
        if missing := [a.name for a in named if a.name not in given]:
            raise TypeError(f"{self._title()} needs {', '.join(missing)}")
        own = {"maximize": maximize, "error_if_nonfinite": error_if_nonfinite}
        super().__init__(params, {**given, **own})

    def add_param_group(self, param_group: dict) -> None:
        """Add a group, unless the rule refuses its hyper-parameters."""
        if isinstance(param_group, dict):
            self._refuse_unknown(param_group.keys() - OURS)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """Update every parameter that has a gradient; return the (first) loss of `closure`.

        Raises:
            ValueError: with `error_if_nonfinite`, a gradient holds NaN or infinity, and nothing has
                been updated; or the rule wants its gradients elsewhere, and there is no closure.
        """
        points = points_of(self.rule)
        if points is None:
            return super().step(closure)
        if closure is None:
            raise ValueError(
                f"{self._title()} takes its gradients at places of its own: call step(closure)"
            )
        self._read_groups()
        places, gradients, losses = {}, {}, []
        for group, p in self._params():
            places[p] = points(self._owned(p, p), self._state(group, p), **self._hyper(group, p))
            gradients[p] = []
        starts = [(p, p.clone()) for p in places]
        try:
            for k in range(max(map(len, places.values()), default=1)):
                for p, own in places.items():
                    p.copy_(self._as_parameter(own[min(k, len(own) - 1)], p))
                with torch.enable_grad():
                    losses.append(closure())
                self._check_gradients()
                for p, own in places.items():
                    if k < len(own) and p.grad is not None:
                        gradients[p].append(p.grad.clone())
        finally:
            for p, start in starts:
                p.copy_(start)
        for group, p in self._params():
            if len(gradients[p]) == len(places[p]):
                self._advance(group, p, gradients[p])
        return losses[0]

    def __getstate__(self) -> dict:
        """Return what a copy needs: torch forgets the rule."""
        own = ("rule", "_names", "_kind", "_keys")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def _check_group(self, group):
        if "lr" in group:
            check_rate(group["lr"])
        for i, p in enumerate(group["params"]):
            if p.is_complex() and not self.entrywise:
                raise TypeError(
                    f"{name_of(group, i)} is complex: {self._title()} takes real parameters"
                )
            if not is_lazy(p):
                self._try(group, p)

    @torch.no_grad()
    def _try(self, group, p):
        points, hyper = points_of(self.rule), {name: group[name] for name in self._names}
        with torch.random.fork_rng(devices=[p.device] if p.is_cuda else []):  # rules may draw
            w = self._owned(torch.ones_like(p), p)
            z = torch.ones_like(w)
            places = points(w, None, **hyper) if points else ()
            _, state = self.rule(w, (z,) * len(places) if points else z, None, **hyper)
        self._remember(state)

    def _update(self, group, params):
        for p in params:
            self._advance(group, p, [p.grad])

    def _advance(self, group, p, gradients):
        if any(z.is_sparse for z in gradients):
            raise RuntimeError(f"{self._title()} does not support sparse gradients")
        w, state = self._owned(p, p), self._state(group, p)
        zs = tuple(self._owned(-z if group["maximize"] else z, p) for z in gradients)
        w_next, new = self.rule(
            w, zs if points_of(self.rule) else zs[0], state, **self._hyper(group, p)
        )
        if w_next.shape != w.shape:
            raise ValueError(
                f"{self._title()} made of shape {tuple(w.shape)} the shape {tuple(w_next.shape)}"
            )
        p.copy_(self._as_parameter(w_next, p))
        values = self._remember(new)
        if values:
            self.state[p].update(zip(self._keys, values, strict=True))
        else:
            self.state.pop(p, None)

    def _remember(self, state) -> tuple:
        """Note the form of a rule's state; return its values."""
        if state is None:
            return ()
        values = (state,) if isinstance(state, Tensor) else state
        if not isinstance(values, tuple) or not all(
            isinstance(value, (Tensor, int, float)) for value in values
        ):
            raise TypeError(
                "A rule's state must be None, a tensor, or a tuple of tensors and numbers: "
                f"{self._title()} has a {type(state).__name__}"
            )
        numbers = ("state",) if isinstance(state, Tensor) else map(str, range(len(values)))
        keys = getattr(state, "_fields", None) or tuple(numbers)
        if keys and self._keys and keys != self._keys:
            raise TypeError(
                f"The state of {self._title()} must have one form: it has ({', '.join(keys)}) "
                f"after ({', '.join(self._keys)})"
            )
        if keys and not self._keys:
            self._kind, self._keys = type(state), keys
        return values

    def _state(self, group, p):
        entries = self.state.get(p)
        if entries and not self._keys:  # loaded before the rule ran, or kept a state
            self._try(group, p)
        if not entries or not self._keys:
            return None
        if entries.keys() != set(self._keys):
            raise ValueError(
                f"The state has {', '.join(entries)}, but {self._title()} wants "
                f"{', '.join(self._keys)}: it was not made by this rule"
            )
        values = [entries[key] for key in self._keys]
        if issubclass(self._kind, Tensor):
            return values[0]
        return self._kind(*values) if hasattr(self._kind, "_fields") else self._kind(values)

    def _hyper(self, group, p):
        hyper = {name: group[name] for name in self._names}
        return hyper | ({"lr": rate_of(group, p)} if "lr" in hyper else {})

    def _owned(self, x, p):
        # A copy, which the rule may keep: the parameter is written to, and gradients are reused.
        x = x.detach().to(state_dtype(p), copy=True).resolve_conj().resolve_neg()
        return torch.view_as_real(x) if p.is_complex() else x

    def _as_parameter(self, x, p):
        return torch.view_as_complex(x.contiguous()) if p.is_complex() else x

    def _check_loaded(self, groups):
        """Take all: a rule may have got new arguments. Its state is looked at when it is used."""

    def _loaded(self, p, value):
        return value.to(p.device)  # a count is not to be rounded to the parameter's type

    def _params(self):
        return [(group, p) for group in self.param_groups for p in group["params"]]

    def _refuse_unknown(self, names):
        if unknown := [name for name in names if name not in self._names]:
            raise TypeError(
                f"{self._title()} has no hyper-parameter {', '.join(unknown)}: it has "
                f"{', '.join(self._names) or 'none'}"
            )

    def _title(self):
        if type(self) is not FromRule:
            return type(self).__name__
        rule = self.rule
        while isinstance(rule, functools.partial):
            rule = rule.func
        return getattr(rule, "__name__", type(rule).__name__)
