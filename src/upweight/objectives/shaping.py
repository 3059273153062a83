"""What happens to rewards before they become advantages: punishments, the KL penalty, and one reward a token.

Functions of [rows] shape the reward of a completion, those of [rows, T] the rewards of its tokens; 0 stands where a
token is not trained. Results are float64. The first line of a docstring is the formula, options by their names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Num, Shaped
from torch import Tensor

from upweight.objectives.advantages import deviations
from upweight.objectives.kl import k1
from upweight.objectives.tokens import Mask, Rows, Tokens, last_trained, masked

RewardEstimator = Literal["k1"]
_IN_REWARD: dict[str, Callable[[Tokens, Tokens], Tokens]] = {"k1": k1}


def soft_overlong(
    rewards: Rows, loss_mask: Mask, token_budget: Num[Tensor, " rows"], overlong_share: float = 0.2
) -> Rows:
    """r - clip((T - (1 - overlong_share) L) / (overlong_share L), 0, 1), L = token_budget

    T counts trained tokens. Free up to the last share of the budget, then linear, 1 at the whole budget and beyond
    (DAPO 2503.14476, eq. 13, where L = 20480 and the share is a fifth; V17). A share of 0 punishes only what exceeds
    the budget.
    """
    budget = token_budget.double()
    excess = loss_mask.sum(-1) - (1 - overlong_share) * budget
    punishment = (excess / (overlong_share * budget)).clamp(max=1)
    return rewards.double() - torch.where(excess > 0, punishment, torch.zeros_like(punishment))


def missing_eos(rewards: Rows, truncated: Bool[Tensor, " rows"], missing_eos_penalty: float = 0.0) -> Rows:
    """r - missing_eos_penalty where truncated, else r

    A completion that was cut off never said that it was done (Stiennon 2009.01325 by way of 2403.17031).
    """
    return rewards.double() - missing_eos_penalty * truncated


def kl_in_rewards(
    rewards: Rows,
    old_logprobs: Tokens,
    ref_logprobs: Tokens,
    loss_mask: Mask,
    kl_reward_coef: float = 0.0,
    kl_reward_estimator: RewardEstimator = "k1",
) -> Rows:
    """r - kl_reward_coef sum_t kl_reward_estimator, k1 = log(old / ref)

    The penalty of a whole completion, for methods with one advantage a row (RLOO 2402.14740). Its gradient through
    the advantage is that of the sequence's KL(pi || ref); that of k2 or k3 would not be, so there are none (V11).
    """
    penalty = _IN_REWARD[kl_reward_estimator](old_logprobs.double(), ref_logprobs.double())
    return rewards.double() - kl_reward_coef * masked(penalty, loss_mask).sum(-1)


def terminal_rewards(rewards: Rows, loss_mask: Mask) -> Tokens:
    """r at the last trained token, 0 before it

    The end-of-sequence token earns the reward, or the last token of a completion that was cut off.
    """
    return masked(rewards.double(), last_trained(loss_mask))


def process_rewards(step_rewards: Tokens, rewards: Rows, step_total: Rows, loss_mask: Mask) -> Tokens:
    """r_step, plus r - step_total at the last trained token

    Process supervision: `step_rewards` is what each step earned, at the token that ends it, and `step_total` what of
    r came from parts that score steps; the rest of r is the outcome, and belongs to the last token. Without such
    parts it is `terminal_rewards`.
    """
    outcome = terminal_rewards(rewards.double() - step_total.double(), loss_mask)
    return masked(step_rewards.double(), loss_mask) + outcome


def outcome_ends(step_ends: Shaped[Tensor, "rows T"], loss_mask: Mask) -> Mask:
    """step_ends, or the last trained token

    Where a punishment of the whole completion is part of r, its last token is rewarded in every row, also in those
    that are punished by 0: otherwise they would be left out of the mean that the others are compared with.
    """
    return (step_ends.bool() & loss_mask) | last_trained(loss_mask)


def kl_in_token_rewards(
    token_rewards: Tokens,
    old_logprobs: Tokens,
    ref_logprobs: Tokens,
    loss_mask: Mask,
    kl_reward_coef: float = 0.0,
    kl_reward_estimator: RewardEstimator = "k1",
) -> Tokens:
    """r_t - kl_reward_coef kl_reward_estimator, k1 = log(old / ref)

    Each token pays for itself (Ziegler 1909.08593; InstructGPT 2203.02155). The tokens of a row sum to what
    `kl_in_rewards` makes of it (V07).
    """
    penalty = _IN_REWARD[kl_reward_estimator](old_logprobs.double(), ref_logprobs.double())
    return masked(token_rewards.double() - kl_reward_coef * penalty, loss_mask)


def whiten_rewards(token_rewards: Tokens, loss_mask: Mask) -> Tokens:
    """(r - mean(r)) / sqrt(variance(r, population) + 1e-8) + mean(r) over all trained tokens of the batch

    Scales rewards without shifting their mean (2403.17031, detail 18). Rewards that are all equal stay as they are.
    """
    rewards = token_rewards.double()
    centred, variance = deviations(rewards, loss_mask, "population")
    return masked(rewards - centred + centred * torch.rsqrt(variance + 1e-8), loss_mask)


def mask_truncated(loss_mask: Mask, truncated: Bool[Tensor, " rows"]) -> Mask:
    """loss_mask and not truncated

    Overlong filtering: a completion that was cut off teaches nothing (DAPO 2503.14476, section 3.4).
    """
    return loss_mask & ~truncated[:, None]
