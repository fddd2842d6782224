"""A1: how its questions are graded. For instructors: this file holds hidden cases and mistakes."""

import numpy as np

from optcore.course.draws import calls, steps
from optcore.course.model import RULES, Assignment, Case, Question, Reading, Wrong

SEARCH = {"q": 0.7, "a": 2.0, "p": 1.0}
OTHER_SEARCH = {"q": 0.2, "a": 0.8, "p": 0.6}


def guesses(shape=(4,), trials=6):
    """What draws guesses and six draws for each; the first one of all equals its guess."""

    def arrays(rng):
        w, X = rng.standard_normal(shape), rng.standard_normal((trials, *shape))
        X[0].flat[0] = w.flat[0]
        return w, X

    return arrays


def labelled(whole=False):
    """What draws weights, labelled examples, and a batch that holds one of them twice."""

    def arguments(rng):
        n, features, classes = 7, 3, 4
        batch = rng.permutation(n) if whole else rng.integers(n, size=5)
        if not whole:
            batch[1] = batch[0]
        W, x = rng.standard_normal((features, classes)), rng.standard_normal((n, features))
        return W, x, rng.integers(classes, size=n), batch

    return arguments


def sure(rng):
    """Draw the same for a model whose scores are some thousands, all of them positive."""
    W, x, y, batch = labelled()(rng)
    return np.abs(W), 3000 * np.abs(x), y, batch


def regression(n):
    """What draws an iterate, a regression with n examples, and an order of them."""

    def arguments(rng):
        w, x, y = rng.standard_normal(3), rng.standard_normal((n, 3)), rng.standard_normal(n)
        return w, x, y, rng.permutation(n)

    return arguments


def noisy_bowl(steps, d=3):
    """What draws a start, a Hessian with eigenvalues from ½ on, and noise."""

    def arguments(rng):
        root = rng.standard_normal((d, d))
        return (
            rng.standard_normal(d),
            root @ root.T / d + np.eye(d) / 2,
            rng.standard_normal((steps, d)),
        )

    return arguments


def directions(rng):
    """Draw a start and curvatures."""
    return rng.standard_normal(4), rng.uniform(0.2, 2, 4)


IN_PLACE = "w is changed in place, and it belongs to the caller."
UPHILL = "The step goes uphill: its sign is wrong."

Q1 = Question(
    "q1",
    "trial",
    "steps",
    cases=(
        Case("six trials with steps 2/t", 4, steps(guesses(), **SEARCH), visible=True),
        Case("another level, another exponent", 3, steps(guesses(), **OTHER_SEARCH), visible=True),
        Case(
            "w, X and the state stay as they were",
            2,
            steps(guesses(), watch=True, **SEARCH),
            visible=True,
        ),
        Case(
            "a matrix of searches in float32",
            2,
            steps(guesses((2, 3)), dtype="float32", **OTHER_SEARCH),
        ),
        Case("a constant step", 2, steps(guesses(), q=0.4, a=0.3, p=0.0)),
    ),
    wrong=(
        Wrong("The guess moves the wrong way: w grows by a t⁻ᵖ Y.", "w - a *", "w + a *"),
        Wrong("The bracket is 1 where X lies above w, not below it.", "X <= w", "X >= w"),
        Wrong("A draw that equals the guess counts: X ≤ w, not X < w.", "X <= w", "X < w"),
        Wrong("1 − q stands in the place of q.", "- q\n", "- (1 - q)\n"),
        Wrong("q is missing: the guess can only fall.", "- q\n", "\n"),
        Wrong(
            "Y is ±q; it must be 1 − q or −q.", "(X <= w).to(w.dtype) - q", "(2 * (X <= w) - 1) * q"
        ),
        Wrong(
            "Y is X − w, the distance; it may only say on which side X lies.",
            "(X <= w).to(w.dtype) - q",
            "w - X - q",
        ),
        Wrong("t counts from 2.", "(state or 0) + 1", "(state or 1) + 1"),
        Wrong("t does not grow in the state.", "* Y, t", "* Y, t - 1"),
        Wrong("The exponent is not used: the step is a/t.", "t**-p", "t**-1.0"),
        Wrong("The power is tᵖ, not t⁻ᵖ: the steps grow.", "t**-p", "t**p"),
        Wrong("a stands inside the power.", "a * t**-p", "(a * t) ** -p"),
        Wrong("a is missing.", "a * t**-p", "t**-p"),
        Wrong(IN_PLACE, "return w - a * t**-p * Y, t", "return w.sub_(a * t**-p * Y), t"),
    ),
)

