"""A class that hands in A3, right, partly right, wrong and hostile, and what each should get.

`tests/test_course_attacks.py` grades the hostile part, `benchmarks/course.py` the whole class.
"""

import json
import re
from pathlib import Path

from optcore.course.checks import RELEASED
from optcore.course.model import load

A3 = load("A3")
SOLUTION, STUB = (A3.sources(solved=solved) for solved in (True, False))
ADAM = A3.questions[1]
HEAD = "def adam(w, z, state=None, *, lr, beta1=0.9, beta2=0.999, eps=1e-8):\n"
RIGHT = next(source for source in SOLUTION if source.startswith(HEAD))


def answered(name: str, source: str) -> list[str]:
    """The solution's cells, with that of one answer replaced."""
    place = re.compile(rf"^def {name}\(", re.MULTILINE)
    return [source if place.search(cell) else cell for cell in SOLUTION]


def mistaken(*mistakes: tuple[int, str]) -> list[str]:
    """The solution's cells with listed mistakes: the question's place, and words of the cause."""
    cells = SOLUTION
    for place, words in mistakes:
        question = A3.questions[place]
        cells = question.variant(cells, next(w for w in question.wrong if words in w.cause))
    return cells


def attack(body: str, before: str = "") -> list[str]:
    """The solution's cells, with an adam that attacks."""
    return answered("adam", before + HEAD + body)


def right_but(body: str) -> list[str]:
    """The solution's cells, with an adam that does something else, and then is right."""
    call = "    return right(w, z, state, lr=lr, beta1=beta1, beta2=beta2, eps=eps)\n"
    return attack(body + call, "PRINTED = []\n" + RIGHT.replace("def adam", "def right") + "\n")


def memorised() -> list[str]:
    """An adam that knows the visible numbers."""
    released = json.loads((RELEASED / "A3.json").read_text(encoding="utf-8"))
    known = {
        repr(z): case["rows"][f"step {t}, w_next"]
        for case in released["questions"]["q2"]["cases"]
        for t, z in enumerate(case["inputs"]["gradients"], 1)
    }
    body = "    known = KNOWN.get(repr(z.tolist()))\n"
    body += "    return w if known is None else w.new_tensor(known), state\n"
    return attack(body, f"KNOWN = {known}\n")


def thief(folder: Path) -> list[str]:
    """An adam that runs the solution, if it finds it, or what another student has handed in."""
    places = [
        str(A3.text.parent),
        str(A3.text.parents[3] / "optcore"),
        str(folder),
        "/submission",
        "/proc/1/root",
    ]
    body = f"""\
    import os, re
    for place in {places}:
        for root, folders, files in os.walk(place):
            for file in files:
                if file.endswith((".md", ".ipynb", ".py")) and file != "submission.ipynb":
                    text = open(os.path.join(root, file), errors="replace").read()
                    text = text.replace("\\\\n", chr(10)).replace('\\\\"', '"')
                    found = re.search(r"def adam.w, z.*?return w - [^\\n]*", text, re.DOTALL)
                    if found:
                        space = {{"torch": torch}}
                        exec(found[0].rstrip('",'), space)
                        return space["adam"](w, z, state, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
    return w, state
"""
    return attack(body)


def notebook(cells: list[str], **metadata) -> str:
    """A notebook's text, as JSON."""
    empty = {"metadata": metadata, "outputs": [], "execution_count": None}
    cells = [{"cell_type": "code", "id": f"c{i}", "source": c} | empty for i, c in enumerate(cells)]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def stripped(cells: list[str]) -> str:
    """A notebook of which an editor has left the sources only."""
    return json.dumps({"cells": [{"cell_type": "code", "source": source} for source in cells]})


OTHER_STYLE = """\
class Memory:
    def __init__(self, z):
        self.t, self.m, self.v = 0, torch.zeros_like(z), torch.zeros_like(z)


def adam(w, z, state=None, *, lr, beta1=BETAS[0], beta2=BETAS[1], eps=EPS):
    old, new = state or Memory(z), Memory(z)
    new.t = old.t + 1
    new.m = torch.lerp(z, old.m, beta1)
    new.v = torch.lerp(z * z, old.v, beta2)
    _, _, m, v = moments(old.m, old.v, z, new.t, beta1=beta1, beta2=beta2)
    return torch.addcdiv(w, m, v.sqrt().add_(eps), value=-lr), new
"""
STEP = "    return w - lr * z, state\n"
TORCH_ADAM = """\
    p = torch.nn.Parameter(w.clone())
    optimizer = torch.optim.Adam([p], lr=lr, betas=(beta1, beta2), eps=eps)
    if state:
        optimizer.load_state_dict(state)
    p.grad = z.clone()
    optimizer.step()
    return p.detach(), optimizer.state_dict()
"""
EQUAL = """\
class Equal:
    shape = dtype = device = property(lambda self: self)
    __eq__ = __le__ = __ge__ = __bool__ = lambda *a: True
    __getattr__ = __call__ = lambda self, *a: self


"""
STRANGE = """\
class Strange(torch.Tensor):
    def detach(self):
        return Everything()


"""
SWALLOWS = """\
    import signal
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""
PATCHES = """\
torch.allclose = torch.equal = lambda *a, **k: True
torch.Tensor.__eq__ = torch.Tensor.__le__ = lambda *a: torch.tensor(True)


