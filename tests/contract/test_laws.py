"""What every preset owes beside invariance, driven from the table: nothing from nothing, and a first ratio of 1."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract import tiny
from upweight.learners.microbatches import units_of
from upweight.presets import PRESETS
from upweight.types import Batch
from upweight.update import Updater, annotate, weights_of

ROLLOUTS = [name for name in PRESETS if PRESETS[name].source == "rollouts"]
COMPARED = [name for name in PRESETS if PRESETS[name].needs_groups()]


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("reward", [1.0, 0.1])
def test_constant_groups_push_nothing(name: str, reward: float) -> None:
    """Exactly zero, though 0.1 is no number of a computer's; of one group too, unless advantages are whitened after."""
    off = {"kl_reward_coef": 0.0, "overlong_share": 0.0}
    method = PRESETS[name].with_options({option: off[option] for option in off.keys() & PRESETS[name].options().keys()})
    learner = tiny.learner(method)
    rows = tiny.batch_for(method)
    for constant in (torch.ones(8, dtype=torch.bool), torch.arange(8) < 4):
        if "whiten" in method.switches and not bool(constant.all()):
            continue
        found = annotate(learner, method, _with_equal_rewards(rows, constant, reward))
        tally = learner.backward(found, weights_of(method, found), units_of(found.unit_ids.tolist()))
        silent = [bool((push == 0).all()) for push in tally.pushes["policy"]]
        assert [silent[i] for i in range(8) if constant[i]] == [True] * int(constant.sum())
        assert all(silent) == bool(constant.all())


def _with_equal_rewards(rows: Batch, chosen: torch.Tensor, reward: float) -> Batch:
    """The chosen rows earn the same, in every part and at the end of every step."""
    columns = dict(rows.row_columns)
    for name in ("rewards", "part/one", "part/other"):
        columns[name] = torch.where(chosen, reward, columns[name])
    columns["step_total"] = torch.where(chosen, reward, columns["step_total"])
    earned = zip(rows.token_columns["step_rewards"], rows.token_columns["step_ends"], chosen, strict=True)
    steps = [reward * ends if equal else column for column, ends, equal in earned]
    return replace(rows, row_columns=columns, token_columns={**rows.token_columns, "step_rewards": steps})


@pytest.mark.parametrize("name", ROLLOUTS)
@pytest.mark.parametrize(
    "layout", [{"tokens_per_microbatch": 60}, {"kind": "packed"}, {"kind": "padded", "pad_multiple": 16}]
)
def test_the_first_ratio_is_one(name: str, layout: dict[str, int]) -> None:
    """In float32, with old log-probs from a pass of their own: nothing differs between that pass and the update's."""
    method = PRESETS[name].with_options({"minibatches": 1, "inner_epochs": 2})
    learner = tiny.learner(method, dtype="float32", **layout)  # type: ignore[arg-type]
    found = tiny.with_old(learner, method, annotate(learner, method, tiny.batch_for(method)))
    tally = learner.backward(found, weights_of(method, found), units_of(found.unit_ids.tolist()))
    assert "old_logprobs" in found.token_columns or not method.reads_within("old_logprobs")
    for now, old in zip(tally.outputs["logprobs"], found.token_columns.get("old_logprobs", ()), strict=False):
        assert float((torch.exp(now - old) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("name", PRESETS)
def test_columns_follow_their_rows(name: str) -> None:
    """Units in another order get the same columns and pushes, each its own."""
    method = tiny.every_term(name)
    rows = tiny.batch_for(method)
    groups = torch.unique(rows.group_ids).tolist()
    order = [i for group in reversed(groups) for i, g in enumerate(rows.group_ids.tolist()) if g == group]
    order = [i for i in order if rows.streams[i] == "main"] + [i for i in order if rows.streams[i] != "main"]
    method = replace(method, statistics=(), minibatches=1)  # KTO's reference point pairs neighbours, as it must
    columns = {} if PRESETS[name].statistics == () else {"reference_point": torch.full((len(rows),), 0.2).double()}
    rows = replace(rows, row_columns={**rows.row_columns, **columns})
    one, _ = Updater(tiny.learner(method), method).update(rows, (0, 0))
    other, _ = Updater(tiny.learner(method), method).update(rows.select(order), (0, 0))
    for column in one.token_columns:
        moved = [one.token_columns[column][i] for i in order]
        for a, b in zip(moved, other.token_columns[column], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10, equal_nan=True, msg=f"{name} {column}")
