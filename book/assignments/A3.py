"""A3: how its questions are graded. For instructors: this file holds hidden cases and mistakes."""

import numpy as np

from optcore.course.draws import calls, steps
from optcore.course.model import RULES, Assignment, Case, Question, Wrong

# Sizes of the gradients by step, so that v_t rises, falls twice, and rises above all before; and by
# coordinate.
BURST = np.array([1.0, 8.0, 0.3, 0.5, 20.0]).reshape(-1, 1)
VERY_DIFFERENT = np.array([1e-4, 0.0, 1e4])


def walk(shape=(3,), sizes=BURST):
    """What draws w and five gradients for a rule; none is near zero that should not be."""

    def arrays(rng):
        w, shapes = rng.standard_normal(shape), (len(BURST), *shape)
        z = rng.uniform(0.8, 1.2, shapes) * rng.choice((-1, 1), shapes)
        return w, z * sizes

    return arrays


def rule_cases(points, **decay):
    """The cases of a rule; points for each of the five."""
    other = {"lr": 0.05, "beta1": 0.8, "beta2": 0.6, "eps": 0.1}
    names = (
        "five steps with the usual settings",
        "five steps with a short memory and a large ε",
        "w, z and the state stay as they were",
        "a matrix in float32",
        "gradients of very different sizes, and none",
    )
    draws = (
        steps(walk(), lr=0.1, **decay),
        steps(walk(), **other, **decay),
        steps(walk(), lr=0.1, watch=True, **decay),
        steps(walk((2, 3), BURST[:, None]), dtype="float32", **other, **decay),
        steps(walk(sizes=VERY_DIFFERENT), lr=0.1, **decay),
    )
    return tuple(
        Case(name, worth, draw, visible=i < 3)
        for i, (name, worth, draw) in enumerate(zip(names, points, draws, strict=True))
    )


def averages(shape=(3,)):
    """What draws averages and gradients of three steps for q1."""

    def of_step(t):
        def arguments(rng):
            m, v, z = rng.standard_normal((3, *shape))
            return m, v**2, z, t

        return arguments

    return [of_step(t) for t in (1, 2, 40)]


AVERAGES = "m_t", "v_t", "m_hat_t", "v_hat_t"
USUAL, OTHER = {"beta1": 0.9, "beta2": 0.999}, {"beta1": 0.7, "beta2": 0.95}
M = "m = beta1 * m + (1 - beta1) * z"
HATS = "m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)"

# Mistakes that several answers can hold.
SUM = Wrong("The factor 1 − β₁ is missing: m is a sum, not an average.", "(1 - beta1) * z", "z")
PLACES = Wrong("β₁ and 1 − β₁ have changed places.", M, "m = (1 - beta1) * m + beta1 * z")
ABSOLUTE = Wrong("v averages |z|, not z².", "z**2", "z.abs()")
OF_M = Wrong("v averages m², the square of the average, not z².", "z**2", "m**2")
NOT_M = Wrong("m is not corrected by 1 − β₁^t.", "m / (1 - beta1**t)", "m")
NOT_V = Wrong("v is not corrected by 1 − β₂^t.", "v / (1 - beta2**t)", "v")
SWAPPED = Wrong(
    "The corrections have changed places: m is divided by 1 − β₂^t, v by 1 − β₁^t.",
    "m / (1 - beta1**t), v / (1 - beta2**t)",
    "m / (1 - beta2**t), v / (1 - beta1**t)",
)
IN_PLACE = Wrong(
    "m is changed in place, and it belongs to the caller.",
    M,
    "m.mul_(beta1).add_((1 - beta1) * z)",
)
NEITHER = Wrong("Neither m nor v is corrected by 1 − β^t.", HATS, "m_hat, v_hat = m, v")
INSIDE = Wrong("ε stands inside the root.", "(v_hat.sqrt() + eps)", "(v_hat + eps).sqrt()")
NO_ROOT = Wrong("The root is missing.", "v_hat.sqrt()", "v_hat")
NO_EPS = Wrong("ε is missing.", "v_hat.sqrt() + eps", "v_hat.sqrt()")
UPHILL = Wrong("The step goes uphill: its sign is wrong.", "return w - lr", "return w + lr")
STOPPED = Wrong("t does not grow in the state.", "(t, m, v)", "(t - 1, m, v)")
HATS_KEPT = Wrong(
    "The state holds the corrected averages; the next step needs m and v.",
    "(t, m, v)",
    "(t, m_hat, v_hat)",
)
FORGETFUL = Wrong("The state forgets v.", "(t, m, v)", "(t, m, torch.zeros_like(v))")
ADAM = (INSIDE, NO_ROOT, NO_EPS, UPHILL, SUM, PLACES, ABSOLUTE, OF_M, NOT_M, NOT_V, NEITHER)
ADAM += (SWAPPED, STOPPED, HATS_KEPT, FORGETFUL, IN_PLACE)

