"""A2: how its questions are graded. For instructors: this file holds hidden cases and mistakes."""

import numpy as np

from optcore.course.draws import calls, steps
from optcore.course.model import RULES, Assignment, Case, Question, Reading, Wrong


def walk(shape=(3,), count=5):
    """What draws w and some gradients for a rule."""

    def arrays(rng):
        return rng.standard_normal(shape), rng.standard_normal((count, *shape))

    return arrays


def bowl(rng):
    """Draw a start, a Hessian with eigenvalues from ½ on, and an optimum."""
    root = rng.standard_normal((3, 3))
    A = root @ root.T / 3 + np.eye(3) / 2
    return rng.standard_normal(3), A, rng.standard_normal(3)


def saved(shape=(3,)):
    """What draws two iterates and a gradient."""

    def arguments(rng):
        return rng.standard_normal((3, *shape))

    return arguments


def rule_cases(points):
    """The cases of a rule with lr and beta; points for each of the five."""
    usual, other = {"lr": 0.1, "beta": 0.9}, {"lr": 0.3, "beta": 0.4}
    names = (
        "the first step",
        "five steps with much momentum",
        "w, z and the state stay as they were",
        "a matrix in float32, less momentum",
        "forty steps",
    )
    draws = (
        steps(walk(count=1), **usual),
        steps(walk(), **usual),
        steps(walk(count=3), watch=True, **usual),
        steps(walk((2, 3)), dtype="float32", **other),
        steps(walk(count=40), **usual),
    )
    return tuple(
        Case(name, worth, draw, visible=i < 3)
        for i, (name, worth, draw) in enumerate(zip(names, points, draws, strict=True))
    )


UPHILL = "The step goes uphill: its sign is wrong."
IN_PLACE = "w is changed in place, and it belongs to the caller."

BALL = "return w - lr * z + beta * (w - w_prev), w"

Q1 = Question(
    "q1",
    "heavy_ball",
    "steps",
    cases=rule_cases((2, 5, 2, 3, 2)),
    wrong=(
        Wrong("The momentum is missing.", " + beta * (w - w_prev)", ""),
        Wrong("The displacement has the wrong sign.", "(w - w_prev)", "(w_prev - w)"),
        Wrong("The displacement is multiplied by η, too.", "+ beta *", "+ lr * beta *"),
        Wrong("The displacement is not multiplied by β.", "+ beta * (w", "+ (w"),
        Wrong(
            "The gradient is multiplied by 1 − β, as in an average.", "- lr", "- (1 - beta) * lr"
        ),
        Wrong("The gradient's part is multiplied by β, too.", "- lr * z", "- beta * lr * z"),
        Wrong("The ball does not start at rest: w₀ is 0, not w₁.", "= w if", "= 0 * w if"),
        Wrong(
            "The displacement is that since the start: the state never moves.",
            "w_prev), w\n",
            "w_prev), w_prev\n",
        ),
        Wrong(
            "The state is the new iterate, so the next displacement is zero: it must be w_t.",
            BALL,
            "w = w - lr * z + beta * (w - w_prev)\n    return w, w",
        ),
        Wrong(
            "This is Nesterov's method: the ball takes its gradient before it coasts.",
            BALL,
            "u = w - lr * z\n    u_prev = w if state is None else state\n"
            "    return u + beta * (u - u_prev), u",
        ),
        Wrong(UPHILL, "w - lr * z", "w + lr * z"),
        Wrong(IN_PLACE, "return w - lr * z", "return w.sub_(lr * z)"),
    ),
)

BUFFER = "b = g if state is None else momentum * state + (1 - dampening) * g"

