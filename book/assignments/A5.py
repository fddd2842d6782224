"""A5: how its questions are graded. For instructors: this file holds hidden cases and mistakes."""

import numpy as np

from optcore.course.draws import calls, oracle
from optcore.course.model import Assignment, Case, Question, Reading, Wrong

COUNTS = ("steps of SGD", None), ("steps of SVRG", None), ("snapshots", None)
COUNTS += (("evaluations of SVRG", None),)


def budgets(unit, *rests):
    """What draws budgets of whole loops and a rest: that many steps after a snapshot.

    A rest of None pays for no snapshot, a rest of 0 for one, but for no step.
    """

    def of(rest):
        def arguments(rng):
            size, inner, loops = rng.integers(13, 17), rng.integers(12, 17), rng.integers(3, 6)
            n = size * inner * rng.integers(3, 6) + 1
            left = n - 2 if rest is None else n + 1 + rest * (2 * size + 1)
            budget = loops * (n + 2 * size * inner) + left
            return budget, n, size, inner if unit == "steps" else inner * size

        return arguments

    return calls([of(rest) for rest in rests], *COUNTS, unit=unit)


MORE, LOOPS = "max(0, left - n) // (2 * size)", "loops, left ="

Q1 = Question(
    "q1",
    "plan",
    "calls",
    cases=(
        Case("m counts steps", 3, budgets("steps", 5, 3), visible=True),
        Case("m counts samples", 3, budgets("samples", 5, 3), visible=True),
        Case("no money for another snapshot", 2, budgets("steps", None, None), visible=True),
        Case("money for a snapshot, but for no step after it", 2, budgets("samples", 0), True),
        Case("rests of every kind", 2, budgets("samples", 2, None, 4, 0)),
    ),
    wrong=(
        Wrong("A step of SVRG costs 2B: it asks at two places.", "2 * size", "size"),
        Wrong("The snapshots are free here: each costs n.", LOOPS, f"n = 0\n    {LOOPS}"),
        Wrong(
            "There is one snapshot here, and then never another one.",
            LOOPS,
            "more = (budget - n) // (2 * size)\n"
            "    return budget // size, more, 1, n + 2 * size * more\n"
            f"    {LOOPS}",
        ),
        Wrong("The two readings of m have changed places.", '== "steps"', '!= "steps"'),
        Wrong(
            "In samples m counts what is drawn, not that each is asked twice: m/B steps.",
            "m // size",
            "m // (2 * size)",
        ),
        Wrong("Only whole loops are spent: the rest pays for steps, too.", MORE, "0"),
        Wrong("The last snapshot is free here.", MORE, "left // (2 * size)"),
        Wrong("A snapshot is bought that no step follows.", "(more > 0)", "(left >= n)"),
        Wrong("There is always one more snapshot than whole loops.", "(more > 0)", "1"),
        Wrong("The last step exceeds the budget.", MORE, "-(-max(0, left - n) // (2 * size))"),
        Wrong(
            "SGD pays B for a step, not 2B.", "return budget // size", "return budget // 2 // size"
        ),
        Wrong(
            "SGD's last step exceeds the budget.",
            "return budget // size",
            "return -(-budget // size)",
        ),
        Wrong(
            "What SVRG spends is not the whole budget: some is left.",
            "snapshots * n + 2 * size * steps",
            "budget",
        ),
        Wrong("SGD has the steps of SVRG.", "return budget // size", "return steps"),
    ),
    rtol=1e-7,
)

SNAPSHOT = "snapshot, full = W, gradient(W, torch.arange(n, device=W.device))"
ESTIMATE = "z = gradient(W, batch) - gradient(snapshot, batch) + full"
DUE, STEP, ALL = "t % every == 0", "W = W - lr * z", "torch.arange(n, device=W.device)"


