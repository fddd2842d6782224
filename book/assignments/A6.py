"""A6: how its questions are graded. For instructors: this file holds hidden cases and mistakes."""

import numpy as np

from optcore.course.draws import calls
from optcore.course.model import RULES, Assignment, Case, Question, Reading, Wrong


def sequences(batch, time, width, last=1.0):
    """What draws x and four matrices; the last position may be larger than the others."""

    def arguments(rng):
        x = rng.standard_normal((batch, time, width))
        x[:, -1] *= last
        return x, *rng.standard_normal((4, width, width)) / width**0.5

    return arguments


def attend(batch, time, width, *, heads, last=1.0, **options):
    """What draws a call of attention."""
    weights = ("weights", [batch, heads, time, time])
    drawn = [sequences(batch, time, width, last)]
    return calls(drawn, ("output", 0), weights, heads=heads, **options)


SPLIT = "unflatten(-1, (heads, -1)).transpose(1, 2)"
ROOT = "(x.shape[-1] / heads) ** 0.5"
MASK = "triu(1)\n    weights = scores.masked_fill(future, -math.inf)"

Q1 = Question(
    "q1",
    "attention",
    "calls",
    cases=(
        Case("one sequence, one head", 4, attend(1, 4, 2, heads=1), visible=True),
        Case("two heads", 5, attend(1, 4, 4, heads=2), visible=True),
        Case("a batch of two, three heads", 4, attend(2, 4, 6, heads=3)),
        Case("a last position with large numbers", 4, attend(2, 5, 4, heads=2, last=200.0)),
        Case("float32, as many heads as columns", 3, attend(2, 4, 4, heads=4, dtype="float32")),
    ),
    wrong=(
        Wrong("The scores are divided by √d; a head has d/H columns.", ROOT, "x.shape[-1] ** 0.5"),
        Wrong("The scores are divided by d/H, not by its root.", ROOT, "(x.shape[-1] / heads)"),
        Wrong("The scores are not divided by √(d/H).", f" / {ROOT}", ""),
        Wrong("The scores are multiplied by √(d/H), not divided by it.", f"/ {ROOT}", f"* {ROOT}"),
        Wrong("The future leaks: there is no mask.", "triu(1)", "triu(x.shape[1])"),
        Wrong("The mask hides the past, and shows the future.", "triu(1)", "tril(-1)"),
        Wrong(
            "The mask hides position t from itself, too.",
            MASK,
            MASK.replace("triu(1)", "triu(0)").replace("-math.inf", "-1e9"),
        ),
        Wrong("The mask lets position t see position t + 1.", "triu(1)", "triu(2)"),
        Wrong(
            "The mask comes after the softmax: the weights of a position do not sum to one.",
            "scores.masked_fill(future, -math.inf).softmax(-1)",
            "scores.softmax(-1).masked_fill(future, 0)",
        ),
        Wrong("The scores of the future are set to 0, not to −∞: exp(0) is 1.", "-math.inf", "0.0"),
        Wrong("The softmax is over t, not over s.", "softmax(-1)", "softmax(-2).nan_to_num()"),
        Wrong("Queries and keys have changed places.", "q @ k.mT", "k @ q.mT"),
        Wrong(
            "Keys and values have changed places.", "split(Wk), split(Wv)", "split(Wv), split(Wk)"
        ),
        Wrong("A matrix is applied as xW, not as xWᵀ: its rows are outputs.", "x @ W.T", "x @ W"),
        Wrong("W_o is applied as YW_o, not as YW_oᵀ.", "mixed @ Wo.T", "mixed @ Wo"),
        Wrong("W_o is missing.", "mixed @ Wo.T", "mixed"),
        Wrong(
            "The residual connection is not a part of attention: x is added.",
            "mixed @ Wo.T",
            "x + mixed @ Wo.T",
        ),
        Wrong(
            "A head takes every H-th column, not a block of neighbours.",
            SPLIT,
            "unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)",
        ),
        Wrong(
            "Heads and positions are mixed up: a reshape is no transposition.",
            SPLIT,
            "reshape(len(x), heads, x.shape[1], -1)",
        ),
        Wrong(
            "The heads are not put side by side: a reshape is no transposition.",
            "transpose(1, 2).flatten(2)",
            "reshape(x.shape)",
        ),
        Wrong(
            "The heads are put side by side from right to left.",
            "(weights @ v).transpose",
            "(weights @ v).flip(1).transpose",
        ),
    ),
)


