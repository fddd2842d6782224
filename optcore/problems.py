"""Objectives F with known answers, and the losses of networks: pure oracles of gradients.

The variable `w` is one flat tensor. Dimensions in front of it are rows, so that a hundred seeds or
learning rates run as one tensor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader


class Problem:
    """An objective F(w) = E_ζ f(w; ζ), with an oracle of its gradients.

    The oracle is pure: what it was asked for is counted by whoever asks, see `evaluations`.

    Attributes:
        n: number of examples of a finite sum, `None` where samples never run out.
        start: the iterate to begin with.
        optimum: the minimiser, or `None` where it is unknown or not unique.
        place: where the draws stand, if they have an order beside the generator's; see `seek`.
        l2: λ of a penalty λ/2 ‖w‖² that is in F and not in `contributions`.
    """

    n: int | None = None
    start: Tensor
    optimum: Tensor | None = None
    place: object = None
    l2: float = 0.0

    def loss(self, w: Tensor) -> Tensor:
        """Return F(w), one number for each row of `w`."""
        raise NotImplementedError

    def seek(self, place) -> None:
        """Continue the draws from `place`; `None` is the beginning."""

    def draw(self, size: int, generator: torch.Generator, *, like: Tensor, replace: bool):
        """Draw a batch of `size` samples: indices here, noise where n is `None`.

        Each row of `like` gets samples of its own, in the dimensions behind the first one.
        """
        rows = like.shape[: like.ndim - self.start.ndim]
        if replace:
            indices = torch.randint(self.n, (size, *rows), generator=generator)
        else:
            orders = [torch.randperm(self.n, generator=generator) for _ in range(math.prod(rows))]
            indices = torch.stack(orders, 1)[:size].view(size, *rows)
        return indices.to(like.device)

    def gradient(self, w: Tensor, sample=None) -> Tensor:
        """Return the gradient at `w`, averaged over `sample`, or exact without one.

        Indices of shape (B,) are one batch for all rows of `w`; of shape (B, *rows), a batch for
        each.
        """
        gradient = self._gradient
        for _ in range(0 if sample is None or self.n is None else sample.ndim - 1):
            gradient = vmap(gradient, in_dims=(0, 1))
        return gradient(w, sample)

    def _gradient(self, w: Tensor, sample) -> Tensor:
        raise NotImplementedError

    def weighted_gradient(self, w: Tensor, sample: Tensor, weights: Tensor) -> Tensor:
        r"""Return $\sum_i a_i \nabla f_i(w)$ over the examples of `sample`, of a finite sum.

        The weights a have the shape of `sample`. Batches of different sizes, for different rows,
        are batches of one size with zeros among their weights.
        """
        gradient = self._weighted_gradient
        for _ in range(sample.ndim - 1):
            gradient = vmap(gradient, in_dims=(0, 1, 1))
        return gradient(w, sample, weights)

    def _weighted_gradient(self, w, sample, weights):
        raise NotImplementedError

    def per_example(self, w: Tensor, sample) -> Tensor:
        """Return the gradient at each of the B samples, shape (B, dim), for one row `w`."""
        return vmap(lambda one: self.gradient(w, tree_map(lambda x: x.unsqueeze(0), one)))(sample)

    def contributions(self, w: Tensor, sample: Tensor) -> Tensor:
        """Return what `average` takes of each of the B samples, shape (B, *rows, …).

        Here it is the gradient itself. A problem overrides both where less will do.
        """
        contributions = self._contributions
        for _ in range(sample.ndim - 1):
            contributions = vmap(contributions, in_dims=(0, 1), out_dims=1)
        return contributions(w, sample)

    def _contributions(self, w, sample):
        each = self.per_example
        for _ in range(w.ndim - self.start.ndim):
            each = vmap(each, in_dims=(0, None), out_dims=1)
        return each(w, sample)

    def average(self, contributions: Tensor, sample: Tensor) -> Tensor:
        """Return the mean gradient of which these are the contributions, without the penalty's."""
        return contributions.mean(0)

    def evaluations(self, sample=None) -> int:
        """Return how many gradients of single samples `gradient(w, sample)` computes for a row.

        A batch of B counts B, the full gradient of a finite sum n, an exact gradient without a
        sum 1.
        """
        return (self.n or 1) if sample is None else len(tree_leaves(sample)[0])

    def parameter_at(self, index: int) -> str:
        """Name the parameter that holds entry `index` of the flat `w`."""
        return f"w[{index}]"