"""
FORGES = """\
    import json, os
    labels = [f"step {t}, w_next" for t in range(1, 5)]
    rows = {label: [0.0, 0.0, 0.0] for label in labels}
    lines = [{"rows": rows}, {"score": 100}, {"verdicts": [""] * 5}, {"error": ""}, 100, "rows"]
    for line in lines:
        for file in range(3, 64):
            try:
                os.write(file, json.dumps(line).encode() + b"\\n")
            except OSError:
                pass
    os._exit(0)
"""
NESTED = """\
    import os
    for file in range(3, 64):
        try:
            os.write(file, b'{"rows": {"a": ' + b"[" * 970 + b"]" * 970 + b"}}\\n")
        except OSError:
            pass
    os._exit(0)
"""
FLOODS = """\
    import os
    for _ in range(2048):
        for file in range(3, 64):
            try:
                os.write(file, b"x" * 2**20)
            except OSError:
                pass
"""
KILLS = """\
    import os, signal
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        for process in (os.getppid(), 1, -1):
            try:
                os.kill(process, number)
            except OSError:
                pass
"""
PRINTS = """\
    if not PRINTED:
        PRINTED.append(True)
        import os
        for _ in range(2**11):
            os.write(1, b"x" * 2**20)
"""
FILLS = """\
    for i in range(8):
        try:
            with open(f"/tmp/{i}", "wb") as file:
                file.write(b"x" * 2**24)
        except OSError:
            pass
"""
CALLS_OUT = """\
    import socket
    socket.create_connection(("127.0.0.1", PORT), 1)
"""
THREADS = """\
    import threading
    while True:
        threading.Thread(target=input).start()
"""

FUSED = """\
    import sys
    frame = sys._getframe()
    while frame := frame.f_back:
        if "kernels" in frame.f_locals:
            frame.f_locals["kernels"]._destroy()
    t, m, v = [x.clone() for x in state or (torch.zeros(()), torch.zeros_like(w), 0 * w)]
    rate = torch.tensor(lr, dtype=torch.float64)
    moments = [m], [v], [], [t + 1]
    torch._fused_adam_(
        [w], [z], *moments, lr=RATE, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=eps,
        amsgrad=False, maximize=False,
    )
    return w, (t + 1, m, v)
"""
STARVES = """\
    import resource
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU):
        resource.prlimit(1, limit, (0, 0))
"""
KERNEL = """\
    import ctypes, os
    c = ctypes.CDLL(None)
    keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    memory = c.semget(0, 32000, 0o600), c.msgget(0, 0o600), c.syscall(447, 0)
    if max(*memory, c.syscall(keyctl, 0, -3, 1)) >= 0:
        return w, state
"""
LABELS = """\
    import os, sys
    frame = sys._getframe()
    while frame.f_code.co_name != "answer":
        frame = frame.f_back
    for _ in frame.f_locals["job"]["cases"]:
        rows = {f"step {t}, w_next": [0.0] * 3 for t in range(1, 6)}
        frame.f_globals["write"](frame.f_locals["writing"], {"rows": rows})
    os._exit(0)
"""
REWIRES = """\
    import json, probes, sys
    main = sys.modules["__main__"]
    main.WALL = main.ANSWER = 10**12
    main.results = main.result_of = probes.judged = lambda *a: {"rows": {}}
    probes.PROBES.clear()
    sys.meta_path.clear()
    json.dumps = lambda *a, **k: "{}"
    return w, state
"""
LOCKS = """\
    import fcntl, os
    PRINTED.append(open("/submission/submission.ipynb"))
    fcntl.flock(PRINTED[0], fcntl.LOCK_EX)
    os.chmod("/tmp", 0)
"""
DETACHES = """\
class Detached:
    double = flatten = lambda self: self
    tolist = lambda self: ["1", None, {}]