Q1 = Question(
    "q1",
    "moments",
    "calls",
    cases=(
        Case("the usual β₁ and β₂", 6, calls(averages(), *AVERAGES, **USUAL), visible=True),
        Case(
            "m, v and z stay as they were",
            2,
            calls(averages(), *AVERAGES, watch=True, **USUAL),
            visible=True,
        ),
        Case("other β₁ and β₂", 4, calls(averages(), *AVERAGES, **OTHER)),
        Case(
            "a matrix in float32", 3, calls(averages((2, 3)), *AVERAGES, dtype="float32", **OTHER)
        ),
    ),
    wrong=(
        SUM,
        PLACES,
        ABSOLUTE,
        OF_M,
        NOT_M,
        NOT_V,
        SWAPPED,
        IN_PLACE,
        Wrong("β₁ is multiplied by t, not raised to it.", "beta1**t", "beta1 * t"),
        Wrong("The power of β₂ is t + 1, not t.", "beta2**t", "beta2 ** (t + 1)"),
        Wrong("m̂ is m times 1 − β₁^t, not divided by it.", "m / (1", "m * (1"),
    ),
)

Q2 = Question(
    "q2",
    "adam",
    "steps",
    cases=rule_cases((8, 7, 3, 4, 3)),
    wrong=(*ADAM, Wrong("t counts from 2.", "t = t + 1", "t = t + 2 if t == 0 else t + 1")),
)

Q3 = Question(
    "q3",
    "amsgrad",
    "steps",
    cases=rule_cases((5, 7, 2, 3, 3)),
    wrong=(
        SUM,
        PLACES,
        ABSOLUTE,
        OF_M,
        IN_PLACE,
        UPHILL,
        Wrong("ε stands inside the root.", "v_max.sqrt() + eps", "(v_max + eps).sqrt()"),
        Wrong("The root is missing.", "v_max.sqrt()", "v_max"),
        Wrong("The maximum is a minimum.", "torch.maximum", "torch.minimum"),
        Wrong("The maximum is not used: the step is divided by √v + ε.", "(v_max.sqrt", "(v.sqrt"),
        Wrong("The maximum is not kept.", "(m, v, v_max)", "(m, v, v)"),
        Wrong("The next v is averaged from the maximum.", "(m, v, v_max)", "(m, v_max, v_max)"),
        Wrong("The maximum is of z², not of v.", "(v_max, v)", "(v_max, z**2)"),
        Wrong(
            "The maximum is taken over all entries, not for each.",
            "(v_max, v)",
            "(v_max, v.max().expand_as(v))",
        ),
    ),
)

Q4 = Question(
    "q4",
    "adamw",
    "steps",
    cases=rule_cases((6, 5, 2, 4, 3), weight_decay=0.2),
    wrong=(
        *ADAM,
        Wrong("The decay has the wrong sign: w grows.", "+ weight_decay", "- weight_decay"),
        Wrong("The decay is missing.", " + weight_decay * w", ""),
        Wrong("The decay is not multiplied by η.", "weight_decay * w", "weight_decay * w / lr"),
        Wrong("The decay is multiplied by η twice.", "weight_decay * w", "lr * weight_decay * w"),
        Wrong("The decay is λ sign(w), not λw.", "decay * w", "decay * w.sign()"),
        Wrong(
            "λw is in the gradient: this is Adam with an L2 term.",
            "t = t + 1",
            "t, z, weight_decay = t + 1, z + weight_decay * w, 0",
        ),
        Wrong(
            "The decay is divided by the root, too.",
            "m_hat / (v_hat.sqrt() + eps) + weight_decay * w",
            "(m_hat + weight_decay * w) / (v_hat.sqrt() + eps)",
        ),
        Wrong(
            "The decay acts on w after Adam's step, not before it.",
            "w - lr * (m_hat / (v_hat.sqrt() + eps) + weight_decay * w)",
            "(w - lr * m_hat / (v_hat.sqrt() + eps)) * (1 - lr * weight_decay)",
        ),
    ),
)

Q5 = Question("q5", "mended", "steps", cases=rule_cases((9, 5, 1, 3, 2)), wrong=ADAM)

ASSIGNMENT = Assignment(
    "A3",
    "Adam, AMSGrad and AdamW",
    (Q1, Q2, Q3, Q4, Q5),
    forbids=RULES,
)
