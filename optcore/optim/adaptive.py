"""Adagrad, RMSprop, Adam, AdamW and Lion: the rules of `optcore.rules.adaptive` in place.

Where torch's fused kernel computes the same it is used; everywhere else the step *is* the rule,
applied to pieces that fit the cache. For float16 and bfloat16 parameters the state is float32 and
so is the arithmetic: in bfloat16 a second moment with β₂ = 0.999 stops moving.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from optcore.optim import fused
from optcore.optim.base import (
    PLAIN,
    CheckedOptimizer,
    exact,
    in_range,
    is_fake,
    nonnegative,
    rate_of,
    scalar,
    state_dtype,
)
from optcore.optim.from_rule import FromRule
from optcore.rules import adaptive as rules

# Entries of a piece: its vectors fit the cache of one core, and torch does not wake a second one,
# which takes longer than the piece does.
PIECE = 2**15


class Algorithm:
    """A rule with accumulators of the parameter's shape and a count of steps, in place.

    An optimizer has one, or, as `Muon`, one for some of its groups::

        ADAM.check(group)                       # raises if a hyper-parameter is out of range
        ADAM.update(self.state, group, params)  # one step of parameters that have gradients

    `group` holds the arguments of the optimizer of the same name, and `state`, an optimizer's, gets
    the same keys. `CheckedOptimizer` checks what all groups share, and loads the state.
    """

    name, advice = "", ""  # in torch's error texts

    def check(self, group: dict) -> None:
        """Raise if one of the hyper-parameters that only this rule has is out of range."""
        raise NotImplementedError

    def update(self, states: dict, group: dict, params: list[Tensor]) -> None:
        """Make a step; each of `params` has a gradient.

        Raises:
            RuntimeError: a gradient is sparse, or `fused` asks for what torch refuses.
        """
        lists: dict[str, list[tuple]] = {}
        keys, wants_kernel = self._keys(group), self._has_kernel(group) and fused.is_wanted(group)
        for p in params:
            z = p.grad
            if z.is_sparse and self.name:
                raise RuntimeError(f"{self.name} does not support sparse gradients{self.advice}")
            if group.get("fused"):
                fused.refuse_fused(p)
            state = self.state_of(states[p], group, p, keys)
            buffers = [state[key] for key in keys]
            name = fused.kernel_list(p, z, buffers) if wants_kernel else None
            if name is None:
                self._apply_rule(group, p, state, buffers)
            else:
                lists.setdefault(name, []).append((p, z, state, *buffers))
        for rows in lists.values():
            self._update_fused(group, rows)

    def state_of(self, state: dict, group: dict, p: Tensor, keys: tuple[str, ...]) -> dict:
        """Return the state of p, with those of `keys` that are missing at their start."""
        if "step" in state and not isinstance(state["step"], Tensor):
            # An old checkpoint has a number.
            state["step"] = torch.tensor(float(state["step"]), dtype=_dtype_of_step())
        for key in keys:
            if key not in state:
                where = {"device": _device_of_step(group, p), "dtype": _dtype_of_step()}
                state.setdefault("step", torch.zeros((), **where))
                state[key] = torch.full_like(
                    p,
                    self._initial(group, p),
                    dtype=state_dtype(p),
                    memory_format=torch.preserve_format,
                )
        return state

    def _initial(self, group, p):
        return 0.0

    def _apply_rule(self, group, p, state, buffers):
        state["step"] += 1
        t = state["step"].to(exact(p))
        lr = rate_of(group, p)
        target = p.resolve_conj().resolve_neg()  # p itself, unless it is a lazy view
        for w, z, *old in self._pieces(group, target, p.grad, buffers):
            z = -z if group["maximize"] else z
            before = w.clone() if group.get("differentiable") else w.to(z.dtype)
            w_next, new = self._rule(group, before, z, old, t, lr)
            if group.get("differentiable"):
                w.add_(w_next - before)  # in place, and followed by autograd
                for key, value in zip(self._keys(group), new, strict=True):
                    state[key] = torch.view_as_complex(value) if p.is_complex() else value
            else:
                w.copy_(w_next)
                for buffer, value in zip(old, new, strict=True):
                    buffer.copy_(value)
        if target is not p:
            p.copy_(target)

    def _pieces(self, group, w, z, buffers) -> Iterator[list[Tensor]]:
        """Yield [w, z, *buffers]: the whole, or views of pieces of it; z in the state's type."""
        z = z.to(state_dtype(w)).resolve_conj().resolve_neg()
        tensors = [w, z, *buffers]
        if w.is_complex():
            tensors = [torch.view_as_real(x) for x in tensors]
        small = w.numel() <= PIECE or w.device.type != "cpu"
        whole = small or group.get("differentiable") or torch.compiler.is_compiling()
        # A DTensor, flattened, would be a copy.
        if whole or not all(type(x) in PLAIN and x.is_contiguous() for x in tensors):
            yield tensors
        else:
            yield from zip(*(x.view(-1).split(PIECE) for x in tensors), strict=True)

    def _keys(self, group) -> tuple[str, ...]:
        raise NotImplementedError

    def _has_kernel(self, group) -> bool:
        return True

    def _rule(self, group, w, z, state, t, lr) -> tuple[Tensor, tuple]:
        raise NotImplementedError

    def _update_fused(self, group, rows):
        raise NotImplementedError