def asked(T, size, *, every, lr=0.5, n=12):
    """What draws a problem, a start, and T batches: of one example, then all different, or more."""

    def arguments(rng):
        x, y = rng.standard_normal((n, 3)), rng.integers(3, size=n)
        picks = rng.permutation(n)[:T, None] if size == 1 else rng.integers(n, size=(T, size))
        return (x, y), rng.standard_normal((3, 3)), picks

    path = "W_2 … W_{T+1}", [T, 3, 3]
    return oracle(arguments, path, budget=1000, l2=0.05, n=n, lr=lr, every=every)


Q2 = Question(
    "q2",
    "svrg",
    "oracle",
    cases=(
        Case("one loop", 4, asked(4, 3, every=4), visible=True),
        Case("three loops", 6, asked(18, 3, every=6), visible=True),
        Case("the last loop is shorter", 4, asked(7, 4, every=4, lr=0.8), visible=True),
        Case("batches of one", 4, asked(10, 1, every=5, lr=0.3)),
        Case("a snapshot before every step", 2, asked(4, 3, every=1)),
        Case("a snapshot that lasts", 2, asked(6, 3, every=100)),
    ),
    wrong=(
        Wrong(
            "The full gradient is computed in every step; until the next snapshot it is the same.",
            ESTIMATE,
            f"full = gradient(snapshot, {ALL})\n        {ESTIMATE}",
        ),
        Wrong(
            "The two places see two different batches.",
            "(snapshot, batch)",
            "(snapshot, picks[t - 1])",
        ),
        Wrong("The snapshot is never renewed.", DUE, "t == 0"),
        Wrong("The snapshot is renewed in every step.", DUE, "True"),
        Wrong("The snapshot is renewed one step late.", DUE, "t == 0 or (t - 1) % every == 0"),
        Wrong("m counts steps here, not samples.", "t % every", "t % max(1, every // len(batch))"),
        Wrong(
            "The correction has the wrong sign.",
            "- gradient(snapshot, batch) + full",
            "+ gradient(snapshot, batch) - full",
        ),
        Wrong("The full gradient ∇F(W̃) is missing in the estimate.", " + full", ""),
        Wrong(
            "The correction is missing: this is SGD that pays for snapshots.",
            ESTIMATE,
            "z = gradient(W, batch)",
        ),
        Wrong(
            "The batch's two gradients are both taken at W, and cancel.",
            "gradient(snapshot, batch)",
            "gradient(W, batch)",
        ),
        Wrong("The snapshot's gradient is that of one batch, not of all examples.", ALL, "batch"),
        Wrong(
            "The snapshot is the mean of the last iterates; it must be the last one.",
            SNAPSHOT,
            "snapshot = torch.stack(path[-every:] or [W]).mean(0)\n"
            f"            full = gradient(snapshot, {ALL})",
        ),
        Wrong(
            "After the last step another full gradient is computed, for nobody.",
            "return torch",
            f"gradient(W, {ALL})\n    return torch",
        ),
        Wrong(
            "W is changed in place, and the snapshot and all that is returned with it.",
            STEP,
            "W -= lr * z",
        ),
        Wrong(
            "The iterates start with W_1 and end with W_T: they are one step late.",
            f"{STEP}\n        path.append(W)",
            f"path.append(W)\n        {STEP}",
        ),
        Wrong("The step goes uphill: its sign is wrong.", "W - lr", "W + lr"),
    ),
)


def landscape(n, features, *, l2, passes, limit, far=0.0):
    """What draws a problem with curvatures from large to small, which SVRG solves in time."""

    def arguments(rng):
        x = rng.standard_normal((n, features)) * np.geomspace(1.5, 0.3, features)
        scores = 2 * x @ rng.standard_normal((features, 3)) + rng.gumbel(size=(n, 3))
        L = np.linalg.eigvalsh(x.T @ x / n)[-1] / 2 + l2
        L_max = (x**2).sum(1).max() / 2 + l2
        start = far * rng.standard_normal((features, 3))
        return (x, scores.argmax(1)), start, n, passes * n, limit, L, L_max

    return oracle(arguments, "W", budget=passes * n, l2=l2, limit=limit)


