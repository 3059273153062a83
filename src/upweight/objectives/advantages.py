"""From rewards to advantages: what each completion is worth, relative to what.

Every function maps the rewards of a whole rollout batch, [N], to advantages, [N]; the update gives each token of a
row its row's value. Parameters name columns of the batch (`rewards`, `group_ids`) or options of the algorithm.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

StdKind = Literal["population", "sample", "none"]


def ones(group_ids: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A_i = 1: every row is worth imitating (supervised fine-tuning)."""
    return torch.ones(len(group_ids), dtype=torch.float64)


def raw_reward(rewards: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A_i = r_i, no baseline (Williams 1992). Unbiased; a constant added to all rewards adds only variance."""
    return rewards


def positive_part(rewards: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A_i = max(r_i, 0): learn from what was rewarded, ignore the rest (RFT, 2308.01825)."""
    return rewards.clamp(min=0)


def minus_batch_mean(rewards: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A_i = r_i - mean_j r_j over the whole batch.

    The mean includes r_i itself, which scales the expected gradient by (N - 1) / N and biases nothing else.
    """
    return rewards - rewards.mean()


def group_relative(
    rewards: Float[Tensor, " n"],
    group_ids: Int[Tensor, " n"],
    std: StdKind = "population",
    std_eps: float = 1e-8,
) -> Float[Tensor, " n"]:
    """A_i = (r_i - mean_g) / (std_g + eps) within each group g (DeepSeekMath 2402.03300, section 4.1.2).

    `std` is "population" (divide by G), "sample" (by G - 1) or "none" (centre only). A group whose rewards are equal
    to rounding gets exactly 0: with a small eps, round-off would otherwise become advantages of order one (V02).
    Raises ValueError when a group has one member, which has nothing to be relative to.
    """
    _, index, counts = torch.unique(group_ids, return_inverse=True, return_counts=True)
    if int(counts.min()) < 2:
        raise ValueError("a group-relative advantage needs groups of at least 2 rollouts")
    rewards = rewards.double()
    total = torch.zeros(len(counts), dtype=torch.float64)
    mean = total.index_add(0, index, rewards) / counts
    centred = rewards - mean[index]
    if std == "none":
        scaled = centred
    else:
        freedom = counts - 1 if std == "sample" else counts
        deviation = (total.index_add(0, index, centred**2) / freedom).sqrt()
        scaled = centred / (deviation + std_eps)[index]
    return torch.where(constant_groups(rewards, group_ids)[index], torch.zeros_like(scaled), scaled)


def constant_groups(rewards: Float[Tensor, " n"], group_ids: Int[Tensor, " n"]) -> Bool[Tensor, " groups"]:
    """Whether all rewards of a group are equal to rounding, for each group in order of its id."""
    ids, index = torch.unique(group_ids, return_inverse=True)
    empty = torch.zeros(len(ids), dtype=torch.float64)
    low = empty.scatter_reduce(0, index, rewards.double(), "amin", include_self=False)
    high = empty.scatter_reduce(0, index, rewards.double(), "amax", include_self=False)
    return (high - low) <= 1e-12 * torch.maximum(high.abs(), low.abs())