class _AdaptiveOptimizer(CheckedOptimizer):
    algorithm: Algorithm

    def _check(self, group):
        self.algorithm.check(group)

    def _update(self, group, params):
        self.algorithm.update(self.state, group, params)


class _Adagrad(Algorithm):
    def check(self, group):
        nonnegative(
            group,
            lr_decay="lr_decay",
            initial_accumulator_value="initial_accumulator_value",
            eps="epsilon",
        )

    def _keys(self, group):
        return ("sum",)

    def _initial(self, group, p):
        value = group["initial_accumulator_value"]
        return complex(value, value) if p.is_complex() else value

    def update(self, states, group, params):
        if any(p.grad.is_sparse for p in params) and group["weight_decay"]:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        super().update(states, group, params)

    def _pieces(self, group, w, z, buffers):
        if not z.is_sparse:
            yield from super()._pieces(group, w, z, buffers)
            return
        z = z.coalesce()  # the rule is not linear: every index once
        at, G = tuple(z.indices()), buffers[0]
        w_at, G_at = w[at], G[at]
        yield from super()._pieces(group, w_at, z.values(), [G_at])
        w[at], G[at] = w_at, G_at

    def _rule(self, group, w, z, state, t, lr):
        lr = lr / (1 + (t - 1) * group["lr_decay"])
        if group["weight_decay"]:
            z = z + group["weight_decay"] * w
        return rules.adagrad(w, z, rules.SquaredSum(*state), lr=lr, eps=group["eps"])

    def _update_fused(self, group, rows):
        fused.adagrad(group, rows)


ADAGRAD = _Adagrad()


class Adagrad(_AdaptiveOptimizer):
    r"""`torch.optim.Adagrad`.

    $$G_t = G_{t-1} + z_t^2, \qquad
      w_{t+1} = w_t - \frac{\eta}{1 + (t-1)\,\delta}\, \frac{z_t}{\sqrt{G_t} + \varepsilon}$$

    The rule is `adagrad` of `optcore.rules.adaptive`, with δ = `lr_decay` and G₀ =
    `initial_accumulator_value`. Sparse gradients touch their own entries only.
    Source: Duchi, Hazan and Singer (2011), JMLR 12:2121–2159.

    Args:
        params: tensors, named tensors or groups, as in torch.
        lr: η ≥ 0, a number or a tensor with one element.
        lr_decay: δ ≥ 0.
        weight_decay: λ ≥ 0; λ w joins the gradient.
        initial_accumulator_value: G₀ ≥ 0; a group may have its own, which torch overlooks.
        eps: ε ≥ 0.
        foreach: accepted for torch's sake; its numbers are the loop's.
        maximize: ascend.
        differentiable: let autograd follow the step.
        fused: torch's fused kernel; `None` and `True` take it where it is right, else the rule.
        error_if_nonfinite: as in `SGD`.

    State: `step` and `sum`, as in torch.

    Raises:
        ValueError: a hyper-parameter is out of range, or the parameter list is empty.
        RuntimeError: weight decay meets a sparse gradient.
    """

    algorithm = ADAGRAD

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        error_if_nonfinite: bool = False,
    ):
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "error_if_nonfinite": error_if_nonfinite,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:  # as in torch, which shares it between processes
            for p in group["params"]:
                self.algorithm.state_of(self.state[p], group, p, ("sum",))

    def share_memory(self) -> None:
        """Move every `sum` to memory that other processes see."""
        for state in self.state.values():
            state["sum"].share_memory_()