Q2 = Question(
    "q2",
    "torch_sgd",
    "steps",
    cases=(
        Case("momentum", 3, steps(walk(), lr=0.1, momentum=0.9), visible=True),
        Case(
            "dampening and weight decay",
            4,
            steps(walk(), lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.5),
            visible=True,
        ),
        Case(
            "nesterov and weight decay",
            4,
            steps(walk(), lr=0.1, momentum=0.8, weight_decay=0.5, nesterov=True),
            visible=True,
        ),
        Case(
            "w, z and the state stay as they were",
            2,
            steps(walk(count=3), lr=0.1, momentum=0.9, weight_decay=0.1, watch=True),
            visible=True,
        ),
        Case("no momentum", 2, steps(walk(), lr=0.2, momentum=0.0, weight_decay=0.3)),
        Case(
            "a matrix in float32, nesterov",
            3,
            steps(walk((2, 3)), dtype="float32", lr=0.05, momentum=0.6, nesterov=True),
        ),
    ),
    wrong=(
        Wrong(
            "The first gradient is dampened, too: b₁ is g₁.",
            BUFFER,
            "b = (0 if state is None else momentum * state) + (1 - dampening) * g",
        ),
        Wrong("The dampening is missing.", "(1 - dampening) * g", "g"),
        Wrong("τ stands in the place of 1 − τ.", "(1 - dampening)", "dampening"),
        Wrong(
            "The buffer is dampened, not the gradient.",
            "momentum * state + (1 - dampening) * g",
            "(1 - dampening) * momentum * state + g",
        ),
        Wrong(
            "The gradient is multiplied by 1 − β: this is an average.",
            "dampening) *",
            "momentum) *",
        ),
        Wrong("The buffer does not forget: β is missing.", "momentum * state", "state"),
        Wrong("Nesterov's step is missing: it goes along b.", "g + momentum * b if", "b if"),
        Wrong("Nesterov's step is g + βb, not g + b.", "g + momentum * b if", "g + b if"),
        Wrong(
            "Nesterov's step is g + βb, not b + βg.", "g + momentum * b if", "b + momentum * g if"
        ),
        Wrong(
            "Nesterov's step has z in the place of g: the decay is missing there.",
            "g + momentum * b if",
            "z + momentum * b if",
        ),
        Wrong("The decay is missing.", "z + weight_decay * w", "z"),
        Wrong("The decay has the wrong sign: w grows.", "z + weight", "z - weight"),
        Wrong(
            "The decay acts on w itself, as in AdamW; here it is a part of the gradient.",
            "g = z + weight_decay * w",
            "g, w = z, (1 - lr * weight_decay) * w",
        ),
        Wrong(
            "The state is the direction, not the buffer.", "direction, b", "direction, direction"
        ),
        Wrong(UPHILL, "w - lr", "w + lr"),
        Wrong(
            "The state's buffer is changed in place: a second call from it gives other numbers.",
            "momentum * state",
            "state.mul_(momentum)",
        ),
    ),
)

NAG = "return u_next + beta * (u_next - u), u_next"

Q3 = Question(
    "q3",
    "nesterov",
    "steps",
    cases=rule_cases((2, 5, 2, 3, 2)),
    wrong=(
        Wrong(
            "This is the heavy ball: u is not what coasts.",
            NAG,
            "return u_next + beta * (w - u), w",
        ),
        Wrong("The momentum is missing.", " + beta * (u_next - u)", ""),
        Wrong("The displacement has the wrong sign.", "(u_next - u)", "(u - u_next)"),
        Wrong("The displacement is not multiplied by β.", "beta * (u", "(u"),
        Wrong("The point coasts from w, not from the new u.", "return u_next", "return w"),
        Wrong("u does not start at w₁, but at 0.", "u = w if", "u = 0 * w if"),
        Wrong("The state never moves: the displacement is that since u₁.", "u), u_next", "u), u"),
        Wrong("The state is w, not u.", "u), u_next", "u), w"),
        Wrong(
            "The state is the new w, not the new u.",
            NAG,
            "w_next = u_next + beta * (u_next - u)\n    return w_next, w_next",
        ),
        Wrong(
            "The rate is multiplied by 1 − β, as in an average.", "w - lr", "w - (1 - beta) * lr"
        ),
        Wrong(UPHILL, "w - lr", "w + lr"),
        Wrong(IN_PLACE, "u_next = w - lr * z", "u_next = w.sub_(lr * z)"),
    ),
)

