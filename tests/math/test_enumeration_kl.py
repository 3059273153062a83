"""KL penalties on a policy small enough to write down: what each place and each estimator really descends on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.math.enumeration import (
    LOGITS,
    MASK,
    NOW,
    OTHER,
    PI,
    REF,
    REWARDS,
    STATES,
    ascent,
    chances,
    expected_reward,
    likelihood,
    parameters,
    update,
)
from tests.math.reference import assert_close
from upweight.objectives import kl
from upweight.objectives.advantages import leave_one_out, returns_to_go
from upweight.objectives.policy import entropy_bonus
from upweight.objectives.shaping import kl_in_rewards, kl_in_token_rewards, terminal_rewards

BETA = 0.3


def sequence_kl() -> Tensor:
    return (chances(PI) * ((PI - REF) * MASK).sum(-1)).sum()


def test_k1_in_the_reward_ascends_reward_minus_the_kl_of_whole_sequences() -> None:
    exact = ascent(expected_reward() - BETA * sequence_kl())

    def shaped(rows: Tensor) -> Tensor:
        return kl_in_rewards(REWARDS[rows], NOW[rows], REF[rows], MASK[rows], BETA)

    assert_close(update(likelihood(lambda rows, _: shaped(rows))), exact)
    assert_close(update(likelihood(lambda rows, ids: leave_one_out(shaped(rows), ids)), 2), exact)


def test_k1_in_the_rewards_of_tokens_does_so_too() -> None:
    def to_go(rows: Tensor, _: Tensor) -> Tensor:
        rewards = terminal_rewards(REWARDS[rows], MASK[rows])
        return returns_to_go(kl_in_token_rewards(rewards, NOW[rows], REF[rows], MASK[rows], BETA), MASK[rows])

    assert_close(update(likelihood(to_go)), ascent(expected_reward() - BETA * sequence_kl()))


def over_prefixes(by_state: Tensor, sampler: Tensor = NOW) -> Tensor:
    """Expected sum over the states that a completion visits, the chances of visiting them held fixed."""
    return (chances(sampler).detach() * (by_state[STATES] * MASK).sum(-1)).sum()


def state_kl(reverse: bool) -> Tensor:
    """KL(pi || ref), or KL(ref || pi), in each state."""
    ours, theirs = torch.log_softmax(LOGITS, -1), torch.log_softmax(parameters(4), -1)
    above, below = (ours, theirs) if reverse else (theirs, ours)
    return (torch.exp(above) * (above - below)).sum(-1)


def test_as_a_loss_k1_does_nothing() -> None:
    assert_close(update(lambda rows, _: kl.k1(PI[rows], REF[rows])), torch.zeros(7, 3))


def test_as_a_loss_k2_descends_the_reverse_kl_of_each_prefix() -> None:
    found = update(lambda rows, _: kl.k2(PI[rows], REF[rows]))
    assert_close(found, -ascent(over_prefixes(state_kl(reverse=True))))


def test_as_a_loss_k3_descends_the_forward_kl_of_each_prefix() -> None:
    found = update(lambda rows, _: kl.k3(PI[rows], REF[rows]))
    assert_close(found, -ascent(over_prefixes(state_kl(reverse=False))))


@pytest.mark.parametrize("sampler", [NOW, OTHER], ids=["on-policy", "off-policy"])
def test_as_a_loss_the_weighted_k3_descends_the_reverse_kl_of_each_prefix(sampler: Tensor) -> None:
    found = update(lambda rows, _: kl.weighted_k3(PI[rows], sampler[rows], REF[rows]), sampler=sampler)
    assert_close(found, -ascent(over_prefixes(state_kl(reverse=True), sampler)))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "weighted_k3"])
def test_no_loss_of_single_tokens_sees_the_kl_of_later_ones(estimator: kl.Estimator) -> None:
    exact = -ascent(sequence_kl())
    found = update(lambda rows, _: kl.penalty(PI[rows], NOW[rows], REF[rows], estimator))
    assert (found - exact).norm() > 0.05 * exact.norm()


def test_the_entropy_bonus_ascends_the_entropy_of_each_prefix() -> None:
    probabilities = torch.softmax(LOGITS, -1)
    entropy = -(probabilities * torch.log(probabilities)).sum(-1)
    found = update(lambda rows, _: entropy_bonus(entropy[STATES][rows]))
    assert_close(found, ascent(over_prefixes(entropy)))