class _RMSprop(Algorithm):
    name = "RMSprop"

    def check(self, group):
        nonnegative(group, eps="epsilon")
        in_range(group, momentum="momentum", alpha="alpha")

    def _keys(self, group):
        optional = {"momentum_buffer": group["momentum"], "grad_avg": group["centered"]}
        return ("square_avg", *(key for key, used in optional.items() if used))

    def _has_kernel(self, group):
        return not group["capturable"]

    def _update_fused(self, group, rows):
        fused.rmsprop(group, rows)

    def _rule(self, group, w, z, state, t, lr):
        if group["weight_decay"]:
            z = z + group["weight_decay"] * w
        named = dict(zip(self._keys(group), state, strict=True))
        w_next, new = rules.rmsprop(
            w,
            z,
            rules.SquaredAverage(
                named["square_avg"], named.get("grad_avg", 0), named.get("momentum_buffer", 0)
            ),
            lr=lr,
            beta2=group["alpha"],
            eps=group["eps"],
            momentum=group["momentum"],
            centered=group["centered"],
        )
        values = {"square_avg": new.v, "momentum_buffer": new.b, "grad_avg": new.m}
        return w_next, tuple(values[key] for key in named)


RMSPROP = _RMSprop()


class RMSprop(_AdaptiveOptimizer):
    r"""`torch.optim.RMSprop`.

    $$v_t = \alpha v_{t-1} + (1-\alpha) z_t^2, \qquad
      b_t = \mu b_{t-1} + \frac{z_t}{\sqrt{v_t} + \varepsilon}, \qquad w_{t+1} = w_t - \eta\, b_t$$

    With `centered`, v_t − m_t² stands under the root. The rule is `rmsprop` of
    `optcore.rules.adaptive`. Source: Tieleman and Hinton (2012), lecture 6e; Graves (2013),
    arXiv:1308.0850.

    Args:
        params: tensors, named tensors or groups, as in torch.
        lr: η ≥ 0, a number or a tensor with one element.
        alpha: the rule's β₂, in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0; λ w joins the gradient.
        momentum: μ in [0, 1).
        centered: subtract the squared average of the gradients.
        capturable: keep the count of steps on the device.
        foreach: accepted for torch's sake; its numbers are the loop's.
        maximize: ascend.
        differentiable: let autograd follow the step.
        error_if_nonfinite: as in `SGD`.

    State: `step`, `square_avg`, and where they are used `momentum_buffer` and `grad_avg`.

    Raises:
        ValueError: a hyper-parameter is out of range, or the parameter list is empty.
        RuntimeError: a gradient is sparse.
    """

    algorithm = RMSPROP

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        error_if_nonfinite: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "error_if_nonfinite": error_if_nonfinite,
        }
        super().__init__(params, defaults)


class _Adam(Algorithm):
    name, advice = "Adam", ", please consider SparseAdam instead"

    def check(self, group):
        nonnegative(group, eps="epsilon")
        _check_betas(group)

    def _keys(self, group):
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

    def _rule(self, group, w, z, state, t, lr):
        decay = group["weight_decay"]
        if decay and _is_decoupled(group):
            w = (1 - lr * decay) * w
        elif decay:
            z = z + decay * w
        beta1, beta2 = map(scalar, group["betas"])
        hyper = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": group["eps"]}
        if group["amsgrad"]:
            before = rules.MomentsAndMax(t - 1, *state)
            w_next, (_, *new) = rules.amsgrad(w, z, before, form="torch", **hyper)
        else:
            w_next, (_, *new) = rules.adam(w, z, rules.Moments(t - 1, *state), **hyper)
        return w_next, new

    def _update_fused(self, group, rows):
        fused.adam(group, rows, decoupled=_is_decoupled(group))


ADAM = _Adam()