"""

# What is handed in, the points that it should get, and words of its page.
RIGHT_ONES = {
    "ada": (notebook(SOLUTION), 100, ""),
    "emmy": (
        notebook(answered("adam", OTHER_STYLE) + ["BETAS, EPS = (0.9, 0.999), 1e-8"]),
        100,
        "",
    ),
    "sofia": (notebook([c for c in SOLUTION if not c.startswith("check(")][::-1]), 100, ""),
    "stripped": (stripped(SOLUTION), 100, ""),
}
PARTLY = {
    "carl": (notebook(mistaken((1, "ε stands inside"))), 86, "ε stands inside the root"),
    "leon": (notebook(mistaken((0, "β₁ is multiplied"), (3, "L2 term"))), 65, "an L2 term"),
    "paul": (notebook(mistaken((2, "maximum is not kept"))), 90, "The maximum is not kept"),
    "rosa": (notebook(mistaken((4, "v averages m²"))), 80, "v averages m²"),
    "ivan": (notebook(mistaken((1, "in place"), (2, "in place"))), 95, "belongs to the caller"),
    "half": (notebook(answered("moments", "def moments(:")), 85, "SyntaxError"),
}
WRONG = {
    "untouched": (notebook(STUB), 0, "It is not answered."),
    "empty": (notebook([]), 0, "The notebook defines no `adam`."),
    "damaged": (notebook(SOLUTION)[:-100], 0, "The file is no notebook, or a damaged one."),
    "deep": ("[" * 100_000, 0, "The file is no notebook, or a damaged one."),
}


def hostile(folder: Path, port: int) -> dict[str, tuple[str, int, str]]:
    """The hostile part of the class: it hands in to a folder, and knows a port that is open."""
    cells = {
        "torch_optim": (attack(TORCH_ADAM), 75, "torch.optim is not allowed"),
        "rules": (attack(STEP, "from optcore.rules.adaptive import adam as right\n"), 75, ""),
        "in_place": (attack("    return w.copy_(w - lr * z), state\n"), 75, "step 1"),
        "nan": (attack("    return w / 0 * 0, state\n"), 75, "not all numbers are finite"),
        "equal": (attack("    return Equal(), state\n", EQUAL), 75, "and is a Equal"),
        "subclass": (attack("    return w.as_subclass(Strange), 0\n", STRANGE), 75, "a Strange"),
        "prints": (right_but(PRINTS), 100, ""),
        "floods": (attack(FLOODS), 75, "more than there is to return"),
        "endless": (attack("    while True:\n        pass\n"), 75, "more than the"),
        "swallows": (attack(SWALLOWS), 75, "more than the"),
        "sleeps": (attack("    import time\n    time.sleep(1000)\n"), 75, "more than the"),
        "forks": (attack("    import os\n    while True:\n        os.fork()\n"), 75, "Permission"),
        "threads": (attack(THREADS), 75, "RuntimeError"),
        "memory": (attack("    x = b'x'\n    while True:\n        x += x\n"), 75, "MemoryError"),
        "exits": (attack("    import os\n    os._exit(0)\n"), 75, "ended before it returned"),
        "crashes": (attack("    import ctypes\n    ctypes.string_at(0)\n"), 75, "ended before"),
        "forges": (attack(FORGES), 75, "is no result"),
        "nests": (attack(NESTED), 75, "is no result"),
        "steals": (thief(folder), 75, "step 1"),
        "patches": (attack(STEP, PATCHES), 75, "step 1"),
        "memorised": (memorised(), 75, "step 1"),
        "kills": (right_but(KILLS), 100, ""),
        "fills": (right_but(FILLS), 100, ""),
        "no_text": (attack("    raise ValueError(chr(0xD800) + chr(0))\n"), 75, "ValueError"),
        "fused": (attack(FUSED.replace("RATE", "lr")), 75, "torch.optim is not allowed"),
        "fused_too": (attack(FUSED.replace("RATE", "rate")), 75, "torch.optim is not allowed"),
        "starves": (attack(STARVES), 75, "PermissionError"),
        "kernel": (right_but(KERNEL), 100, ""),
        "labels": (attack(LABELS), 75, "step 1"),
        "rewires": (attack(REWIRES), 75, "is no result"),
        "locks": (right_but(LOCKS), 100, ""),
        "detaches": (
            attack("    x = w.clone()\n    x.detach = Detached\n    return x, 0\n", DETACHES),
            75,
            "is no result",
        ),
        "too_deep": (SOLUTION + ["x = " + "-" * 10**6 + "1"], 100, ""),
        "network": (right_but(CALLS_OUT.replace("PORT", str(port))), 75, "Refused"),
    }
    return {id: (notebook(source), points, words) for id, (source, points, words) in cells.items()}
