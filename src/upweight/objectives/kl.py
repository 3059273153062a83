"""Estimators of KL(pi || ref) from sampled tokens, as per-token losses [rows, T]."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "rows T"]


def k3(logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """exp(-u) + u - 1 with u = log pi - log ref: non-negative, unbiased as a value (Schulman 2020).

    Used as a loss its gradient is 1 - exp(-u), in expectation that of the *forward* KL(ref || pi); it agrees with
    the reverse one to first order near ref (DeepSeekMath 2402.03300, eq. 4; V11).
    """
    u = logprobs - ref_logprobs
    return torch.expm1(-u) + u
