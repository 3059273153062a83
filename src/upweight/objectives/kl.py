"""Estimators of KL(pi || ref) from sampled tokens, as per-token losses [rows, T].

The first line of a docstring is the formula, with u = log(pi / ref) and rho = pi / old. As *values* on samples of pi,
k1, k3 and, on samples of old, weighted_k3 are unbiased. As *losses* at a fixed prefix their expected gradients are:
k1 zero, k2 that of KL(pi || ref), k3 that of KL(ref || pi), weighted_k3 that of KL(pi || ref) (V11). None of them sees
what a token does to the KL of those after it; k1 in the reward does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from upweight.objectives.tokens import Tokens

Estimator = Literal["k1", "k2", "k3", "weighted_k3"]


def k1(logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """u

    Unbiased and noisy. Right in the reward; as a loss its expected gradient is zero (Schulman 2020).
    """
    return logprobs - ref_logprobs


def k2(logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """u^2 / 2

    Biased as a value, but as a loss on samples of pi its gradient is that of KL(pi || ref) (Schulman 2020).
    """
    return (logprobs - ref_logprobs) ** 2 / 2


def k3(logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """exp(-u) + u - 1

    Non-negative and unbiased as a value (Schulman 2020). As a loss its gradient is 1 - exp(-u), in expectation that
    of the *forward* KL(ref || pi), which agrees with the reverse one to first order near ref (DeepSeekMath
    2402.03300, eq. 4).
    """
    u = logprobs - ref_logprobs
    return torch.expm1(-u) + u


def weighted_k3(logprobs: Tokens, old_logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """rho (exp(-u) + u - 1)

    The gradient flows through rho too: value and gradient are then those of KL(pi || ref) at each prefix, also on
    samples of old (DeepSeek-V3.2 2512.02556).
    """
    return torch.exp(logprobs - old_logprobs) * k3(logprobs, ref_logprobs)


_ESTIMATORS: dict[str, Callable[[Tokens, Tokens, Tokens], Tokens]] = {
    "k1": lambda logprobs, old_logprobs, ref_logprobs: k1(logprobs, ref_logprobs),
    "k2": lambda logprobs, old_logprobs, ref_logprobs: k2(logprobs, ref_logprobs),
    "k3": lambda logprobs, old_logprobs, ref_logprobs: k3(logprobs, ref_logprobs),
    "weighted_k3": weighted_k3,
}


def penalty(logprobs: Tokens, old_logprobs: Tokens, ref_logprobs: Tokens, kl_estimator: Estimator = "k3") -> Tokens:
    """kl_estimator

    One of k1, k2, k3 and weighted_k3, by its name. Only weighted_k3 looks at `old_logprobs`.
    """
    return _ESTIMATORS[kl_estimator](logprobs, old_logprobs, ref_logprobs)