def guesses(batch, time, classes, size=1.5):
    """What draws logits and tokens."""

    def arguments(rng):
        logits = size * rng.standard_normal((batch, time, classes))
        return logits, rng.integers(classes, size=(batch, time))

    return arguments


BITS = ("bits", [])
LOGITS, TARGETS = "logits[:, :-1].log_softmax(-1)", "tokens[:, 1:, None]"
BOTH = f"{LOGITS}\n    found = log_p.gather(-1, {TARGETS})"

Q2 = Question(
    "q2",
    "bits_per_character",
    "calls",
    cases=(
        Case("one sequence", 3, calls(2 * [guesses(1, 4, 3)], BITS), visible=True),
        Case("a batch of three", 3, calls(2 * [guesses(3, 5, 4)], BITS), visible=True),
        Case("large logits", 2, calls(2 * [guesses(2, 6, 4, size=1000.0)], BITS)),
        Case("float32, more classes", 2, calls([guesses(2, 4, 12)], BITS, dtype="float32")),
    ),
    wrong=(
        Wrong("The loss is in nats, not in bits.", " / math.log(2)", ""),
        Wrong(
            "The loss is multiplied by log 2: bits are nats over log 2.",
            "/ math.log(2)",
            "* math.log(2)",
        ),
        Wrong("The logarithm has the base 10, not 2.", "math.log(2)", "math.log(10)"),
        Wrong(
            "Logits and tokens are not shifted: the model predicts what it has just read.",
            BOTH,
            BOTH.replace("[:, :-1]", "").replace("[:, 1:, None]", "[..., None]"),
        ),
        Wrong(
            "The shift is the wrong way: position t predicts token t − 1.",
            BOTH,
            BOTH.replace("[:, :-1]", "[:, 1:]").replace("[:, 1:, None]", "[:, :-1, None]"),
        ),
        Wrong(
            "The shift is by two.",
            BOTH,
            BOTH.replace("[:, :-1]", "[:, :-2]").replace("[:, 1:, None]", "[:, 2:, None]"),
        ),
        Wrong("This is the sum, not the mean.", "found.mean()", "found.sum()"),
        Wrong(
            "The sum over a sequence is not divided by T − 1.",
            "found.mean()",
            "found.sum(1).mean()",
        ),
        Wrong(
            "The sum is divided by T, and only T − 1 positions predict something.",
            "found.mean()",
            "(found.sum() / tokens.numel())",
        ),
        Wrong(
            "Only the last prediction of a sequence counts here.",
            "found.mean()",
            "found[:, -1].mean()",
        ),
        Wrong(
            "The softmax is over the positions, not over the classes.", "softmax(-1)", "softmax(1)"
        ),
        Wrong(
            "The softmax is missing: logits are no logarithms of shares.", ".log_softmax(-1)", ""
        ),
        Wrong("The sign is wrong: a loss is positive.", "-found", "found"),
        Wrong(
            "This is the logarithm of the mean probability, not the mean logarithm.",
            "found.mean()",
            "found.exp().mean().log()",
        ),
        Wrong(
            "This is the perplexity, 2 to the power of the bits.",
            "return -found.mean() / math.log(2)",
            "return (-found.mean()).exp()",
        ),
    ),
)


def between(low, high):
    """What draws a step from low to high, ends included."""

    def arguments(rng):
        return (rng.integers(low, high + 1),)

    return arguments


FACTOR = ("f(t)", None)
LATE = {"warm_up": 10, "steps": 110, "end": 0.1}
RISE = "if t <= warm_up:\n        return t / warm_up"
DONE = "min((t - 1 - warm_up) / (steps - warm_up), 1)"
FALL = "end + (1 - end) * (1 + math.cos(math.pi * done)) / 2"

