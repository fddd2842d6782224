"""A4: how its questions are graded. For instructors: this file holds hidden cases and mistakes."""

import numpy as np

from optcore.course.draws import calls, steps
from optcore.course.model import RULES, Assignment, Case, Question, Reading, Wrong

WIDE, TALL, SQUARE = (2, 4), (4, 2), (3, 3)
QUINTIC, CUBIC = {"a": 3.4445, "b": -4.775, "c": 2.0315}, {"a": 1.5, "b": -0.5, "c": 0.0}


def gaussian(*shape, size=1.0):
    """What draws a matrix, or a kernel."""

    def arguments(rng):
        return (size * rng.standard_normal(shape),)

    return arguments


def spread(*shape, size=1.0):
    """What draws a matrix with singular values from 3 down to 0.4: above one, and below."""

    def arguments(rng):
        U, _, Vh = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
        return (size * U * np.geomspace(3, 0.4, min(shape)) @ Vh,)

    return arguments


def of_rank(rank, *shape):
    """What draws a matrix of rank one or two, whose entries no rounding changes."""

    def arguments(rng):
        G = np.full(shape, 3.0)
        if rank == 2:
            G[:2, :2] += [[0.25, -0.25], [-0.25, 0.25]]  # a singular value of ½
        rows, columns = (rng.permutation(n) for n in shape)
        signs = rng.choice((-1, 1), shape[0])[:, None] * rng.choice((-1, 1), shape[1])
        return (signs * G[rows][:, columns],)

    return arguments


def walk(shape, count=3):
    """What draws weights and gradients, which shrink."""

    def arrays(rng):
        gradients = rng.standard_normal((count, *shape))
        return rng.standard_normal(shape), gradients * [[[0.5**t]] for t in range(count)]

    return arrays


UPHILL = "The step goes uphill: its sign is wrong."
IN_PLACE = "G is changed in place, and it belongs to the caller."
BOTH = [spread(*WIDE), spread(*TALL)]

Q1 = Question(
    "q1",
    "newton_schulz",
    "calls",
    cases=(
        Case("one step, wide", 2, calls(2 * [gaussian(*WIDE)], "X", steps=1, **QUINTIC), True),
        Case("five steps, wide", 4, calls(2 * [gaussian(*WIDE)], "X", steps=5, **QUINTIC), True),
        Case("five steps, tall", 3, calls(2 * [gaussian(*TALL)], "X", steps=5, **QUINTIC), True),
        Case("G stays as it was", 1, calls(BOTH, "X", watch=True, steps=2, **QUINTIC), True),
        Case("three steps of the cubic", 3, calls(BOTH, "X", steps=3, **CUBIC), True),
        Case(
            "a small G",
            3,
            calls(2 * [gaussian(*WIDE, size=1e-8)], "X", steps=3, **QUINTIC),
        ),
        Case("float32", 2, calls(BOTH, "X", dtype="float32", steps=3, **QUINTIC)),
    ),
    wrong=(
        Wrong("The division by ‖G‖_F is missing.", " / G.norm()", ""),
        Wrong(
            "G is divided by its largest singular value, not by its Frobenius norm.",
            "G.norm()",
            "torch.linalg.matrix_norm(G, 2)",
        ),
        Wrong("G is divided by its largest entry.", "G.norm()", "G.abs().max()"),
        Wrong(
            "An ε makes the result depend on the scale of G.", "/ G.norm()", "/ (G.norm() + 1e-7)"
        ),
        Wrong(
            "X is divided by its norm in each step, not only before.",
            "A = X",
            "X = X / X.norm()\n        A = X",
        ),
        Wrong("b and c have changed places.", "b * A + c * A @ A", "c * A + b * A @ A"),
        Wrong("The term with A² is missing.", " + c * A @ A", ""),
        Wrong("c multiplies A, not A².", "c * A @ A", "c * A"),
        Wrong("c multiplies A³, not A².", "c * A @ A", "c * A @ A @ A"),
        Wrong("A² is taken entry by entry; it is a matrix product.", "c * A @ A", "c * A * A"),
        Wrong("The sign of the cubic term is wrong: b is negative already.", "(b * A", "(-b * A"),
        Wrong("The term aX is missing.", "a * X + (b", "(b"),
        Wrong("a is 1: the old X is added as it is.", "a * X", "X"),
        Wrong("There is one step too few.", "range(steps)", "range(steps - 1)"),
        Wrong("There is one step too many.", "range(steps)", "range(steps + 1)"),
        Wrong(
            "The coefficients are the quintic's, whatever the arguments are.",
            "tall = G",
            "a, b, c = 3.4445, -4.775, 2.0315\n    tall = G",
        ),
        Wrong(IN_PLACE, "tall = G", "G.div_(G.norm())\n    tall = G"),
    ),
)