class Quadratic(Problem):
    r"""A quadratic with a chosen spectrum, seen through Gaussian noise.

    $$F(w) = \tfrac12 (w - w^*)^\top A\, (w - w^*), \qquad
      \nabla f(w;\zeta) = A(w - w^*) + S^{1/2}\zeta, \quad \zeta \sim \mathcal N(0, I)$$

    Args:
        spectrum: eigenvalues of A, shape (d,), all ≥ 0.
        optimum: w*, shape (d,); zero if not given.
        start: shape (d,); all ones if not given.
        rotation_seed: draws the eigenvectors of A; without it they are the axes.
        noise: S^{1/2}: a number σ for σI, or a (d, d) matrix.
        dtype, device: of every tensor.

    Raises:
        ValueError: the spectrum is empty, not one-dimensional, negative or not finite, or a shape
            differs.
    """

    def __init__(
        self,
        spectrum,
        *,
        optimum=None,
        start=None,
        rotation_seed: int | None = None,
        noise: float | Tensor = 0.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        spectrum = torch.as_tensor(spectrum, dtype=dtype)
        if spectrum.ndim != 1 or not len(spectrum):
            raise ValueError(
                f"spectrum must be a non-empty vector, got shape {tuple(spectrum.shape)}."
            )
        if not (spectrum.isfinite() & (spectrum >= 0)).all():
            raise ValueError(f"spectrum must hold finite numbers ≥ 0, got {spectrum.tolist()}.")
        d = len(spectrum)
        self.spectrum = spectrum.to(device)
        if rotation_seed is None:
            self.A = torch.diag(self.spectrum)
        else:
            generator = torch.Generator().manual_seed(rotation_seed)
            Q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
            A = Q @ torch.diag(spectrum.double()) @ Q.T
            self.A = ((A + A.T) / 2).to(device, dtype)
        self.optimum = self._vector("optimum", torch.zeros(d) if optimum is None else optimum)
        self.start = self._vector("start", torch.ones(d) if start is None else start)
        noise = torch.as_tensor(noise, dtype=dtype, device=device)
        self.noise_root = (
            noise * torch.eye(d, dtype=dtype, device=device) if noise.ndim == 0 else noise
        )
        if self.noise_root.shape != (d, d):
            raise ValueError(
                f"noise must be a number or a ({d}, {d}) matrix, got {tuple(noise.shape)}."
            )

    def _vector(self, name: str, value) -> Tensor:
        value = torch.as_tensor(value, dtype=self.A.dtype, device=self.A.device)
        if value.shape != self.spectrum.shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}: it must be that of the spectrum, "
                f"{tuple(self.spectrum.shape)}."
            )
        return value

    @property
    def smoothness(self) -> float:
        """L, the largest eigenvalue."""
        return self.spectrum.max().item()

    @property
    def strong_convexity(self) -> float:
        """μ, the smallest eigenvalue."""
        return self.spectrum.min().item()

    def loss(self, w: Tensor) -> Tensor:
        """Return F(w)."""
        gap = w - self.optimum
        return ((gap @ self.A) * gap).sum(-1) / 2

    def draw(self, size: int, generator: torch.Generator, *, like: Tensor, replace: bool) -> Tensor:
        """Draw `size` noise vectors ζ for each row of `like`, shape (size, *like.shape)."""
        return torch.randn(size, *like.shape, generator=generator, dtype=like.dtype).to(like.device)

    def _gradient(self, w, sample):
        gradient = (w - self.optimum) @ self.A
        return gradient if sample is None else gradient + sample.mean(0) @ self.noise_root.mT