Q3 = Question(
    "q3",
    "rate_factor",
    "calls",
    cases=(
        Case(
            "warm-up",
            3,
            calls([between(1, 1), between(2, 9), between(10, 10)], FACTOR, **LATE),
            visible=True,
        ),
        Case(
            "cosine",
            3,
            calls([between(11, 11), between(30, 55), between(65, 90)], FACTOR, **LATE),
            visible=True,
        ),
        Case(
            "after the end",
            2,
            calls([between(111, 111), between(120, 200)], FACTOR, **LATE),
            visible=True,
        ),
        Case(
            "no warm-up, down to 0",
            2,
            calls([between(2, 25), between(26, 40)], FACTOR, warm_up=0, steps=50, end=0.0),
        ),
    ),
    wrong=(
        Wrong("The warm-up counts from 0: step 1 is lost.", RISE, RISE.replace("t /", "(t - 1) /")),
        Wrong(
            "The warm-up ends one step late.", RISE, RISE.replace("/ warm_up", "/ (warm_up + 1)")
        ),
        Wrong("There is no warm-up.", RISE, "if t <= warm_up:\n        return 1.0"),
        Wrong("The warm-up ends at r, not at 1.", RISE, RISE.replace("t /", "end * t /")),
        Wrong(
            "The cosine is a step ahead: step W + 1 has the full rate.", "t - 1 - warm", "t - warm"
        ),
        Wrong(
            "The cosine's clock does not start after the warm-up.", DONE, "min((t - 1) / steps, 1)"
        ),
        Wrong(
            "The cosine takes T steps after the warm-up: it has T − W.",
            "/ (steps - warm_up)",
            "/ steps",
        ),
        Wrong("The factor 1 − r is missing: the cosine starts above 1.", "(1 - end) * (1", "(1"),
        Wrong("r is missing: the cosine ends at 0.", FALL, FALL.replace("end + (1 - end) * ", "")),
        Wrong(
            "The cosine falls to 0 and is cut off at r; it must arrive there with slope zero.",
            FALL,
            "max(end, (1 + math.cos(math.pi * done)) / 2)",
        ),
        Wrong("The cosine is not halved.", FALL, FALL.replace(" / 2", "")),
        Wrong("The cosine has the wrong sign: it rises.", "1 + math.cos", "1 - math.cos"),
        Wrong("This is a quarter of a period, not half of one.", "math.pi *", "math.pi / 2 *"),
        Wrong(
            "This is a straight line, not a cosine.",
            "(1 + math.cos(math.pi * done)) / 2",
            "(1 - done)",
        ),
        Wrong("After the end the factor rises again.", DONE, DONE[4:-4]),
        Wrong(
            "After the end the factor is 0, not r.",
            "done =",
            "end = end * (t <= steps)\n    done =",
        ),
        Wrong("The end of the cosine is half of r.", "return end +", "return end / 2 +"),
    ),
)


def walk(*sizes, factor=1.0):
    """What draws a matrix, a vector and a longer vector with the given norms."""

    def arguments(rng):
        drawn = [rng.standard_normal(shape) for shape in ((2, 3), (3,), (5,))]
        return [factor * size * z / np.linalg.norm(z) for size, z in zip(sizes, drawn, strict=True)]

    return arguments


OUT = (("z_1", 0), ("z_2", 1), ("z_3", 2), ("norm", []))
NORM = "torch.stack([z.norm() for z in gradients]).norm()"
SHORTER = "(limit / norm).clamp(max=1)"
PARTS = "*(factor * z for z in gradients)"