FACTOR = "(U * kept) @ Vh"

Q2 = Question(
    "q2",
    "polar",
    "calls",
    cases=(
        Case("wide", 2, calls(2 * [spread(*WIDE)], "O"), visible=True),
        Case("tall", 2, calls(2 * [spread(*TALL)], "O"), visible=True),
        Case("rank two", 4, calls([of_rank(2, 3, 4), of_rank(2, 3, 3)], "O"), visible=True),
        Case("G stays as it was", 1, calls(BOTH, "O", watch=True), visible=True),
        Case(
            "a very small G, and a large one",
            2,
            calls([spread(*WIDE, size=1e-9), spread(*TALL, size=1e9)], "O"),
        ),
        Case(
            "float32, and rank one",
            2,
            calls([spread(*WIDE), of_rank(1, 5, 3)], "O", dtype="float32"),
        ),
    ),
    wrong=(
        Wrong("The directions with σ = 0 are kept.", FACTOR, "U @ Vh"),
        Wrong(
            "The singular values are not replaced: G is divided by the largest.", FACTOR, "G / S[0]"
        ),
        Wrong(
            "The singular values are not replaced: G is divided by its norm.",
            FACTOR,
            "G / G.norm()",
        ),
        Wrong("This is sign(G), entry by entry.", FACTOR, "G.sign()"),
        Wrong("The singular values become their roots, not one.", FACTOR, "(U * S.sqrt()) @ Vh"),
        Wrong(
            "The singular values become 1/σ, not one.",
            FACTOR,
            "(U * kept / S.clamp(min=1e-5 * S[0])) @ Vh",
        ),
        Wrong(
            "The singular values are clipped at one: small ones must rise to one, too.",
            FACTOR,
            "(U * S.clamp(max=1)) @ Vh",
        ),
        Wrong("Only the first direction is kept.", "S > 1e-5 * S[0]", "S >= S[0]"),
        Wrong(
            "The threshold is far too high: small singular values become one, too.",
            "1e-5 * S[0]",
            "0.5 * S[0]",
        ),
        Wrong("The threshold is not in units of σ₁.", "1e-5 * S[0]", "1e-5"),
        Wrong("The sign is wrong.", FACTOR, "-(U * kept) @ Vh"),
        Wrong(
            "Five quintic steps are not exact: singular values end between 0.7 and 1.2.",
            FACTOR,
            "newton_schulz(G, steps=5, a=3.4445, b=-4.775, c=2.0315)",
        ),
        Wrong(IN_PLACE, "kept =", "G.div_(S[0])\n    kept ="),
    ),
)

FROBENIUS, MAX = "-lr * G / G.norm()", "-lr * G.sign()"
TOP = "(lambda U, S, Vh: torch.outer(U[:, 0], Vh[0]))(*torch.linalg.svd(G, full_matrices=False))"


def step_in(norm, *drawn, **options):
    """What draws calls of steepest."""
    return calls(drawn or BOTH, "Δ", norm=norm, lr=0.3, **options)


Q3 = Question(
    "q3",
    "steepest",
    "calls",
    cases=(
        Case("Frobenius norm", 2, step_in("frobenius"), visible=True),
        Case("largest entry", 3, step_in("max"), visible=True),
        Case("spectral norm", 3, step_in("spectral"), visible=True),
        Case("G stays as it was", 1, step_in("frobenius", watch=True), visible=True),
        Case("Frobenius norm, small gradients", 2, step_in("frobenius", spread(*WIDE, size=1e-3))),
        Case("largest entry, float32", 1, step_in("max", dtype="float32")),
        Case("spectral norm, small gradients", 2, step_in("spectral", spread(*TALL, size=1e-3))),
    ),
    wrong=(
        Wrong(UPHILL, "return -lr", "return lr"),
        Wrong("The step's length is not η: η is missing.", "return -lr *", "return -1 *"),
        Wrong(
            "In the Frobenius norm the step is divided by the length of G.", FROBENIUS, "-lr * G"
        ),
        Wrong(
            "In the Frobenius norm G is divided by ‖G‖_F, not by its square.",
            "G.norm()",
            "G.norm() ** 2",
        ),
        Wrong(
            "In the Frobenius norm G is divided by its spectral norm.",
            "G.norm()",
            "torch.linalg.matrix_norm(G, 2)",
        ),
        Wrong(
            "In the Frobenius norm the length is η, for a short G, too.",
            "G.norm()",
            "G.norm().clamp(min=1)",
        ),
        Wrong(
            "For the largest entry all entries move by η; here G is scaled.",
            MAX,
            "-lr * G / G.abs().max()",
        ),
        Wrong(
            "For the largest entry all entries move; here only the largest does.",
            MAX,
            "-lr * G.sign() * (G.abs() == G.abs().max())",
        ),
        Wrong(
            "For the largest entry the step is divided by the number of entries.",
            MAX,
            "-lr * G.sign() / G.numel()",
        ),
        Wrong(
            "In the spectral norm all σ become one; here G is scaled.",
            "polar(G)",
            "G / torch.linalg.matrix_norm(G, 2)",
        ),
        Wrong(
            "In the spectral norm all directions move; here only the first does.",
            "polar(G)",
            TOP,
        ),
        Wrong(
            "This is the unconstrained step: the sum of the σ multiplies it.",
            "polar(G)",
            "torch.linalg.matrix_norm(G, 'nuc') * polar(G)",
        ),
        Wrong(
            "The spectral norm is not the largest entry: sign(G) is another step.",
            "polar(G)",
            "G.sign()",
        ),
        Wrong(IN_PLACE, FROBENIUS, "G.mul_(-lr / G.norm())"),
    ),
)