class QuantileSearch(Problem):
    r"""Find the q-quantile of a normal distribution from draws X ~ N(0, 1) alone.

    The root of M(w) = P(X ≤ w) − q is seen only through Y = 1[X ≤ w] − q, which is −q or 1 − q. M
    is the derivative of the pinball objective, $F(w) = E\,[\max(w - X, 0)] - q\,w$.
    Source: Robbins and Monro (1951), section 5, doi:10.1214/aoms/1177729586.

    Args:
        q: the level, strictly between 0 and 1.
        start: first guess. `w` may have any shape: each entry is a search of its own.

    Raises:
        ValueError: `q` is not strictly between 0 and 1.
    """

    def __init__(self, q: float = 0.5, *, start: float = 0.0):
        if not 0 < q < 1:
            raise ValueError(f"q must lie strictly between 0 and 1, got {q}.")
        self.q = q
        self.start = torch.tensor(start, dtype=torch.float64)
        self.normal = torch.distributions.Normal(
            torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        )
        self.optimum = self.normal.icdf(torch.tensor(q, dtype=torch.float64))

    def loss(self, w: Tensor) -> Tensor:
        """Return E max(w − X, 0) − q w, whose derivative is M."""
        density = self.normal.log_prob(w).exp()
        return w * self.normal.cdf(w) + density - self.q * w

    def draw(self, size: int, generator: torch.Generator, *, like: Tensor, replace: bool) -> Tensor:
        """Draw `size` values of X for each entry of `like`."""
        return torch.randn(size, *like.shape, generator=generator, dtype=like.dtype).to(like.device)

    def _gradient(self, w, sample):
        if sample is None:
            return self.normal.cdf(w) - self.q
        rows = (1,) * (w.ndim + 1 - sample.ndim)  # that share the sample
        below = sample.view(len(sample), *rows, *sample.shape[1:]) <= w
        return below.to(w.dtype).mean(0) - self.q


class LogisticRegression(Problem):
    r"""Multinomial logistic regression with an L2 term, on rows x_i with labels y_i.

    $$F(W) = \frac1n \sum_{i=1}^n -\log \operatorname{softmax}(W^\top \bar x_i)_{y_i}
      + \frac{\lambda}{2} \lVert W \rVert_F^2, \qquad \bar x = (x, 1)$$

    The penalty covers the bias row too, which makes F λ-strongly convex. `w` is W flattened, of
    (pixels + 1) · classes entries.

    Args:
        x: shape (n, pixels), floating point; its dtype and device are those of the problem.
        y: shape (n,), integers 0 … classes − 1.
        l2: λ ≥ 0.

    Raises:
        ValueError: shapes do not match, n is 0, or λ is negative or not finite.
    """

    def __init__(self, x: Tensor, y: Tensor, *, l2: float = 0.0):
        _check_examples(x, y)
        if not 0 <= l2 < math.inf:
            raise ValueError(f"l2 must be a finite number ≥ 0, got {l2}.")
        self.n = len(x)
        self.l2 = l2
        self.x = _with_bias(x)
        self.y = y
        self.shape = (self.x.shape[1], int(y.max()) + 1)
        self.targets = torch.nn.functional.one_hot(y, self.shape[1]).to(x.dtype)
        self.start = x.new_zeros(math.prod(self.shape))

    def loss(self, w: Tensor) -> Tensor:
        """Return F(w) over all n examples."""
        log_p = self._logits(w, self.x).log_softmax(-1)
        labels = self.y.view(-1, *(1,) * (log_p.ndim - 1)).expand(*log_p.shape[:-1], 1)
        of_labels = log_p.take_along_dim(labels, -1).squeeze(-1)
        return -of_labels.mean(0) + self.l2 / 2 * w.square().sum(-1)

    def _gradient(self, w, sample):
        x, targets = self._examples(sample)
        return self._mean(self._residuals(w, x, targets), x) + self.l2 * w

    def _weighted_gradient(self, w, sample, weights):
        x, targets = self._examples(sample)
        residuals = self._residuals(w, x, targets)
        weights = weights.view(-1, *(1,) * (residuals.ndim - 1)) * len(x)
        return self._mean(residuals * weights, x) + self.l2 * w

    def _contributions(self, w, sample):
        return self._residuals(w, *self._examples(sample))

    def average(self, contributions: Tensor, sample: Tensor) -> Tensor:
        """Return the mean of x̄_i r_iᵀ, whose contributions are the residuals r, one a class."""

        def average(residuals, sample):
            return self._mean(residuals, self._examples(sample)[0])

        for _ in range(sample.ndim - 1):
            average = vmap(average, in_dims=1)
        return average(contributions, sample)

    def _examples(self, sample):
        if sample is None:
            return self.x, self.targets
        return self.x.index_select(0, sample), self.targets.index_select(0, sample)

    # Rows of w stand behind the examples, so that all of them make one product: for sixteen rows
    # that is a third to a sixth of the time of sixteen products.

    def _logits(self, w, x):
        return torch.tensordot(x, w.unflatten(-1, self.shape), ([1], [-2]))

    def _residuals(self, w, x, targets):
        probabilities = self._logits(w, x).softmax(-1)
        return probabilities - targets.view(len(x), *(1,) * (probabilities.ndim - 2), -1)

    def _mean(self, residuals, x):
        # rᵀx takes half of the time of xᵀr.
        return torch.tensordot(residuals, x, ([0], [0])).mT.flatten(-2) / len(x)

    def accuracy(self, w: Tensor, x: Tensor, y: Tensor) -> float:
        """Return the share of the rows of `x` whose most probable class is `y`."""
        return (self._logits(w, _with_bias(x)).argmax(-1) == y).double().mean().item()

    @functools.cached_property
    def optimum(self) -> Tensor:
        """The minimiser, by scikit-learn's Newton-CG; unique for λ > 0."""
        if self.l2 == 0:
            return None
        # With two classes scikit-learn fits the difference v of the columns, penalised by ‖v‖².
        # Our columns are then ±v/2, and ‖W‖² is half of that: hence the factor 2.
        classes = self.shape[1]
        if len(self.y.unique()) < max(classes, 2):
            raise ValueError(f"the optimum is known only if all {max(classes, 2)} classes occur.")
        solver = SklearnLogisticRegression(
            C=(2 if classes == 2 else 1) / (self.n * self.l2),
            fit_intercept=False,
            solver="newton-cg",
            tol=1e-10,
            max_iter=10_000,
        )
        solver.fit(self.x.double().cpu().numpy(), self.y.cpu().numpy())
        columns = torch.from_numpy(solver.coef_)
        if classes == 2:
            columns = torch.cat([-columns / 2, columns / 2])
        return columns.T.flatten().to(self.x)


