"""What four minibatches do to the ratio, and what each clip makes of it, read back from the ledger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_methods import EASY, run

Row = dict[str, list[float]]


def ledger(folder: Path, name: str, lr: float) -> tuple[dict[str, Any], list[Row]]:
    """Metrics and rows of the second step of a method with four minibatches, at a rate that moves the policy far."""
    changes = {"batch": {"prompts": 16, "group_size": 4}, "optimizer": {"lr": lr}, "learner": {"skip_inert": False}}
    done = run(folder, {"name": name, "minibatches": 4}, **(EASY | changes))
    table = done.ledger(1).to_pydict()
    columns = ("logprobs", "old_logprobs", "advantages", "push/policy")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*(table[c] for c in columns), strict=True)]
    return done.metrics()[1], rows


def ratios(row: Row) -> list[float]:
    return [math.exp(now - old) for now, old in zip(row["logprobs"], row["old_logprobs"], strict=True)]


def test_gspo_silences_whole_completions_out_of_its_narrow_band(tmp_path: Path) -> None:
    metrics, rows = ledger(tmp_path, "gspo", lr=3e-3)
    silenced = 0
    for row in rows:
        advantage, r = row["advantages"][0], ratios(row)
        sequence = math.exp(sum(map(math.log, r)) / len(r))
        out = (advantage > 0 and sequence > 1 + 4e-4) or (advantage < 0 and sequence < 1 - 3e-4)
        on_the_edge = min(abs(sequence - 1 - 4e-4), abs(sequence - 1 + 3e-4)) < 1e-6  # the ledger is in float32
        if advantage and not on_the_edge:
            assert {push == 0 for push in row["push/policy"]} == {out}, "a completion is silenced as a whole or not"
            silenced += out
    assert silenced > len(rows) / 10
    assert metrics["train/clip_share"] > 0.1
    everything = [r for row in rows for r in ratios(row)]
    assert metrics["train/ratio_min"] == pytest.approx(min(everything), rel=1e-4)
    assert metrics["train/ratio_max"] == pytest.approx(max(everything), rel=1e-4)


def test_cispo_silences_no_token_and_bounds_its_weight(tmp_path: Path) -> None:
    metrics, rows = ledger(tmp_path, "cispo", lr=3e-2)
    assert metrics["train/clip_share"] == 0
    assert metrics["train/ratio_max"] > 1.28, "some ratio is above the bound, or nothing is shown"
    per_weight = set()
    for row in rows:
        for ratio, advantage, push in zip(ratios(row), row["advantages"], row["push/policy"], strict=True):
            if advantage:
                assert push != 0
                per_weight.add(round(push / (min(ratio, 1.28) * advantage), 5))
    assert len(per_weight) <= 2 * 4  # the share of a token is one number in each of the four minibatches, to rounding


def test_grpo_silences_single_tokens(tmp_path: Path) -> None:
    metrics, rows = ledger(tmp_path, "grpo", lr=3e-2)
    assert 0 < metrics["train/clip_share"] < 0.5
    mixed = [row for row in rows if row["advantages"][0] and len({push == 0 for push in row["push/policy"]}) == 2]
    assert mixed, "within a completion some tokens are clipped and some are not"
    for row in rows:
        for ratio, advantage, push in zip(ratios(row), row["advantages"], row["push/policy"], strict=True):
            if push == 0 and advantage:
                assert ratio > 1.2 - 1e-5 if advantage > 0 else ratio < 0.8 + 1e-5
