"""The schedules: their values from t = 1 on, and bad input."""

import math

import pytest

from optcore.schedules import constant, inverse_time, power


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (constant(0.3), [0.3, 0.3, 0.3, 0.3]),
        (constant(0), [0, 0, 0, 0]),
        (power(0.6, 1), [0.6, 0.3, 0.2, 0.15]),
        (power(0.6, 0.5), [0.6, 0.6 / 2**0.5, 0.6 / 3**0.5, 0.3]),
        (power(0.6, 0), [0.6, 0.6, 0.6, 0.6]),
        (inverse_time(0.5), [2.0, 4 / 3, 1.0, 0.8]),
        (inverse_time(0.5, offset=7), [0.5, 4 / 9, 0.4, 4 / 11]),
        (inverse_time(2.0, offset=0), [1.0, 1 / 2, 1 / 3, 1 / 4]),
    ],
)
def test_values(schedule, values):
    assert [schedule(t) for t in (1, 2, 3, 4)] == pytest.approx(values, rel=1e-14)


def test_offset_that_suits_a_smooth_objective():
    mu, smoothness = 0.1, 4.0
    assert inverse_time(mu, offset=2 * smoothness / mu - 1)(1) == pytest.approx(1 / smoothness)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (constant, "lr must be a finite number ≥ 0, got"),
        (lambda bad: power(bad, 1), "lr must be a finite number ≥ 0, got"),
        (lambda bad: power(1, bad), "exponent must be a finite number ≥ 0, got"),
        (inverse_time, "mu must be a finite number > 0, got"),
        (lambda bad: inverse_time(1, offset=bad - 1), "offset must be a finite number > -1, got"),
    ],
)
def test_bad_input(make, text, bad):
    with pytest.raises(ValueError, match=text):
        make(bad)


def test_the_ends_that_are_excluded():
    with pytest.raises(ValueError, match="mu must be a finite number > 0, got 0"):
        inverse_time(0)
    with pytest.raises(ValueError, match="offset must be a finite number > -1, got -1"):
        inverse_time(1, offset=-1)