class Objective(Problem):
    """Any differentiable function of a flat `w`, its gradient by automatic differentiation.

    Args:
        f: `f(w) -> scalar`; with `n` given `f(w, indices) -> scalar`, the mean over those examples.
            A batched `w` is handed to it by `torch.func.vmap`, row by row.
        start: the iterate to begin with.
        n: number of examples of a finite sum.
        optimum: the minimiser where it is known.
    """

    def __init__(self, f: Callable, start, *, n: int | None = None, optimum=None):
        self.f = f
        self.n = n
        self.start = torch.as_tensor(start)
        self.optimum = None if optimum is None else torch.as_tensor(optimum).to(self.start)

    def loss(self, w: Tensor) -> Tensor:
        """Return F(w), one number for each row of a batched `w`."""
        return self._by_rows(self.f, w, None)

    def _gradient(self, w, sample):
        return self._by_rows(grad(self.f), w, sample)

    def _weighted_gradient(self, w, sample, weights):
        def f(w, sample, weights):
            each = vmap(lambda i: self.f(w, i.unsqueeze(0)))(sample)
            return weights @ each

        return self._by_rows(grad(f), w, sample, weights)

    def _by_rows(self, function, w, sample, *weights):
        examples = ()
        if self.n is not None:
            examples = (torch.arange(self.n, device=w.device) if sample is None else sample,)
        for _ in range(w.ndim - self.start.ndim):
            function = vmap(function, in_dims=(0, *(None for _ in (*examples, *weights))))
        return function(w, *examples, *weights)


