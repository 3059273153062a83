"""Scored rollouts as the rows of one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upweight.rewards.score import Rewards
from upweight.rollouts import row_id
from upweight.types import Batch, Rollout


def batch_of(rollouts: Sequence[Rollout], rewards: Rewards, token_budget: int) -> Batch:
    """Each row is its own unit, rollouts of one draw are a group.

    Beside what every rollout has, a part of the reward is the row columns `part/NAME` and `part_weight/NAME`; see
    `step_columns` for those that score steps. `token_budget` is the most tokens that a completion could have had.
    """
    steps = [step_columns(rollout, rewards) for rollout in rollouts]
    rows = {
        "rewards": torch.tensor([r.reward for r in rollouts], dtype=torch.float64),
        "truncated": torch.tensor([r.finish_reason == "length" for r in rollouts]),
        "correct": torch.tensor([rewards.is_correct(r.reward_parts) for r in rollouts]),
        "token_budget": torch.full((len(rollouts),), token_budget),
        "policy_version": torch.tensor([r.policy_version for r in rollouts]),
        "step_total": torch.tensor([_step_total(r, rewards) for r in rollouts], dtype=torch.float64),
    }
    for name in rollouts[0].reward_parts:
        rows[f"part/{name}"] = torch.tensor([r.reward_parts[name] for r in rollouts], dtype=torch.float64)
        rows[f"part_weight/{name}"] = torch.full((len(rollouts),), rewards.weights[name], dtype=torch.float64)
    return Batch(
        ids=[row_id(r.prompt, r.draw, r.member) for r in rollouts],
        prompt_ids=[torch.tensor(r.prompt.token_ids) for r in rollouts],
        token_ids=[torch.tensor(r.token_ids) for r in rollouts],
        loss_mask=[torch.tensor(r.loss_mask) for r in rollouts],
        group_ids=torch.tensor([r.draw for r in rollouts]),
        unit_ids=torch.arange(len(rollouts)),
        streams=["main"] * len(rollouts),
        token_columns={
            "behavior_logprobs": [torch.tensor(r.behavior_logprobs) for r in rollouts],
            "step_rewards": [earned for earned, _ in steps],
            "step_ends": [ends for _, ends in steps],
        },
        row_columns=rows,
    )


def step_columns(rollout: Rollout, rewards: Rewards) -> tuple[Tensor, Tensor]:
    """(`step_rewards`, `step_ends`) of a row, [T] each: what steps earned, weighted, and where something is earned.

    That is where a step ends, by any part that counts, and at the last token whenever other parts count too or there
    is no step at all: they are earned there. A step that ends in a tool's words ends with the policy's before it.
    """
    earned = torch.zeros(len(rollout.token_ids), dtype=torch.float64)
    ends = torch.zeros(len(rollout.token_ids), dtype=torch.bool)
    trained = torch.tensor(rollout.loss_mask).nonzero()[:, 0]
    for name, steps in rollout.steps.items():
        for step in steps if rewards.weights[name] else ():
            place = trained[max(int((trained <= step.token).sum()) - 1, 0)]
            earned[place] += rewards.weights[name] * step.reward
            ends[place] = True
    if any(weight and name not in rollout.steps for name, weight in rewards.weights.items()) or not ends.any():
        ends[trained[-1]] = True
    return earned, ends


def _step_total(rollout: Rollout, rewards: Rewards) -> float:
    """How much of the reward came from parts that score steps."""
    return sum(rewards.weights[name] * rollout.reward_parts[name] for name in rollout.steps)