Q4 = Question(
    "q4",
    "clipped",
    "calls",
    cases=(
        Case(
            "above the limit",
            4,
            calls([walk(3, 4, 2), walk(0.5, 0.6, 6)], *OUT, limit=0.7),
            visible=True,
        ),
        Case("below the limit", 3, calls([walk(0.8, 1, 0.5)], *OUT, limit=2.0), visible=True),
        Case(
            "the gradients stay as they were",
            2,
            calls([walk(3, 4, 2)], *OUT, limit=0.7, watch=True),
            visible=True,
        ),
        Case(
            "each part is below the limit, all together are not",
            2,
            calls([walk(0.9, 0.8, 0.7)], *OUT, limit=1.0),
        ),
        Case(
            "large gradients, and none",
            2,
            calls([walk(3, 4, 2, factor=1e6), walk(0, 0, 0)], *OUT, limit=0.5),
        ),
        Case("float32", 2, calls([walk(3, 1, 2)], *OUT, limit=1.5, dtype="float32")),
    ),
    wrong=(
        Wrong(
            "Each tensor is clipped by its own norm: the direction changes.",
            PARTS,
            "*((limit / z.norm()).clamp(max=1) * z for z in gradients)",
        ),
        Wrong(
            "The entries are clipped one by one: the direction changes.",
            PARTS,
            "*(z.clamp(-limit, limit) for z in gradients)",
        ),
        Wrong("Nothing is clipped.", "(factor * z for", "(1 * z for"),
        Wrong(
            "Short gradients are made longer: the factor is at most 1.",
            SHORTER,
            "limit / norm.clamp(min=1e-30)",
        ),
        Wrong("The factor is at least 1, not at most.", "clamp(max=1)", "clamp(min=1)"),
        Wrong("The limit is 1, whatever it should be.", "(limit / norm)", "(1 / norm)"),
        Wrong(
            "The factor is c over the square of the norm.", "(limit / norm)", "(limit / norm**2)"
        ),
        Wrong(
            "The norms are added; it is their squares that add up.",
            "for z in gradients]).norm()",
            "for z in gradients]).sum()",
        ),
        Wrong(
            "This is the largest of the norms, not the norm of all.",
            "for z in gradients]).norm()",
            "for z in gradients]).max()",
        ),
        Wrong("The root is missing: this is ‖z‖².", NORM, NORM + " ** 2"),
        Wrong("Only the first tensor counts.", NORM, "gradients[0].norm()"),
        Wrong("The last tensor does not count.", "z in gradients])", "z in gradients[:-1]])"),
        Wrong(
            "This is the root mean square, not the norm.",
            NORM,
            "torch.cat([z.flatten() for z in gradients]).square().mean().sqrt()",
        ),
        Wrong("The norm is the sum of all |z|.", "z.norm() for", "z.abs().sum() for"),
        Wrong(
            "The norm is the one after the clipping.", f"{PARTS}, norm", f"{PARTS}, factor * norm"
        ),
        Wrong(
            "What is returned last is the factor, not the norm.",
            f"{PARTS}, norm",
            f"{PARTS}, factor",
        ),
        Wrong(
            "The gradients are changed in place, and they belong to the caller.",
            "factor * z for",
            "z.mul_(factor) for",
        ),
        Wrong(
            "Gradients that are all zero become 0/0.",
            "factor * z for",
            "norm.clamp(max=limit) / norm * z for",
        ),
    ),
)


def named(name, *shape, parts=1):
    """What draws a name and a gradient, with no entry and no singular value near zero."""

    def block(rng):
        if len(shape) == 1:
            return rng.uniform(0.5, 1.5, shape) * rng.choice((-1, 1), shape)
        while True:
            U, _, Vh = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
            z = U * np.geomspace(3, 0.5, min(shape)) @ Vh
            if abs(z).min() > 0.05:
                return z

    def arguments(rng):
        return name, np.concatenate([block(rng) for _ in range(parts)])

    return arguments


def first(*drawn, **options):
    """What draws calls of first_step."""
    return calls(drawn, ("Δ", 1), lr=0.3, adamw_lr=0.02, **options)


FUSED = [
    named(f"layers.{i}.qkv.weight", *shape, parts=3) for i, shape in enumerate([(2, 2), (3, 3)])
]
FOR_ADAMW = 'name.startswith(("embedding", "positions", "head"))'
SCALE, STEP = "0.2 * max(part.shape) ** 0.5", "-lr * 0.2 * max(part.shape) ** 0.5 * U @ Vh"

