"""From rewards to advantages: what each completion, or each token, is worth, relative to what.

Every function sees a whole rollout batch. Rewards are [rows]; a value of a row is later given to each of its tokens.
The first line of a docstring is the formula with options by their own names. Parameters without a default name
columns of the batch, those with one are options of the algorithm. Results are float64.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from upweight.objectives.tokens import Mask, Rows, Tokens, last_trained, masked

StdKind = Literal["population", "sample", "none"]
WhitenStd = Literal["population", "sample"]
Baseline = Literal["batch", "group", "running"]
GroupIds = Int[Tensor, " rows"]
Parts = Float[Tensor, "rows parts"]


def raw_reward(rewards: Rows) -> Rows:
    """r

    No baseline (Williams 1992). Unbiased; a constant added to all rewards adds only variance (V23).
    """
    return rewards.double()


def positive_part(rewards: Rows) -> Rows:
    """max(r, 0)

    Learn from what was rewarded, ignore the rest (RFT, 2308.01825).
    """
    return rewards.double().clamp(min=0)


def minus_baseline(rewards: Rows, group_ids: GroupIds, baseline: Baseline = "batch", running_mean: float = 0.0) -> Rows:
    """r - b, b the baseline mean of r (the running mean is running_mean)

    "batch" is the mean over all rows and "group" over the row's group: both include r itself, which scales the
    expected gradient by (n - 1) / n and biases nothing else. "running" is a number known before the batch was drawn,
    and therefore unbiased. Rows whose batch or group is constant get exactly 0. Raises ValueError for "group" when a
    group has one member.
    """
    if baseline == "running":
        return rewards.double() - running_mean
    return group_relative(rewards, group_ids, std="none") if baseline == "group" else _minus_batch_mean(rewards)


def _minus_batch_mean(rewards: Rows) -> Rows:
    one_group = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
    centred = rewards.double() - rewards.double().mean()
    return torch.where(constant_groups(rewards, one_group), torch.zeros_like(centred), centred)


def leave_one_out(rewards: Rows, group_ids: GroupIds) -> Rows:
    """r - mean of r over the others of the group

    Equal to G / (G - 1) times the centred reward and unbiased, since the baseline has not seen the row (RLOO,
    2402.14740). A constant group gets exactly 0. Raises ValueError when a group has one member.
    """
    _, index, counts = torch.unique(group_ids, return_inverse=True, return_counts=True)
    return group_relative(rewards, group_ids, std="none") * (counts.double() / (counts - 1))[index]


def group_relative(rewards: Rows, group_ids: GroupIds, std: StdKind = "population", std_eps: float = 1e-8) -> Rows:
    """(r - mean_g(r)) / (deviation_g(r, std) + std_eps), where a deviation of kind none divides by 1

    Mean and deviation are those of the row's group (DeepSeekMath 2402.03300, section 4.1.2). `std` is "population"
    (divide by G), "sample" (by G - 1) or "none" (centre only). A group whose rewards are equal to rounding gets
    exactly 0: with a small eps, round-off would otherwise become advantages of order one (V02). Raises ValueError
    when a group has one member, which has nothing to be relative to.
    """
    _check_members(group_ids)
    return _standardised(rewards, group_ids, std, std_eps)


def process_relative(
    token_rewards: Tokens,
    step_ends: Shaped[Tensor, "rows T"],
    group_ids: GroupIds,
    loss_mask: Mask,
    std: StdKind = "population",
    std_eps: float = 1e-8,
) -> Tokens:
    """sum over ends k >= t of (r_k - mean of r_k over all ends of the group) / (their deviation (std) + std_eps)

    Process supervision (DeepSeekMath 2402.03300, section 4.1.3; V29): `step_ends` marks the tokens at which something
    is rewarded, and all of them in all outputs of the group are one set, whose sizes may differ from output to output.
    The token at which a step ends is credited with that step; tokens after the last end get 0. One end an output, at
    its last token, is `group_relative`. A set of one, or whose rewards are equal to rounding, gets exactly 0. Raises
    ValueError when a group has one member.
    """
    _check_members(group_ids)
    ends = step_ends.bool() & loss_mask
    rewards = torch.zeros_like(token_rewards, dtype=torch.float64)
    rewards[ends] = _standardised(token_rewards[ends], group_ids[:, None].expand_as(ends)[ends], std, std_eps)
    return returns_to_go(rewards, loss_mask)


def sum_of_relative(
    parts: Parts, part_weights: Parts, group_ids: GroupIds, std: StdKind = "population", std_eps: float = 1e-8
) -> Rows:
    """sum over parts of w (r - mean_g(r)) / (deviation_g(r, std) + std_eps), r and w those of the part

    Decoupled normalisation (GDPO 2601.05242): each named part of the reward is relative to its own group before the
    weights w, so that none counts for more because it varies more. A part that is constant in a group adds exactly 0
    there. One part of weight 1 is `group_relative`. Raises ValueError when a group has one member.
    """
    relative = [group_relative(part, group_ids, std, std_eps) for part in parts.unbind(1)]
    return (torch.stack(relative, dim=1) * part_weights.double()).sum(1)


def batch_scaled(advantages: Rows, batch_std: WhitenStd = "population", batch_eps: float = 1e-8) -> Rows:
    """A / (deviation(A, batch_std) + batch_eps) over all rows of the batch

    GDPO's second step. Each row counts once, however long it is (`whiten` counts tokens). The mean is not taken off:
    advantages that are relative to their groups have none but round-off, and 0 stays exactly 0. Advantages that are
    equal to rounding become exactly 0.
    """
    together = torch.zeros(len(advantages), dtype=torch.long, device=advantages.device)
    values = advantages.double()
    deviation = values.std(correction=int(batch_std == "sample"))
    scaled = values / (deviation + batch_eps)
    return torch.where(constant_groups(values, together), torch.zeros_like(scaled), scaled)


def _check_members(group_ids: GroupIds) -> None:
    if int(torch.unique(group_ids, return_counts=True)[1].min()) < 2:
        raise ValueError("a group-relative advantage needs groups of at least 2 rollouts")


def _standardised(values: Rows, group_ids: GroupIds, std: StdKind, std_eps: float) -> Rows:
    """`group_relative` of any values with the group of each; a group may have one."""
    _, index, counts = torch.unique(group_ids, return_inverse=True, return_counts=True)
    values = values.double()
    total = values.new_zeros(len(counts))
    mean = total.index_add(0, index, values) / counts
    centred = values - mean[index]
    if std == "none":
        scaled = centred
    else:
        freedom = counts - 1 if std == "sample" else counts
        deviation = (total.index_add(0, index, centred**2) / freedom).sqrt()
        scaled = centred / (deviation + std_eps)[index]
    return torch.where(constant_groups(values, group_ids)[index], torch.zeros_like(scaled), scaled)


def constant_groups(rewards: Rows, group_ids: GroupIds) -> Bool[Tensor, " groups"]:
    """max_g(r) - min_g(r) <= 1e-12 max_g(|r|)

    Whether all rewards of a group are equal to rounding, for each group in order of its id.
    """
    ids, index = torch.unique(group_ids, return_inverse=True)
    empty = torch.zeros(len(ids), dtype=torch.float64, device=rewards.device)
    low = empty.scatter_reduce(0, index, rewards.double(), "amin", include_self=False)
    high = empty.scatter_reduce(0, index, rewards.double(), "amax", include_self=False)
    return (high - low) <= 1e-12 * torch.maximum(high, -low)


def spread(advantages: Float[Tensor, " rows *tokens"], loss_mask: Mask) -> Tokens:
    """A at every trained token, 0 elsewhere

    [rows] becomes [rows, T]; what is [rows, T] already only loses what stands outside the mask.
    """
    return masked(advantages.double(), loss_mask)


def returns_to_go(token_rewards: Tokens, loss_mask: Mask, gamma: float = 1.0) -> Tokens:
    """sum_{k >= t} gamma^(k - t) r_k over the trained tokens of the row

    What a token can still influence. Untrained tokens are skipped: they earn nothing and discount nothing. 0 there.
    """
    rewards = token_rewards.double()
    ahead = rewards.new_zeros(len(rewards))
    returns = []
    for t in reversed(range(loss_mask.shape[1])):
        ahead = torch.where(loss_mask[:, t], rewards[:, t] + gamma * ahead, ahead)
        returns.append(ahead)
    return masked(torch.stack(returns[::-1], dim=-1), loss_mask)


def gae(
    token_rewards: Tokens,
    old_values: Tokens,
    loss_mask: Mask,
    truncated: Bool[Tensor, " rows"],
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap_truncated: bool = False,
) -> Tokens:
    """sum_k (gamma lam)^k d_{t+k}, d_t = r_t + gamma V_{t+1} - V_t, V_{T+1} = V_T [truncated and bootstrap_truncated]

    Generalised advantage estimation (1506.02438, eq. 16) over the trained tokens of a row; V_t values the state
    before token t, and the one after the end is worth 0, or as much as the last where the completion was cut off and
    `bootstrap_truncated` is on. lam = 1 is the return minus V, lam = 0 the one-step temporal difference. Untrained
    tokens are skipped, so that the trained token after a tool's answer follows the one before it; they get 0.
    """
    values = old_values.double()
    last = torch.where(last_trained(loss_mask), values, torch.zeros_like(values)).sum(-1)
    next_value = torch.where(truncated & bootstrap_truncated, last, torch.zeros_like(last))
    ahead = torch.zeros_like(next_value)
    advantages = []
    for t in reversed(range(loss_mask.shape[1])):
        trained = loss_mask[:, t]
        delta = token_rewards[:, t].double() + gamma * next_value - values[:, t]
        ahead = torch.where(trained, delta + gamma * lam * ahead, ahead)
        next_value = torch.where(trained, values[:, t], next_value)
        advantages.append(ahead)
    return masked(torch.stack(advantages[::-1], dim=-1), loss_mask)


def value_targets(advantages: Tokens, old_values: Tokens, loss_mask: Mask) -> Tokens:
    """A + old V

    What the critic should have said, from advantages that have not been whitened; 0 outside the mask.
    """
    return masked(advantages.double() + old_values.double(), loss_mask)


def whiten(
    advantages: Float[Tensor, " rows *tokens"],
    loss_mask: Mask,
    whiten_std: WhitenStd = "population",
    whiten_eps: float = 1e-8,
) -> Tokens:
    """(A - mean(A)) / sqrt(variance(A, whiten_std) + whiten_eps) over all trained tokens of the batch

    A row's advantage, [rows], counts once for each of its trained tokens (V03, V38). Advantages that are equal to
    rounding become exactly 0, and so does everything outside the mask.
    """
    values = spread(advantages, loss_mask)
    centred, variance = deviations(values, loss_mask, whiten_std)
    return centred * torch.rsqrt(variance + whiten_eps) if variance > 0 else centred


def deviations(values: Tokens, loss_mask: Mask, kind: WhitenStd) -> tuple[Tokens, Float[Tensor, ""]]:
    """x - mean(x) at each trained token and 0 elsewhere, with the variance of x over all trained tokens

    Both are exactly 0 where trained values are equal to rounding, or where nothing is trained.
    """
    count = loss_mask.sum()
    chosen = values[loss_mask]
    if constant_groups(chosen, torch.zeros_like(chosen, dtype=torch.long)).all():
        return torch.zeros_like(values), values.new_zeros(())
    centred = masked(values - chosen.mean(), loss_mask)
    freedom = count - 1 if kind == "sample" else count
    return centred, (centred**2).sum() / freedom