LOOP = "W = svrg(W, gradient, picks, n=n, lr=lr, every=every)[-1]"
HEAD, RATE = "range(budget // (n + 2 * size * every))", "lr, every = 2 /"

Q3 = Question(
    "q3",
    "train",
    "slope",
    cases=(
        Case("300 examples", 5, landscape(300, 5, l2=0.01, passes=30, limit=3e-3), visible=True),
        Case("240 others", 5, landscape(240, 4, l2=0.02, passes=25, limit=3e-3)),
        Case("a start elsewhere", 4, landscape(300, 5, l2=0.02, passes=35, limit=5e-3, far=0.7)),
    ),
    wrong=(
        Wrong("The rate is twenty times too small.", RATE, "lr, every = 0.1 /"),
        Wrong("A snapshot before every step costs nearly the whole budget.", "n // size", "1"),
        Wrong(
            "This is gradient descent: each step costs n.",
            LOOP,
            "for _ in range(1 + 2 * size * every // n):\n"
            "            W = W - gradient(W, torch.arange(n, device=W.device)) / L",
        ),
        Wrong(
            "This is SGD: its constant rate leaves it on a floor.",
            LOOP,
            "for batch in picks.repeat(3, 1):\n            W = W - lr * gradient(W, batch)",
        ),
        Wrong("There is one loop only: most of the budget is left.", HEAD, "range(1)"),
        Wrong("A loop goes on from its first iterate, not from its last.", "[-1]", "[0]"),
        Wrong(
            "Each loop begins at the start again.",
            f"for _ in {HEAD}:",
            f"first = W\n    for _ in {HEAD}:\n        W = first",
        ),
        Wrong(
            "The batches hold all examples: this is gradient descent at a higher price.",
            "size = 5",
            "size = n",
        ),
        Wrong(
            "Without a correction larger batches leave SGD on a floor, too.",
            LOOP,
            "for batch in picks.repeat(3, 1).view(-1, 30):\n"
            "            W = W - lr * gradient(W, batch)",
        ),
    ),
)

BEST, LUCKY, STEADY, TYPICAL = (44, 46, 47, 51), (40, 41, 63, 40), (46,) * 4, (20, 52, 52, 52)
NAN = float("nan")


def grid(best, place, *, tie=None, one=None, every=None, high=64):
    """What draws six rates and four accuracies of each, in units of 1/64: their means are exact.

    Rates are numbered by size from 0 to 5. The best one stands at `place` of the list. `tie` is as
    good, and stands at its start, or after a best one there; `one` would be better, with accuracies
    as `high`, but for a run that diverged; `every` has runs that all did.
    """

    def arguments(rng):
        given = {best: BEST, tie: BEST, one: (high, high, NAN, high), every: (NAN,) * 4}
        others = [i for i in rng.permutation(6).tolist() if i not in given]
        given |= dict(zip(others, (LUCKY, STEADY, TYPICAL, (30,) * 4, (25,) * 4), strict=False))
        order = [i for i in rng.permutation(6).tolist() if i not in (best, tie)]
        order = order if tie is None else [tie, *order]
        order.insert(place, best)
        rates = rng.uniform(0.01, 0.02) * 3.0 ** np.array(order)
        return rates, (np.array([rng.permutation(given[i]) for i in order]) - rng.integers(5)) / 64

    return arguments


def searches(*grids, **options):
    """What draws calls of best_rate."""
    return calls(grids, ("rate", None), ("edge", None), **options)


MEANS, RATE = "means = scores.mean(1).nan_to_num(-torch.inf)", "rates[means == means.max()].min()"
EDGE = "edge = int(rate == rates.max()) - int(rate == rates.min())"

