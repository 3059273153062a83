"""What the optimizer steps of a batch did, as metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from upweight.types import Annotated, StepStats


def step_metrics(rows: Annotated, result: StepStats) -> dict[str, float]:
    """One optimizer step: its losses and, of what the method has, ratios, silenced tokens, ranked pairs, statistics."""
    others = {f"train/grad_norm/{name}": norm for name, norm in result.grad_norms.items() if name != "policy"}
    return {
        "train/loss": result.loss,
        **{f"train/term/{name}": loss for name, loss in result.term_losses.items()},
        "train/grad_norm": result.grad_norms["policy"],
        **others,
        "train/learning_rate": result.learning_rate,
        "train/skipped_steps": float(result.skipped),
        **(_ratio_metrics(rows, result) if "advantages" in rows.token_columns else {}),
        **(_pair_metrics(rows, result.outputs) if "chosen" in rows.row_columns else {}),
    }


def _ratio_metrics(rows: Annotated, result: StepStats) -> dict[str, float]:
    """The range of the ratio, and the share of silenced tokens: those that have an advantage and get no push."""
    mask = _main_mask(rows)
    logprobs = torch.cat(list(result.outputs["logprobs"]))[mask]
    old = rows.token_columns.get("old_logprobs")
    ratio = torch.exp(logprobs - torch.cat(list(old))[mask]) if old else torch.ones_like(logprobs)
    advantage = torch.cat(list(rows.token_columns["advantages"]))[mask] != 0
    push = torch.cat(list(result.pushes["policy"]))[mask]
    if not len(ratio):
        return {}
    return {
        "train/ratio_min": ratio.min().item(),
        "train/ratio_max": ratio.max().item(),
        "train/clip_share": ((advantage & (push == 0)).sum() / advantage.sum().clamp(min=1)).item(),
    }


def _pair_metrics(rows: Annotated, outputs: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """How often, and by how much, the chosen completion of a pair stands above the rejected one."""
    chosen = rows.row_columns["chosen"]
    worth = completion_worth(rows, outputs)
    margin = worth[chosen] - worth[~chosen]
    return {
        "train/pair_accuracy": (margin > 0).double().mean().item(),
        "train/pair_margin": margin.mean().item(),
    }


def completion_worth(rows: Annotated, outputs: Mapping[str, Sequence[Tensor]]) -> Tensor:
    """What the model holds of each completion, [N]: a reward model's score; a policy's log-prob, less the reference's.

    The score is the one at the last trained token.
    """
    masks = rows.loss_mask
    if "scores" in outputs:
        return torch.stack([scores[mask][-1] for scores, mask in zip(outputs["scores"], masks, strict=True)]).double()
    current = torch.stack([x[mask].double().sum() for x, mask in zip(outputs["logprobs"], masks, strict=True)])
    if "ref_logprobs" not in rows.token_columns:
        return current
    reference = zip(rows.token_columns["ref_logprobs"], masks, strict=True)
    return current - torch.stack([x[mask].double().sum() for x, mask in reference])


def _main_mask(rows: Annotated) -> Tensor:
    """Which tokens of all rows, one after the other, are trained ones of the main stream."""
    return torch.cat([mask & (stream == "main") for mask, stream in zip(rows.loss_mask, rows.streams, strict=True)])


_COMBINE: dict[str, Callable[[Sequence[float]], float]] = {
    "train/ratio_min": min,
    "train/ratio_max": max,
    "train/skipped_steps": sum,
}


def combine_steps(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """All optimizer steps of a batch: extremes of the ratio, the count of skipped steps, means of the rest.

    Skipped steps take no part in the means, unless there was no other; a metric that a step lacks takes no part there.
    """
    made = [step for step in steps if not step["train/skipped_steps"]] or steps
    combined = {}
    for name in dict.fromkeys(name for step in steps for name in step):
        values = [step[name] for step in (steps if name == "train/skipped_steps" else made) if name in step]
        if values:
            combine = _COMBINE.get(name)
            combined[name] = float(combine(values)) if combine else sum(values) / len(values)
    return combined