class _ModuleProblem(Problem):
    """A problem whose flat `w` holds the parameters of a `torch.nn.Module`."""

    def _flatten(self, module: torch.nn.Module) -> Tensor:
        self.module = module
        self.parameters = {name: p.detach() for name, p in module.named_parameters()}
        return torch.cat([p.flatten() for p in self.parameters.values()])

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """Return the module's named parameters as views of the flat `w`, or of its rows."""
        pieces = w.split([p.numel() for p in self.parameters.values()], -1)
        return {
            name: piece.view(*w.shape[:-1], *p.shape)
            for (name, p), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    def predict(self, w: Tensor, x: Tensor) -> Tensor:
        """Return the module's outputs at `x` with parameters `w`."""
        return functional_call(self.module, self.unflatten(w), (x,))

    def accuracy(self, w: Tensor, x: Tensor, y: Tensor) -> float:
        """Return the share of the rows of `x` whose largest output is at `y`."""
        return (self.predict(w, x).argmax(1) == y).double().mean().item()

    def parameter_at(self, index: int) -> str:
        """Name the parameter that holds entry `index` of the flat `w`."""
        for name, p in self.parameters.items():
            if index < p.numel():
                return name
            index -= p.numel()
        raise IndexError("index lies beyond the last parameter.")


class Network(_ModuleProblem, Objective):
    """A `torch.nn.Module` on examples (x, y) as a function of its flat parameter vector.

    Args:
        module: any module that computes from parameters and inputs alone, without dropout or
            buffers that change in the forward pass: `eval()` turns them off. It is not modified,
            and w holds all its parameters, frozen ones too.
        x: inputs, first dimension n.
        y: targets, first dimension n.
        loss: `loss(outputs, targets) -> scalar`, a mean over the examples.

    Raises:
        ValueError: the numbers of inputs and targets differ, or there are none.
    """

    def __init__(self, module: torch.nn.Module, x: Tensor, y: Tensor, loss: Callable):
        if len(x) != len(y) or not len(x):
            raise ValueError(f"x and y must have the same length ≥ 1, got {len(x)} and {len(y)}.")

        def f(w, indices):
            return loss(self.predict(w, x[indices]), y[indices])

        super().__init__(f, self._flatten(module), n=len(x))


class Stream(_ModuleProblem):
    """A `torch.nn.Module` on the batches (x, y) of a `DataLoader`, epoch after epoch, without end.

    Its batches come by `MiniBatch(stream)`, and the loader decides on their size. There is no F(w)
    and no exact gradient: they would take a pass over data that may have no end.

    The estimator's seed decides on the order of the batches and on augmentation, as far as that
    takes its chance from torch; the global generator is left as it was. To take up a run in the
    middle of an epoch, the batches that it had seen are loaded once more. The place in the epoch is
    the stream's: two estimators that draw in turns want a stream each.

    Args:
        module: as in `Network`.
        loader: gives pairs (x, y) of tensors, which follow `w` to its device.
        loss: `loss(outputs, targets) -> scalar`, a mean over the examples.

    Raises:
        ValueError: the loader's workers are persistent; from `draw`, if it gives no batches, or
            something else than pairs.
    """

    loss = None

    def __init__(self, module: torch.nn.Module, loader: DataLoader, loss: Callable):
        if loader.persistent_workers:
            # What they draw in an epoch depends on the epochs before.
            raise ValueError("loader must not have persistent_workers: no run could be repeated.")
        self.start = self._flatten(module)
        self.loader = loader
        self.batch_loss = loss
        self.seek(None)

    def seek(self, place: tuple[int, int] | None) -> None:
        """Go to `place`: the seed of an epoch, and the number of its batches that were drawn."""
        self.place, self._batches, self._chance = None, iter(()), torch.get_rng_state()
        if place is not None:
            seed, drawn = place
            self._begin_epoch(seed)
            for _ in range(drawn):
                self._next()

    def draw(self, size: int | None, generator: torch.Generator, *, like: Tensor, replace: bool):
        """Return the loader's next batch, whatever `size` and `replace` are."""
        if like.shape != self.start.shape:
            raise ValueError("the rows of w have one loader: say shared=True.")
        batch = self._next()
        if batch is None:
            self._begin_epoch(int(torch.randint(2**62, (), generator=generator)))
            batch = self._next()
            if batch is None:
                raise ValueError("loader must give at least one batch an epoch, it gave none.")
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(f"loader must give pairs (x, y), it gave a {type(batch).__name__}.")
        return tree_map(lambda x: x.to(like.device), batch)

    def _begin_epoch(self, seed: int) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            batches = self.loader.batch_sampler
            samplers = (self.loader.sampler, batches, getattr(batches, "sampler", None))
            for owner in (self.loader, *samplers):
                if getattr(owner, "generator", None) is not None:
                    owner.generator.manual_seed(seed)
            self._batches = iter(self.loader)
            self._chance = torch.get_rng_state()
        self.place = (seed, 0)

    def _next(self):
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(self._chance)
            batch = next(self._batches, None)
            self._chance = torch.get_rng_state()
        if batch is not None:
            seed, drawn = self.place
            self.place = (seed, drawn + 1)
        return batch

    def _gradient(self, w, sample):
        if sample is None:
            raise ValueError("a Stream has no exact gradient: use MiniBatch.")
        x, y = sample
        gradient = grad(lambda w: self.batch_loss(self.predict(w, x), y))
        for _ in range(w.ndim - 1):
            gradient = vmap(gradient)
        return gradient(w)


def _with_bias(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _check_examples(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise ValueError(
            f"x must have shape (n, pixels) and y shape (n,) with n ≥ 1, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if y.is_floating_point() or y.is_complex() or y.min() < 0:
        raise ValueError(f"y must hold integers from 0 on, got {y.dtype} from {y.min().item()}.")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}.")
