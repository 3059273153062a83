"""Metrics of a batch, against numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from upweight.records.batch_metrics import batch_metrics, repeats_itself, token_metrics
from upweight.records.glossary import describe
from upweight.types import Batch


def make_batch(masks: list[list[int]], groups: list[int], **columns: Any) -> Batch:
    count = len(masks)
    tokens = {name: [torch.tensor(row) for row in rows] for name, rows in columns.items() if name.endswith("s_t")}
    rows = {name: torch.tensor(value) for name, value in columns.items() if not name.endswith("s_t")}
    return Batch(
        ids=[str(i) for i in range(count)],
        prompt_ids=[torch.tensor([1])] * count,
        token_ids=[torch.arange(len(mask)) for mask in masks],
        loss_mask=[torch.tensor(mask, dtype=torch.bool) for mask in masks],
        group_ids=torch.tensor(groups),
        unit_ids=torch.arange(count),
        streams=["main"] * count,
        token_columns={name.removesuffix("s_t"): value for name, value in tokens.items()},
        row_columns=rows,
    )


def with_tokens(batch: Batch, **columns: list[list[float]]) -> Batch:
    made: dict[str, list[Tensor]] = {name: [torch.tensor(row) for row in rows] for name, rows in columns.items()}
    return replace(batch, token_columns=made)


def test_rewards_by_hand() -> None:
    batch = make_batch(
        [[1], [1, 1], [1, 1, 0, 1], [1, 1]],
        [7, 7, 3, 3],
        rewards=[0.0, 1.0, 0.5, 0.5],
        truncated=[False, True, False, False],
        correct=[False, True, False, False],
        **{"part/correct": [0.0, 1.0, 0.0, 0.0]},
    )
    metrics = batch_metrics(batch)
    assert metrics == pytest.approx(
        {
            "reward/mean": 0.5,
            "reward/std": math.sqrt(0.5 / 4),
            "reward/part/correct": 0.25,
            "rollout/accuracy": 0.25,
            "rollout/truncated_share": 0.25,
            "rollout/zero_reward_share": 0.25,
            "rollout/completion_tokens": 2.0,
            "rollout/repetition_share": 0.0,
            "rollout/constant_group_share": 0.5,
        }
    )
    for key in metrics:
        describe(key)


def test_token_means_are_over_all_trained_tokens_not_over_rows() -> None:
    """A row of one token beside a row of three: a mean of row means would give another number for each."""
    batch = with_tokens(
        make_batch([[1], [1, 0, 1, 1]], [0, 1]),
        entropy=[[4.0], [0.0, 99.0, 1.0, 3.0]],
        logprobs=[[-1.0], [-2.0, -99.0, -2.0, -2.0]],
        behavior_logprobs=[[-1.0], [-2.0, 0.0, -2.5, -1.5]],
        ref_logprobs=[[-2.0], [-2.0, 0.0, -2.0, -2.0]],
    )
    metrics = token_metrics(batch)
    assert metrics == pytest.approx(
        {
            "train/entropy": 2.0,
            "train/sampler_mismatch_mean": 0.25,
            "train/sampler_mismatch_max": 0.5,
            "train/kl_to_start": (math.exp(-1) + 1 - 1) / 4,  # u = 1 at one token of four: exp(-u) + u - 1
        }
    )
    for key in metrics:
        describe(key)


def test_groups_of_one_are_neither_constant_nor_counted() -> None:
    batch = make_batch([[1], [1], [1]], [0, 1, 1], rewards=[1.0, 0.0, 1.0])
    assert batch_metrics(batch)["rollout/constant_group_share"] == 0
    alone = make_batch([[1], [1]], [0, 1], rewards=[1.0, 0.0])
    assert "rollout/constant_group_share" not in batch_metrics(alone)


def test_a_group_is_constant_to_rounding_only() -> None:
    equal = make_batch([[1]] * 2, [0, 0], rewards=torch.tensor([0.3, 0.1 + 0.2], dtype=torch.float64).tolist())
    assert (
        batch_metrics(replace(equal, row_columns={"rewards": torch.tensor([0.3, 0.1 + 0.2]).double()}))[
            "rollout/constant_group_share"
        ]
        == 1
    )
    exact = torch.tensor([0.3, 0.1 + 0.2], dtype=torch.float64)
    assert exact[0] != exact[1]
    assert batch_metrics(replace(equal, row_columns={"rewards": exact}))["rollout/constant_group_share"] == 1
    apart = torch.tensor([0.3, 0.3 + 1e-9], dtype=torch.float64)
    assert batch_metrics(replace(equal, row_columns={"rewards": apart}))["rollout/constant_group_share"] == 0


def test_a_dataset_batch_has_no_rollout_metrics() -> None:
    batch = with_tokens(make_batch([[1, 1]], [0]), entropy=[[1.0, 2.0]], logprobs=[[-1.0, -1.0]])
    assert batch_metrics(batch) == {}
    assert token_metrics(batch) == {"train/entropy": 1.5}


def test_nothing_trained_divides_by_nothing() -> None:
    batch = with_tokens(make_batch([[0, 0], []], [0, 0], rewards=[1.0, 2.0]), entropy=[[1.0, 2.0], []])
    assert token_metrics(batch) == {}
    empty = Batch([], [], [], [], torch.zeros(0).long(), torch.zeros(0).long(), {}, {"rewards": torch.zeros(0)})
    assert batch_metrics(empty) == {}


def test_row_order_does_not_matter() -> None:
    batch = with_tokens(
        make_batch([[1, 1], [1], [1, 0]], [0, 0, 1], rewards=[0.25, 0.5, 1.0]),
        entropy=[[1.0, 2.0], [4.0], [8.0, 1.0]],
    )
    batch = replace(batch, row_columns={"rewards": torch.tensor([0.25, 0.5, 1.0])})
    moved = batch.select([2, 0, 1])
    assert batch_metrics(batch) == batch_metrics(moved)
    assert token_metrics(batch) == token_metrics(moved)


@pytest.mark.parametrize(
    ("token_ids", "repeats"),
    [
        ([], False),
        ([5] * 7, False),  # too short to judge
        ([5] * 8, True),  # one distinct 4-gram of five
        (list(range(20)), False),
        ([1, 2] * 3 + [1, 2], True),  # two distinct 4-grams of five
        ([1, 2, 3] * 3, False),  # three of six: half is not fewer than half
        ([1, 2, 3] * 3 + [1], True),  # three of seven
    ],
)
def test_repetition(token_ids: list[int], repeats: bool) -> None:
    assert repeats_itself(token_ids) is repeats


def test_repetition_share_counts_completions() -> None:
    batch = make_batch([[1] * 8, [1] * 8], [0, 0], rewards=[0.0, 1.0])
    batch = replace(batch, token_ids=[torch.full((8,), 3), torch.arange(8)])
    assert batch_metrics(batch)["rollout/repetition_share"] == 0.5
