"""The meta-algorithm: what it calls, what it records, when it stops."""

import functools
import io
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from optcore.estimators import FullBatch, MiniBatch
from optcore.problems import Network, Objective, Quadratic, Stream
from optcore.rules import muon
from optcore.rules.momentum import heavy_ball, nesterov_look_ahead, nesterov_two_gradients, sgd
from optcore.run import NotFinite, run


def problem():
    return Quadratic([1.0, 0.1], noise=0.1)


def test_it_is_the_loop_of_the_book():
    z, p, rates = MiniBatch(problem(), 3, seed=5), problem(), [0.4, 0.2, 0.1]
    w, state = p.start, None
    for lr in rates:
        w, state = heavy_ball(w, z(w), state, lr=lr, beta=0.9)
    asked = []

    def schedule(t):
        asked.append(t)
        return rates[t - 1]

    history = run(MiniBatch(p, 3, seed=5), heavy_ball, lr=schedule, steps=3, beta=0.9)
    assert asked == [1, 2, 3]
    torch.testing.assert_close(history.w, w, rtol=0, atol=0)
    assert torch.equal(p.start, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_columns(device):
    p = Quadratic([1.0, 0.1], noise=0.1, device=device)
    record = {"w": lambda w: w, "first": lambda w: w[0].item(), "twice": lambda w: (2 * w).cpu()}
    history = run(MiniBatch(p, 3), sgd, lr=0.5, steps=4, record=record)
    assert history["t"].tolist() == [0, 1, 2, 3, 4]
    assert history["evaluations"].tolist() == [0, 3, 6, 9, 12]
    assert history["w"].shape == (5, 2)
    assert history["w"][0].tolist() == [1.0, 1.0]
    assert history["w"][-1].tolist() == history.w.tolist()
    assert history["first"].tolist() == history["w"][:, 0].tolist()
    assert np.array_equal(history["twice"], 2 * history["w"])
    losses = [p.loss(torch.tensor(w, device=device)).item() for w in history["w"]]
    assert history["loss"].tolist() == pytest.approx(losses, rel=1e-14)
    with pytest.raises(KeyError, match="'gap' was not recorded; there are t, evaluations, loss, w"):
        history["gap"]


def finite_sum():
    x = torch.linspace(-1, 1, 10, dtype=torch.float64)
    start = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return Objective(lambda w, i: (w[0] + w[1] * x[i] - x[i] ** 2).square().mean(), start, n=10)


def test_gradients_that_a_record_asks_for_are_not_the_runs():
    p = finite_sum()
    record = {"norm": lambda w: p.gradient(w).norm(), "loss": p.loss}
    history = run(MiniBatch(p, 5), sgd, lr=0.1, steps=3, record=record)
    assert history["evaluations"].tolist() == [0, 5, 10, 15]


def test_a_loss_that_takes_n_evaluations_is_recorded_on_request_only():
    p = finite_sum()
    with pytest.raises(KeyError, match="'loss' was not recorded"):
        run(MiniBatch(p, 5), sgd, lr=0.1, steps=1)["loss"]
    assert len(run(MiniBatch(p, 5), sgd, lr=0.1, steps=1, record={"loss": p.loss})["loss"]) == 2


def test_a_record_returns_numbers():
    with pytest.raises(ValueError, match=r"record\['name'\] must return numbers, got <U3"):
        run(FullBatch(problem()), sgd, lr=0.1, steps=1, record={"name": lambda w: "abc"})


def test_a_record_keeps_its_shape():
    shapes = iter([(2,), (3,)])
    with pytest.raises(
        ValueError, match=r"record\['a'\] must return one shape, got \(3,\) after \(2,"
    ):
        run(
            FullBatch(problem()),
            sgd,
            lr=0.1,
            steps=9,
            record={"a": lambda w: np.ones(next(shapes))},
        )


def test_the_same_run_twice_is_the_same():
    estimator = MiniBatch(problem(), 2)
    once, again = (run(estimator, sgd, lr=0.1, steps=5).w for _ in range(2))
    assert torch.equal(once, again)


def test_every_hyperparameter_may_be_a_schedule():
    p, seen = finite_sum(), []

    def rule(w, z, state, **hyper):
        seen.append(hyper)
        return sgd(w, z, lr=hyper["lr"])

    inner = {"beta": lambda t: t / 10, "eps": 1.0}
    run(FullBatch(p), rule, lr=0.1, beta=lambda t: 1 - 1 / t, inner=inner, steps=2)
    assert seen == [
        {"lr": 0.1, "beta": 0.0, "inner": {"beta": 0.1, "eps": 1.0}},
        {"lr": 0.1, "beta": 0.5, "inner": {"beta": 0.2, "eps": 1.0}},
    ]


def test_a_partial_keeps_a_rules_points():
    p = finite_sum()
    expected = run(MiniBatch(p, 3), nesterov_look_ahead, lr=0.1, beta=0.9, steps=9).w
    bound = functools.partial(nesterov_look_ahead, beta=0.9)
    assert torch.equal(run(MiniBatch(p, 3), bound, lr=0.1, steps=9).w, expected)


# --- a run that is interrupted


def saved_and_loaded(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_resumed_run_is_the_whole_one():
    p = finite_sum()
    settings = {
        "lr": lambda t: 0.1 / t,
        "beta": 0.9,
        "record": {"loss": p.loss, "w": lambda w: w, "small": lambda w: bool(w.norm() < 1)},
        "project": lambda w: w.clamp(min=-0.9),
    }
    whole = run(MiniBatch(p, 2, seed=4), heavy_ball, steps=20, **settings)
    first = run(MiniBatch(p, 2, seed=4), heavy_ball, steps=10, **settings)
    again = saved_and_loaded(first.checkpoint)
    # The estimator's own seed has no say: its draws continue.
    rest = run(MiniBatch(p, 2, seed=99), heavy_ball, steps=20, resume=again, **settings)
    assert torch.equal(rest.w, whole.w)
    for name in ("t", "evaluations", "loss", "w", "small"):
        assert rest[name].tolist() == whole[name].tolist()
        assert rest[name].dtype == whole[name].dtype
    assert first["t"].tolist() == list(range(11))
    # A checkpoint is not used up, nor changed by the run that it began.
    once_more = run(MiniBatch(p, 2), heavy_ball, steps=20, resume=first.checkpoint, **settings)
    assert torch.equal(once_more.w, whole.w)


def test_a_checkpoint_shares_nothing_with_the_run():
    def in_place(w, z, state, lr):
        state = (torch.zeros_like(w),) if state is None else state
        state[0].add_(z)
        return w.sub_(lr * state[0]), state

    p = finite_sum()
    whole = run(MiniBatch(p, 2), in_place, lr=0.1, steps=6).w
    first = run(MiniBatch(p, 2), in_place, lr=0.1, steps=3)
    first.w.zero_()
    for _ in range(2):
        rest = run(MiniBatch(p, 2), in_place, lr=0.1, steps=6, resume=first.checkpoint)
        assert torch.equal(rest.w, whole)


@pytest.mark.parametrize("every", [3, None])
def test_the_end_of_a_shorter_run_leaves_no_record(every):
    p = finite_sum()
    settings = {"lr": 0.1, "every": every, "record": {"w": lambda w: w}}
    whole = run(MiniBatch(p, 2), sgd, steps=20, **settings)
    first = run(MiniBatch(p, 2), sgd, steps=14, **settings)
    assert first["t"][-1] == 14 not in whole["t"]
    rest = run(MiniBatch(p, 2), sgd, steps=20, resume=first.checkpoint, **settings)
    for name in ("t", "evaluations", "w"):
        assert rest[name].tolist() == whole[name].tolist()


def test_a_checkpoint_knows_its_records_and_its_estimator():
    p, loss = finite_sum(), {"loss": finite_sum().loss}
    done = run(MiniBatch(p, 2), sgd, lr=0.1, steps=2, record=loss).checkpoint
    settings = {"lr": 0.1, "steps": 4, "resume": done}
    for record, names in [(None, "nothing"), (loss | {"w": lambda w: w}, "loss, w")]:
        with pytest.raises(ValueError, match=f"record must be that .*, loss: it is {names}"):
            run(MiniBatch(p, 2), sgd, record=record, **settings)
    with pytest.raises(ValueError, match="resume was not made by an estimator such as FullBatch"):
        run(FullBatch(p), sgd, record=loss, **settings)
    with pytest.raises(TypeError, match="resume must be a history's checkpoint, got a History"):
        run(FullBatch(p), sgd, lr=0.1, steps=4, resume=run(FullBatch(p), sgd, lr=0.1, steps=2))
    done = run(FullBatch(p), sgd, lr=0.1, steps=2).checkpoint
    with pytest.raises(ValueError, match="resume was not made by an estimator such as MiniBatch"):
        run(MiniBatch(p, 2), sgd, lr=0.1, steps=4, resume=done)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a second device")
def test_a_checkpoint_may_be_loaded_onto_another_device():
    file, p = io.BytesIO(), Quadratic([1.0, 0.1], noise=0.1)
    torch.save(run(MiniBatch(p, 2), heavy_ball, lr=0.1, beta=0.9, steps=3).checkpoint, file)
    file.seek(0)
    moved = torch.load(file, weights_only=True, map_location="cuda")
    p = Quadratic([1.0, 0.1], noise=0.1, device="cuda")
    history = run(MiniBatch(p, 2), heavy_ball, lr=0.1, beta=0.9, steps=6, resume=moved)
    assert history.w.is_cuda and history["t"].tolist() == list(range(7))


def test_a_numpy_number_of_steps_can_be_saved():
    history = run(FullBatch(problem()), sgd, lr=0.1, steps=np.int64(3))
    assert saved_and_loaded(history.checkpoint).t == 3


def test_autograd_follows_a_run_and_leaves_the_checkpoint_alone():
    p, lr = Quadratic([1.0, 0.5]), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    history = run(FullBatch(p), heavy_ball, lr=lr, beta=0.0, steps=3)
    history.w.sum().backward()
    # w = Σ (1 − ηλ)³
    assert lr.grad.item() == pytest.approx(-3 * (0.9**2 + 0.5 * 0.95**2))
    assert not history.checkpoint.w.requires_grad
    assert not history.checkpoint.state.w.requires_grad
    assert torch.equal(saved_and_loaded(history.checkpoint).w, history.w.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_run_in_any_precision_is_recorded_and_resumed(dtype):
    p = Quadratic([1.0, 0.5], noise=0.1, dtype=dtype)
    settings = {"lr": 0.1, "beta": 0.9, "record": {"w": lambda w: w}}
    whole = run(MiniBatch(p, 2), heavy_ball, steps=6, **settings)
    first = run(MiniBatch(p, 2), heavy_ball, steps=3, **settings)
    again = saved_and_loaded(first.checkpoint)
    rest = run(MiniBatch(p, 2), heavy_ball, steps=6, resume=again, **settings)
    assert whole.w.dtype is dtype
    assert torch.equal(rest.w, whole.w)
    assert np.array_equal(rest["loss"], whole["loss"])
    assert whole["w"][-1].tolist() == whole.w.tolist()


def test_a_stream_is_resumed_in_the_middle_of_an_epoch():
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(2, generator=generator), i % 2) for i in range(10)]

    def estimator(seed):
        torch.manual_seed(0)
        loader = torch.utils.data.DataLoader(data, 3, shuffle=True)
        loss = torch.nn.functional.cross_entropy
        return MiniBatch(Stream(torch.nn.Linear(2, 2), loader, loss), seed=seed)

    whole = run(estimator(1), heavy_ball, lr=0.1, beta=0.9, steps=11)
    first = run(estimator(1), heavy_ball, lr=0.1, beta=0.9, steps=6)
    again = saved_and_loaded(first.checkpoint)
    rest = run(estimator(2), heavy_ball, lr=0.1, beta=0.9, steps=11, resume=again)
    assert torch.equal(rest.w, whole.w)
    assert rest["evaluations"].tolist() == whole["evaluations"].tolist()
    assert whole["evaluations"].tolist() == [0, 3, 6, 9, 10, 13, 16, 19, 20, 23, 26, 29]


def test_a_rule_that_writes_in_place_spoils_neither_records_nor_start():
    def in_place(w, z, state, lr):
        return w.sub_(lr * z), None

    quiet = Quadratic([1.0, 0.1])
    history = run(FullBatch(quiet), in_place, lr=1.0, steps=2, record={"w": lambda w: w})
    assert history["w"][:, 1].tolist() == pytest.approx([1.0, 0.9, 0.81])
    assert quiet.start.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("steps", "every", "recorded"),
    [
        (7, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
        (7, 3, [0, 3, 6, 7]),
        (6, 3, [0, 3, 6]),
        (7, 100, [0, 7]),
        (1, None, [0, 1]),
        (20, None, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 20]),
        (16, None, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16]),
    ],
)
def test_times_of_records(steps, every, recorded):
    history = run(FullBatch(problem()), sgd, lr=0.1, steps=steps, every=every)
    assert history["t"].tolist() == recorded
    assert history["evaluations"].tolist() == recorded