Q5 = Question(
    "q5",
    "first_step",
    "calls",
    cases=(
        Case(
            "hidden matrices",
            4,
            first(
                named("layers.0.q.weight", 3, 3),
                named("layers.1.up.weight", 4, 2),
                named("layers.0.down.weight", 2, 5),
            ),
            visible=True,
        ),
        Case(
            "tables, the head, and a name that only looks like one",
            4,
            first(
                named("embedding.weight", 4, 2),
                named("positions.weight", 3, 2),
                named("head.weight", 4, 3),
                named("layers.0.heads.weight", 2, 3),
            ),
            visible=True,
        ),
        Case("three matrices in one", 3, first(*FUSED), visible=True),
        Case(
            "gains and biases",
            2,
            first(named("layers.0.norms.0.weight", 3), named("layers.1.qkv.bias", 6)),
        ),
        Case(
            "float32, a long matrix",
            2,
            first(
                named("layers.0.k.weight", 2, 6),
                named("encoder.positions.weight", 3, 2),
                dtype="float32",
            ),
        ),
    ),
    wrong=(
        Wrong("Muon gets nothing: hidden matrices go to AdamW, too.", "z.ndim != 2", "True"),
        Wrong(
            "Muon gets everything with two dimensions, tables and the head, too.",
            f" or {FOR_ADAMW}",
            "",
        ),
        Wrong("The head gets Muon.", ', "head"', ""),
        Wrong("The table of positions gets Muon.", ' "positions",', ""),
        Wrong("The table of characters gets Muon.", '"embedding", ', ""),
        Wrong(
            "Only the beginning of a name counts, not a word somewhere inside.",
            FOR_ADAMW,
            'any(word in name for word in ("embedding", "positions", "head"))',
        ),
        Wrong(
            "Three matrices in one are taken for one.",
            'z.chunk(3) if "qkv" in name else [z]',
            "[z]",
        ),
        Wrong(
            "The scale of three matrices in one is that of the whole; it is each one's own.",
            "max(part.shape)",
            "max(z.shape)",
        ),
        Wrong("The factor 0.2 is missing.", "0.2 * ", ""),
        Wrong("The scale's root is missing.", "max(part.shape) ** 0.5", "max(part.shape)"),
        Wrong("The scale takes the longer side, not the shorter.", "max(part", "min(part"),
        Wrong(
            'This is the scale "original", √max(1, n_out/n_in).',
            SCALE,
            "max(1, part.shape[0] / part.shape[1]) ** 0.5",
        ),
        Wrong("The scale is missing.", f" * {SCALE}", ""),
        Wrong(
            "The singular values are kept: z is not orthogonalized.",
            f"{SCALE} * U @ Vh",
            f"{SCALE} * part",
        ),
        Wrong(
            "z is divided by its norm, which keeps the singular values unequal.",
            "U @ Vh",
            "part / part.norm()",
        ),
        Wrong("Muon's step goes uphill.", STEP, STEP[1:]),
        Wrong("AdamW's step goes uphill.", "-adamw_lr", "adamw_lr"),
        Wrong("AdamW's first step does not depend on the gradient's size.", "z.sign()", "z"),
        Wrong(
            "AdamW's first step is normalized entry by entry, not as a whole.",
            "z.sign()",
            "z / z.norm()",
        ),
        Wrong("AdamW has a rate of its own.", "-adamw_lr", "-lr"),
        Wrong("Muon takes AdamW's rate.", STEP, STEP.replace("lr", "adamw_lr")),
    ),
)


def model(layers, width, classes, batch, time):
    """What draws the sizes of a model and a batch, from a pair each."""

    def arguments(rng):
        ranges = (layers, width, classes, batch, time)
        return [rng.integers(low, high + 1) for low, high in ranges]

    return arguments


WEIGHTS = "12 * layers * width**2 + width * classes"
MATRICES, PAIRS = "6 * weights * batch * time", "12 * pairs * width"

