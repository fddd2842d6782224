"""What is measured of an answer: a probe calls it on given inputs and returns numbers, with labels.

A probe runs in three places: in the student's notebook, in the sandbox, and on the reference
solution. It returns `{label: [number, …]}` in the order of measurement, so that whoever compares
can name the first label at which two answers part. Inputs are JSON: a list becomes a tensor, of
int64 if its numbers are whole (labels, indices), else of `inputs["dtype"]`; a number stays one.

The sandbox loads this file by itself: importing all of `optcore` takes seconds.
"""

import traceback

import torch


class Complaint(Exception):
    """The answer returned something that holds no numbers to compare: a sentence for its author."""


def steps(rule, inputs, device):
    """T steps of a rule `(w, z, state, **settings) → (w_next, state)` on given gradients.

    Inputs: `w` (any shape), `gradients` (T, shape of w), `settings`, and `watch`: with it each
    call is made twice and must give the same numbers, and w and z must be as they were.
    """
    w, gradients = (_argument(inputs[key], inputs, device) for key in ("w", "gradients"))
    settings, state, rows = inputs["settings"], None, {}
    for t, z in enumerate(gradients, 1):
        given = w.clone(), z.clone()
        w_next, state_next = _pair(rule(*given, state, **settings))
        rows[f"step {t}, w_next"] = _numbers(w_next, w, "w_next")
        if inputs["watch"]:
            changes = (w - given[0]).abs().max().item(), (z - given[1]).abs().max().item()
            rows[f"step {t}, what it changed in w and z"] = [*changes]
            again, _ = _pair(rule(w.clone(), z.clone(), state, **settings))
            rows[f"step {t}, the same call again, w_next"] = _numbers(again, w, "w_next")
        w, state = w_next, state_next
    return rows


def calls(function, inputs, device):
    """The outputs of a function for each list of arguments.

    Inputs: `calls`, a list of lists of arguments, `settings`, `outputs`, the names of what the
    function returns (a tuple, where there are several), and `watch`: with it the arguments must be
    as they were after each call.
    """
    rows, names = {}, inputs["outputs"]
    for i, values in enumerate(inputs["calls"], 1):
        arguments = [_argument(value, inputs, device) for value in values]
        returned = function(*arguments, **inputs["settings"])
        if len(names) == 1:
            returned = (returned,)
        elif not isinstance(returned, tuple) or len(returned) != len(names):
            wanted = f"({', '.join(names)})"
            raise Complaint(f"It must return the tuple {wanted}, and returned {_shown(returned)}")
        for name, output in zip(names, returned, strict=True):
            rows[f"call {i}, {name}"] = _numbers(output, arguments[0], name)
        for j, argument in enumerate(arguments, 1):
            if inputs["watch"] and isinstance(argument, torch.Tensor):
                rows[f"call {i}, argument {j} after it"] = _numbers(argument, argument, "")
    return rows


def attempt(probe, answer, inputs, device):
    """`{"rows": …}`, or where the answer fails `{"error": sentence}`."""
    try:
        return {"rows": PROBES[probe](answer, inputs, device)}
    except Complaint as complaint:
        return {"error": str(complaint)}
    except Exception as error:
        return {"error": described(error)}


def described(error):
    """An exception as a student reads it: the message, and the line of the student that raised."""
    # The deepest line of a notebook: a line of a package is not the student's to mend.
    marks = "<cell", "ipykernel", "ipython-input"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.line for frame in frames if any(mark in frame.filename for mark in marks)]
    return f"{type(error).__name__}: {error}" + (f", in `{own[-1]}`" if own else "")


def _argument(value, inputs, device):
    if not isinstance(value, list):
        return value
    whole = not torch.tensor(value).is_floating_point()
    dtype = torch.int64 if whole else getattr(torch, inputs["dtype"])
    return torch.tensor(value, dtype=dtype, device=device)


def _pair(returned):
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise Complaint(f"It must return the pair (w_next, state), and returned {_shown(returned)}")
    return returned


def _numbers(x, like, name):
    """The entries of a tensor that must have the shape, the dtype and the device of another."""
    if type(x) is not torch.Tensor:
        raise Complaint(f"{name} must be a torch.Tensor, and is {_shown(x)}")
    for what in ("shape", "dtype", "device"):
        is_, wanted = getattr(x, what), getattr(like, what)
        if is_ != wanted:
            raise Complaint(f"{name} must have the {what} {_named(wanted)}, and has {_named(is_)}")
    return x.detach().double().flatten().tolist()


def _named(property):
    return str(tuple(property) if isinstance(property, torch.Size) else property)


def _shown(value):
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


PROBES = {"calls": calls, "steps": steps}
