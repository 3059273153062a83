"""The policy gradient itself: on a policy small enough to enumerate, the expected update is the gradient of E[R]."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from tests.math.reference import assert_close, f64, gradient, mask_of, total_loss
from upweight.algorithms import PRESETS, Algorithm
from upweight.objectives.tokens import logprobs_and_entropy

# Three tokens, token 0 ends a completion, at most two of them: seven completions of two lengths.
COMPLETIONS = [(0,), *product((1, 2), (0, 1, 2))]
REWARDS = f64([0.3, 1.0, -0.5, 2.0, 0.0, 1.0, -1.2])
MASK = mask_of([len(completion) for completion in COMPLETIONS])
FIRST = torch.tensor([completion[0] for completion in COMPLETIONS])
SECOND = torch.tensor([completion[-1] for completion in COMPLETIONS])


def policy_parameters() -> Tensor:
    """Logits [4, 3]: row 0 for the first token, row 1 + a for the second one after a."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()


def completion_logprobs(logits: Tensor) -> Tensor:
    """Log-probs [7, 2] of the tokens of every completion; the second column of a finished one is not trained."""
    first = logprobs_and_entropy(logits[torch.zeros_like(FIRST)], FIRST)[0]
    second = logprobs_and_entropy(logits[1 + FIRST], SECOND)[0]
    return torch.stack([first, second], dim=1)


def probabilities(logits: Tensor) -> Tensor:
    return torch.exp((completion_logprobs(logits) * MASK).sum(-1))


def exact_gradient() -> Tensor:
    """grad E[R], straight from its definition."""
    logits = policy_parameters()
    return gradient((probabilities(logits) * REWARDS).sum(), logits)


def expected_gradient(method: Algorithm, size: int) -> Tensor:
    """The expected gradient of the method's loss over all ordered batches (one group) of `size` completions."""
    logits = policy_parameters()
    table = completion_logprobs(logits)
    chances = probabilities(logits).detach()
    expected = torch.zeros((), dtype=torch.float64)
    for batch in product(range(len(COMPLETIONS)), repeat=size):
        rows = list(batch)
        worth = method.advantage({"rewards": REWARDS[rows], "group_ids": torch.zeros(size, dtype=torch.long)})
        columns = {
            "logprobs": table[rows],
            "old_logprobs": table[rows].detach(),
            "advantages": worth[:, None].expand(size, 2),
        }
        expected = expected + chances[rows].prod() * total_loss(method, columns, MASK[rows])
    return gradient(expected, logits)


def test_the_policy_is_a_distribution() -> None:
    assert_close(probabilities(policy_parameters()).sum(), 1.0)


@pytest.mark.parametrize("size", [1, 2])
def test_reinforce_ascends_the_expected_reward(size: int) -> None:
    assert_close(-expected_gradient(PRESETS["reinforce"], size), exact_gradient())


@pytest.mark.parametrize("size", [2, 3])
def test_the_batch_mean_scales_the_policy_gradient_and_nothing_else(size: int) -> None:
    expected = expected_gradient(PRESETS["reinforce_baseline"], size)
    assert_close(-expected, (size - 1) / size * exact_gradient())


@pytest.mark.parametrize("size", [2, 3])
def test_a_centred_group_scales_the_policy_gradient_and_nothing_else(size: int) -> None:
    method = PRESETS["grpo"].with_options({"std": "none", "reduction": "seq_mean_token_sum"})
    assert_close(-expected_gradient(method, size), (size - 1) / size * exact_gradient())


def test_a_mean_over_the_tokens_of_a_completion_is_not_the_policy_gradient() -> None:
    method = PRESETS["reinforce"].with_options({"reduction": "seq_mean_token_mean"})
    gap = -expected_gradient(method, 1) - exact_gradient()
    assert gap.norm() > 0.05 * exact_gradient().norm()


def test_rejection_sampling_ascends_the_positive_part_of_the_reward_only() -> None:
    method = PRESETS["rft"].with_options({"reduction": "seq_mean_token_sum"})
    logits = policy_parameters()
    positive = gradient((probabilities(logits) * REWARDS.clamp(min=0)).sum(), logits)
    assert_close(-expected_gradient(method, 1), positive)