Q6 = Question(
    "q6",
    "step_flops",
    "calls",
    cases=(
        Case(
            "one layer, one sequence",
            3,
            calls(2 * [model((1, 1), (8, 16), (5, 9), (1, 1), (4, 9))], ("FLOP", None)),
            visible=True,
        ),
        Case(
            "layers and a batch",
            4,
            calls(2 * [model((2, 5), (16, 64), (20, 60), (2, 8), (16, 64))], ("FLOP", None)),
            visible=True,
        ),
        Case(
            "a long context, many classes",
            3,
            calls(2 * [model((2, 4), (32, 64), (500, 900), (2, 4), (900, 1200))], ("FLOP", None)),
        ),
    ),
    wrong=(
        Wrong(
            "This is the forward pass only.",
            f"{MATRICES} + {PAIRS}",
            "2 * weights * batch * time + 4 * pairs * width",
        ),
        Wrong(
            "The backward pass takes two products for each one, not one.",
            f"{MATRICES} + {PAIRS}",
            "4 * weights * batch * time + 8 * pairs * width",
        ),
        Wrong(
            "A multiplication and its addition are two FLOP, not one.",
            f"{MATRICES} + {PAIRS}",
            "3 * weights * batch * time + 6 * pairs * width",
        ),
        Wrong(
            "The products of queries and keys, weights and values are missing.", f" + {PAIRS}", ""
        ),
        Wrong("In the backward pass attention's products count, too.", PAIRS, "4 * pairs * width"),
        Wrong(
            "Attention has two products: scores, and weights by values.", PAIRS, "6 * pairs * width"
        ),
        Wrong("Attention's pairs are T², not T.", "time**2", "time"),
        Wrong(
            "Attention is in every sequence of the batch.",
            "layers * batch * time**2",
            "layers * time**2",
        ),
        Wrong("Attention is in every layer.", "layers * batch * time**2", "batch * time**2"),
        Wrong(
            "The pairs of positions of different sequences do not count.",
            "batch * time**2",
            "(batch * time) ** 2",
        ),
        Wrong("The head is missing.", " + width * classes", ""),
        Wrong(
            "The table of characters does not count: it is looked up.",
            "width * classes",
            "2 * width * classes",
        ),
        Wrong(
            "The head is there once, not in every layer.",
            WEIGHTS,
            "layers * (12 * width**2 + width * classes)",
        ),
        Wrong("The layers are missing: this counts one.", "12 * layers *", "12 *"),
        Wrong(
            "The two matrices of the small network have 4d² weights each.",
            "12 * layers",
            "6 * layers",
        ),
        Wrong("The two matrices of the small network are missing.", "12 * layers", "4 * layers"),
        Wrong("This is the cost of one token.", "weights * batch * time", "weights"),
        Wrong(
            "The batch is missing: each sequence costs as much.",
            "weights * batch * time",
            "weights * time",
        ),
    ),
)


def account(*shapes, count=1, below=False):
    """What draws a budget, the FLOP of a step and the shapes of matrices.

    A step costs about as much as Newton–Schulz on its matrices. AdamW's last step is the part that
    is left over, seven tenths of a step, so that to round is not to round down.
    """

    def arguments(rng):
        sides = np.repeat([[rng.integers(*x), rng.integers(*y)] for x, y in shapes], count, axis=0)
        m, n = sides.min(1), sides.max(1)
        extra = int(5 * (4 * m**2 * n + 2 * m**3).sum())
        step = extra * int(rng.integers(60, 120)) // 100
        whole = 0 if below else int(rng.integers(20, 50))
        return whole * step + 7 * step // 10, step, sides

    return arguments


SQUARE, WIDE, TALL = ((8, 16), (8, 16)), ((4, 9), (20, 40)), ((20, 40), (4, 9))
COUNTS = ("extra", None), ("adamw_steps", None), ("muon_steps", None)
NS = "5 * (4 * m**2 * n + 2 * m**3)"

