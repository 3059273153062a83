"""Annotation, minibatches and weights: which passes are made, and how a batch is divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from upweight.presets import algorithm
from upweight.types import Annotated, Batch, StepStats, annotated
from upweight.update import Updater, annotate, minibatches, weights_of


def batch(rows: int = 6, group_size: int = 2) -> Batch:
    lengths = [1 + i % 3 for i in range(rows)]
    return Batch(
        ids=[str(i) for i in range(rows)],
        prompt_ids=[torch.tensor([1])] * rows,
        token_ids=[torch.full((n,), i) for i, n in enumerate(lengths)],
        loss_mask=[torch.ones(n, dtype=torch.bool) for n in lengths],
        group_ids=torch.arange(rows) // group_size,
        unit_ids=torch.arange(rows),
        streams=["main"] * rows,
        row_columns={
            "rewards": torch.arange(rows, dtype=torch.float64),
            "correct": torch.arange(rows) % 2 == 0,
            "truncated": torch.arange(rows) % 3 == 0,
            "token_budget": torch.full((rows,), 4),
        },
    )


class RecordingLearner:
    """Stands in for a learner: remembers what it was asked, answers with numbers that name the row."""

    temperature = 1.0

    def __init__(self) -> None:
        self.scored: list[str] = []
        self.steps: list[tuple[Annotated, Mapping[str, Sequence[Tensor]]]] = []

    def score(self, rows: Batch, which: Any) -> list[Tensor]:
        self.scored.append(which)
        return [-0.1 * row.double() for row in rows.token_ids]

    def step(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]) -> StepStats:
        self.steps.append((rows, weights))
        values = [row.double() for row in rows.token_ids]
        return StepStats(
            loss=float(len(self.steps)),
            term_losses={"policy": float(len(self.steps))},
            grad_norms={"policy": 2.0},
            learning_rate=0.1,
            skipped=False,
            outputs={"logprobs": values, "entropy": values},
            pushes=dict.fromkeys(weights, values),
        )


def test_no_pass_is_made_that_is_not_declared() -> None:
    for name in ("sft", "rft", "reinforce", "reinforce_baseline", "rloo", "grpo", "dr_grpo"):
        learner = RecordingLearner()
        annotate(learner, algorithm(name), batch())
        assert learner.scored == []
    several = RecordingLearner()
    Updater(several, algorithm("grpo", {"inner_epochs": 2}), skip_inert=False).update(batch(), (0, 0))
    assert several.scored == ["policy"]
    with_kl = RecordingLearner()
    annotate(with_kl, algorithm("grpo", {"kl_coef": 0.1}), batch())
    assert with_kl.scored == ["reference"]
    measured = RecordingLearner()
    rows = annotate(measured, algorithm("sft"), batch(), extra=("ref_logprobs",))
    assert measured.scored == ["reference"]
    assert "ref_logprobs" in rows.token_columns


def test_old_logprobs_are_scored_where_a_later_step_reads_them() -> None:
    """In the first step old is current, so its rows are not scored, and the ledger has what that step found."""
    learner = RecordingLearner()
    rows = batch()
    found, _ = Updater(learner, algorithm("grpo", {"minibatches": 2}), skip_inert=False).update(rows, (0, 0))
    (first, _), (second, _) = learner.steps
    assert "old_logprobs" not in first.token_columns
    assert sorted([*first.ids, *second.ids]) == sorted(rows.ids)
    assert len(second) < len(rows)
    for row, old in zip(second.ids, second.token_columns["old_logprobs"], strict=True):
        assert torch.equal(old, -0.1 * rows.token_ids[list(rows.ids).index(row)].double())
    for row, old, now in zip(
        found.ids, found.token_columns["old_logprobs"], found.token_columns["logprobs"], strict=True
    ):
        assert torch.equal(old, now) == (row in first.ids)


def test_advantages_are_of_the_whole_batch_and_zero_where_masked() -> None:
    rows = batch()
    rows.loss_mask[2][1] = False
    found = annotate(RecordingLearner(), algorithm("reinforce_baseline"), rows)
    advantages = found.token_columns["advantages"]
    assert [float(a[0]) for a in advantages] == [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
    assert advantages[2].tolist() == [-0.5, 0.0, -0.5]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_minibatches_are_a_seeded_partition_of_whole_groups(count: int) -> None:
    rows = batch(rows=12, group_size=2)
    parts = list(minibatches(rows, count, (0, 5, 1)))
    assert len(parts) == min(count, 6)
    assert sorted(row for part in parts for row in part) == list(range(12))
    for part in parts:
        assert all((row ^ 1) in part for row in part)
    assert parts == list(minibatches(rows, count, (0, 5, 1)))
    if count > 1:
        assert parts != list(minibatches(rows, count, (0, 6, 1)))


def test_a_minibatch_is_one_step_with_its_own_denominator() -> None:
    learner = RecordingLearner()
    method = algorithm("grpo", {"minibatches": 3, "inner_epochs": 2})
    rows, metrics = Updater(learner, method).update(batch(), (0, 0))
    assert len(learner.steps) == 6
    for minibatch, weights in learner.steps:
        assert float(torch.cat(list(weights["policy"])).sum()) == pytest.approx(1.0)
        for weight, tokens in zip(weights["policy"], minibatch.token_ids, strict=True):
            assert weight.tolist() == pytest.approx([1 / (2 * len(tokens))] * len(tokens))
    assert metrics["train/loss"] == pytest.approx(sum(range(1, 7)) / 6)
    for i, tokens in enumerate(rows.token_columns["logprobs"]):
        assert tokens.tolist() == [i] * len(tokens)  # each row got its own values back, whatever the order of steps


def test_weights_of_a_step_follow_the_reduction() -> None:
    rows = annotate(RecordingLearner(), algorithm("sft"), batch())
    total = sum(rows.lengths())
    assert torch.cat(weights_of(algorithm("sft"), rows)["policy"]).tolist() == pytest.approx([1 / total] * total)
    summed = weights_of(algorithm("reinforce"), rows)["policy"]
    assert torch.cat(summed).tolist() == pytest.approx([1 / 6] * total)


def test_a_misaligned_column_is_refused() -> None:
    rows = batch()
    with pytest.raises(ValueError, match="not aligned"):
        annotated(rows, {"logprobs": [row[:-1] for row in rows.token_ids]})
