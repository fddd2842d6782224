"""What the tests of all optimizers share: parameters, gradients, and a walk that watches both."""

import torch
from torch._dynamo.testing import CompileCounter

from optcore import rules

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FLOAT64 = torch.float64

# The rules of momentum, by name: those whose gradient is taken at the iterate, and the others.
MOMENTUM = {
    rule.__name__: rule
    for rule in (
        rules.heavy_ball,
        rules.heavy_ball_average,
        rules.heavy_ball_sum,
        rules.nesterov,
        rules.nesterov_one_line,
        rules.nesterov_gradient_correction,
    )
}
ELSEWHERE = {
    rule.__name__: rule for rule in (rules.nesterov_look_ahead, rules.nesterov_two_gradients)
}


def leaves(shapes=((3, 2), (), (17,)), dtype=FLOAT64, device="cpu"):
    """Fresh parameters, the same at every call."""
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(shape, generator=generator, dtype=FLOAT64).to(device, dtype).requires_grad_()
        for shape in shapes
    ]


def gradient_like(p, t, i=0):
    """A gradient for parameter i at step t; every seventh is tiny."""
    generator = torch.Generator().manual_seed(1000 * i + t)
    z = torch.randn(p.shape, generator=generator, dtype=FLOAT64)
    return ((1e-8 if t % 7 == 0 else 1.0) * z).to(p)


def advance(optimizer, steps, gradient=gradient_like, before_step=None):
    """Make the steps numbered `steps`; return every parameter after each of them.

    On the way: gradients are read only, no state shares memory with them, and none is empty.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    path = []
    for t in steps:
        for i, p in enumerate(params):
            p.grad = gradient(p, t, i)
        kept = [None if p.grad is None else p.grad.clone() for p in params]
        if before_step:
            before_step(optimizer, t)
        optimizer.step()
        for p, z in zip(params, kept, strict=True):
            assert z is None or torch.equal(p.grad.to_dense(), z.to_dense())
        for p, state in optimizer.state.items():
            assert state
            tensors = [x for x in state.values() if isinstance(x, torch.Tensor)]
            assert p.grad is None or not any(shares_memory(x, p.grad) for x in tensors)
        path += [p.detach().clone() for p in params]
    return path


def shares_memory(x, z):
    if x.is_sparse or z.is_sparse:
        return x.is_sparse and z.is_sparse and x._values().data_ptr() == z._values().data_ptr()
    return x.numel() > 0 and x.untyped_storage().data_ptr() == z.untyped_storage().data_ptr()


def assert_same(ours, theirs, rtol=1e-11, atol=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def check_that_a_schedule_compiles_once(make, fresh):
    """Compiled, `make(params, lr=…)` steps as it does plainly, and a new rate compiles nothing.

    `fresh()` gives the parameters.
    """
    torch._dynamo.reset()
    counter, params = CompileCounter(), fresh()
    lr = torch.tensor(0.01, dtype=FLOAT64)
    optimizer = make(params, lr=lr)
    step = torch.compile(optimizer.step, backend=counter)
    expected = make(fresh(), lr=0.01)
    for t in range(1, 9):
        for i, p in enumerate(params):
            p.grad = gradient_like(p, t, i)
        lr.fill_(0.01 / t)
        if t == 4:  # torch may look twice: before and after there is a state
            compiled = counter.frame_count
        step()
        expected.param_groups[0]["lr"] = 0.01 / t
        assert_same(params, advance(expected, [t]), rtol=1e-9)
    assert 0 < counter.frame_count == compiled