Q4 = Question(
    "q4",
    "best_rate",
    "calls",
    cases=(
        Case("the best one inside the grid", 2, searches(grid(2, 0), grid(3, 5)), visible=True),
        Case("the best one at an edge", 3, searches(grid(5, 2), grid(0, 3)), visible=True),
        Case(
            "runs that diverged",
            3,
            searches(grid(3, 1, one=4, every=5), grid(1, 2, one=3, every=0, high=60)),
            visible=True,
        ),
        Case(
            "equally good",
            2,
            searches(grid(2, 4, tie=5), grid(0, 2, tie=3), grid(1, 0, tie=4)),
            visible=True,
        ),
        Case(
            "all of it, in float32",
            2,
            searches(grid(1, 3, tie=2, one=4, every=5), grid(5, 1), dtype="float32"),
        ),
    ),
    wrong=(
        Wrong(
            "The mean is over the runs that did not diverge; one is enough to rule a rate out.",
            "scores.mean(1)",
            "scores.nanmean(1)",
        ),
        Wrong(
            "A run that diverged counts as an accuracy of zero; it rules the rate out.",
            "scores.mean(1)",
            "scores.nan_to_num(0).mean(1)",
        ),
        Wrong(
            "torch.argmax takes NaN for the largest number.",
            RATE,
            "rates[scores.mean(1).argmax()]",
        ),
        Wrong("The best single run decides, not the mean.", "scores.mean(1)", "scores.amax(1)"),
        Wrong("The worst run decides, not the mean.", "scores.mean(1)", "scores.amin(1)"),
        Wrong("The median decides, not the mean.", "scores.mean(1)", "scores.median(1).values"),
        Wrong("Of equally good rates the smallest wins, not the largest.", ".min()\n", ".max()\n"),
        Wrong(
            "Of equally good rates the smallest wins, not the first in the list.",
            RATE,
            "rates[means.argmax()]",
        ),
        Wrong(
            "An edge is where no rate is larger, or smaller, wherever it stands in the list.",
            EDGE,
            "edge = int(rate == rates[-1]) - int(rate == rates[0])",
        ),
        Wrong(
            "A rate that diverged belongs to the grid, too: next to it is no edge.",
            EDGE,
            "kept = rates[means > -1]\n"
            "    edge = int(rate == kept.max()) - int(rate == kept.min())",
        ),
        Wrong("The edge's sign is wrong.", "rate.item(), edge", "rate.item(), -edge"),
        Wrong("At the smallest rate the edge is −1, not 1.", ") - int(", ") + int("),
        Wrong("The edge is missing.", "rate.item(), edge", "rate.item(), 0"),
        Wrong(
            "The worst mean wins.",
            "means == means.max()",
            "scores.mean(1) == scores.mean(1).nan_to_num(1).min()",
        ),
        Wrong(
            "The place of the rate is returned, not the rate.",
            "rate.item(), edge",
            "(rates == rate).nonzero().item(), edge",
        ),
    ),
)


def labels(*counts):
    """What draws labels of which there are so many of each class, shuffled."""

    def arguments(rng):
        return (rng.permutation(np.repeat(np.arange(len(counts)), counts)),)

    return arguments


def holders(*drawn, classes):
    """What draws calls of ring."""
    return calls(drawn, "owner", classes=classes)


FEW, MANY = (3, 6, 5, 4, 7, 3, 5, 4, 6, 5), (9, 8, 11, 7, 12, 9, 10, 8, 7, 11)
HALF, FIRST, SECOND = "half = (len(members) + 1) // 2", "members[:half]", "members[half:]"
NEIGHBOUR = "(c - 1) % classes"

