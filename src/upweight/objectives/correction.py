"""Undoing the mismatch between the sampler, which drew the tokens, and the trainer, which scores them.

The weight of a token is old / mu, a constant: it multiplies the advantage and is never clipped together with the
ratio pi / old.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from upweight.objectives.tokens import Mask, Tokens, masked

SamplerCorrection = Literal[
    "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask"
]


def importance_weights(
    old_logprobs: Tokens,
    behavior_logprobs: Tokens,
    loss_mask: Mask,
    sampler_correction: SamplerCorrection = "none",
    correction_low: float = 0.0,
    correction_high: float = 2.0,
) -> Tokens:
    """the sampler_correction weight of w = old / mu within [correction_low, correction_high]

    - "none": 1;
    - "token_truncate": min(w_t, correction_high), truncated importance sampling;
    - "token_mask": w_t within the bounds, else 0 (IcePop, 2510.18855);
    - "sequence_truncate", "sequence_mask": the same of the product over the row, given to each of its tokens;
    - "geometric_mask": 1 for a row whose geometric mean of w is within the bounds, else 0. It only rejects: the mean
      does not grow with length, and is for the same reason no importance weight.

    Truncation has no lower bound. Bounds belong to the kept range (V18). The product is the exact weight with high
    variance, token weights are biased by the drift of later tokens. Constants of the gradient, 0 outside the mask.
    """
    logs = masked(old_logprobs.double() - behavior_logprobs.double(), loss_mask).detach()
    if sampler_correction.startswith("sequence"):
        logs = logs.sum(-1)
    elif sampler_correction == "geometric_mask":
        logs = logs.sum(-1) / loss_mask.sum(-1)
    weights = torch.exp(logs)
    inside = (weights >= correction_low) & (weights <= correction_high)
    if sampler_correction == "none":
        weights = torch.ones_like(weights)
    elif sampler_correction.endswith("truncate"):
        weights = weights.clamp(max=correction_high)
    elif sampler_correction == "geometric_mask":
        weights = inside.double()
    else:
        weights = torch.where(inside, weights, torch.zeros_like(weights))
    return masked(weights, loss_mask)


def corrected(advantages: Float[Tensor, " rows *tokens"], sampler_weights: Tokens, loss_mask: Mask) -> Tokens:
    """A sampler_weights

    [rows] advantages are first given to each token; 0 outside the mask.
    """
    return masked(masked(advantages.double(), loss_mask) * sampler_weights, loss_mask)
