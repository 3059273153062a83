"""What the optimizer steps of a batch did, as metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from upweight.types import Annotated, StepStats


def step_metrics(rows: Annotated, result: StepStats) -> dict[str, float]:
    """One optimizer step: its losses, the range of the ratio and the share of silenced tokens.

    A token is silenced when it has an advantage but the policy term does not push it: the clip is at work.
    """
    mask = torch.cat(list(rows.loss_mask))
    logprobs = torch.cat(list(result.logprobs))[mask]
    old = rows.token_columns.get("old_logprobs")
    ratio = torch.exp(logprobs - torch.cat(list(old))[mask]) if old else torch.ones_like(logprobs)
    advantage = torch.cat(list(rows.token_columns["advantages"]))[mask] != 0
    push = torch.cat(list(result.pushes["policy"]))[mask]
    silenced = (advantage & (push == 0)).sum() / advantage.sum().clamp(min=1)
    return {
        "train/loss": result.loss,
        **{f"train/term/{name}": loss for name, loss in result.term_losses.items()},
        "train/grad_norm": result.grad_norm,
        "train/learning_rate": result.learning_rate,
        "train/skipped_steps": float(result.skipped),
        "train/ratio_min": ratio.min().item(),
        "train/ratio_max": ratio.max().item(),
        "train/clip_share": silenced.item(),
    }


_COMBINE: dict[str, Callable[[Sequence[float]], float]] = {
    "train/ratio_min": min,
    "train/ratio_max": max,
    "train/skipped_steps": sum,
}


def combine_steps(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """All optimizer steps of a batch: extremes of the ratio, the count of skipped steps, means of the rest.

    Skipped steps take no part in the means, unless there was no other.
    """
    made = [step for step in steps if not step["train/skipped_steps"]] or steps
    combined = {}
    for name in steps[0]:
        values = [step[name] for step in (steps if name == "train/skipped_steps" else made)]
        combine = _COMBINE.get(name)
        combined[name] = float(combine(values)) if combine else sum(values) / len(values)
    return combined
