"""Estimators in an ordinary training loop: their gradient, where `loss.backward()` puts its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.data import DataLoader

from optcore.estimators import Estimator
from optcore.problems import Stream


class Backward:
    """Put an estimator's gradient into `p.grad` of a module's parameters.

    ::

        backward = Backward(model, loader, loss, SVRG, every=500)
        for x, y in loader:
            opt.zero_grad()
            value = backward(x, y)      # was: value = loss(model(x), y); value.backward()
            opt.step()

    Any optimizer goes with it. Dropout sees the same randomness at the iterate and at the other
    point, where the estimator needs one; running statistics (batch normalization) and the global
    generators are left as the pass at the iterate leaves them. Beside two flat copies of the
    parameters, a step costs the passes of the estimator.

    Args:
        module: whose parameters that require a gradient are trained.
        loader: gives pairs (x, y), and all examples in a pass: for the estimator's full gradients.
        loss: `loss(outputs, targets) -> scalar`, a mean over the examples.
        estimator: `SVRG`, `SARAH`, `STORM` or another that a `Stream` will do for.
        **options: of the estimator.

    Attributes:
        evaluations: gradients of single examples that were computed so far.

    Raises:
        ValueError: `loader` has persistent workers, which serve one pass at a time.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        loader: DataLoader,
        loss: Callable[[Tensor, Tensor], Tensor],
        estimator: Callable[..., Estimator],
        **options,
    ):
        if loader.persistent_workers:
            raise ValueError("loader must have persistent_workers=False: it serves two passes.")
        self._problem = _Training(module, loader, loss)
        self._estimator = estimator(self._problem, **options)
        self._t, self._memory = 0, None
        self.evaluations = 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the estimate to the gradients, as `backward` does; return the loss on the batch."""
        self._t += 1
        w = self._problem.begin(x, y)
        sample = self._estimator.draw(self._t, like=w)
        (z,), self._memory, cost = self._estimator.at((w,), sample, self._memory, self._t)
        self.evaluations += cost
        for p, g in zip(self._problem.trained, self._problem.unflatten(z).values(), strict=True):
            # A copy: whoever clips gradients in place must not clip the memory.
            p.grad = g.to(p, copy=True) if p.grad is None else p.grad + g.to(p)
        return self._problem.value

    def state_dict(self) -> dict:
        """Return the memory, the number of the step and where the draws stand."""
        return {
            "step": self._t,
            "memory": self._memory,
            "draws": self._estimator.state_dict(),
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where another `Backward` of the same module and estimator stood."""
        self._t, self._memory = state["step"], state["memory"]
        self._estimator.load_state_dict(state["draws"])
        self.evaluations = state["evaluations"]


class _Training(Stream):
    """A module in training as a problem: one given batch, and passes over the loader."""

    def __init__(self, module, loader, loss):
        super().__init__(module, loader, loss)
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.trained = list(self.parameters.values())
        self.value = None

    def begin(self, x: Tensor, y: Tensor) -> Tensor:
        """Take up a batch; return the parameters, flat."""
        self.batch, self.chance, self.value = (x, y), None, None
        return torch.cat([p.detach().flatten() for p in self.trained])

    def draw(self, size, generator, *, like, replace):
        return self.batch

    def evaluations(self, sample=None) -> int:
        return self.examples if sample is None else len(sample[1])

    def gradient(self, w, sample=None):
        if sample is None:
            return self._full(w)
        if self.chance is None:  # the first place is the iterate
            devices = self._devices()
            self.chance = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]
            self.value, gradient = self._pass(w, sample, {})
            return gradient
        with self._set_aside() as buffers:
            cpu, others = self.chance
            torch.set_rng_state(cpu)
            for device, state in zip(self._devices(), others, strict=True):
                torch.cuda.set_rng_state(state, device)
            return self._pass(w, sample, buffers)[1]

    def _full(self, w):
        generator = self.loader.generator
        state = generator.get_state() if generator is not None else None
        with self._set_aside() as buffers:
            self.examples, loss, gradient = 0, 0.0, torch.zeros_like(w)
            for x, y in self.loader:
                value, g = self._pass(w, (x.to(w.device), y.to(w.device)), buffers)
                self.examples += len(y)
                share = len(y) / self.examples  # the last batch may be smaller
                gradient = torch.lerp(gradient, g, share)
                loss = loss + share * (value - loss)
        if generator is not None:
            generator.set_state(state)
        self.value = loss
        return gradient

    def _pass(self, w, batch, buffers):
        x, y = batch
        pieces = {
            name: piece.to(self.parameters[name]).requires_grad_()
            for name, piece in self.unflatten(w).items()
        }
        value = self.batch_loss(functional_call(self.module, pieces | buffers, (x,)), y)
        gradients = torch.autograd.grad(value, list(pieces.values()), materialize_grads=True)
        return value.detach(), torch.cat([g.flatten() for g in gradients]).to(w)

    def _devices(self):
        return sorted({p.get_device() for p in self.trained if p.is_cuda})

    @contextmanager
    def _set_aside(self):
        """Leave generators and buffers as they are; yield copies of the buffers."""
        with torch.random.fork_rng(devices=self._devices()):
            yield {name: buffer.clone() for name, buffer in self.module.named_buffers()}
