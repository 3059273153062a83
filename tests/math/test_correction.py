"""Weights that undo the sampler's mismatch, filters of groups, and numbers that move between batches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.reference import PRINTED, assert_close, f64, mask_of
from upweight.objectives.controllers import adaptive_coefficient, moving_average
from upweight.objectives.correction import SamplerCorrection, corrected, importance_weights
from upweight.objectives.filters import mixed_outcomes

LOG_WEIGHTS = [0.0, 0.5, -0.3, 1.2]
WEIGHTS = [1.0, 1.648721, 0.740818, 3.320117]
MODES: list[SamplerCorrection] = [
    "none",
    "token_truncate",
    "token_mask",
    "sequence_truncate",
    "sequence_mask",
    "geometric_mask",
]


def v18(mode: SamplerCorrection, low: float = 0.0, high: float = math.inf) -> Tensor:
    """The weights of one row whose log(old / mu) are those of V18, with a token of a tool and padding beside them."""
    mask = torch.tensor([[True, True, False, True, True, False]])
    logs = f64([[0.0, 0.5, 50.0, -0.3, 1.2, 99.0]])
    behavior = torch.full((1, 6), -0.7, dtype=torch.float64)
    found = importance_weights(behavior + logs, behavior, mask, mode, low, high)
    assert found[~mask].count_nonzero() == 0
    assert found.shape == mask.shape
    return found[mask]


@pytest.mark.parametrize(
    ("mode", "low", "high", "expected"),
    [
        ("none", 0.0, 2.0, [1.0] * 4),
        ("none", 5.0, 6.0, [1.0] * 4),
        ("token_truncate", 0.0, 2.0, [*WEIGHTS[:3], 2.0]),
        ("token_truncate", 0.9, 2.0, [*WEIGHTS[:3], 2.0]),
        ("token_truncate", 0.0, math.inf, WEIGHTS),
        ("token_mask", 0.5, 2.0, [*WEIGHTS[:3], 0.0]),
        ("token_mask", 0.5, 5.0, WEIGHTS),
        ("token_mask", 0.8, 5.0, [WEIGHTS[0], WEIGHTS[1], 0.0, WEIGHTS[3]]),
        ("sequence_truncate", 0.0, math.inf, [4.055200] * 4),
        ("sequence_truncate", 0.0, 3.0, [3.0] * 4),
        ("sequence_truncate", 5.0, 6.0, [4.055200] * 4),
        ("sequence_mask", 0.0, 3.0, [0.0] * 4),
        ("sequence_mask", 4.0, 5.0, [4.055200] * 4),
        ("sequence_mask", 4.1, 5.0, [0.0] * 4),
        ("geometric_mask", 0.99, 1.001, [0.0] * 4),
        ("geometric_mask", 1.419, 1.42, [1.0] * 4),
        ("geometric_mask", 1.42, 5.0, [0.0] * 4),
    ],
)
def test_v18_every_mode(mode: SamplerCorrection, low: float, high: float, expected: list[float]) -> None:
    assert_close(v18(mode, low, high), expected, PRINTED)


@pytest.mark.parametrize(
    ("mode", "kept"), [("token_mask", 2.0), ("sequence_mask", 2.0), ("geometric_mask", 1.0), ("token_truncate", 2.0)]
)
def test_a_weight_on_its_bound_is_kept(mode: SamplerCorrection, kept: float) -> None:
    logs = torch.log(f64([[2.0]]))
    mask = mask_of([1])
    weight = torch.exp(logs).item()
    for low, high in ((weight, 3.0), (0.0, weight)):
        assert_close(importance_weights(logs, torch.zeros_like(logs), mask, mode, low, high), [[kept]])
    beyond = importance_weights(logs, torch.zeros_like(logs), mask, mode, 2.5, 3.0)
    assert_close(beyond, [[2.0 if mode.endswith("truncate") else 0.0]])


def test_defaults_are_no_correction_and_an_upper_bound_of_two() -> None:
    old, behavior, mask = f64([[0.0, 1.0]]), f64([[0.0, 0.0]]), mask_of([2])
    assert importance_weights(old, behavior, mask).tolist() == [[1, 1]]
    assert importance_weights(old, behavior, mask, "token_truncate").tolist() == [[1, 2]]
    assert importance_weights(old - 9, behavior, mask, "token_mask")[0, 0] > 0, "no lower bound"


@pytest.mark.parametrize("mode", MODES)
def test_where_sampler_and_trainer_agree_nothing_is_corrected(mode: SamplerCorrection) -> None:
    old, mask = f64([[-1, -2, -3], [-0.5, -4, 0]]), mask_of([3, 2])
    weights = importance_weights(old, old, mask, mode)
    assert torch.equal(weights, mask.double())
    advantages = f64([1.5, -2])
    assert torch.equal(corrected(advantages, weights, mask), advantages[:, None] * mask)


def test_weights_are_constants_of_the_gradient() -> None:
    old = f64([[-1, -2]]).requires_grad_()
    assert not importance_weights(old, old.detach() - 0.1, mask_of([2]), "token_truncate").requires_grad


@given(cells=st.lists(st.booleans(), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_a_sequence_weight_is_a_product_and_a_power_of_the_geometric_mean(cells: list[bool], seed: int) -> None:
    mask = torch.tensor(cells).view(2, 4)
    logs = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    still = torch.zeros_like(logs)
    token = importance_weights(logs, still, mask, "token_truncate", 0.0, math.inf)
    sequence = importance_weights(logs, still, mask, "sequence_truncate", 0.0, math.inf)
    assert torch.equal(importance_weights(logs, still, mask, "token_mask", 0.0, math.inf), token)
    assert torch.equal(importance_weights(logs, still, mask, "sequence_mask", 0.0, math.inf), sequence)
    for row in range(2):
        product = token[row][mask[row]].prod()
        assert_close(sequence[row][mask[row]], product.expand(int(mask[row].sum())), 1e-9)
        if mask[row].any():
            mean = product ** (1 / int(mask[row].sum()))
            edges = ((mean - 1e-9, mean + 1e-9, 1.0), (mean + 1e-9, math.inf, 0.0), (0.0, mean - 1e-9, 0.0))
            for low, high, kept in edges:
                found = importance_weights(logs, still, mask, "geometric_mask", float(low), float(high))
                assert torch.equal(found[row], kept * mask[row])


def test_a_product_beyond_all_numbers_is_cut_or_dropped() -> None:
    old, behavior, mask = f64([[600, 600]]), f64([[0, 0]]), mask_of([2])
    assert importance_weights(old, behavior, mask, "sequence_truncate").tolist() == [[2, 2]]
    assert importance_weights(old, behavior, mask, "sequence_mask").tolist() == [[0, 0]]


def test_v37_a_sampler_that_cut_the_tail_is_seen_as_a_weight() -> None:
    """Trainer (.6, .3, .1), nucleus .9: the sampler renormalised to (2/3, 1/3, 0)."""
    old, behavior = torch.log(f64([[0.6, 0.3]])), torch.log(f64([[2 / 3, 1 / 3]]))
    assert_close(importance_weights(old, behavior, mask_of([2]), "token_truncate"), [[0.9, 0.9]])


def test_correction_multiplies_the_advantage() -> None:
    mask = mask_of([2, 3])
    weights = f64([[0.5, 2, math.inf], [0, 1, 3]])
    assert corrected(f64([2, -1]), weights, mask).tolist() == [[1, 4, 0], [0, -1, -3]]
    assert corrected(f64([[1, 2, math.inf], [3, 4, 5]]), weights, mask).tolist() == [[0.5, 4, 0], [0, 4, 15]]
    assert corrected(torch.ones(2), weights, mask).dtype == torch.float64


def test_only_groups_of_mixed_outcome_are_kept() -> None:
    correct = torch.tensor([True, False, True, False, True, False, False])
    group_ids = torch.tensor([4, 2, 4, 2, 9, 9, 9])
    assert mixed_outcomes(correct, group_ids).tolist() == [False, False, False, False, True, True, True]
    assert mixed_outcomes(~correct, group_ids).tolist() == [False, False, False, False, True, True, True]
    assert mixed_outcomes(torch.tensor([True]), torch.tensor([0])).tolist() == [False]


@pytest.mark.parametrize(("p", "size", "dead"), [(0.5, 8, 0.007812), (0.9, 16, 0.185302), (0.02, 16, 0.723798)])
def test_v35_how_often_a_group_is_of_one_outcome(p: float, size: int, dead: float) -> None:
    """One group for each number of right answers, weighed by its binomial chance."""
    counts = torch.arange(size + 1)
    correct = (torch.arange(size)[None] < counts[:, None]).flatten()
    mixed = mixed_outcomes(correct, counts.repeat_interleave(size)).view(size + 1, size)[:, 0]
    chance = f64([math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)])
    assert_close(chance[~mixed].sum(), dead, PRINTED)
    assert_close(chance[~mixed].sum(), p**size + (1 - p) ** size)


@pytest.mark.parametrize(("baseline_decay", "expected"), [(0.9, 0.9 * 2 + 0.1 * 0.5), (0.0, 0.5), (1.0, 2.0)])
def test_a_running_mean_moves_towards_the_mean_reward(baseline_decay: float, expected: float) -> None:
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.5])
    assert_close(moving_average(2.0, rewards, baseline_decay), expected)
    assert_close(moving_average(torch.tensor(2.0, dtype=torch.float64), rewards, baseline_decay), expected)


def test_a_running_mean_keeps_nine_tenths_by_default() -> None:
    assert_close(moving_average(2.0, f64([1, 0])), 1.85)


def coefficient(divergence: float, rows: int = 256, target: float = 6.0, horizon: float = 10000.0) -> Tensor | float:
    """The next coefficient from 0.2 when each row's two tokens together have the given k1; padding is far away."""
    mask = mask_of([2, 3])[:1].expand(rows, 3)
    old = f64([[divergence - 1, 1, 1e6]]).expand(rows, 3)
    return adaptive_coefficient(0.2, old, torch.zeros_like(old), mask, target, horizon)


