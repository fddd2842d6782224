"""SGD, HeavyBall and Nesterov: the rules of `optcore.rules.momentum` in place."""

from __future__ import annotations

import torch
from torch import Tensor

from optcore.optim import fused
from optcore.optim.base import CheckedOptimizer, in_range, subtract


class _MomentumOptimizer(CheckedOptimizer):
    """A parameter at a time, the L2 term in the gradient."""

    def _check(self, group):
        in_range(group, momentum="momentum")

    def _loaded(self, p, value):
        return value.to(p.device, p.dtype)  # torch's kernel takes one type

    def _update(self, group, params):
        for p in params:
            self._update_one(group, p, gradient_of(group, p))

    def _update_one(self, group: dict, p: Tensor, z: Tensor) -> None:
        raise NotImplementedError

    def _at_rest(self, p: Tensor, key: str) -> Tensor:
        # Every form starts from rest: a zero velocity, a zero displacement.
        state = self.state[p]
        if key not in state:
            if state:
                raise ValueError(
                    f"The state has {', '.join(state)}, but {type(self).__name__} wants {key}: it "
                    "was made by another optimizer, or in another form"
                )
            state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state[key]


class SGD(_MomentumOptimizer):
    r"""`torch.optim.SGD`: the momentum buffer is a discounted sum of gradients.

    $$b_t = \beta\, b_{t-1} + (1-\tau)\, z_t, \qquad w_{t+1} = w_t - \eta\, b_t$$

    with b₁ = z₁, whatever τ is; and with `nesterov` $w_{t+1} = w_t - \eta\,(z_t + \beta b_t)$. The
    rules are `heavy_ball_sum` and `nesterov` of `optcore.rules.momentum`.

    Args:
        params: tensors, named tensors or groups, as in torch.
        lr: η ≥ 0, a number or a tensor with one element.
        momentum: β in [0, 1).
        dampening: τ.
        weight_decay: λ ≥ 0.
        nesterov: wants `momentum` > 0 and `dampening` = 0.
        maximize: ascend.
        foreach: accepted for torch's sake; its numbers are the loop's.
        differentiable: let autograd follow the step from parameters and gradients, in the loop.
        fused: torch's fused kernel, which reads and writes each number once; `None` takes it where
            it can: dense real parameters on the CPU, CUDA or MPS. Otherwise, and under
            `torch.compile`, a loop over the parameters, which also takes sparse gradients and
            complex numbers.
        error_if_nonfinite: look for NaN and infinity before anything is updated. It costs one more
            reading of the gradients, and on a GPU waiting for the answer; hence not the default.

    State: `momentum_buffer`, as in torch.

    Raises:
        ValueError: a hyper-parameter is out of range, or the parameter list is empty.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        error_if_nonfinite: bool = False,
    ):
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
            "error_if_nonfinite": error_if_nonfinite,
        }
        super().__init__(params, defaults)

    def _update(self, group, params):
        # The kernel takes lists of one device and one dtype, all at their first step or none.
        lists: dict[tuple, list[Tensor]] = {}
        wants_kernel = fused.is_wanted(group)
        for p in params:
            if group["fused"]:
                fused.refuse_fused(p)
            buffer = self.state[p].get("momentum_buffer") if group["momentum"] else None
            buffers = () if buffer is None else (buffer,)
            name = fused.kernel_list(p, p.grad, buffers) if wants_kernel else None
            if name is None:
                self._update_one(group, p, gradient_of(group, p))
            else:
                lists.setdefault((not buffers, name), []).append(p)
        for (first, _), like_params in lists.items():
            buffers = []
            if group["momentum"]:
                for p in like_params if first else ():
                    self.state[p]["momentum_buffer"] = torch.empty_like(p.grad)
                buffers = [self.state[p]["momentum_buffer"] for p in like_params]
            fused.sgd(group, like_params, buffers, first=first)

    def _update_one(self, group, p, z):
        beta, state = group["momentum"], self.state[p] if group["momentum"] else {}
        if beta:
            if state.get("momentum_buffer") is not None:
                if state["momentum_buffer"].is_sparse and not z.is_sparse:
                    state["momentum_buffer"] = state["momentum_buffer"].to_dense()
                state["momentum_buffer"].mul_(beta).add_(z, alpha=1 - group["dampening"])
            else:
                state["momentum_buffer"] = z.clone()
            b = state["momentum_buffer"]
            z = z.add(b, alpha=beta) if group["nesterov"] else b
        subtract(p, z, group["lr"])


class HeavyBall(_MomentumOptimizer):
    r"""Polyak's heavy ball in the two forms that torch does not have.

    `form="position"`: $w_{t+1} = w_t - \eta_t z_t + \beta\,(w_t - w_{t-1})$;
    `form="average"`: $v_t = \beta v_{t-1} + (1-\beta) z_t,\ w_{t+1} = w_t - \eta_t v_t,\ v_0 = 0$.

    With a constant rate the position form is `SGD(lr=η, momentum=β)`, and the average form is
    `SGD(lr=η(1-β), momentum=β)`; with a schedule all three differ. The rules are `heavy_ball` and
    `heavy_ball_average` of `optcore.rules.momentum`. Source: Polyak (1964),
    doi:10.1016/0041-5553(64)90137-5.

    Args:
        params: tensors, named tensors or groups, as in torch.
        lr: η ≥ 0, a number or a tensor with one element.
        momentum: β in [0, 1).
        weight_decay: λ ≥ 0.
        form: "position" or "average".
        maximize: ascend.
        error_if_nonfinite: as in `SGD`.

    State: `displacement`, w_t − w_{t−1}, or `exp_avg`, v_t. Neither is torch's `momentum_buffer`:
    the names differ so that no `state_dict` is taken for another's.

    Raises:
        ValueError: a hyper-parameter is out of range, the parameter list is empty, or what was
            loaded is another optimizer's state.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        form: str = "position",
        maximize: bool = False,
        error_if_nonfinite: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "form": form,
            "maximize": maximize,
            "error_if_nonfinite": error_if_nonfinite,
        }
        super().__init__(params, defaults)

    def _check(self, group):
        super()._check(group)
        if group["form"] not in ("position", "average"):
            raise ValueError(f"form must be 'position' or 'average', got {group['form']!r}")

    def _update_one(self, group, p, z):
        beta = group["momentum"]
        if group["form"] == "position":
            displacement = self._at_rest(p, "displacement").mul_(beta)
            subtract(displacement, z, group["lr"])
            p.add_(displacement)
        else:
            v = self._at_rest(p, "exp_avg").mul_(beta).add_(z, alpha=1 - beta)
            subtract(p, v, group["lr"])


