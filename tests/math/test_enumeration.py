"""Policy gradients on a policy small enough to write down: expected updates against the true gradient of E[R].

What is called unbiased here is so to 1e-12, and what is biased is what it is said to be.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.math.enumeration import (
    COUNT,
    LENGTHS,
    MASK,
    NO_CLIP,
    NOW,
    OTHER,
    PI,
    REWARDS,
    RIGHT,
    STATES,
    Loss,
    ascent,
    chances,
    expected_reward,
    likelihood,
    update,
)
from tests.math.reference import assert_close, f64
from upweight.objectives.advantages import (
    gae,
    group_relative,
    leave_one_out,
    minus_baseline,
    positive_part,
    raw_reward,
    spread,
)
from upweight.objectives.correction import corrected, importance_weights
from upweight.objectives.policy import cispo, clipped_surrogate, sequence_surrogate, weighted_likelihood
from upweight.objectives.shaping import terminal_rewards


def test_the_policy_is_a_distribution() -> None:
    assert COUNT == 15
    assert_close(chances(NOW).sum(), 1.0)
    assert ascent(expected_reward()).norm() > 0.1


@pytest.mark.parametrize("size", [1, 2])
def test_reinforce_ascends_the_expected_reward(size: int) -> None:
    found = update(likelihood(lambda rows, _: raw_reward(REWARDS[rows])), size)
    assert_close(found, ascent(expected_reward()))


@pytest.mark.parametrize("running_mean", [0.0, 0.4, -7.0])
def test_a_baseline_known_beforehand_is_unbiased(running_mean: float) -> None:
    found = update(likelihood(lambda rows, ids: minus_baseline(REWARDS[rows], ids, "running", running_mean)))
    assert_close(found, ascent(expected_reward()))


@pytest.mark.parametrize("size", [2, 3])
def test_leave_one_out_is_unbiased(size: int) -> None:
    found = update(likelihood(lambda rows, ids: leave_one_out(REWARDS[rows], ids)), size)
    assert_close(found, ascent(expected_reward()))


@pytest.mark.parametrize("size", [2, 3])
def test_a_mean_that_includes_the_row_scales_the_gradient_and_nothing_else(size: int) -> None:
    expected = (size - 1) / size * ascent(expected_reward())
    for worth in (
        lambda rows, ids: minus_baseline(REWARDS[rows], ids, "group"),
        lambda rows, ids: group_relative(REWARDS[rows], ids, "none"),
    ):
        assert_close(update(likelihood(worth), size), expected)


def test_the_mean_of_the_batch_scales_the_gradient_and_nothing_else() -> None:
    """Batches of two, each of which is seen alone."""

    def alone(rows: Tensor, group_ids: Tensor) -> Tensor:
        batches = rows.view(-1, 2)
        return torch.cat([minus_baseline(REWARDS[batch], torch.tensor([0, 1])) for batch in batches])

    assert_close(update(likelihood(alone), 2), ascent(expected_reward()) / 2)


def advantages_with(values: Tensor, lam: float) -> Loss:
    def loss(rows: Tensor, _: Tensor) -> Tensor:
        mask, ended = MASK[rows], torch.zeros(len(rows), dtype=torch.bool)
        rewards = terminal_rewards(REWARDS[rows], mask)
        return weighted_likelihood(PI[rows], gae(rewards, values[STATES][rows], mask, ended, 1.0, lam))

    return loss


def true_values() -> Tensor:
    """E[R | state] under the policy, for each of the seven states."""
    visits = (STATES[:, :, None] == torch.arange(7)) & MASK[:, :, None]
    visited = visits.any(1).double() * chances(NOW)[:, None]
    return (visited * REWARDS[:, None]).sum(0) / visited.sum(0)


@pytest.mark.parametrize("values", [torch.zeros(7).double(), f64([0.5, -2, 3, 1, 0, -1, 9])])
def test_gae_with_lambda_one_is_unbiased_whatever_the_critic_says(values: Tensor) -> None:
    assert_close(update(advantages_with(values, 1.0)), ascent(expected_reward()))


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95])
def test_gae_is_unbiased_with_a_perfect_critic_and_biased_with_another(lam: float) -> None:
    exact = ascent(expected_reward())
    assert_close(update(advantages_with(true_values(), lam)), exact)
    off = update(advantages_with(true_values() + f64([0, 1, -1, 2, 0, 0, 1]), lam)) - exact
    assert off.norm() > 0.05 * exact.norm()


def test_a_mean_over_the_tokens_of_a_completion_ascends_the_reward_per_token() -> None:
    found = update(likelihood(lambda rows, _: REWARDS[rows]), reduction="seq_mean_token_mean")
    assert_close(found, ascent(expected_reward(REWARDS / LENGTHS)))
    exact = ascent(expected_reward())
    assert (found / found.norm() - exact / exact.norm()).norm() > 0.05


def test_a_mean_over_the_tokens_of_two_completions_weighs_each_by_the_lengths_of_both() -> None:
    """E[2 / (T + T')] over the other completion's length: the token mean of a step of two rows."""
    found = update(likelihood(lambda rows, _: REWARDS[rows]), 2, "group_token_mean")
    share = (chances(NOW) * 2 / (LENGTHS[:, None] + LENGTHS)).sum(-1)
    assert_close(found, ascent(expected_reward(REWARDS * share)))
    alone = update(likelihood(lambda rows, _: REWARDS[rows]), 1, "group_token_mean")
    assert_close(alone, ascent(expected_reward(REWARDS / LENGTHS)))


def test_a_constant_length_only_scales_the_gradient() -> None:
    found = update(likelihood(lambda rows, _: REWARDS[rows]), reduction="constant_length", constant_length=4)
    assert_close(found, ascent(expected_reward()) / 4)


def test_imitating_what_was_rewarded_ascends_the_positive_part_of_the_reward() -> None:
    found = update(likelihood(lambda rows, _: positive_part(REWARDS[rows])))
    assert_close(found, ascent(expected_reward(REWARDS.clamp(min=0))))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("std", ["population", "sample"])
def test_dividing_by_the_deviation_weighs_a_prompt_by_how_uncertain_it_is(size: int, std: str) -> None:
    """Of right and wrong with success rate p: grad p times E[sqrt(k (G - k))] / (G p (1 - p)), k of G right."""
    found = update(likelihood(lambda rows, ids: group_relative(RIGHT[rows], ids, std, 0.0)), size)
    p = expected_reward(RIGHT).item()
    counts = {2: {1: 2 * p * (1 - p)}, 3: {1: 3 * p * (1 - p) ** 2, 2: 3 * p**2 * (1 - p)}}[size]
    factor = sum(chance * (k * (size - k)) ** 0.5 for k, chance in counts.items()) / (size * p * (1 - p))
    if std == "sample":
        factor *= ((size - 1) / size) ** 0.5
    assert_close(found, factor * ascent(expected_reward(RIGHT)))


def weighed_by_the_sampler(mode: str) -> Loss:
    def loss(rows: Tensor, _: Tensor) -> Tensor:
        mask = MASK[rows]
        weights = importance_weights(NOW[rows], OTHER[rows], mask, mode, 0.0, float("inf"))
        return weighted_likelihood(PI[rows], corrected(REWARDS[rows], weights, mask))

    return loss


def test_the_weight_of_the_whole_sequence_undoes_another_sampler_exactly() -> None:
    exact = ascent(expected_reward())
    for mode in ("sequence_truncate", "sequence_mask"):
        assert_close(update(weighed_by_the_sampler(mode), sampler=OTHER), exact)
    for mode in ("none", "token_truncate", "token_mask", "geometric_mask"):
        assert (update(weighed_by_the_sampler(mode), sampler=OTHER) - exact).norm() > 0.02 * exact.norm()


def test_an_unclipped_product_of_ratios_is_unbiased_off_policy_and_its_geometric_mean_is_not() -> None:
    def loss(ratio: str) -> Loss:
        return lambda rows, _: sequence_surrogate(
            PI[rows], OTHER[rows], spread(REWARDS[rows], MASK[rows]), MASK[rows], *NO_CLIP, ratio
        )

    exact = ascent(expected_reward())
    assert_close(update(loss("sum"), reduction="seq_mean_token_mean", sampler=OTHER), exact)
    mean = update(loss("mean"), reduction="seq_mean_token_mean", sampler=OTHER)
    assert (mean - exact).norm() > 0.02 * exact.norm()


def test_on_policy_the_clipped_losses_ascend_the_expected_reward() -> None:
    exact = ascent(expected_reward())
    for function in (clipped_surrogate, cispo):
        found = update(lambda rows, _, f=function: f(PI[rows], NOW[rows], spread(REWARDS[rows], MASK[rows])))
        assert_close(found, exact)