Q2 = Question(
    "q2",
    "gradient",
    "calls",
    cases=(
        Case(
            "five draws, one example twice", 7, calls(2 * [labelled()], "z", l2=0.1), visible=True
        ),
        Case(
            "each example once, without decay",
            4,
            calls(2 * [labelled(whole=True)], "z", l2=0.0),
            visible=True,
        ),
        Case(
            "the arguments stay as they were",
            2,
            calls(2 * [labelled()], "z", watch=True, l2=0.1),
            visible=True,
        ),
        Case("other examples, more decay", 4, calls(2 * [labelled()], "z", l2=2.0)),
        Case(
            "a model that is very sure: scores of some thousands",
            3,
            calls(2 * [sure], "z", l2=0.0),
        ),
        Case("float32", 3, calls(2 * [labelled()], "z", dtype="float32", l2=0.1)),
    ),
    wrong=(
        Wrong("The sum over the batch is not divided by B.", " / len(batch)", ""),
        Wrong("The sum over the batch is divided by n, not by B.", "len(batch)", "len(x)"),
        Wrong(
            "The batch is not used: this is the full gradient.",
            "rows, labels = x[batch], y[batch]",
            "rows, labels, batch = x, y, y",
        ),
        Wrong(
            "An example that was drawn twice counts once only.",
            "rows, labels",
            "batch = batch.unique()\n    rows, labels",
        ),
        Wrong(
            "The softmax runs over the examples, not over the classes.", "softmax(-1)", "softmax(0)"
        ),
        Wrong(
            "The probabilities are sigmoids, class by class, not a softmax.",
            "softmax(-1)",
            "sigmoid()",
        ),
        Wrong(
            "The logarithm of the softmax stands in the place of the softmax.",
            "softmax(-1)",
            "log_softmax(-1)",
        ),
        Wrong(
            "The softmax divides by zero where scores are large: e to their power overflows.",
            "(rows @ W).softmax(-1)",
            "(rows @ W).exp() / (rows @ W).exp().sum(-1, keepdim=True)",
        ),
        Wrong("The sign of the loss's part is wrong.", "p - target", "target - p"),
        Wrong("The labels are missing: p stands in the place of p − e.", "(p - target)", "p"),
        Wrong("The decay λW is missing.", " + l2 * W", ""),
        Wrong("The gradient of (λ/2)‖W‖² is λW, not 2λW.", "l2 * W", "2 * l2 * W"),
        Wrong(
            "λW is divided by B: every fᵢ holds it, so the mean does.",
            "l2 * W",
            "l2 * W / len(batch)",
        ),
        Wrong("The decay has the wrong sign.", "+ l2 * W", "- l2 * W"),
        Wrong(
            "W is changed in place, and it belongs to the caller.",
            "return rows.T @ (p - target) / len(batch) + l2 * W",
            "return W.mul_(l2).add_(rows.T @ (p - target) / len(batch))",
        ),
    ),
)

LOOP = """\
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        z = x[batch].T @ (x[batch] @ w - y[batch]) / len(batch)
        w = w - lr * z
    return w"""