class Adam(_AdaptiveOptimizer):
    r"""`torch.optim.Adam`, with `amsgrad`.

    $$w_{t+1} = w_t - \eta\, \frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon}$$

    The rules are `adam` and `amsgrad(form="torch")` of `optcore.rules.adaptive`. Source: Kingma and
    Ba (2015), arXiv:1412.6980; Reddi, Kale and Kumar (2018), arXiv:1904.09237.

    Args:
        params: tensors, named tensors or groups, as in torch.
        lr: η ≥ 0, a number or a tensor with one element.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε ≥ 0, outside the root.
        weight_decay: λ ≥ 0; λ w joins the gradient (L2), unless `decoupled_weight_decay`.
        amsgrad: divide by the root of the largest v so far.
        foreach: accepted for torch's sake; its numbers are the loop's.
        maximize: ascend.
        capturable: keep the count of steps on the device.
        differentiable: let autograd follow the step.
        fused: torch's fused kernel; `None` and `True` take it where it is right, else the rule.
        decoupled_weight_decay: be `AdamW`.
        error_if_nonfinite: as in `SGD`.

    State: `step`, `exp_avg`, `exp_avg_sq` and, with `amsgrad`, `max_exp_avg_sq`, as in torch.

    Raises:
        ValueError: a hyper-parameter is out of range, or the parameter list is empty.
        RuntimeError: a gradient is sparse.
    """

    algorithm = ADAM

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        error_if_nonfinite: bool = False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
            "error_if_nonfinite": error_if_nonfinite,
        }
        super().__init__(params, defaults)


class AdamW(Adam):
    r"""`torch.optim.AdamW`: Adam with decoupled weight decay.

    $$w_{t+1} = w_t - \eta \Bigl(\frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon}
      + \lambda w_t\Bigr)$$

    The rule is `adamw` of `optcore.rules.adaptive`. Source: Loshchilov and Hutter (2019),
    arXiv:1711.05101, in torch's convention: the whole rate multiplies λ.

    Args:
        weight_decay: λ ≥ 0; ηλ is the share of w that a step takes away. All other arguments,
            the state and the errors are those of `Adam`.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        error_if_nonfinite: bool = False,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            error_if_nonfinite=error_if_nonfinite,
        )

    def __setstate__(self, state):
        """Restore; whatever it was saved by, this is AdamW."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


def _lion(w, z, state=None, *, lr, betas, weight_decay):
    beta1, beta2 = map(scalar, betas)
    return rules.lion(w, z, state, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay)


class Lion(FromRule):
    r"""The sign of an average: half of Adam's state.

    $$c_t = \beta_1 m_{t-1} + (1-\beta_1) z_t, \qquad
      w_{t+1} = w_t - \eta\,(\operatorname{sign} c_t + \lambda w_t), \qquad
      m_t = \beta_2 m_{t-1} + (1-\beta_2) z_t$$

    This is `FromRule` with `lion` of `optcore.rules.adaptive`. torch has no Lion; the names of the
    arguments are those of its Adam. A sign hides a NaN, which stays in the average:
    `error_if_nonfinite` looks for it. Source: Chen et al. (2023), arXiv:2302.06675.

    Args:
        params: tensors, named tensors or groups, as in torch.
        lr: η ≥ 0, a number or a tensor with one element.
        betas: (β₁, β₂), each in [0, 1).
        weight_decay: λ ≥ 0, decoupled.
        maximize: ascend.
        error_if_nonfinite: as in `SGD`.

    State: `m`.

    Raises:
        ValueError: a hyper-parameter is out of range, or the parameter list is empty.
        RuntimeError: a gradient is sparse.
    """

    entrywise = True

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        error_if_nonfinite: bool = False,
    ):
        hyper = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        own = {"maximize": maximize, "error_if_nonfinite": error_if_nonfinite}
        super().__init__(params, _lion, **hyper, **own)

    def _check_group(self, group):
        _check_betas(group)
        super()._check_group(group)


def _is_decoupled(group: dict) -> bool:
    return group.get("decoupled_weight_decay", True)  # a group that another optimizer lends


def _dtype_of_step() -> torch.dtype:
    # As in torch; in half precision it would stop counting at 256 or 2048.
    return torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32


def _device_of_step(group: dict, p: Tensor) -> torch.device | str:
    return p.device if group.get("capturable") else "cpu"


def _check_betas(group: dict) -> None:
    if len({isinstance(beta, Tensor) for beta in group["betas"]}) > 1:
        raise ValueError("betas must be either both floats or both Tensors")
    for i, beta in enumerate(group["betas"]):
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{i}] must be 1-element")
        if not (is_fake(beta) or 0 <= beta < 1):
            raise ValueError(f"Invalid beta parameter at index {i}: {beta} (it must lie in [0, 1))")
