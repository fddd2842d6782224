"""Update rules: pure functions `(w, z, state, *, lr, …) -> (w_next, state)`, one equation each.

`w` is the iterate and `z` the gradient estimate: tensors of one shape, dtype and device. `state` is
`None` before the first step. The hyper-parameters are numbers, or tensors that broadcast against
`w`, so that one call can advance a whole grid of learning rates.

A rule that wants its gradients somewhere else than at `w_t` carries an attribute `points`:
`rule.points(w, state, **hyper)` returns the tuple of places, all of them to be evaluated on the
same sample, and `z` is then the tuple of those gradients.
"""