@pytest.mark.parametrize(("divergence", "expected"), [(12.0, 0.201024), (3.0, 0.198976), (6.6, 0.200512), (6.0, 0.2)])
def test_v10_the_controller_of_the_kl_coefficient(divergence: float, expected: float) -> None:
    assert_close(coefficient(divergence), expected, PRINTED)


@pytest.mark.parametrize(("divergence", "expected"), [(12.0, 0.204), (3.0, 0.196)])
def test_v10_the_form_of_the_paper_is_a_horizon_of_ten_batches(divergence: float, expected: float) -> None:
    assert_close(coefficient(divergence, rows=32, horizon=320.0), expected, PRINTED)


def test_the_controller_rests_without_a_target_or_without_rows() -> None:
    assert coefficient(12.0, target=0.0) == 0.2
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert_close(adaptive_coefficient(0.2, torch.ones(2, 3), torch.zeros(2, 3), none, 6.0), 0.2)
    assert adaptive_coefficient(0.2, torch.ones(1, 2), torch.zeros(1, 2), mask_of([2])) == 0.2


def test_the_controller_counts_rows_that_train_and_has_a_default_horizon() -> None:
    mask = mask_of([2, 0, 1])
    old = f64([[3, 4, 9][:2], [5, 5], [2, 7]])
    found = adaptive_coefficient(0.5, old, torch.zeros_like(old), mask, 4.0)
    assert_close(found, 0.5 * (1 + (4.5 / 4 - 1) * 2 / 10000))


def test_the_controller_sees_one_row_and_a_drift_below_single_precision() -> None:
    ref = f64([[-1.0]])
    found = adaptive_coefficient(1.0, ref + 1e-9, ref, mask_of([1]), 0.9e-9, 1.0)
    assert_close(found, 1 + 1 / 0.9 - 1, 1e-6)