def test_project_is_applied_to_every_new_iterate():
    above = {"project": lambda w: w.clamp(min=0.7), "record": {"w": lambda w: w}}
    history = run(FullBatch(problem()), sgd, lr=0.5, steps=5, **above)
    assert history["w"].tolist()[:2] == [[1.0, 1.0], [0.7, 0.95]]
    assert history["w"].min() == 0.7


def test_a_first_iterate_of_ones_own_and_a_tensor_rate():
    w = torch.tensor([[1.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    rates = torch.tensor([[0.1], [0.5]], dtype=torch.float64)
    history = run(FullBatch(Quadratic([1.0, 0.1])), sgd, lr=rates, steps=2, w=w)
    assert history["loss"].shape == (3, 2)
    torch.testing.assert_close(history.w, w * (1 - rates * torch.tensor([1.0, 0.1])) ** 2)


def test_rules_with_points_get_one_sample():
    noisy = Quadratic([1.0], noise=1.0)
    seen = []

    def spying(w, z, state=None, **hyper):
        seen.append(z)
        return nesterov_two_gradients(w, z, state, **hyper)

    spying.points = nesterov_two_gradients.points
    history = run(MiniBatch(noisy, 1), spying, lr=0.1, beta=0.9, steps=3, record={"w": lambda w: w})
    assert [len(z) for z in seen] == [1, 2, 2]
    for t in (1, 2):
        now, before = seen[t]
        gap = history["w"][t] - history["w"][t - 1]
        assert (now - before).item() == pytest.approx(gap.item(), rel=1e-9)


@pytest.mark.parametrize("value", ["", "1"])
def test_the_progress_bar_obeys_tqdms_variable(value):
    # A slow machine would otherwise leave a bar among the outputs that the tests compare.
    program = """if True:
        import sys
        from optcore.estimators import FullBatch
        from optcore.problems import Quadratic
        from optcore.rules import sgd
        from optcore.run import run
        sys.modules["optcore.run"].PROGRESS_AFTER_S = 0
        run(FullBatch(Quadratic([1.0])), sgd, lr=0.1, steps=2)"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TQDM_DISABLE": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("0/2" in done.stderr) is not bool(value)


# --- what is not finite


def test_a_loss_that_overflows_stops_the_run_with_its_history():
    with pytest.raises(
        NotFinite, match=r"The loss after \d+ steps is infinite: try a smaller lr"
    ) as e:
        run(FullBatch(Quadratic([1.0, 0.1])), sgd, lr=1e30, steps=100)
    losses = e.value.history["loss"]
    assert 3 <= len(losses) < 10
    assert np.isfinite(losses).all()
    assert e.value.history["t"].tolist() == list(range(len(losses)))
    assert e.value.history.w.isfinite().all()
    assert isinstance(e.value, FloatingPointError)


def test_a_gradient_of_nan_names_the_parameter_of_a_network():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))

    class Poisoned(Network):
        asked = 0

        def _gradient(self, w, sample):
            gradient = super()._gradient(w, sample)
            self.asked += 1
            gradient[10] = math.nan if self.asked > 3 else gradient[10]
            return gradient

    p = Poisoned(module, torch.ones(4, 2), torch.ones(4, 1), torch.nn.functional.mse_loss)
    text = r"The gradient at step 4 is NaN in 1\.weight: try a smaller lr, or look for a NaN"
    with pytest.raises(NotFinite, match=text) as error:
        run(FullBatch(p), sgd, lr=0.01, steps=10)
    assert error.value.history["t"].tolist() == [0, 1, 2, 3]
    assert error.value.history.w.isfinite().all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_an_infinite_gradient_in_any_shape(shape):
    p = Objective(lambda w: w.sqrt().sum(), torch.ones(shape[-1:]))
    with pytest.raises(NotFinite, match="The gradient at step 1 is infinite in w") as error:
        run(FullBatch(p), sgd, lr=0.1, steps=3, w=torch.zeros(shape))
    assert error.value.history["t"].tolist() == [0]


def test_a_row_that_diverges_does_not_end_the_others():
    p, rates = Quadratic([1.0, 0.5]), torch.tensor([[0.5], [1e200], [3.0]], dtype=torch.float64)
    w = p.start.expand(3, -1)
    history = run(FullBatch(p), sgd, lr=rates, steps=30, w=w)
    alone = run(FullBatch(p), sgd, lr=0.5, steps=30)
    assert history["loss"][:, 0].tolist() == pytest.approx(alone["loss"].tolist(), rel=1e-13)
    assert not np.isfinite(history["loss"][-1, 1])
    assert history["loss"][-1, 2] > 1e15
    with pytest.raises(NotFinite, match="The loss after 1 steps is"):
        run(FullBatch(p), sgd, lr=1e200 * rates, steps=30, w=w)


def test_a_finite_gradient_may_have_an_infinite_sum():
    slopes = torch.tensor([3e38, 3e38])
    p = Objective(lambda w: (slopes * w).sum(), torch.zeros(2))
    history = run(FullBatch(p), sgd, lr=1e-39, steps=1)
    torch.testing.assert_close(history.w, torch.tensor([-0.3, -0.3]))


# --- bad input

DONE = run(FullBatch(problem()), sgd, lr=0.1, steps=3).checkpoint


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, or None, got 0"),
        ({"w": torch.ones(3)}, r"w has shape \(3,\)"),
        ({"w": torch.ones(2, dtype=torch.long)}, "w must be floating point, got torch.int64"),
        ({"resume": DONE}, "steps must exceed the 3 made already, got 3"),
        ({"resume": DONE, "steps": 4, "w": torch.ones(2)}, "give resume or w, not both"),
        ({"resume": DONE._replace(w=torch.ones(3)), "steps": 4}, r"w has shape \(3,\)"),
        ({"lr": -1.0}, "lr must be a finite number ≥ 0, got -1.0"),
        ({"lr": lambda t: math.nan}, "lr must be a finite number ≥ 0, got nan"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        run(FullBatch(problem()), sgd, **{"lr": 0.1, "steps": 3, **arguments})


@pytest.mark.parametrize("rule", [muon, functools.partial(muon, momentum=0.5)])
def test_rows_are_not_taken_for_a_matrix(rule):
    with pytest.raises(ValueError, match="the problem's w is flat: use by_layer"):
        run(FullBatch(problem()), rule, lr=0.1, steps=1, w=torch.ones(3, 2))
    p = Objective(lambda w: w.square().sum(), torch.ones(3, 2))
    history = run(FullBatch(p), rule, lr=0.1, steps=1)
    assert history.w.shape == (3, 2)


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("run.py", "def run("): [
        ("now = values_at(t, hyper)", "now = values_at(t - 1, hyper)"),
        ("now = values_at(t, hyper)", "now = values_at(t + 1, hyper)"),
        ("z[0], state, **now)", "z[0], None, **now)"),
        ("spent += cost", "spent = cost"),
        ("w if project is None else project(w)", "w"),
        ("        if t in recorded:\n", "        if True:\n"),
        ("        note(0)\n", "        pass\n"),
        ("problem.start.clone()", "problem.start"),
        ("        _check_gradients(z, t, problem, history)\n", ""),
        ("history.w = w\n", "pass\n"),
        ("        estimator.restart()\n", ""),
        ("        estimator.load_state_dict(draws)\n", ""),
        ("copy.deepcopy(resume)", "resume"),
        ("copy.deepcopy(tree_map_only(Tensor, Tensor.detach, ended))", "ended"),
        ("w, state, memory, estimator.state_dict()", "w, None, memory, estimator.state_dict()"),
        ("estimator.state_dict(), spent, records)", "estimator.state_dict(), 0, records)"),
        ("if problem.n is None and problem.loss", "if problem.loss"),
        ("trange(start + 1,", "trange(1,"),
        ("if is_of_matrices(rule) and", "if False and"),
        ("t == 0 or t in recorded", "True"),
        ("t == 0 or t in recorded", "t in recorded"),
        ("Checkpoint(int(steps)", "Checkpoint(steps"),
        ("tree_map_only(Tensor, Tensor.detach, ended)", "ended"),
        ("and problem.start.ndim < 2", ""),
    ],
    ("run.py", "def _append("): [
        (".numpy().copy()", ".numpy()"),
        ('not in "biufc"', 'in "O"'),
        ("value.float() if", "value if"),
        ("if column and value.shape != column[0].shape", "if False"),
    ],
    ("run.py", "def _check_start("): [
        ("steps <= resume.t", "steps < resume.t"),
        ("        w = resume.w\n", ""),
    ],
    ("run.py", "def _check_resume("): [
        ("if names != columns", "if names > columns"),
        ("if names != columns", "if names < columns"),
        ("if resume.draws.keys() != estimator.state_dict().keys()", "if False"),
    ],
    ("schedules.py", "def values_at"): [
        ("else values_at(t, value)", "else value"),
    ],
    ("run.py", "def _record_times("): [
        ("steps + 1, every), steps}", "steps + 1, every)}"),
        ("range(every, steps + 1", "range(1, steps + 1"),
        ("2 ** (k / 4)", "2 ** (k / 2)"),
    ],
    ("run.py", "def _check_loss("): [
        ("if not loss.isfinite().any()", "if loss.isnan().any()"),
        ("if not loss.isfinite().any()", "if not loss.isfinite().all()"),
    ],
    ("run.py", "def _check_gradients("): [
        ("parameter_at(entry)", "parameter_at(0)"),
        ("if gradient.sum().isfinite():", "if True:"),
        (".all(-1) if inner else finite).any()", ".all(-1) if inner else finite).all()"),
        (".all(-1) if inner", ".any(-1) if inner"),
    ],
    ("run.py", "def _worst("): [
        ('"NaN" if', '"NaN" if not'),
    ],
}