AHEAD = {"lr": 0.1, "beta": 0.7}

Q4 = Question(
    "q4",
    "look_ahead",
    "calls",
    cases=(
        Case("one step", 2, calls(2 * [bowl], "θ", "w", steps=1, **AHEAD), visible=True),
        Case("two steps", 3, calls(2 * [bowl], "θ", "w", steps=2, **AHEAD), visible=True),
        Case("six steps", 4, calls(2 * [bowl], "θ", "w", steps=6, **AHEAD), visible=True),
        Case(
            "the arguments stay as they were",
            2,
            calls(2 * [bowl], "θ", "w", steps=3, watch=True, **AHEAD),
            visible=True,
        ),
        Case(
            "twelve steps, another rate",
            4,
            calls(2 * [bowl], "θ", "w", steps=12, lr=0.05, beta=0.9),
        ),
        Case("float32", 3, calls(2 * [bowl], "θ", "w", steps=5, dtype="float32", lr=0.2, beta=0.3)),
    ),
    wrong=(
        Wrong(
            "The gradient is taken at θ: this is the heavy ball.",
            "(point - optimum)",
            "(theta - optimum)",
        ),
        Wrong(
            "It looks back: the point is θ − ηβb, not θ + ηβb.",
            "point = theta -",
            "point = theta +",
        ),
        Wrong(
            "It looks too far ahead: β is missing.",
            "point = theta - lr * beta",
            "point = theta - lr",
        ),
        Wrong(
            "η is missing where it looks ahead.",
            "point = theta - lr * beta",
            "point = theta - beta",
        ),
        Wrong(
            "The step starts from the point ahead, so the momentum counts twice.",
            "theta = theta - lr",
            "theta = point - lr",
        ),
        Wrong(
            "The buffer is an average: the gradient has no factor 1 − β.",
            "+ A @",
            "+ (1 - beta) * A @",
        ),
        Wrong("The buffer does not forget: β is missing.", "b = beta * b + A", "b = b + A"),
        Wrong("The gradient is A(w − w*): the optimum is missing.", "(point - optimum)", "point"),
        Wrong(
            "b starts with the first gradient, not with 0.",
            "torch.zeros_like(theta)",
            "A @ (theta - optimum)",
        ),
        Wrong(
            "The second result is where the last gradient was taken, not the next.",
            "return theta, theta - lr * beta * b",
            "return theta, point",
        ),
        Wrong(
            "The two results have changed places.",
            "return theta, theta - lr * beta * b",
            "return theta - lr * beta * b, theta",
        ),
        Wrong("There is one step too many.", "range(steps)", "range(steps + 1)"),
        Wrong(UPHILL, "theta = theta - lr", "theta = theta + lr"),
        Wrong(
            "θ is changed in place, and it belongs to the caller.",
            "theta = theta - lr * b",
            "theta.sub_(lr * b)",
        ),
    ),
)

OUT = ("sum", "average", "nesterov")
B, P = "b = (w_prev - w) / lr", "p = (b - z_prev) / beta"

