"""Rewards before they become advantages: length, missing ends, and the KL penalty in its two places."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.reference import PRINTED, assert_close, f64, mask_of
from upweight.objectives.shaping import (
    kl_in_rewards,
    kl_in_token_rewards,
    mask_truncated,
    missing_eos,
    soft_overlong,
    terminal_rewards,
    whiten_rewards,
)

OLD, REF = f64([[-1, -0.5, -2]]), f64([[-1.2, -0.4, -2.5]])
FULL = mask_of([3])
SECOND_OF_THREE = torch.tensor([[False, True, False]])


@pytest.mark.parametrize(
    ("length", "punishment"),
    [(12288, 0.0), (16384, 0.0), (17408, -0.25), (18432, -0.5), (20480, -1.0), (20481, -1.0)],
)
def test_v17_soft_punishment_of_length(length: int, punishment: float) -> None:
    budget = torch.tensor([20480])
    mask = torch.ones(1, length, dtype=torch.bool)
    assert_close(soft_overlong(f64([0.0]), mask, budget), [punishment], PRINTED)
    assert_close(soft_overlong(f64([1.0]), mask, budget, 0.2), [1 + punishment], PRINTED)


def test_v17_another_share_and_budgets_of_each_row() -> None:
    """90 tokens of 100 with a share of a fifth; 5 of 10 with a half, only trained tokens counting."""
    mask = mask_of([90, 90])
    mask[1] = False
    mask[1, 80:86] = True
    found = soft_overlong(f64([0, 3]), mask, torch.tensor([100, 10]))
    assert_close(found, [-0.5, 3.0])
    assert_close(soft_overlong(f64([0, 3]), mask, torch.tensor([100, 10]), 0.5), [-0.8, 2.8])
    assert soft_overlong(torch.zeros(2), mask, torch.tensor([100.0, 10.0])).dtype == torch.float64


def test_a_share_of_zero_punishes_only_what_exceeds_the_budget() -> None:
    found = soft_overlong(f64([1, 1, 1]), mask_of([3, 4, 5]), torch.tensor([4, 4, 4]), 0.0)
    assert found.tolist() == [1, 1, 0]


def test_a_missing_end_costs_its_penalty() -> None:
    rewards, truncated = f64([1, 1, -0.5]), torch.tensor([False, True, True])
    assert missing_eos(rewards, truncated, 0.75).tolist() == [1, 0.25, -1.25]
    assert missing_eos(rewards, truncated).tolist() == [1, 1, -0.5]
    assert missing_eos(torch.ones(1), truncated[:1]).dtype == torch.float64


def test_v07_kl_in_the_reward_of_tokens_and_of_the_completion() -> None:
    terminal = terminal_rewards(f64([1.0]), FULL)
    by_token = kl_in_token_rewards(terminal, OLD, REF, FULL, 0.1)
    assert_close(terminal - by_token, 0.1 * f64([[0.2, -0.1, 0.5]]))
    assert_close(by_token, [[-0.02, 0.01, 0.95]], PRINTED)
    assert_close(by_token.sum(), 0.94, PRINTED)
    assert_close(kl_in_rewards(f64([1.0]), OLD, REF, FULL, 0.1), [0.94], PRINTED)


def test_without_a_coefficient_rewards_stay_what_they_are() -> None:
    assert kl_in_rewards(f64([0.3]), OLD, REF, FULL).tolist() == [0.3]
    assert kl_in_token_rewards(f64([[1, 2, 3]]), OLD, REF, FULL).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_another_estimator_has_no_place_in_the_reward(estimator: str) -> None:
    with pytest.raises(Exception, match=estimator):
        kl_in_rewards(f64([1.0]), OLD, REF, FULL, 0.1, estimator)
    with pytest.raises(Exception, match=estimator):
        kl_in_token_rewards(OLD, OLD, REF, FULL, 0.1, estimator)


def noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(cells=st.lists(st.booleans(), min_size=12, max_size=12), seed=st.integers(0, 99))
def test_the_token_rewards_of_a_row_sum_to_its_reward(cells: list[bool], seed: int) -> None:
    mask = torch.tensor(cells).view(3, 4)
    old, ref = noise(seed, mask.shape), noise(seed + 100, mask.shape)
    rewards = f64([1, -0.5, 2])
    by_token = kl_in_token_rewards(terminal_rewards(rewards, mask), old, ref, mask, 0.3, "k1")
    trains = mask.any(-1)
    assert_close(by_token.sum(-1)[trains], kl_in_rewards(rewards, old, ref, mask, 0.3, "k1")[trains])
    assert by_token[~mask].count_nonzero() == 0


def test_the_reward_stands_at_the_last_trained_token() -> None:
    mask = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    assert terminal_rewards(f64([2, 3, 4]), mask).tolist() == [[0, 2, 0], [0, 0, 3], [0, 0, 0]]
    assert terminal_rewards(torch.ones(3), mask).dtype == torch.float64


def test_whitened_rewards_keep_their_mean_and_have_deviation_one() -> None:
    mask = mask_of([2, 3])
    rewards = f64([[1, 3, 1e6], [5, 7, 14]])
    found = whiten_rewards(rewards, mask)
    assert_close(found[mask].mean(), 6.0)
    assert_close(found[mask].std(correction=0), 1.0, 1e-8)
    assert_close(found[mask], 6 + (rewards[mask] - 6) / 20**0.5, 1e-8)
    assert found[0, 2] == 0


def test_the_deviation_of_rewards_is_kept_from_zero_by_its_eps() -> None:
    tiny = f64([[1e-4, -1e-4]])
    assert_close(whiten_rewards(tiny, mask_of([2])), [[0.5**0.5, -(0.5**0.5)]])


def test_rewards_that_are_all_equal_are_not_whitened() -> None:
    mask = mask_of([1, 2])
    assert whiten_rewards(f64([[0.3, 9], [0.3, 0.3]]), mask).tolist() == [[0.3, 0], [0.3, 0.3]]


def test_a_completion_that_was_cut_off_can_be_left_out() -> None:
    mask = torch.cat([mask_of([2, 3]), SECOND_OF_THREE])
    kept = mask_truncated(mask, torch.tensor([True, False, False]))
    assert kept.tolist() == [[False] * 3, [True] * 3, [False, True, False]]
    assert mask_truncated(mask, torch.tensor([False, False, True]))[2].tolist() == [False] * 3
