"""The bench's arithmetic: spread, fitted exponents, the guess of what is left."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench.figures import clock, growth, rates, seconds_left, spread


def test_spread_is_numpys() -> None:
    values = [5.0, 1.0, 2.0, 9.0, 4.0, 4.5]
    found = spread(values)
    assert (found.low, found.median, found.high) == pytest.approx(np.percentile(values, [25, 50, 75]))
    assert (found.least, found.most, found.count) == (1.0, 9.0, 6)


def test_spread_of_one_and_of_nothing() -> None:
    one = spread([3.0])
    assert (one.low, one.median, one.high, one.least, one.most, one.count) == (3.0, 3.0, 3.0, 3.0, 3.0, 1)
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


def test_rates_are_of_each_step() -> None:
    assert rates([10, 30], [2.0, 3.0]) == [5.0, 10.0]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        rates([10], [2.0, 3.0])


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_growth_finds_the_exponent_of_a_power_in_any_order(exponent: float) -> None:
    x = [64.0, 2.0, 16.0, 4.0]
    found = growth(x, [3.0 * value**exponent for value in x])
    assert found.exponent == pytest.approx(exponent)
    assert found.error == pytest.approx(0.0, abs=1e-6)
    assert found.points == 4


def test_growth_without_the_smallest_points_sees_past_a_fixed_cost() -> None:
    x = [1.0, 2.0, 4.0, 64.0, 128.0, 256.0]
    y = [10.0 + value for value in x]
    whole, upper = growth(x, y), growth(x, y, skip=3)
    assert whole.exponent < 0.6 < 0.9 < upper.exponent < 1.0
    assert upper.points == 3


def test_growths_error_is_that_of_least_squares() -> None:
    x, y = [1.0, 2.0, 4.0, 8.0, 16.0], [1.0, 2.5, 3.6, 9.0, 15.0]
    coefficients, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    found = growth(x, y)
    assert found.exponent == pytest.approx(coefficients[0])
    assert found.error == pytest.approx(math.sqrt(covariance[0, 0]))


def test_growth_needs_two_points() -> None:
    assert math.isnan(growth([1.0, 2.0], [1.0, 2.0]).error)
    with pytest.raises(ValueError, match="two points, not 1"):
        growth([1.0, 2.0], [1.0, 2.0], skip=1)


def test_what_is_left_is_scaled_by_what_was_wrong_so_far() -> None:
    assert seconds_left([], [10.0, 5.0]) == 15.0
    assert seconds_left([(10.0, 30.0), (10.0, 10.0)], [5.0]) == pytest.approx(10.0)


def test_clock_is_as_exact_as_a_guess() -> None:
    assert [clock(seconds) for seconds in (89.4, 240.0, 7200.0)] == ["89 s", "4 min", "2.0 h"]