class Nesterov(_MomentumOptimizer):
    r"""Nesterov's accelerated gradient in its original u-form.

    $$u_{t+1} = w_t - \eta_t z_t, \qquad w_{t+1} = u_{t+1} + \beta\,(u_{t+1} - u_t)$$

    With a constant rate it is `SGD(lr=η, momentum=β, nesterov=True)`; with a schedule the two
    differ. The rule is `nesterov` of `optcore.rules.momentum`. Source: Nesterov (1983), Soviet
    Math. Dokl. 27:372–376.

    Args:
        params: tensors, named tensors or groups, as in torch.
        lr: η ≥ 0, a number or a tensor with one element.
        momentum: β in [0, 1).
        weight_decay: λ ≥ 0.
        maximize: ascend.
        error_if_nonfinite: as in `SGD`.

    State: `displacement`, u_{t+1} − u_t.

    Raises:
        ValueError: a hyper-parameter is out of range, or the parameter list is empty.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        error_if_nonfinite: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "error_if_nonfinite": error_if_nonfinite,
        }
        super().__init__(params, defaults)

    def _update_one(self, group, p, z):
        # w_t = u_t + β (u_t − u_{t−1}), so that u_{t+1} − u_t = β (u_t − u_{t−1}) − η z_t.
        displacement = self._at_rest(p, "displacement").mul_(group["momentum"])
        subtract(displacement, z, group["lr"])
        subtract(p, z, group["lr"])
        p.add_(displacement, alpha=group["momentum"])


def gradient_of(group: dict, p: Tensor) -> Tensor:
    """Return p's gradient with the sign of `maximize` and the L2 term λ p."""
    z = p.grad.neg() if group["maximize"] else p.grad
    decay = group["weight_decay"]
    if isinstance(decay, Tensor):
        return z.addcmul(p.clone(), decay)  # a copy, since p changes and autograd may come back
    return z.add(p, alpha=decay) if decay else z