SIDES = "n_out, n_in = O.shape[0], O[0].numel()"
MATRICES = [gaussian(*shape) for shape in (WIDE, TALL, SQUARE)]
KERNELS = [gaussian(9, 2, 2, 1), gaussian(2, 3, 2, 2)]

Q4 = Question(
    "q4",
    "scaled",
    "calls",
    cases=(
        Case("original", 2, calls(MATRICES, "s O", adjust="original"), visible=True),
        Case("match_rms_adamw", 3, calls(MATRICES, "s O", adjust="match_rms_adamw"), visible=True),
        Case("rms_to_rms", 3, calls(MATRICES, "s O", adjust="rms_to_rms"), visible=True),
        Case(
            "O stays as it was",
            1,
            calls(MATRICES, "s O", watch=True, adjust="rms_to_rms"),
            visible=True,
        ),
        Case("kernels, original", 2, calls(KERNELS, "s O", adjust="original"), visible=True),
        Case("kernels, match_rms_adamw", 1, calls(KERNELS, "s O", adjust="match_rms_adamw")),
        Case(
            "kernels in float32, rms_to_rms",
            2,
            calls(KERNELS, "s O", dtype="float32", adjust="rms_to_rms"),
        ),
    ),
    wrong=(
        Wrong(
            "Rows and columns have changed places: a row is an output.",
            SIDES,
            "n_in, n_out = O.shape[0], O[0].numel()",
        ),
        Wrong(
            "A kernel's sides are not its last two dimensions.", SIDES, "n_out, n_in = O.shape[-2:]"
        ),
        Wrong("A kernel's n_in is in·k_h·k_w, not in.", "O[0].numel()", "O.shape[1]"),
        Wrong(
            "original: wide matrices keep s = 1; the maximum is missing.",
            "max(1, n_out / n_in)",
            "(n_out / n_in)",
        ),
        Wrong("original: the maximum is a minimum.", "max(1,", "min(1,"),
        Wrong(
            "original: the root is missing.",
            "n_out / n_in) ** 0.5\n    elif",
            "n_out / n_in)\n    elif",
        ),
        Wrong("match_rms_adamw: the factor 0.2 is missing.", "0.2 * ", ""),
        Wrong(
            "match_rms_adamw: the longer side counts, not the shorter.",
            "max(n_out, n_in)",
            "min(n_out, n_in)",
        ),
        Wrong(
            "match_rms_adamw: the root is missing.", "max(n_out, n_in) ** 0.5", "max(n_out, n_in)"
        ),
        Wrong(
            "match_rms_adamw: the scale is divided by the root.",
            "max(n_out, n_in) ** 0.5",
            "max(n_out, n_in) ** -0.5",
        ),
        Wrong(
            "match_rms_adamw: 0.2 stands under the root.",
            "0.2 * max(n_out, n_in) ** 0.5",
            "(0.2 * max(n_out, n_in)) ** 0.5",
        ),
        Wrong(
            "rms_to_rms: the quotient is upside down.", "s = (n_out / n_in)", "s = (n_in / n_out)"
        ),
        Wrong("rms_to_rms: the root is missing.", "s = (n_out / n_in) ** 0.5", "s = n_out / n_in"),
        Wrong("rms_to_rms: there is no maximum with one.", "s = (n_out", "s = max(1, n_out"),
        Wrong("O is changed in place, and it belongs to the caller.", "s * O", "O.mul_(s)"),
    ),
)


