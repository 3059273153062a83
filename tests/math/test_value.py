"""The critic: its clipped loss and how much of the returns it explains."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.math.numeric import slope
from tests.math.reference import PRINTED, assert_close, f64, mask_of
from upweight.objectives.value import clipped_value_loss, explained_variance


@pytest.mark.parametrize("clip", [(), (0.2,)])
@pytest.mark.parametrize(
    ("value", "target", "loss", "derivative"),
    [(1.0, 0.9, 0.02, 0.0), (1.0, 1.2, 0.125, 0.0), (0.6, 0.9, 0.045, -0.3), (0.1, 0.9, 0.32, -0.8)],
)
def test_v09_the_pessimistic_of_two_errors(
    value: float, target: float, loss: float, derivative: float, clip: tuple[float, ...]
) -> None:
    values = f64([[value]]).requires_grad_()
    found = clipped_value_loss(values, f64([[0.5]]), f64([[target]]), *clip)
    assert_close(found, [[loss]], PRINTED)
    assert_close(slope(found.sum(), values), [[derivative]], PRINTED)


@pytest.mark.parametrize(("value", "target", "loss", "derivative"), [
    (0.0, 0.1, 0.02, 0.0),
    (0.0, 0.9, 0.405, -0.9),
    (0.7, -0.4, 0.605, 1.1),
    (0.4, 0.1, 0.045, 0.3),
])  # fmt: skip
def test_the_clip_is_on_both_sides_of_the_old_value(
    value: float, target: float, loss: float, derivative: float
) -> None:
    values = f64([[value]]).requires_grad_()
    found = clipped_value_loss(values, f64([[0.5]]), f64([[target]]), 0.2)
    assert_close(found, [[loss]])
    assert_close(slope(found.sum(), values), [[derivative]])


@pytest.mark.parametrize("moved", [0.25, -0.25])
def test_on_the_bound_the_gradient_still_flows(moved: float) -> None:
    """Away from the return, V stands exactly on the bound of the clip: both errors are one."""
    values = f64([[0.5 + moved]]).requires_grad_()
    target = f64([[0.5 - moved]])
    found = clipped_value_loss(values, f64([[0.5]]), target, 0.25)
    assert_close(slope(found.sum(), values), 2 * moved * torch.ones(1, 1))


@given(value=st.floats(-5, 5), old=st.floats(-5, 5), target=st.floats(-5, 5))
def test_an_infinite_clip_is_the_squared_error(value: float, old: float, target: float) -> None:
    values = f64([[value]]).requires_grad_()
    found = clipped_value_loss(values, f64([[old]]), f64([[target]]), math.inf)
    assert_close(found, [[(value - target) ** 2 / 2]])
    assert_close(slope(found.sum(), values), [[value - target]])
    assert bool((clipped_value_loss(values, f64([[old]]), f64([[target]])) >= found - 1e-12).all())


def test_explained_variance() -> None:
    mask = mask_of([2, 3])
    returns = f64([[1, 3, 1e6], [5, 7, 14]])
    wild = torch.where(mask, 0.0, 1e9).double()
    assert explained_variance(returns, returns + wild, mask).item() == 1
    assert_close(explained_variance(returns, returns + 4 + wild, mask), 1.0)
    assert_close(explained_variance(returns, wild, mask), 0.0)
    assert_close(explained_variance(returns, 3 * returns + wild, mask), -3.0)
    assert_close(explained_variance(returns, returns / 2, mask), 0.75)
    assert_close(explained_variance(returns / 100, returns / 200, mask), 0.75)
    found = explained_variance(returns.float(), returns.float(), mask)
    assert found.dtype == torch.float64


def test_returns_that_are_all_equal_leave_nothing_to_explain() -> None:
    mask = mask_of([1, 2])
    assert explained_variance(f64([[0.3, 9], [0.3, 0.3]]), f64([[1, 0], [2, 3]]), mask).item() == 0
    assert explained_variance(f64([[1.0]]), f64([[1.0]]), torch.zeros(1, 1, dtype=torch.bool)).item() == 0
