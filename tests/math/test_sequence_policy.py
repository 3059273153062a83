"""Ratios of whole sequences: GSPO, its token form, and what joins them to the token-level methods."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.numeric import slope, weighed
from tests.math.reference import PRINTED, assert_close, f64, mask_of
from upweight.objectives.advantages import spread
from upweight.objectives.kl import k3
from upweight.objectives.policy import (
    cispo,
    clipped_surrogate,
    sequence_surrogate,
    sequence_token_surrogate,
    weighted_likelihood,
)
from upweight.objectives.tokens import Reduction

# V13: log ratios of one row, with an untrained token and padding that would ruin everything if they counted.
MASK = torch.tensor([[True, False, True, True, False]])
LOG_RATIOS = f64([[0.1, 40.0, -0.2, 0.3, -70.0]])
OLD = f64([[-1.0, -50.0, -2.0, -1.5, 0.0]])


def v13(advantage: float, function: object = sequence_surrogate, **options: object) -> tuple[Tensor, Tensor]:
    """The maximised objective of the row as a mean over its tokens, and its derivative at the trained tokens."""
    logprobs = (OLD + LOG_RATIOS).requires_grad_()
    loss = function(logprobs, OLD, torch.full_like(OLD, advantage), MASK, **options)  # type: ignore[operator]
    assert loss[~MASK].count_nonzero() == 0
    objective = -weighed(loss, MASK, "seq_mean_token_mean")
    derivative = slope(objective, logprobs)
    assert derivative[~MASK].count_nonzero() == 0
    return objective.detach(), derivative[MASK]


@pytest.mark.parametrize("function", [sequence_surrogate, sequence_token_surrogate])
def test_v13_gspo_and_its_token_form(function: object) -> None:
    """s = 1.068939 and a clip at (3e-4, 4e-4), which is the default."""
    for options in ({}, {"clip_low": 3e-4, "clip_high": 4e-4}):
        objective, derivative = v13(1.0, function, **options)
        assert_close(objective, 1.000400, PRINTED)
        assert derivative.tolist() == [0, 0, 0]
        objective, derivative = v13(-1.0, function, **options)
        assert_close(objective, -1.068939, PRINTED)
        assert_close(derivative, [-0.356313] * 3, PRINTED)


@pytest.mark.parametrize("function", [sequence_surrogate, sequence_token_surrogate])
def test_v13_the_lower_clip_stops_bad_answers(function: object) -> None:
    objective, derivative = v13(-1.0, function, clip_low=-0.1, clip_high=0.4)
    assert_close(objective, -1.1)
    assert derivative.tolist() == [0, 0, 0]
    objective, derivative = v13(1.0, function, clip_low=-0.1, clip_high=0.4)
    assert_close(objective, 1.068939, PRINTED)
    assert_close(derivative, [0.356313] * 3, PRINTED)


@pytest.mark.parametrize("function", [sequence_surrogate, sequence_token_surrogate])
def test_v13_the_default_bounds_are_three_and_four_parts_in_ten_thousand(function: object) -> None:
    old, mask = f64([[-1.0]]), mask_of([1])
    for advantage, drift, bound in (
        (1.0, 3.9e-4, 3.9e-4),
        (1.0, 9e-4, 4e-4),
        (-1.0, -2.9e-4, -2.9e-4),
        (-1.0, -9e-4, -3e-4),
    ):
        logprobs = old + math.log1p(drift)
        loss = function(logprobs, old, f64([[advantage]]), mask)  # type: ignore[operator]
        assert_close(loss, [[-advantage * (1 + bound)]])


def test_v13_the_unnormalised_ratio_is_the_product() -> None:
    objective, derivative = v13(1.0, clip_low=0.5, clip_high=0.5, ratio="sum")
    assert_close(objective, 1.221403, PRINTED)
    assert_close(derivative, [math.exp(0.2)] * 3)
    assert_close(v13(1.0, clip_low=0.2, clip_high=0.2, ratio="sum")[0], 1.2)
    assert_close(v13(1.0, clip_low=0.2, clip_high=0.2, ratio="mean")[0], 1.068939, PRINTED)


@pytest.mark.parametrize(("advantage", "expected"), [
    (1.0, [0.368390, 0.272910, 0.0]),
    (-1.0, [-0.368390, -0.272910, -0.449953]),
])  # fmt: skip
def test_v13_what_grpo_does_with_the_same_tokens(advantage: float, expected: list[float]) -> None:
    logprobs = (OLD + LOG_RATIOS).requires_grad_()
    loss = clipped_surrogate(logprobs, OLD, torch.full_like(OLD, advantage))
    derivative = -slope(torch.where(MASK, loss, 0.0).sum() / 3, logprobs)
    assert_close(derivative[MASK], expected, PRINTED)


def test_v36_a_thousand_tokens_that_drift_a_little() -> None:
    mask, old = mask_of([1000]), torch.zeros(1, 1000, dtype=torch.float64)
    drifted, worth = old + 1e-3, torch.ones_like(old)
    wide = {"clip_low": 0.9, "clip_high": 9.0}
    assert_close(-sequence_surrogate(drifted, old, worth, mask, **wide, ratio="sum")[0, :1], [2.718282], PRINTED)
    assert_close(-sequence_surrogate(drifted, old, worth, mask, **wide)[0, :1], [1.001001], PRINTED)
    token, sequence = k3(f64([[0.05]]), f64([[0.0]])), k3(f64([[50.0]]), f64([[0.0]]))
    assert_close(token, [[0.001229]], PRINTED)
    assert_close(sequence, [[49.0]], PRINTED)
    assert_close(k3(f64([[-0.05]]), f64([[0.0]])), [[0.001271]], PRINTED)
    assert_close(torch.log10(k3(f64([[-50.0]]), f64([[0.0]]))), [[21.714724]], PRINTED)


TWO = mask_of([2, 3])


def columns(seed: int, mask: Tensor = TWO) -> tuple[Tensor, Tensor]:
    """Current log-probs, a leaf, and old ones near them."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(mask.shape, generator=generator, dtype=torch.float64)
    old = logprobs + 0.3 * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    return logprobs.requires_grad_(), old


