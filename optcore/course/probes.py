"""What is measured of an answer: a probe calls it on given inputs and returns numbers, with labels.

A probe runs in three places: in the student's notebook, in the sandbox, and on the reference
solution. It returns `{label: [number, …]}` in the order of measurement, so that whoever compares
can name the first label at which two answers part. Inputs are JSON: a list becomes a tensor, of
int64 if its numbers are whole (labels, indices), else of `inputs["dtype"]`; all else is as it is.

What an answer returns may have to be judged, as the loss of weights is; `JUDGES` do it, where no
student's code runs.

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

    Inputs: `calls`, a list of lists of arguments, `settings`, and `watch`: with it the arguments
    must be as they were after each call. `outputs` has a name and a form for each thing that the
    function returns (in a tuple, where there are several): the place of the argument whose shape
    and dtype it has, a shape, or None for an int or a float.
    """
    rows = {}
    for i, values in enumerate(inputs["calls"], 1):
        arguments = [_argument(value, inputs, device) for value in values]
        returned = function(*arguments, **inputs["settings"])
        rows |= _outputs(returned, arguments, inputs, f"call {i}, ")
        for j, argument in enumerate(arguments, 1):
            if inputs["watch"] and isinstance(argument, torch.Tensor):
                rows[f"call {i}, argument {j} after it"] = _numbers(argument, argument, "")
    return rows


def oracle(method, inputs, device):
    """What a method makes of gradients that it has to ask for, and how many it asks for.

    The method is called as `method(W, gradient, …)`. `gradient(W, batch)` is the mean of the ∇f_i,
    i in the batch, at W: multinomial logistic regression with the decay λ, and len(batch)
    evaluations. Inputs: `arguments`, of which W is the first; `settings`; `outputs`, as of `calls`;
    `x`, `y` and `l2`, of the problem; `budget`, the number of evaluations above which it raises.
    """
    x, y = (_argument(inputs[key], inputs, device) for key in ("x", "y"))
    asked, budget = 0, inputs["budget"]

    def gradient(W, batch):
        nonlocal asked
        labels = y[batch]
        asked += labels.numel()  # not len(batch): that of a tuple of indices is 1
        if asked > budget:
            raise Complaint(f"It asks for more than its budget of {budget} evaluations")
        return logistic_gradient(W, x[batch], labels, inputs["l2"])

    arguments = [_argument(value, inputs, device) for value in inputs["arguments"]]
    returned = method(arguments[0].clone(), gradient, *arguments[1:], **inputs["settings"])
    rows = _outputs(returned, arguments, inputs, "")
    return rows | {"evaluations that it asked for": [float(asked)]}


def logistic_gradient(W, x, y, l2):
    """∇ of −(1/n) Σ log softmax(Wᵀx_i)_{y_i} + (λ/2)‖W‖², W of shape (features, classes)."""
    p = (x @ W).softmax(-1)
    return x.T @ (p - torch.nn.functional.one_hot(y, W.shape[1])) / len(x) + l2 * W


def judge_slope(rows, inputs):
    """Of an `oracle`'s W only how flat the objective is there: ‖∇F(W)‖, or the limit below it.

    It does not matter how W was found, nor how far below the limit it is.
    """
    x, y = (_argument(inputs[key], inputs, "cpu") for key in ("x", "y"))
    W = torch.tensor(rows["W"], dtype=x.dtype).view(x.shape[1], -1)
    slope, limit = logistic_gradient(W, x, y, inputs["l2"]).norm().item(), inputs["limit"]
    # What is not a number is not below the limit.
    return {f"‖∇F(W)‖, or {limit:g} where it is less": [limit if slope <= limit else slope]}


def attempt(probe, answer, inputs, device):
    """`{"rows": …}`, or where the answer fails `{"error": sentence}`."""
    return judged(probe, tried(probe, answer, inputs, device), inputs)


def tried(probe, answer, inputs, device):
    """The same, not judged yet: the part that runs student code."""
    try:
        return {"rows": PROBES[probe](answer, inputs, device)}
    except Complaint as complaint:
        return {"error": str(complaint)}
    except Exception as error:
        return {"error": described(error)}


def judged(probe, result, inputs):
    """What is compared of a result of `tried`, whoever wrote it."""
    if probe not in JUDGES or "error" in result:
        return result
    try:
        return {"rows": JUDGES[probe](result["rows"], inputs)}
    except (KeyError, TypeError, ValueError, RuntimeError):
        return {"error": "What came back from its process is no result"}


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


def _outputs(returned, arguments, inputs, where):
    """Rows of what a function returned, in the forms that `calls` describes."""
    outputs, rows = inputs["outputs"], {}
    if len(outputs) == 1:
        returned = (returned,)
    elif not isinstance(returned, tuple) or len(returned) != len(outputs):
        wanted = f"({', '.join(name for name, _ in outputs)})"
        raise Complaint(f"It must return the tuple {wanted}, and returned {_shown(returned)}")
    for (name, form), output in zip(outputs, returned, strict=True):
        if form is None:
            if type(output) not in (int, float):
                raise Complaint(f"{name} must be an int or a float, and is {_shown(output)}")
            rows[f"{where}{name}"] = [float(output)]
            continue
        like = arguments[form] if isinstance(form, int) else _of_shape(form, inputs, arguments[0])
        rows[f"{where}{name}"] = _numbers(output, like, name)
    return rows


def _of_shape(shape, inputs, like):
    return torch.empty(shape, dtype=getattr(torch, inputs["dtype"]), device=like.device)


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


PROBES = {"calls": calls, "oracle": oracle, "slope": oracle, "steps": steps}
JUDGES = {"slope": judge_slope}
