"""Numbers that move from one batch to the next; `value` is the one that the batch was trained with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from upweight.objectives.kl import k1
from upweight.objectives.tokens import Mask, Rows, Tokens, masked

Scalar = Float[Tensor, ""]


def moving_average(value: float | Scalar, rewards: Rows, baseline_decay: float = 0.9) -> Scalar:
    """baseline_decay value + (1 - baseline_decay) mean(r)

    A baseline for the *next* batch, so that it does not depend on what it judges.
    """
    return baseline_decay * value + (1 - baseline_decay) * rewards.double().mean()


def adaptive_coefficient(
    value: float | Scalar,
    old_logprobs: Tokens,
    ref_logprobs: Tokens,
    loss_mask: Mask,
    kl_target: float = 0.0,
    kl_horizon: float = 10000.0,
) -> float | Scalar:
    """value (1 + clip(KL / kl_target - 1, -0.2, 0.2) N / kl_horizon), KL the mean over N rows of sum_t log(old / ref)

    The controller of a KL penalty (Ziegler 1909.08593, section 2.2, in the form of its code; V10). The target is in
    nats of a *whole completion*; targets for the mean over tokens are not interchangeable. A target of 0 keeps the
    value, and a value of 0 stays 0. Rows without a trained token do not count.
    """
    if kl_target == 0:
        return value
    rows = loss_mask.any(-1).sum()
    divergence = masked(k1(old_logprobs.double(), ref_logprobs.double()), loss_mask).sum() / rows.clamp(min=1)
    error = (divergence / kl_target - 1).clamp(-0.2, 0.2)
    return value * (1 + error * rows / kl_horizon)