Q5 = Question(
    "q5",
    "ring",
    "calls",
    cases=(
        Case("ten classes", 4, holders(labels(*FEW), labels(*MANY), classes=10), visible=True),
        Case(
            "a class with one image, and one with none",
            2,
            holders(labels(7, 1, 0, 8, 5), classes=5),
            visible=True,
        ),
        Case("four classes", 4, holders(labels(7, 6, 9, 11), labels(5, 12, 7, 4), classes=4)),
    ),
    wrong=(
        Wrong("Client k holds k and k + 1 here, not k and k − 1.", NEIGHBOUR, "(c + 1) % classes"),
        Wrong(
            "The halves have changed places: the first one goes to client c.",
            f"owner[{FIRST}] = c\n        owner[{SECOND}] = {NEIGHBOUR}",
            f"owner[{FIRST}] = {NEIGHBOUR}\n        owner[{SECOND}] = c",
        ),
        Wrong("Each client holds one class only.", NEIGHBOUR, "c"),
        Wrong("The ring is not closed: client −1 is the last one.", NEIGHBOUR, "c - 1"),
        Wrong("The ring is not closed: client 0 has all of class 0.", NEIGHBOUR, "max(c - 1, 0)"),
        Wrong(
            "The first half is the larger one: ⌈n_c/2⌉.",
            "(len(members) + 1) // 2",
            "len(members) // 2",
        ),
        Wrong(
            "Every other image goes to the neighbour; it must be the second half.",
            f"owner[{FIRST}] = c\n        owner[{SECOND}] =",
            "owner[members] = c\n        owner[members[1::2]] =",
        ),
        Wrong(
            "The halves are those of all images, not those of the class.",
            HALF,
            "half = int((members < len(y) / 2).sum())",
        ),
        Wrong("The second half goes two clients further.", NEIGHBOUR, "(c - 2) % classes"),
        Wrong(
            "The owners are in the order of the labels, not in that of the images.",
            "(y == c)",
            "(y.sort().values == c)",
        ),
        Wrong(
            "The first half goes to the neighbour, too.",
            f"[{FIRST}] = c",
            f"[{FIRST}] = {NEIGHBOUR}",
        ),
    ),
)


def clients(*sizes, classes=4, two=False):
    """What draws weights and images of clients that hold so many; `two` classes each, if asked."""

    def arguments(rng):
        n = sum(sizes)
        owner = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        y = (owner + rng.integers(2, size=n)) % classes if two else rng.integers(classes, size=n)
        return rng.standard_normal((3, classes)), rng.standard_normal((n, 3)), y, owner

    return arguments


def rounds(*drawn, clients=4, epochs=1, size=3, lr=0.4, **options):
    """What draws calls of fedavg_round."""
    settings = {"clients": clients, "epochs": epochs, "size": size, "lr": lr, "l2": 0.2}
    return calls(drawn, ("W_next", 0), ("evaluations", None), **settings, **options)


BATCHES = "for first in range(0, len(own), size):"
SHARE, MEAN = "len(own) / len(x) * W_k", "total = total +"
PASSES = "for _ in range(epochs):\n"