Q3 = Question(
    "q3",
    "epoch",
    "calls",
    cases=(
        Case("one batch", 2, calls(2 * [regression(4)], "w", lr=0.1, size=4), visible=True),
        Case("two batches", 3, calls(2 * [regression(8)], "w", lr=0.1, size=4), visible=True),
        Case(
            "four batches, the last one smaller",
            4,
            calls(2 * [regression(11)], "w", lr=0.2, size=3),
            visible=True,
        ),
        Case(
            "the arguments stay as they were",
            2,
            calls(2 * [regression(6)], "w", watch=True, lr=0.1, size=3),
            visible=True,
        ),
        Case("batches of one", 3, calls(2 * [regression(6)], "w", lr=0.05, size=1)),
        Case(
            "a batch that is larger than the data",
            2,
            calls(2 * [regression(5)], "w", lr=0.3, size=8),
        ),
        Case("float32", 2, calls(2 * [regression(9)], "w", dtype="float32", lr=0.1, size=2)),
    ),
    wrong=(
        Wrong("The sum over the batch is not divided by its size.", " / len(batch)", ""),
        Wrong(
            "The last, smaller batch is divided by B, not by its own size.",
            "/ len(batch)",
            "/ size",
        ),
        Wrong("The sum over the batch is divided by n.", "/ len(batch)", "/ len(x)"),
        Wrong(
            "What is left after the last full batch is dropped.",
            "len(order), size",
            "len(order) - size + 1, size",
        ),
        Wrong(
            "The batches overlap: each begins one example after the last one.",
            "len(order), size",
            "len(order), 1",
        ),
        Wrong("The order is not used.", "order[start", "order.sort().values[start"),
        Wrong("Each step sees the first batch.", "order[start : start + size]", "order[:size]"),
        Wrong(
            "There is one step only: the function returns within the loop.",
            "w = w - lr * z\n    return w\n",
            "return w - lr * z\n",
        ),
        Wrong(
            "All gradients are taken where the epoch began, not at the last iterate.",
            LOOP,
            "    first = w\n" + LOOP.replace("@ w -", "@ first -"),
        ),
        Wrong(
            "The ½ of the loss is forgotten: the gradient is twice as long.", "z = x", "z = 2 * x"
        ),
        Wrong(UPHILL, "w = w - lr", "w = w + lr"),
        Wrong("The targets are missing.", " - y[batch]", ""),
        Wrong(IN_PLACE, "w = w - lr * z", "w.sub_(lr * z)"),
    ),
)

MEAN, STEP = "mean = mean + (w - mean) / t", "w = w - a * t**-p * (A @ w + xi)"
WEIGHTED = {"a": 0.5, "p": 0.6}

Q4 = Question(
    "q4",
    "averaged",
    "calls",
    cases=(
        Case("one step", 2, calls(2 * [noisy_bowl(1)], "w", "mean", **WEIGHTED), visible=True),
        Case("five steps", 4, calls(2 * [noisy_bowl(5)], "w", "mean", **WEIGHTED), visible=True),
        Case(
            "the arguments stay as they were",
            2,
            calls(2 * [noisy_bowl(3)], "w", "mean", watch=True, **WEIGHTED),
            visible=True,
        ),
        Case("two hundred steps", 4, calls(2 * [noisy_bowl(200)], "w", "mean", a=0.4, p=0.75)),
        Case("constant steps", 3, calls(2 * [noisy_bowl(6)], "w", "mean", a=0.1, p=0.0)),
        Case("float32", 3, calls(2 * [noisy_bowl(5)], "w", "mean", dtype="float32", **WEIGHTED)),
    ),
    wrong=(
        Wrong(
            "The average begins with w₂ and ends with the last iterate: it must begin with w₁.",
            f"{MEAN}\n        {STEP}",
            f"{STEP}\n        {MEAN}",
        ),
        Wrong(
            "The new iterate's share of the average is 1/t, not 1/(t + 1).",
            "(w - mean) / t",
            "(w - mean) / (t + 1)",
        ),
        Wrong("The iterates are added up, and not divided by their number.", "(w - mean) / t", "w"),
        Wrong(
            "This is a moving average: the new iterate's share must fall like 1/t.",
            "(w - mean) / t",
            "(w - mean) / min(t, 2)",
        ),
        Wrong(
            "The gradients are averaged, not the iterates.",
            "(w - mean) / t",
            "(A @ w + xi - mean) / t",
        ),
        Wrong("The steps do not shrink.", "a * t**-p", "a"),
        Wrong("The steps count from t = 2.", "t**-p", "(t + 1) ** -p"),
        Wrong("a stands inside the power.", "a * t**-p", "(a * t) ** -p"),
        Wrong("The gradient is taken at the average, not at the iterate.", "A @ w", "A @ mean"),
        Wrong(
            "The step starts from the average, not from the iterate.", "w = w - a", "w = mean - a"
        ),
        Wrong("The noise is missing.", "(A @ w + xi)", "(A @ w)"),
        Wrong(
            "The noise is not multiplied by the step size: it is a part of z.",
            "(A @ w + xi)",
            "(A @ w) - xi",
        ),
        Wrong(UPHILL, "w = w - a", "w = w + a"),
        Wrong("The two results have changed places.", "return w, mean", "return mean, w"),
        Wrong(IN_PLACE, STEP, STEP.replace("w = w - ", "w.sub_(") + ")"),
    ),
)

