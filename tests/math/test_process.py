"""Rewards of steps: the printed vectors, what they come to without steps, and how steps and parts count."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.numeric import slope
from tests.math.reference import PRINTED, assert_close, f64, mask_of
from upweight.columns import padded_columns
from upweight.objectives.advantages import (
    StdKind,
    batch_scaled,
    group_relative,
    process_relative,
    spread,
    sum_of_relative,
)
from upweight.objectives.shaping import outcome_ends, process_rewards, terminal_rewards
from upweight.objectives.steps import Aggregate, aggregate_steps, step_cross_entropy
from upweight.presets import algorithm

STDS: list[StdKind] = ["population", "sample", "none"]
# V29: two outputs of 6 and 5 tokens, steps ending at tokens 2, 4, 6 and 3, 5.
MASK = mask_of([6, 5])
ENDS = f64([[0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0]])
EARNED = f64([[0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]])
GROUP = torch.tensor([3, 3])
A1 = [1.632993, 1.632993, 0.408248, 0.408248, 1.224745, 1.224745]
A2 = [-1.632993, -1.632993, -1.632993, -0.816497, -0.816497, 0.0]


def two_groups(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rewards, groups, mask) of rows with holes."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(6, 7, generator=draw) < 0.7
    mask[:, 2] = True
    return torch.randn(6, generator=draw).double(), torch.tensor([5, 2, 5, 2, 5, 2]), mask


def test_v29() -> None:
    assert_close(process_relative(EARNED, ENDS, GROUP, MASK, "population", 0.0), [A1, A2], PRINTED)
    assert_close(process_relative(EARNED, ENDS.bool(), GROUP, MASK), [A1, A2], PRINTED)
    sample = process_relative(EARNED, ENDS, GROUP, MASK, "sample", 0.0)
    assert_close(sample * 0.547723 / 0.489898, [A1, A2], 3e-6)
    centred = process_relative(EARNED, ENDS, GROUP, MASK, "none")
    assert_close(centred[1], [-0.8, -0.8, -0.8, -0.4, -0.4, 0.0])


def test_v29_in_the_middle_of_other_groups() -> None:
    """Each group by its own rewards, whatever their order and their number of steps."""
    rows = [torch.cat([column[:1], column, column[1:]]) for column in (EARNED * 7, ENDS, MASK)]
    rows[0][1:3] = EARNED
    found = process_relative(rows[0], rows[1], torch.tensor([9, 3, 3, 9]), rows[2])
    assert_close(found[1:3], [A1, A2], PRINTED)
    assert_close(found[[0, 3]], [A1, A2], PRINTED)


@pytest.mark.parametrize("std", STDS)
@given(seed=st.integers(0, 99))
def test_one_step_an_output_is_outcome_supervision(std: StdKind, seed: int) -> None:
    rewards, groups, mask = two_groups(seed)
    nothing = torch.zeros(mask.shape).double()
    ends = outcome_ends(nothing, mask)
    token_rewards = process_rewards(nothing, rewards, torch.zeros(6).double(), mask)
    found = process_relative(token_rewards, ends, groups, mask, std)
    assert torch.equal(found, spread(group_relative(rewards, groups, std), mask))


def test_a_token_is_credited_with_the_step_that_it_ends_and_not_with_those_before() -> None:
    found = process_relative(EARNED, ENDS, GROUP, MASK, "none")
    assert_close(found[0, 1] - found[0, 2], 1 - 0.4)
    assert_close(found[0, 2] - found[0, 3], 0.0)
    assert found[1, 5] == 0


def test_more_steps_of_the_same_quality_count_more() -> None:
    """The trap of the sum: twice as many right steps, twice the advantage, though nothing is better."""
    mask = mask_of([4, 4, 4])
    earned = f64([[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]])
    ends = f64([[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]])
    found = process_relative(earned, ends, torch.zeros(3, dtype=torch.long), mask, "none")
    assert_close(found[1, 0], 2 * found[0, 0])


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("value", [0.0, 0.1 + 0.2, -7e5])
def test_a_constant_set_is_exactly_zero(std: StdKind, value: float) -> None:
    assert process_relative(ENDS * value, ENDS, GROUP, MASK, std).count_nonzero() == 0


@pytest.mark.parametrize("std", STDS)
def test_a_set_of_one_or_of_none_is_zero(std: StdKind) -> None:
    alone = torch.zeros_like(ENDS)
    assert process_relative(EARNED, alone, GROUP, MASK, std).count_nonzero() == 0
    alone[0, 1] = 1
    assert process_relative(EARNED, alone, GROUP, MASK, std).tolist() == torch.zeros(2, 6).tolist()


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        process_relative(EARNED, ENDS, torch.tensor([0, 1]), MASK)
    with pytest.raises(ValueError, match="at least 2"):
        sum_of_relative(f64([[1], [2]]), f64([[1], [1]]), torch.tensor([0, 1]))


def test_what_no_step_earned_is_earned_by_the_last_token() -> None:
    rewards, total = f64([1.5, 2.0]), f64([1.0, 2.0])
    found = process_rewards(EARNED * 0.5, rewards, total, MASK)
    assert_close(found, [[0, 0.5, 0, 0, 0, 0.5 + 0.5], [0] * 6])
    nothing = torch.zeros_like(EARNED)
    assert torch.equal(process_rewards(nothing, rewards, 0 * total, MASK), terminal_rewards(rewards, MASK))


def test_a_punished_completion_is_compared_with_those_that_are_not() -> None:
    """Steps alone, and 1 off for being cut off: the last token of both is an end, so that it is relative."""
    columns = {
        "step_rewards": EARNED * 0,
        "step_ends": ENDS * 0,
        "step_total": f64([0, 0]),
        "rewards": f64([0, 0]),
        "truncated": torch.tensor([True, False]),
        "group_ids": GROUP,
        "loss_mask": MASK,
    }
    method = algorithm("grpo_process", {"missing_eos_penalty": 1.0, "std_eps": 0.0})
    for step in method.active_derived():
        columns[step.column] = step.call(columns)
    assert_close(columns["advantages"], spread(f64([-1, 1]), MASK))


def test_the_outcome_is_rewarded_beside_the_steps() -> None:
    assert outcome_ends(ENDS, MASK).tolist() == ENDS.bool().tolist()
    assert outcome_ends(ENDS[:, :4] * 1.0, MASK[:, :4]).int().tolist() == [[0, 1, 0, 1], [0, 0, 1, 1]]


def test_gdpo_worked_by_hand() -> None:
    """Group 0: parts (0, 2) and (5, 5); group 1: (1, 3, 5, 7) and (0, 0, 0, 8). Deviations 1, 0; sqrt 5, sqrt 12."""
    parts = f64([[0, 5], [2, 5], [1, 0], [3, 0], [5, 0], [7, 8]])
    weights = f64([1.0, 0.5]).expand(6, 2)
    groups = torch.tensor([0, 0, 1, 1, 1, 1])
    first = f64([-1, 1, *(x / math.sqrt(5) for x in (-3, -1, 1, 3))])
    second = f64([0, 0, *(x / math.sqrt(12) for x in (-2, -2, -2, 6))])
    found = sum_of_relative(parts, weights, groups, std_eps=0.0)
    assert_close(found, first + second / 2)
    deviation = math.sqrt(float((found**2).mean()))
    assert_close(batch_scaled(found, batch_eps=0.0), found / deviation)
    assert_close(batch_scaled(found, "sample", 0.0), found / deviation * math.sqrt(5 / 6))


@pytest.mark.parametrize("std", STDS)
@given(seed=st.integers(0, 99))
def test_gdpo_of_one_part_is_grpo_scaled_by_the_batch(std: StdKind, seed: int) -> None:
    rewards, groups, _ = two_groups(seed)
    relative = group_relative(rewards, groups, std)
    found = sum_of_relative(rewards[:, None], torch.ones(6, 1).double(), groups, std)
    assert_close(found, relative)
    assert_close(batch_scaled(found), (relative - relative.mean()) / (relative.std(correction=0) + 1e-8))


def test_gdpo_does_not_let_the_part_that_varies_most_decide() -> None:
    """The scale of a part changes nothing, and one that is constant in a group adds exactly 0 there."""
    rewards, groups, _ = two_groups(4)
    other, weights = rewards.flip(0), f64([1.0, 2.0]).expand(6, 2)
    plain = sum_of_relative(torch.stack([rewards, other], 1), weights, groups, std_eps=0.0)
    assert_close(sum_of_relative(torch.stack([rewards, 1000 * other], 1), weights, groups, std_eps=0.0), plain, 1e-9)
    constant = torch.stack([rewards, torch.full_like(rewards, 0.1 + 0.2)], 1)
    assert torch.equal(sum_of_relative(constant, weights, groups), group_relative(rewards, groups))


def test_batch_scaling_leaves_zeros_and_signs_alone() -> None:
    groups = torch.tensor([0, 0, 1, 1])
    advantages = group_relative(f64([0.1, 0.4, 0.3, 0.3]), groups)
    scaled = batch_scaled(advantages)
    assert scaled[2:].tolist() == [0, 0]
    assert_close(scaled[:2], [-math.sqrt(2), math.sqrt(2)], 1e-7)
    assert batch_scaled(advantages * 0).tolist() == [0] * 4


SCORES = torch.logit(f64([[0.9, 0.8, 0.95]]))


def test_v20_step_cross_entropy() -> None:
    """A right step at probability 0.9 and a wrong one at 0.8."""
    loss = step_cross_entropy(SCORES, f64([[1, 0, 1]]))
    assert_close(loss[0, :2].mean(), 0.857399, PRINTED)
    assert_close(loss, [[-math.log(0.9), -math.log(0.2), -math.log(0.95)]])


def test_the_push_on_a_score_is_label_minus_probability() -> None:
    scores = SCORES.clone().requires_grad_()
    loss = step_cross_entropy(scores, f64([[1, 0, 0.3]])).sum()
    assert_close(slope(loss, scores), [[0.9 - 1, 0.8, 0.95 - 0.3]])


def test_it_is_the_cross_entropy_of_two_classes() -> None:
    labels = f64([[1, 0, 1]])
    logits = torch.stack([torch.full_like(SCORES, 0.7), SCORES + 0.7], -1)
    both = torch.nn.functional.cross_entropy(logits[0], labels[0].long(), reduction="none")
    assert_close(step_cross_entropy(SCORES, labels)[0], both)


def test_hopeless_scores_cost_what_they_are_off_and_stay_finite() -> None:
    assert_close(step_cross_entropy(f64([[-800.0, 800.0]]), f64([[1, 1]])), [[800, 0]])


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("product", 0.684), ("min", 0.8), ("last", 0.95), ("mean", 0.883333)]
)
def test_v20_aggregates(aggregate: Aggregate, expected: float) -> None:
    assert_close(aggregate_steps(torch.sigmoid(SCORES[0]), aggregate), expected, PRINTED)
    assert aggregate_steps(f64([]), aggregate).item() == 0


@pytest.mark.parametrize("name", ["grpo_process", "gdpo"])
def test_a_group_is_needed(name: str) -> None:
    assert algorithm(name).needs_groups()


def test_parts_are_columns_of_their_own() -> None:
    from tests.contract.tiny import batch

    columns = padded_columns(batch(4, seed=1))
    assert torch.equal(columns["parts"][:, 1], columns["part/other"].double())
    assert columns["part_weights"].tolist() == [[1.0, -0.5]] * 4