Q6 = Question(
    "q6",
    "fedavg_round",
    "calls",
    cases=(
        Case("one epoch, equal shares", 3, rounds(clients(6, 6, 6, 6)), visible=True),
        Case(
            "three epochs, unequal shares",
            6,
            rounds(clients(2, 11, 4, 7), clients(8, 3, 5, 1), epochs=3),
            visible=True,
        ),
        Case("a client that holds nothing", 3, rounds(clients(5, 0, 8, 4), epochs=2), visible=True),
        Case(
            "the arguments stay as they were",
            2,
            rounds(clients(4, 7, 5, 3), epochs=2, watch=True),
            visible=True,
        ),
        Case(
            "two classes each, five clients",
            4,
            rounds(clients(7, 9, 4, 8, 5, classes=5, two=True), clients=5, epochs=4, size=4),
        ),
        Case(
            "batches of one in float32",
            2,
            rounds(clients(2, 5, 3, 4), epochs=2, size=1, lr=0.2, dtype="float32"),
        ),
    ),
    wrong=(
        Wrong("The average has weights 1/K, not n_k/n.", SHARE, "W_k / clients"),
        Wrong(
            "The average has weights one over the number of clients that hold something.",
            SHARE,
            "(len(own) > 0) / len(owner.unique()) * W_k",
        ),
        Wrong(
            "A client begins where the one before it has stopped, not at the server's W.",
            MEAN,
            f"W = W_k\n        {MEAN}",
        ),
        Wrong(
            "W is changed in place, and it belongs to the server.", "W_k = W_k - lr", "W_k -= lr"
        ),
        Wrong("There is only one epoch.", "range(epochs)", "range(1)"),
        Wrong(
            "Each epoch begins at the server's W again.", PASSES, f"{PASSES}            W_k = W\n"
        ),
        Wrong(
            "The smaller last batch is left out.",
            "range(0, len(own), size)",
            "range(0, len(own) - size + 1, size)",
        ),
        Wrong(
            "The smaller last batch is divided by B, not by its size.",
            "lr * l",
            "lr * len(batch) / size * l",
        ),
        Wrong(
            "The step is along the sum of a batch, not its mean.", "lr * l", "lr * len(batch) * l"
        ),
        Wrong(
            "All gradients are taken at the server's W.",
            "logistic_gradient(W_k",
            "logistic_gradient(W",
        ),
        Wrong("The decay is missing.", "l2=l2)", "l2=0.0)"),
        Wrong(
            "A client makes one step an epoch, on all it holds.",
            BATCHES,
            "size = len(own)\n            for first in range(0, len(own), max(size, 1)):",
        ),
        Wrong(
            "The images are not taken in the order of their numbers.",
            "nonzero().squeeze(1)",
            "nonzero().squeeze(1).flip(0)",
        ),
        Wrong(
            "A client without images has an empty batch, and a mean over nothing is NaN.",
            f"{BATCHES}\n                batch = own[first : first + size]",
            "for batch in own.split(size):",
        ),
        Wrong("Steps are counted, not evaluations.", "spent += len(batch)", "spent += 1"),
        Wrong(
            "A smaller last batch costs what it holds, not B.",
            "spent += len(batch)",
            "spent += size",
        ),
        Wrong(
            "The evaluations are those of one epoch.", "return total, spent", "return total, len(x)"
        ),
        Wrong("The step goes uphill: its sign is wrong.", "W_k - lr", "W_k + lr"),
    ),
)

READING = Reading(
    "q7",
    "What the solution measured, on 5 000 images of MNIST: SGD ends at 90.0 to 90.4 % "
    "(rate 0.4), Adam at 90.3 to 90.6 % (0.002), SVRG with m in samples at 90.7 % (3.2) "
    "and in steps at 90.4 to 90.7 % (1.6), three seeds each. So all of them end within a "
    "point, and where two differ by more than the seeds do, it is by less than half a "
    "point. The standard error of a share of 10 000 images is 0.3 points, and the rates "
    "were chosen on the same images: a full answer names no winner, or only the speed of "
    "the first passes, in which SGD is ahead. With m in samples 83 % of the evaluations "
    "go to snapshots, so only 180 steps are left, and the start is slow. With m in steps "
    "it is 9 %, but a snapshot serves for 10 passes, and at the best rate the accuracy "
    "wavers until it is renewed. Other grids and seeds give other rates: what counts is "
    "what is said of the numbers. After 20 rounds the ring is at 83.7 % with E = 1 and at "
    "86.3 % with E = 5; the clients that were dealt out are at 90.4 and 90.5 %, where SGD "
    "on all images is, too. So the ring costs about six points and four, and it is the "
    "ring: averaging alone costs nothing. More local epochs help here, for five times the "
    "evaluations. Nothing diverges: on the ring the accuracy rises in every round, and "
    "the loss falls in every round, to 0.83 and 0.74, where SGD in one place reaches "
    "0.42. Whether 20 rounds are too few, or the goal is the wrong one, this figure "
    "cannot tell.",
)

ASSIGNMENT = Assignment(
    "A5",
    "SGD, Adam, SVRG and FedAvg",
    (Q1, Q2, Q3, Q4, Q5, Q6),
    forbids=(
        "optcore.estimators",
        "optcore.federated",
        "optcore.rules",
        "optcore.optim",
        "optcore.problems",
        "optcore.backward",
    ),
    readings=(READING,),
)