def rule_cases(points):
    """The cases of Muon; points for each of the six."""
    usual = {"lr": 0.1, "beta": 0.9, "decay": 0.4}
    names = (
        "wide",
        "tall",
        "W, z and the state stay as they were",
        "square, without decay",
        "tall in float32, little momentum",
        "wide, twelve steps",
    )
    draws = (
        steps(walk(WIDE), **usual),
        steps(walk(TALL), **usual),
        steps(walk(TALL, 2), watch=True, **usual),
        steps(walk(SQUARE), lr=0.3, beta=0.8, decay=0.0),
        steps(walk(TALL), dtype="float32", lr=0.2, beta=0.3, decay=0.1),
        steps(walk(WIDE, 12), **usual),
    )
    return tuple(
        Case(name, worth, draw, visible=i < 3)
        for i, (name, worth, draw) in enumerate(zip(names, points, draws, strict=True))
    )


BUFFER, LAST = "z if state is None else beta * state + z", "W - lr * decay * W - lr * s * O"

# Mistakes that both Muons can hold.
MUON = (
    Wrong("The momentum is missing: B is z.", "beta * state + z", "z"),
    Wrong("B does not forget: β is missing.", "beta * state", "state"),
    Wrong(
        "B is an average, but D takes the whole z: it must be an average, too.",
        BUFFER,
        "(1 - beta) * z if state is None else beta * state + (1 - beta) * z",
    ),
    Wrong("The look-ahead is missing: D is B.", "D = z + beta * B", "D = B"),
    Wrong("D is z + βB, not z + B.", "D = z + beta * B", "D = z + B"),
    Wrong("D is z + βB, not B + βz.", "D = z + beta * B", "D = B + beta * z"),
    Wrong("The state is D, not B.", "s * O, B", "s * O, D"),
    Wrong("The decay is multiplied by s, too.", "lr * decay", "lr * s * decay"),
    Wrong("The decay is not multiplied by η.", "lr * decay", "decay"),
    Wrong("The decay is missing.", "W - lr * decay * W", "W"),
    Wrong("The decay has the wrong sign: W grows.", "W - lr * decay", "W + lr * decay"),
    Wrong(
        "λW is in the gradient, as in Adam with an L2 term.",
        "B = z",
        "z, decay = z + decay * W, 0\n    B = z",
    ),
    Wrong("The decay acts on W after the step.", LAST, "(W - lr * s * O) * (1 - lr * decay)"),
    Wrong("The scale is missing: tall matrices take longer steps.", "lr * s * O", "lr * O"),
    Wrong(
        "The scale is upside down: tall matrices take longer steps.",
        "W.shape[0] / W.shape[1]",
        "W.shape[1] / W.shape[0]",
    ),
    Wrong("The scale's root is missing.", ") ** 0.5", ")"),
    Wrong(
        "The scale's maximum is missing: wide matrices keep s = 1.",
        "max(1, W.shape[0] / W.shape[1])",
        "(W.shape[0] / W.shape[1])",
    ),
    Wrong(UPHILL, "- lr * s", "+ lr * s"),
    Wrong("The state's buffer is changed in place.", "beta * state", "state.mul_(beta)"),
)

Q5 = Question(
    "q5",
    "muon",
    "steps",
    cases=rule_cases((4, 5, 2, 2, 2, 3)),
    wrong=(
        *MUON,
        Wrong(
            "D is not orthogonalized, only divided by its norm.",
            "O = newton_schulz(D, steps=5, a=3.4445, b=-4.7750, c=2.0315)",
            "O = D / D.norm()",
        ),
        Wrong("There are four steps of Newton–Schulz, not five.", "steps=5", "steps=4"),
        Wrong(
            "This is the exact factor; asked for are five steps of the quintic.",
            "newton_schulz(D, steps=5, a=3.4445, b=-4.7750, c=2.0315)",
            "polar(D)",
        ),
    ),
)

Q6 = Question(
    "q6",
    "mended",
    "steps",
    cases=rule_cases((2, 4, 2, 1, 2, 2)),
    wrong=(
        *MUON,
        Wrong(
            "Asked for is the exact factor, not Newton–Schulz.",
            "factor(D)",
            "newton_schulz(D, steps=5, **QUINTIC)",
        ),
    ),
)

READING = Reading(
    "q7",
    "A step has the length η‖O‖, whatever the gradient's, so the iterate cannot come "
    "closer than about η and circles there. Half the rate has a quarter of the loss "
    "(means of the last 50 steps: 0.0064 and 0.0016), since a quadratic loss goes with "
    "the square of the distance. With the falling rate there is no floor (3.3e-5): Muon "
    "needs a schedule that goes to zero, and a constant rate says little about it.",
)

ASSIGNMENT = Assignment(
    "A4",
    "Muon",
    (Q1, Q2, Q3, Q4, Q5, Q6),
    forbids=RULES,
    readings=(READING,),
)
