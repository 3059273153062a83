"""What a batch says about itself: sums over all its rows or tokens, divided once, never means of means."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upweight.objectives import kl
from upweight.objectives.advantages import constant_groups
from upweight.objectives.value import explained_variance
from upweight.types import Batch

NGRAM = 4
SHORTEST_REPETITION = 8


def batch_metrics(batch: Batch) -> dict[str, float]:
    """The metrics of a batch's rows; see `glossary` for their meaning.

    Read when present: the row columns `rewards`, `truncated`, `correct`, `part/NAME`. A key whose column is missing is
    left out, and so are all keys of a dataset's batch, which has no rewards.
    """
    rows = dict(_reward_metrics(batch)) if "rewards" in batch.row_columns else {}
    means = {"truncated": "rollout/truncated_share", "correct": "rollout/accuracy"}
    means |= {name: f"reward/{name}" for name in batch.row_columns if name.startswith("part/")}
    for column, key in means.items():
        if column in batch.row_columns and len(batch):
            rows[key] = float(batch.row_columns[column].double().mean())
    return rows


def token_metrics(rows: Batch) -> dict[str, float]:
    """The metrics of tokens, as means over the trained ones; `rows` are those of a batch's first optimizer step.

    Read when present: `logprobs` (the learner's), `behavior_logprobs`, `ref_logprobs`, `entropy`. Later steps on the
    same batch find a policy that has moved: they would report that as a mismatch with the sampler.
    """
    return dict(_token_metrics(rows))


def derived_metrics(rows: Batch) -> dict[str, float]:
    """What the derived columns say of the batch; `rows` are those of its main stream.

    Read when present: `returns` with `old_values` (how well the critic knew), `sampler_weights`, `used/rewards`.
    """
    metrics = {}
    if "returns" in rows.token_columns:
        returns, values = _trained(rows, "returns"), _trained(rows, "old_values")
        everything = torch.ones_like(returns, dtype=torch.bool)[None]
        metrics["train/explained_variance"] = float(explained_variance(returns[None], values[None], everything))
    if "sampler_weights" in rows.token_columns:
        weights = _trained(rows, "sampler_weights")
        metrics["train/sampler_weight_mean"] = float(weights.mean())
        metrics["train/sampler_rejected_share"] = float((weights == 0).double().mean())
    if "used/rewards" in rows.row_columns:
        metrics["reward/used_mean"] = float(rows.row_columns["used/rewards"].double().mean())
    return metrics


def repeats_itself(token_ids: list[int]) -> bool:
    """Whether fewer than half of the 4-grams are distinct; never with fewer than 8 tokens."""
    if len(token_ids) < SHORTEST_REPETITION:
        return False
    grams = list(zip(*(token_ids[i:] for i in range(NGRAM)), strict=False))
    return 2 * len(set(grams)) < len(grams)


def _reward_metrics(batch: Batch) -> Iterator[tuple[str, float]]:
    if len(batch) == 0:
        return
    rewards = batch.row_columns["rewards"].double()
    yield "reward/mean", float(rewards.mean())
    yield "reward/std", float(rewards.std(correction=0))
    yield "rollout/zero_reward_share", float((rewards == 0).double().mean())
    yield "rollout/completion_tokens", sum(int(mask.sum()) for mask in batch.loss_mask) / len(batch)
    yield "rollout/repetition_share", sum(repeats_itself(ids.tolist()) for ids in batch.token_ids) / len(batch)
    _, counts = torch.unique(batch.group_ids, return_counts=True)
    constant = constant_groups(rewards, batch.group_ids)[counts >= 2]
    if len(constant):
        yield "rollout/constant_group_share", float(constant.double().mean())


def _token_metrics(batch: Batch) -> Iterator[tuple[str, float]]:
    columns = {name: _trained(batch, name) for name in batch.token_columns}
    if not any(bool(mask.any()) for mask in batch.loss_mask):
        return
    if "entropy" in columns:
        yield "train/entropy", float(columns["entropy"].mean())
    if "logprobs" not in columns:
        return
    if "behavior_logprobs" in columns:
        mismatch = (columns["behavior_logprobs"] - columns["logprobs"]).abs()
        yield "train/sampler_mismatch_mean", float(mismatch.mean())
        yield "train/sampler_mismatch_max", float(mismatch.max())
    if "ref_logprobs" in columns:
        estimate = kl.k3(columns["logprobs"][None], columns["ref_logprobs"][None])
        yield "train/kl_to_start", float(estimate.mean())


def _trained(batch: Batch, name: str) -> Tensor:
    """A token column at the trained tokens of all rows, [sum T_i], in float64."""
    pieces = [row.detach()[mask] for row, mask in zip(batch.token_columns[name], batch.loss_mask, strict=True)]
    return torch.cat([torch.zeros(0), *pieces]).double()
