"""The learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math

from upweight.config import OptimizerConfig


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """Linear warm-up over `warmup_steps`, then constant, linear or half-cosine decay to `final_lr_share` of `lr`.

    `step` counts optimizer steps from 0 and `total` is how many there will be. The first step of a warm-up already
    moves: (step + 1) / warmup_steps.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_share + (1 - config.final_lr_share) * left)
