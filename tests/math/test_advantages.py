"""Rewards to one advantage a row: the printed vectors, and the laws of every relative form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.reference import PRINTED, assert_close, f64
from upweight.objectives.advantages import (
    Baseline,
    StdKind,
    constant_groups,
    group_relative,
    leave_one_out,
    minus_baseline,
    positive_part,
    raw_reward,
)

STDS: list[StdKind] = ["population", "sample", "none"]
CONSTANT = [[0.0] * 4, [1.0] * 4, [0.1 + 0.2, 0.3, 0.3, 0.3], [-1e6, -1e6]]


def one(rewards: Tensor) -> Tensor:
    """Group ids that put all rows into one group."""
    return torch.full((len(rewards),), 4)


def one_group(rewards: list[float], std: StdKind = "population", std_eps: float = 0.0) -> Tensor:
    return group_relative(f64(rewards), torch.zeros(len(rewards), dtype=torch.long), std, std_eps)


# (1, -1, -2) for a correct, a wrong and a malformed answer, with how many of each (V01). The middle row is the
# corrected one; the values often printed for it do not follow from its counts.
V01 = {
    "early": ((1, 127, 896), (8.410384, 2.555705, -0.371635), (8.406277, 2.554457, -0.371453), (8.403818, 2.553709)),
    "mid": ((384, 512, 128), (1.237597, -0.562544, -1.462614), (1.236992, -0.562269, -1.461900), (1.236881, -0.562219)),
    "late": ((896, 127, 1), (0.377550, -2.631097, -4.135420), (0.377365, -2.629812, -4.133400), (0.377309, -2.629416)),
}


@pytest.mark.parametrize("stage", V01)
def test_v01_three_tiers_of_reward(stage: str) -> None:
    (correct, wrong, malformed), population, sample, sample_eps = V01[stage]
    rewards = [1.0] * correct + [-1.0] * wrong + [-2.0] * malformed
    picks = [0, correct, correct + wrong]
    assert_close(one_group(rewards, "population")[picks], population, PRINTED)
    assert_close(one_group(rewards, "sample")[picks], sample, PRINTED)
    assert_close(one_group(rewards, "sample", 1e-4)[picks[:2]], sample_eps, PRINTED)


@pytest.mark.parametrize(
    ("std", "std_eps", "expected"),
    [
        ("population", 0.0, [1.507557, -0.904534, -0.904534, 0.301511]),
        ("population", 1e-8, [1.507557, -0.904534, -0.904534, 0.301511]),
        ("sample", 0.0, [1.305582, -0.783349, -0.783349, 0.261116]),
        ("sample", 1e-4, [1.305310, -0.783186, -0.783186, 0.261062]),
        ("sample", 1e-6, [1.305580, -0.783348, -0.783348, 0.261116]),
        ("none", 1e-8, [0.625, -0.375, -0.375, 0.125]),
    ],
)
def test_v02_every_convention(std: StdKind, std_eps: float, expected: list[float]) -> None:
    assert_close(one_group([1, 0, 0, 0.5], std, std_eps), expected, PRINTED)


def test_v02_the_default_is_the_population_deviation_with_a_tiny_eps() -> None:
    rewards = f64([1, 0, 0, 0.5])
    ours = group_relative(rewards, one(rewards))
    assert_close(ours, [1.507557, -0.904534, -0.904534, 0.301511], PRINTED)
    assert torch.equal(ours, one_group([1, 0, 0, 0.5], "population", 1e-8))
    tiny = f64([0, 2e-8])
    assert_close(group_relative(tiny, one(tiny)), [-0.5, 0.5])


@pytest.mark.parametrize("std", STDS)
@pytest.mark.parametrize("rewards", CONSTANT)
def test_v02_a_constant_group_is_exactly_zero(std: StdKind, rewards: list[float]) -> None:
    assert one_group(rewards, std).tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize("rewards", CONSTANT)
def test_whatever_centres_makes_a_constant_group_exactly_zero(rewards: list[float]) -> None:
    constant = f64(rewards)
    for centred in (
        minus_baseline(constant, one(constant), "batch"),
        minus_baseline(constant, one(constant), "group"),
        leave_one_out(constant, one(constant)),
    ):
        assert centred.tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize(
    ("rewards", "constant"),
    [
        ([1.0, 1.0 + 9e-13], True),
        ([1.0, 1.0 + 2e-12], False),
        ([-1.0, -1.0 - 9e-13], True),
        ([-1.0, -1.0 - 2e-12], False),
        ([0.0, 1e-300], False),
        ([0.0, 0.0], True),
        ([1000.0, 1000.0 + 9e-10], True),
        ([-1000.0, 1000.0], False),
    ],
)
def test_constant_means_equal_to_twelve_digits(rewards: list[float], constant: bool) -> None:
    assert constant_groups(f64(rewards), one(f64(rewards))).tolist() == [constant]


def test_constant_groups_come_in_order_of_their_ids() -> None:
    found = constant_groups(torch.tensor([1.0, 2.0, 1.0, 2.0, 5.0]), torch.tensor([8, 3, 7, 3, 8]))
    assert found.tolist() == [True, True, False]


def test_v02_two_members() -> None:
    assert_close(one_group([1, 0], "population"), [1, -1])
    assert_close(one_group([1, 0], "sample"), [0.707107, -0.707107], PRINTED)


@pytest.mark.parametrize(
    ("rewards", "sample", "centred"),
    [
        ([1.2, 0.2, 0.0, 1.0], [1.019049, -0.679366, -1.019049, 0.679366], [0.6, -0.4, -0.6, 0.4]),
        ([1.0, 0.2, -1.0, -1.0], [1.224745, 0.408248, -0.816497, -0.816497], [1.2, 0.4, -0.8, -0.8]),
    ],
)
def test_v30_groups_of_shaped_rewards(rewards: list[float], sample: list[float], centred: list[float]) -> None:
    assert_close(one_group(rewards, "sample"), sample, PRINTED)
    assert_close(one_group(rewards, "none"), centred)


@pytest.mark.parametrize("correct", [1, 4, 7])
def test_v35_binary_rewards(correct: int) -> None:
    p = correct / 8
    rewards = [1.0] * correct + [0.0] * (8 - correct)
    actual = one_group(rewards)
    assert_close(actual[0], math.sqrt((1 - p) / p))
    assert_close(actual[-1], -math.sqrt(p / (1 - p)))
    printed = {1: (2.645751, -0.377964), 4: (1.0, -1.0), 7: (0.377964, -2.645751)}[correct]
    assert_close(actual[[0, -1]], printed, PRINTED)
    assert_close(one_group(rewards, "none")[[0, -1]], [1 - p, -p])
    left_out = {1: (1.0, -0.142857), 4: (0.571429, -0.571429), 7: (0.142857, -1.0)}[correct]
    assert_close(leave_one_out(f64(rewards), one(f64(rewards)))[[0, -1]], left_out, PRINTED)


@pytest.mark.parametrize(("size", "factor"), [(4, 1.154701), (8, 1.069045), (16, 1.032796)])
def test_v40_population_is_sample_times_a_constant(size: int, factor: float) -> None:
    rewards = [float(i * i) for i in range(size)]
    ratio = one_group(rewards, "population") / one_group(rewards, "sample")
    assert_close(ratio, [factor] * size, PRINTED)
    assert_close(ratio, [math.sqrt(size / (size - 1))] * size)


def test_groups_do_not_see_each_other_and_need_not_be_adjacent() -> None:
    group_ids = torch.tensor([7, 3, 7, 3, 7, 7])
    rewards = f64([1, 10, 0, 20, 0, 0.5])
    together = group_relative(rewards, group_ids, "sample", 0.0)
    assert_close(together[group_ids == 7], one_group([1, 0, 0, 0.5], "sample"))
    assert_close(together[group_ids == 3], one_group([10, 20], "sample"))


def test_a_group_of_one_is_refused() -> None:
    rewards, group_ids = f64([1, 0, 1]), torch.tensor([0, 0, 1])
    for relative in (group_relative, leave_one_out):
        with pytest.raises(ValueError, match="at least 2"):
            relative(rewards, group_ids)
    with pytest.raises(ValueError, match="at least 2"):
        minus_baseline(rewards, group_ids, "group")
    assert group_relative(rewards[:2], group_ids[:2]).tolist() == [1 / (1 + 2e-8), -1 / (1 + 2e-8)]


scores = st.integers(-8, 8).map(lambda n: n / 4)
groups = st.lists(scores, min_size=2, max_size=8)


@pytest.mark.parametrize("std", STDS)
@given(rewards=groups)
def test_advantages_of_a_group_sum_to_zero(std: StdKind, rewards: list[float]) -> None:
    assert_close(one_group(rewards, std).sum(), 0.0, 1e-10)


@pytest.mark.parametrize("std", ["population", "sample"])
@given(rewards=groups, scale=st.sampled_from([0.5, 2.0, 10.0]), shift=st.integers(-5, 5))
def test_a_scaled_advantage_is_blind_to_affine_rewards(
    std: StdKind, rewards: list[float], scale: float, shift: int
) -> None:
    moved = [scale * r + shift for r in rewards]
    assert_close(one_group(moved, std), one_group(rewards, std), 1e-9)


@pytest.mark.parametrize("std", STDS)
@given(rewards=groups, data=st.data())
def test_advantages_move_with_their_rows(std: StdKind, rewards: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rewards))))
    assert_close(one_group([rewards[i] for i in order], std), one_group(rewards, std)[order], 1e-10)


def test_the_forms_without_a_baseline() -> None:
    rewards = f64([1, -1, 0.5, -2, 0])
    assert raw_reward(rewards).tolist() == [1, -1, 0.5, -2, 0]
    assert positive_part(rewards).tolist() == [1, 0, 0.5, 0, 0]


def test_each_baseline() -> None:
    rewards, group_ids = f64([1, -1, 0.5, -2]), torch.tensor([5, 2, 5, 2])
    assert_close(minus_baseline(rewards, group_ids, "batch"), [1.375, -0.625, 0.875, -1.625])
    assert_close(minus_baseline(rewards, group_ids), minus_baseline(rewards, group_ids, "batch"))
    assert_close(minus_baseline(rewards, group_ids, "group"), [0.25, 0.5, -0.25, -0.5])
    assert_close(minus_baseline(rewards, group_ids, "running"), rewards)
    assert_close(minus_baseline(rewards, group_ids, "running", running_mean=0.5), [0.5, -1.5, 0, -2.5])
    assert minus_baseline(torch.ones(2), torch.tensor([0, 0]), "running").dtype == torch.float64


def test_a_batch_of_one_row_is_its_own_mean() -> None:
    assert minus_baseline(f64([0.7]), torch.tensor([0])).tolist() == [0.0]


@pytest.mark.parametrize("baseline", ["batch", "group"])
def test_a_batch_that_is_one_group_has_one_mean(baseline: Baseline) -> None:
    rewards = f64([1, 0, 0, 0.5])
    assert_close(minus_baseline(rewards, one(rewards), baseline), [0.625, -0.375, -0.375, 0.125])


def test_v02_and_v40_leave_one_out_is_the_centred_reward_times_a_constant() -> None:
    rewards = f64([1, 0, 0, 0.5])
    assert_close(leave_one_out(rewards, one(rewards)), [0.833333, -0.5, -0.5, 0.166667], PRINTED)
    eight = f64([float(i * i) for i in range(8)])
    ratio = leave_one_out(eight, one(eight)) / one_group(eight.tolist(), "none")
    assert_close(ratio, [8 / 7] * 8)
    assert_close(ratio, [1.142857] * 8, PRINTED)


def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others_of_its_own_group() -> None:
    group_ids = torch.tensor([4, 1, 4, 4, 1])
    rewards = f64([3, 10, 1, 0.5, 4])
    expected = [3 - 0.75, 10 - 4, 1 - 1.75, 0.5 - 2, 4 - 10]
    assert_close(leave_one_out(rewards, group_ids), expected)


@given(rewards=groups)
def test_leave_one_out_of_a_group_sums_to_zero(rewards: list[float]) -> None:
    assert_close(leave_one_out(f64(rewards), one(f64(rewards))).sum(), 0.0, 1e-10)


def test_v23_a_baseline_takes_away_variance_and_no_bias() -> None:
    """Two equally likely arms with rewards 1001 and 999: the derivative of log pi by the first logit is +-1/2."""
    slopes, rewards = f64([0.5, -0.5]), f64([1001, 999])
    for running_mean, samples, variance in ((0.0, [500.5, -499.5], 250000.0), (1000.0, [0.5, 0.5], 0.0)):
        pushes = minus_baseline(rewards, one(rewards), "running", running_mean) * slopes
        assert_close(pushes, samples)
        assert_close(pushes.mean(), 0.5)
        assert_close(pushes.var(correction=0), variance)
