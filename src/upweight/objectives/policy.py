"""Policy losses: per-token losses [rows, T] of which a method takes a weighted sum.

Parameters name columns (`logprobs` is current and carries the gradient, `old_logprobs` and `advantages` are
constants) or options of the algorithm. The ratio is never clipped by itself and a log-prob never at all: clipping
log pi would silence every negative advantage.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "rows T"]


def weighted_likelihood(logprobs: Tokens, advantages: Tokens) -> Tokens:
    """-A log pi(token): SFT with A = 1, RFT with max(r, 0), REINFORCE with r (Williams 1992)."""
    return -advantages * logprobs


def clipped_surrogate(
    logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tokens:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), rho = pi / old (PPO 1707.06347, eq. 7).

    The gradient with respect to log pi is -rho A, and exactly 0 where A > 0 and rho > 1 + clip_high or where A < 0
    and rho < 1 - clip_low: the token has moved far enough in the direction it was pushed (V08).
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)