Q7 = Question(
    "q7",
    "affordable",
    "calls",
    cases=(
        Case("one wide matrix", 4, calls(2 * [account(WIDE)], *COUNTS), visible=True),
        Case("wide and tall ones", 3, calls(2 * [account(WIDE, TALL)], *COUNTS), visible=True),
        Case("four of each shape", 2, calls([account(WIDE, SQUARE, TALL, count=4)], *COUNTS)),
        Case("not enough for one step", 1, calls([account(TALL, below=True)], *COUNTS)),
    ),
    wrong=(
        Wrong("This is one step of Newton–Schulz, not five.", NS, NS[4:]),
        Wrong(
            "A symmetric product counts as any other: it is 4m²n.", "4 * m**2 * n", "3 * m**2 * n"
        ),
        Wrong("There are two products with m²n, of two FLOP each.", "4 * m**2 * n", "2 * m**2 * n"),
        Wrong("The square, 2m³, is missing.", " + 2 * m**3", ""),
        Wrong("The square has 2m³, not m³.", "2 * m**3", "m**3"),
        Wrong(
            "The smaller side is squared: m and n have changed places.",
            "for m, n in",
            "for n, m in",
        ),
        Wrong(
            "n_out is not always the smaller side.",
            "(sorted(sides) for sides in shapes.tolist())",
            "shapes.tolist()",
        ),
        Wrong(
            "All matrices count, not one of them.",
            "in shapes.tolist()",
            "in shapes.tolist()[:1]",
        ),
        Wrong("Muon's Newton–Schulz has no backward pass.", "(step + extra)", "(step + 3 * extra)"),
        Wrong(
            "Muon pays for the training step, too, not only for Newton–Schulz.",
            "(step + extra)",
            "extra",
        ),
        Wrong("Muon gets as many steps as AdamW here.", "(step + extra)", "step"),
        Wrong(
            "The two counts have changed places.",
            "budget // step, budget // (step + extra)",
            "budget // (step + extra), budget // step",
        ),
        Wrong(
            "AdamW does not pay for Newton–Schulz.", "budget // step,", "budget // (step + extra),"
        ),
        Wrong(
            "The counts are rounded up: they exceed the budget.",
            "budget // step, budget // (step + extra)",
            "-(-budget // step), -(-budget // (step + extra))",
        ),
        Wrong(
            "The counts are rounded, not rounded down: they may exceed the budget.",
            "budget // step, budget // (step + extra)",
            "round(budget / step), round(budget / (step + extra))",
        ),
        Wrong(
            "The counts are not whole.",
            "budget // step, budget // (step + extra)",
            "budget / step, budget / (step + extra)",
        ),
        Wrong(
            "Newton–Schulz is paid once, and not in every step.",
            "budget // (step + extra)",
            "(budget - extra) // step",
        ),
    ),
)

READING = Reading(
    "q8",
    "On a CPU, with seed 0, a full answer has 3.65, 3.41 and 2.94 bits for AdamW, 3.34, "
    "2.95 and 2.50 for Muon, so Muon is lower by 0.32, 0.46 and 0.44. The best rates, "
    "0.005 and 0.03, are inside their grids at every budget. With these rates the "
    "differences are 0.32, 0.48 and 0.48 for seed 1, and 0.50, 0.62 and 0.66 for seed 2; "
    "the bigram needs 3.46. Newton–Schulz takes 19 % of what Muon does, and 5.5 % at four "
    "times the batch: equal steps would give Muon 23 % more FLOP than AdamW here, and 6 % "
    "there. Limits that count: one seed, one size, one text, few rates, no β and no decay "
    "tuned, a rate chosen on the text that it is judged by, FLOP not seconds, runs so "
    "short that nothing is said about long ones. Give no points for who wins, nor for the "
    "sign.",
)

ASSIGNMENT = Assignment(
    "A6",
    "A small transformer on a budget",
    (Q1, Q2, Q3, Q4, Q5, Q6, Q7),
    forbids=(*RULES, "torch.nn.utils.clip_grad", "optcore.schedules"),
    readings=(READING,),
)
