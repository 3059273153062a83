"""A policy small enough to write down, and the expected update of a loss by exhaustive enumeration.

Three tokens, of which 0 ends a completion; at most three of them. Fifteen completions, seven states with a
distribution each.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from tests.math.numeric import slope
from tests.math.reference import f64, mask_of
from upweight.objectives.advantages import spread
from upweight.objectives.policy import weighted_likelihood
from upweight.objectives.tokens import Reduction, token_weights

COMPLETIONS = [(0,), *product((1, 2), (0,)), *product((1, 2), (1, 2), (0, 1, 2))]
COUNT = len(COMPLETIONS)
MASK = mask_of([len(completion) for completion in COMPLETIONS])
LENGTHS = MASK.sum(-1).double()
REWARDS = f64([0.3, 1.0, -0.5, 2.0, 0.0, 1.0, -1.2, 0.7, 0.7, -2.0, 1.5, 0.1, -0.4, 3.0, 0.2])
RIGHT = (REWARDS > 0.6).double()
NO_CLIP = (float("inf"), float("inf"))


def state_of(prefix: tuple[int, ...]) -> int:
    return [(), (1,), (2,), (1, 1), (1, 2), (2, 1), (2, 2)].index(prefix)


STATES = torch.tensor([[state_of(c[:t]) if t < len(c) else 0 for t in range(3)] for c in COMPLETIONS])
TOKENS = torch.tensor([[c[t] if t < len(c) else 0 for t in range(3)] for c in COMPLETIONS])


def parameters(seed: int) -> Tensor:
    """Logits [state, token]."""
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(logits: Tensor) -> Tensor:
    """Log-probs [15, 3] of the tokens of every completion; what stands after the end of one is some number."""
    return torch.log_softmax(logits, -1)[STATES, TOKENS]


def chances(logprobs: Tensor) -> Tensor:
    return torch.exp((logprobs * MASK).sum(-1))


LOGITS, REF, OTHER = parameters(3).requires_grad_(), table(parameters(4)), table(parameters(5))
PI = table(LOGITS)
NOW = PI.detach()


def ascent(objective: Tensor) -> Tensor:
    return slope(objective, LOGITS)


def expected_reward(rewards: Tensor = REWARDS) -> Tensor:
    return (chances(PI) * rewards).sum()


Loss = Callable[[Tensor, Tensor], Tensor]


def update(
    loss: Loss,
    size: int = 1,
    reduction: Reduction = "seq_mean_token_sum",
    sampler: Tensor = NOW,
    constant_length: int | None = None,
) -> Tensor:
    """Minus the expected gradient of a loss over all ordered groups of `size` completions drawn from the sampler.

    `loss` sees the completions of all groups as rows, [groups * size], with their group ids; each group is an
    optimizer step of its own.
    """
    picks = torch.cartesian_prod(*[torch.arange(COUNT)] * size).view(-1, size)
    rows, group_ids = picks.flatten(), torch.arange(len(picks)).repeat_interleave(size)
    weights = token_weights(MASK[rows], reduction, group_ids, constant_length) * len(picks)
    by_group = (weights * loss(rows, group_ids)).sum(-1).view(-1, size).sum(-1)
    return -ascent((chances(sampler)[picks].prod(-1) * by_group).sum())


def likelihood(worth: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The likelihood weighed with what `worth(rows, group_ids)` says of each row."""
    return lambda rows, group_ids: weighted_likelihood(PI[rows], spread(worth(rows, group_ids), MASK[rows]))