Q5 = Question(
    "q5",
    "buffers",
    "calls",
    cases=(
        Case("much momentum", 4, calls(2 * [saved()], *OUT, lr=0.1, beta=0.9), visible=True),
        Case(
            "the arguments stay as they were",
            2,
            calls(2 * [saved()], *OUT, lr=0.1, beta=0.9, watch=True),
            visible=True,
        ),
        Case("less momentum, a longer step", 4, calls(2 * [saved()], *OUT, lr=2.0, beta=0.3)),
        Case(
            "a matrix in float32",
            3,
            calls(2 * [saved((2, 3))], *OUT, dtype="float32", lr=0.5, beta=0.6),
        ),
    ),
    wrong=(
        Wrong("The displacement has the wrong sign: b points uphill.", "w_prev - w", "w - w_prev"),
        Wrong("The displacement is not divided by η.", "(w_prev - w) / lr", "(w_prev - w)"),
        Wrong("The displacement is multiplied by η, not divided by it.", "w) / lr", "w) * lr"),
        Wrong(
            "This is βb, the share that is left one step later.",
            B,
            B.replace("= ", "= beta * "),
        ),
        Wrong(
            "The average is the sum times 1 − β, not over it.", "(1 - beta) * b", "b / (1 - beta)"
        ),
        Wrong("The average is the sum: the factor 1 − β is missing.", "(1 - beta) * b", "b"),
        Wrong("The average is the sum times 1 − β, not times β.", "(1 - beta) * b", "beta * b"),
        Wrong("With nesterov=True the step is −η(z + βb): this is z + βb, not b.", P, "p = b"),
        Wrong("z is missing in the third: the step is z + βb.", "(b - z_prev)", "b"),
        Wrong("The third is not divided by β.", " / beta", ""),
        Wrong("The third is multiplied by β, not divided by it.", "/ beta", "* beta"),
        Wrong("z has the wrong sign in the third.", "b - z_prev", "b + z_prev"),
        Wrong(
            "z is multiplied by η in the third, and b is in units of the gradient.",
            "b - z",
            "b - lr * z",
        ),
        Wrong(
            "The second and the third have changed places.",
            "b, (1 - beta) * b, p",
            "b, p, (1 - beta) * b",
        ),
        Wrong(
            "w_{t−1} is changed in place, and it belongs to the caller.",
            B,
            "b = w_prev.sub_(w) / lr",
        ),
    ),
)

REST = "(torch.zeros_like(z), torch.zeros_like(z))"

Q6 = Question(
    "q6",
    "mended",
    "steps",
    cases=rule_cases((2, 4, 2, 3, 2)),
    wrong=(
        Wrong(
            "z₀ is z₁, not 0: the first step has no correction.", REST, "(torch.zeros_like(z), z)"
        ),
        Wrong("b₀ is z₁, not 0.", REST, "(z, torch.zeros_like(z))"),
        Wrong("The correction is missing: this is the heavy ball.", " + beta * (z - z_prev)", ""),
        Wrong("The correction has the wrong sign.", "(z - z_prev)", "(z_prev - z)"),
        Wrong("The correction is not multiplied by β.", "beta * (z - z_prev)", "(z - z_prev)"),
        Wrong(
            "The old gradient of the correction has a factor β too many.",
            "z - z_prev",
            "z - beta * z_prev",
        ),
        Wrong("b is an average: z has no factor 1 − β.", "b + z", "b + (1 - beta) * z"),
        Wrong("b does not forget: β is missing.", "b = beta * b", "b = b"),
        Wrong("The state's gradient never moves.", "(b, z)", "(b, z_prev)"),
        Wrong(
            "The state holds b without its correction.", "(b, z)", "(b - beta * (z - z_prev), z)"
        ),
        Wrong(UPHILL, "w - lr", "w + lr"),
        Wrong(
            "The state's b is changed in place: a second call from it gives other numbers.",
            "beta * b + z",
            "b.mul_(beta) + z",
        ),
    ),
)

READING = Reading(
    "q7",
    "It has 691 steps (predicted 691) for gradient descent, 154 (131) for Nesterov's "
    "method, 93 (69) for the heavy ball and 2861 (2749) for β = 0.99. The heavy ball is "
    "the farthest off, because at the best parameters its two roots coincide at both ends "
    "of the spectrum, and the error falls like t qᵗ; Nesterov's coincide at the flat end "
    "only. Beyond the best β both roots are complex and the factor is √β, whatever the "
    "curvature: more momentum is slower.",
)

ASSIGNMENT = Assignment(
    "A2",
    "Momentum and Nesterov's method",
    (Q1, Q2, Q3, Q4, Q5, Q6),
    forbids=RULES,
    readings=(READING,),
)