seeds = st.integers(0, 99)


@given(seed=seeds, signs=st.sampled_from([(1.0, -1.0), (-0.4, -2.0), (0.0, 3.0)]))
def test_with_one_advantage_a_row_the_token_form_is_the_sequence_form(seed: int, signs: tuple[float, float]) -> None:
    logprobs, old = columns(seed)
    worth = spread(f64(signs), TWO)
    for clips in ((3e-4, 4e-4), (0.1, 0.1), (0.5, 5.0)):
        whole = sequence_surrogate(logprobs, old, worth, TWO, *clips)
        by_token = sequence_token_surrogate(logprobs, old, worth, TWO, *clips)
        assert_close(whole, by_token)
        slopes = [slope(weighed(loss, TWO, "seq_mean_token_mean"), logprobs) for loss in (whole, by_token)]
        assert_close(slopes[0], slopes[1])


def test_the_token_form_gives_each_token_its_own_advantage() -> None:
    logprobs = (OLD + LOG_RATIOS).requires_grad_()
    worth = f64([[1.0, 9.0, -2.0, 0.5, 9.0]])
    loss = sequence_token_surrogate(logprobs, OLD, worth, MASK, 0.5, 0.5)
    s = math.exp(0.2 / 3)
    assert_close(loss, -s * worth * MASK)
    assert_close(slope(loss.sum(), logprobs), -s * worth * MASK)
    whole = sequence_surrogate(logprobs, OLD, worth, MASK, 0.5, 0.5)
    assert_close(whole, loss)
    assert_close(slope(whole.sum(), logprobs), s * 0.5 / 3 * MASK.double())


@given(seed=seeds, advantage=st.sampled_from([-1.0, 2.0]))
def test_of_one_token_every_ratio_is_the_same(seed: int, advantage: float) -> None:
    mask = mask_of([1, 1])
    logprobs, old = columns(seed, mask)
    worth = torch.full_like(old, advantage)
    expected = clipped_surrogate(logprobs, old, worth, 0.1, 0.2)
    for loss in (
        sequence_surrogate(logprobs, old, worth, mask, 0.1, 0.2),
        sequence_surrogate(logprobs, old, worth, mask, 0.1, 0.2, "sum"),
        sequence_token_surrogate(logprobs, old, worth, mask, 0.1, 0.2),
    ):
        assert_close(loss, expected)
        assert_close(slope(loss.sum(), logprobs), slope(expected.sum(), logprobs))


def test_tokens_of_one_ratio_make_a_sequence_of_that_ratio() -> None:
    old = f64([[-1, -2, -0.5]])
    loss = sequence_surrogate(old + math.log(1.3), old, torch.ones_like(old), mask_of([3]), 0.5, 0.5)
    assert_close(loss, [[-1.3] * 3])


@given(seed=seeds, worth=st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
def test_on_policy_every_method_has_the_gradient_of_reinforce(seed: int, worth: tuple[float, float]) -> None:
    logprobs, _ = columns(seed)
    old, advantages = logprobs.detach(), spread(f64(worth), TWO)
    token_level = [
        clipped_surrogate(logprobs, old, advantages),
        clipped_surrogate(logprobs, old, advantages, 0.2, 0.28, 3.0, 4.0),
        cispo(logprobs, old, advantages),
    ]
    sequence_level = [
        sequence_surrogate(logprobs, old, advantages, TWO),
        sequence_token_surrogate(logprobs, old, advantages, TWO),
    ]
    reductions: list[Reduction] = ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"]
    for reduction in reductions:
        expected = slope(weighed(weighted_likelihood(logprobs, advantages), TWO, reduction), logprobs)
        methods = token_level + (sequence_level if reduction == "seq_mean_token_mean" else [])
        for loss in methods:
            assert_close(slope(weighed(loss, TWO, reduction), logprobs), expected)
    product = weighed(sequence_surrogate(logprobs, old, advantages, TWO, ratio="sum"), TWO, "seq_mean_token_mean")
    assert_close(slope(product, logprobs), expected)


def test_a_row_that_trains_nothing_costs_nothing() -> None:
    mask = mask_of([0, 2])
    logprobs, old = columns(1, mask)
    for loss in (
        sequence_surrogate(logprobs, old, torch.ones_like(old), mask),
        sequence_token_surrogate(logprobs, old, torch.ones_like(old), mask),
    ):
        assert loss[0].tolist() == [0, 0]
        assert torch.isfinite(slope(loss.sum(), logprobs)).all()


@pytest.mark.parametrize("function", [sequence_surrogate, sequence_token_surrogate])
@pytest.mark.parametrize(("advantage", "drift"), [(1.0, math.log(1.5)), (-1.0, math.log(0.75))])
def test_on_the_bound_of_a_sequence_the_gradient_still_flows(function: object, advantage: float, drift: float) -> None:
    old, mask = f64([[0.0]]), mask_of([1])
    logprobs = f64([[drift]]).requires_grad_()
    worth = f64([[advantage]])
    loss = function(logprobs, old, worth, mask, 0.25, 0.5)  # type: ignore[operator]
    assert_close(slope(loss.sum(), logprobs), [[-advantage * math.exp(drift)]])
