"""Policy losses: per-token losses [rows, T] of which a method takes a weighted sum.

Parameters without a default name columns (`logprobs` is current and carries the gradient, `old_logprobs` and
`advantages` are constants), those with one are options. The first line of a docstring is the formula, with
rho = pi / old. The ratio is never clipped by itself and a log-prob never at all: clipping log pi would silence every
negative advantage.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, inf

from upweight.objectives.tokens import Mask, Tokens, masked

Ratio = Literal["mean", "sum"]


def weighted_likelihood(logprobs: Tokens, advantages: Tokens) -> Tokens:
    """-A log pi

    RFT with A = max(r, 0), REINFORCE with A = r (Williams 1992). Its gradient is the policy gradient, its value means
    nothing.
    """
    return -advantages * logprobs


def clipped_surrogate(
    logprobs: Tokens,
    old_logprobs: Tokens,
    advantages: Tokens,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = inf,
    delta: float = inf,
) -> Tokens:
    """-min(min(rho, delta) A, clip(rho, 1 - clip_low, 1 + clip_high) A), at most dual_clip |A| where A < 0

    PPO (1707.06347, eq. 7); a higher clip_high is DAPO's (2503.14476), dual_clip 1912.09729, delta 2505.07291. The
    gradient with respect to log pi is -rho A, and exactly 0 where A > 0 and rho > 1 + clip_high, where A < 0 and
    rho < 1 - clip_low, and where A < 0 and rho exceeds dual_clip or delta: the token has moved far enough in the
    direction it was pushed (V08, V39). On a bound the gradient still flows. Infinite bounds do nothing.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    bounded = ratio.clamp(max=delta)
    # For A < 0, the least of two products is A times the greater factor.
    down = torch.maximum(bounded, clipped).clamp(max=dual_clip) * advantages
    return -torch.where(advantages < 0, down, torch.minimum(bounded, clipped) * advantages)


def sequence_surrogate(
    logprobs: Tokens,
    old_logprobs: Tokens,
    advantages: Tokens,
    loss_mask: Mask,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    ratio: Ratio = "mean",
) -> Tokens:
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(ratio over t of log rho_t)

    GSPO (2507.18071, eq. 5 and 7): one ratio a row, the geometric mean of those of its tokens, clipped as a whole.
    The value stands at each token of the row, so `seq_mean_token_mean` gives the paper's objective. "sum" is the
    ratio of whole completions, which leaves a fixed band quickly as they grow longer (V36). 0 outside the mask.
    """
    total = masked(logprobs - old_logprobs, loss_mask).sum(-1, keepdim=True)
    lengths = loss_mask.sum(-1, keepdim=True).clamp(min=1)
    sequence = torch.exp(total / lengths if ratio == "mean" else total)
    return _clipped(sequence, advantages, loss_mask, clip_low, clip_high)


def sequence_token_surrogate(
    logprobs: Tokens,
    old_logprobs: Tokens,
    advantages: Tokens,
    loss_mask: Mask,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tokens:
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = sg[exp(mean over t of log rho_t)] pi / sg[pi]

    GSPO-token (2507.18071, eq. 13 and 14): value and clip of the row's ratio, gradient through each token's own
    log-prob, so that advantages may differ between tokens. Where they do not, it is `sequence_surrogate`.
    """
    total = masked(logprobs - old_logprobs, loss_mask).detach().sum(-1, keepdim=True)
    mean = total / loss_mask.sum(-1, keepdim=True).clamp(min=1)
    return _clipped(torch.exp(mean + logprobs - logprobs.detach()), advantages, loss_mask, clip_low, clip_high)


def _clipped(
    ratio: Float[Tensor, "rows _"], advantages: Tokens, loss_mask: Mask, clip_low: float, clip_high: float
) -> Tokens:
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return masked(-torch.minimum(ratio * advantages, clipped * advantages), loss_mask)


def cispo(
    logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, clip_low: float = 1.0, clip_high: float = 0.28
) -> Tokens:
    """-sg[clip(rho, 1 - clip_low, 1 + clip_high)] A log pi

    CISPO (MiniMax-M1 2506.13585, eq. 4): the clipped ratio is a constant weight, so every token keeps a gradient.
    Bounds are relative to 1; a clip_low of 1 leaves the lower side open (V15).
    """
    weights = torch.exp(logprobs - old_logprobs).clamp(1 - clip_low, 1 + clip_high).detach()
    return -weights * advantages * logprobs


def entropy_bonus(entropy: Tokens) -> Tokens:
    """-H

    The entropy of the whole next-token distribution, in nats; a positive coefficient keeps it up (1707.06347, eq. 9).
    """
    return -entropy