GAP = {"lr": 0.3, "sigma": 1.5, "size": 4}

Q5 = Question(
    "q5",
    "expected_gap",
    "calls",
    cases=(
        Case("one step", 3, calls(2 * [directions], "gap", steps=1, **GAP), visible=True),
        Case("five steps", 4, calls(2 * [directions], "gap", steps=5, **GAP), visible=True),
        Case(
            "w and λ stay as they were",
            1,
            calls(2 * [directions], "gap", watch=True, steps=3, **GAP),
            visible=True,
        ),
        Case("the floor", 4, calls(2 * [directions], "gap", steps=2000, lr=0.4, sigma=0.7, size=3)),
        Case(
            "without noise", 3, calls(2 * [directions], "gap", steps=6, lr=0.2, sigma=0.0, size=1)
        ),
        Case(
            "float32",
            3,
            calls(2 * [directions], "gap", dtype="float32", steps=8, lr=0.1, sigma=3.0, size=2),
        ),
    ),
    wrong=(
        Wrong(
            "The noise enters w with η, and its square with η², not η.",
            "lr**2 * sigma",
            "lr * sigma",
        ),
        Wrong("The variance is σ², not σ.", "sigma**2", "sigma"),
        Wrong("The batch is not used: the mean of B has the variance σ²/B.", " / size", ""),
        Wrong("The variance of a mean of B is σ²/B, not σ²/B².", "/ size", "/ size**2"),
        Wrong("The variance of a mean of B is σ²/B, not σ²/√B.", "/ size", "/ size**0.5"),
        Wrong(
            "The square of w shrinks by (1 − ηλ)², not by 1 − ηλ.",
            "(1 - lr * curvatures) ** 2",
            "(1 - lr * curvatures)",
        ),
        Wrong("The factor is 1 − ηλ: w shrinks.", "(1 - lr *", "(1 + lr *"),
        Wrong("The noise is missing.", " + lr**2 * sigma**2 / size", ""),
        Wrong(
            "The noise is multiplied by λ: it is noise of the gradient, not of w.",
            "+ lr**2",
            "+ curvatures**2 * lr**2",
        ),
        Wrong("The ½ of F is missing.", "curvatures / 2", "curvatures"),
        Wrong(
            "λ is missing: this is half of the squared distance, not the gap.",
            "curvatures / 2 *",
            "1 / 2 *",
        ),
        Wrong("There is one step too few.", "range(steps)", "range(steps - 1)"),
        Wrong(
            "This is the floor for T → ∞, not the gap after T steps.", "range(steps)", "range(1000)"
        ),
        Wrong(
            "The gap is summed over the directions.",
            "return curvatures / 2 * square",
            "return (curvatures / 2 * square).sum().expand_as(w)",
        ),
        Wrong("w² decays, but w₁ is not squared at the start.", "square = w**2", "square = w"),
    ),
)

READING = Reading(
    "q6",
    "The floor goes like η/B: (a) raises it a little more than fourfold, from 0.039 to "
    "0.177, (b) lowers it to a quarter, 0.010, and (c) leaves it nearly as it is, 0.044, "
    "since four times the step meets a quarter of the variance. In steps, (a) and (c) "
    "fall four times as fast as the first run, and (b) no faster. In evaluations the "
    "first run and (c) are nearly one curve, (a) is the fastest at first and (b) the "
    "slowest. So (c) reaches nearly the same gap in a quarter of the steps, which saves "
    "time if the machine's batch is free; (b) is for a smaller gap at the end; (a) for "
    "neither.",
)

ASSIGNMENT = Assignment(
    "A1",
    "Stochastic gradients",
    (Q1, Q2, Q3, Q4, Q5),
    forbids=(*RULES, "optcore.estimators", "optcore.problems"),
    readings=(READING,),
)
