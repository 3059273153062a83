"""Policy losses token by token: clip tables, GRPO worked by hand, constant weights, entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.numeric import weighed
from tests.math.reference import PRINTED, assert_close, f64, gradient, mask_of, padded
from upweight.objectives.advantages import group_relative, positive_part, raw_reward, spread
from upweight.objectives.kl import k3
from upweight.objectives.likelihood import nll
from upweight.objectives.policy import cispo, clipped_surrogate, entropy_bonus, weighted_likelihood
from upweight.objectives.tokens import Reduction, logprobs_and_entropy

# ratio, advantage: objective and its derivative for clip (0.2, 0.2), then (0.2, 0.28), then with dual clip 3. (V08)
V08 = [
    (0.5, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    (0.5, -1, -0.8, 0.0, -0.8, 0.0, -0.8, 0.0),
    (0.9, 1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9),
    (0.9, -1, -0.9, -0.9, -0.9, -0.9, -0.9, -0.9),
    (1.0, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    (1.0, -1, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0),
    (1.1, 1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1),
    (1.1, -1, -1.1, -1.1, -1.1, -1.1, -1.1, -1.1),
    (1.25, 1, 1.2, 0.0, 1.25, 1.25, 1.2, 0.0),
    (1.25, -1, -1.25, -1.25, -1.25, -1.25, -1.25, -1.25),
    (1.5, 1, 1.2, 0.0, 1.28, 0.0, 1.2, 0.0),
    (1.5, -1, -1.5, -1.5, -1.5, -1.5, -1.5, -1.5),
    (4.0, 1, 1.2, 0.0, 1.28, 0.0, 1.2, 0.0),
    (4.0, -1, -4.0, -4.0, -4.0, -4.0, -3.0, 0.0),
]


def surrogate_at(ratio: float, advantage: float, *bounds: float) -> tuple[Tensor, Tensor]:
    """The maximised objective of one token and its derivative by that token's log-prob."""
    old = f64([[-1.3]])
    logprobs = (old + math.log(ratio)).requires_grad_()
    objective = -clipped_surrogate(logprobs, old, f64([[advantage]]), *bounds)
    return objective.detach(), gradient(objective.sum(), logprobs)


@pytest.mark.parametrize("row", V08, ids=[f"{row[0]}_{row[1]}" for row in V08])
def test_v08_clip_table(row: tuple[float, ...]) -> None:
    ratio, advantage, *expected = row
    tables = [surrogate_at(ratio, advantage, *bounds) for bounds in ((0.2, 0.2), (0.2, 0.28), (0.2, 0.2, 3.0))]
    assert_close(torch.cat([number.flatten() for table in tables for number in table]), expected)


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope"), [row[:4] for row in V08])
def test_v08_the_default_clips_at_a_fifth_and_has_no_other_bound(
    ratio: float, advantage: float, value: float, slope: float
) -> None:
    objective, derivative = surrogate_at(ratio, advantage)
    assert_close(objective, [[value]])
    assert_close(derivative, [[slope]])


def test_v08_how_far_a_probability_can_go_before_the_clip_stops_it() -> None:
    for old, clip_high, most in ((0.01, 0.2, 0.012), (0.01, 0.28, 0.0128), (0.9, 0.2, 1.08)):
        before = torch.log(f64([[old]]))
        for new, flows in ((most * 0.999, True), (most * 1.001, False)):
            logprobs = torch.log(f64([[new]])).requires_grad_()
            loss = clipped_surrogate(logprobs, before, f64([[1.0]]), 0.2, clip_high).sum()
            assert bool(gradient(loss, logprobs).item()) == flows


@pytest.mark.parametrize(("advantage", "bounds", "ratio"), [
    (1.0, (0.25, 0.5), 1.5),
    (-1.0, (0.25, 0.5), 0.75),
    (-1.0, (0.25, 0.5, 2.0), 2.0),
    (-1.0, (0.25, 0.5, math.inf, 2.0), 2.0),
])  # fmt: skip
def test_on_a_bound_the_gradient_still_flows_and_beyond_it_no_more(
    advantage: float, bounds: tuple[float, ...], ratio: float
) -> None:
    old = torch.zeros(1, 1, dtype=torch.float64)
    on = torch.log(f64([[ratio]])).requires_grad_()
    assert torch.exp(on).item() == ratio
    assert_close(gradient(-clipped_surrogate(on, old, f64([[advantage]]), *bounds).sum(), on), [[ratio * advantage]])
    outwards = 1e-9 if ratio > 1 else -1e-9
    beyond = (on.detach() + outwards).requires_grad_()
    assert gradient(clipped_surrogate(beyond, old, f64([[advantage]]), *bounds).sum(), beyond).item() == 0


def test_v39_a_two_sided_bound() -> None:
    assert_close(surrogate_at(5.0, -1.0, 0.2, 0.2, math.inf, 4.0)[0], [[-4.0]])
    assert_close(surrogate_at(5.0, -1.0, 0.2, 0.2, math.inf, 4.0)[1], [[0.0]])
    assert_close(surrogate_at(5.0, 1.0, 0.2, 0.2, math.inf, 4.0)[0], [[1.2]])


ratios = st.floats(0.01, 20)


@given(ratio=ratios, advantage=st.floats(-3, 3), low=st.floats(0.01, 0.9), high=st.floats(0.01, 3))
def test_the_gradient_is_rho_times_advantage_except_in_two_one_sided_regions(
    ratio: float, advantage: float, low: float, high: float
) -> None:
    edges = (1 - low, 1 + high)
    if min(abs(ratio - edge) for edge in edges) < 1e-6:
        return
    stopped = (advantage > 0 and ratio > edges[1]) or (advantage < 0 and ratio < edges[0])
    _, derivative = surrogate_at(ratio, advantage, low, high)
    assert_close(derivative, [[0.0 if stopped else ratio * advantage]], 1e-9)


@pytest.mark.parametrize("advantage", [-2.0, 0.0, 0.5])
@pytest.mark.parametrize("ratio", [0.01, 0.7, 1.0, 1.9, 30.0])
@pytest.mark.parametrize("bound", [1e9, math.inf])
def test_a_boundless_clip_is_no_clip(ratio: float, advantage: float, bound: float) -> None:
    objective, derivative = surrogate_at(ratio, advantage, bound, bound, bound, bound)
    assert_close(objective, [[ratio * advantage]])
    assert_close(derivative, [[ratio * advantage]])


@given(ratio=ratios, advantage=st.floats(-3, 0))
def test_a_higher_upper_clip_changes_nothing_for_a_bad_answer(ratio: float, advantage: float) -> None:
    narrow, higher = surrogate_at(ratio, advantage, 0.2, 0.2), surrogate_at(ratio, advantage, 0.2, 0.28)
    assert torch.equal(narrow[0], higher[0])
    assert torch.equal(narrow[1], higher[1])


@given(ratio=ratios, advantage=st.floats(-3, 3), bound=st.floats(1.3, 10))
def test_dual_clip_and_two_sided_bound_are_one_thing(ratio: float, advantage: float, bound: float) -> None:
    """For A < 0 they agree; for A > 0, and for ratios within the bound, both do nothing."""
    if abs(ratio - bound) < 1e-6:
        return
    dual = surrogate_at(ratio, advantage, 0.2, 0.28, bound)
    two_sided = surrogate_at(ratio, advantage, 0.2, 0.28, math.inf, bound)
    plain = surrogate_at(ratio, advantage, 0.2, 0.28)
    for ours, theirs in zip(dual, two_sided, strict=True):
        assert_close(ours, theirs)
    if advantage >= 0 or ratio < bound:
        assert_close(dual[0], plain[0])
        assert_close(dual[1], plain[1])
    else:
        assert_close(dual[0], [[bound * advantage]])
        assert dual[1].item() == 0


def test_a_two_sided_bound_below_the_clip_also_holds_good_answers_down() -> None:
    objective, derivative = surrogate_at(1.15, 1.0, 0.2, 0.2, math.inf, 1.1)
    assert_close(objective, [[1.1]])
    assert derivative.item() == 0


MASK = mask_of([2, 3])
LOGPROBS = padded([[-0.9, -2.3], [-0.8, -0.9, -1.5]])
OLD = padded([[-1, -2], [-0.5, -1, -1.5]])
REF = padded([[-1.1, -2.1], [-0.5, -1.2, -1.4]])
SIGNS = spread(f64([1, -1]), MASK)


def test_v12_terms_token_by_token() -> None:
    surrogate, penalty = -clipped_surrogate(LOGPROBS, OLD, SIGNS), k3(LOGPROBS, REF)
    ratios = torch.exp(LOGPROBS - OLD)[MASK]
    assert_close(ratios, [1.105171, 0.740818, 0.740818, 1.105171, 1.0], PRINTED)
    assert_close(surrogate[MASK], [1.105171, 0.740818, -0.8, -1.105171, -1.0], PRINTED)
    assert_close(penalty[MASK], [0.018731, 0.021403, 0.049859, 0.040818, 0.005171], PRINTED)


@pytest.mark.parametrize(
    ("kl_coef", "reduction", "expected"),
    [
        (0.04, "seq_mean_token_mean", 0.023738),
        (0.04, "token_mean", 0.212924),
        (0.04, "constant_length", 0.133078),
        (0.0, "seq_mean_token_mean", 0.022698),
    ],
)
def test_v12_grpo_of_two_rows(kl_coef: float, reduction: Reduction, expected: float) -> None:
    loss = clipped_surrogate(LOGPROBS, OLD, SIGNS) + kl_coef * k3(LOGPROBS, REF)
    assert_close(weighed(loss, MASK, reduction, constant_length=4), expected, PRINTED)


def test_v12_on_policy_values_differ_and_gradients_agree() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    worth = spread(f64([1, -1]), MASK)
    losses = {
        "grpo": weighed(clipped_surrogate(logprobs, logprobs.detach(), worth), MASK, "seq_mean_token_mean"),
        "reinforce": weighed(weighted_likelihood(logprobs, worth), MASK, "seq_mean_token_mean"),
    }
    assert_close(losses["grpo"], 0.0)
    assert_close(losses["reinforce"], ((0.9 + 2.3) / 2 - (0.8 + 0.9 + 1.5) / 3) / 2)
    assert_close(gradient(losses["grpo"], logprobs), gradient(losses["reinforce"], logprobs))


def test_at_the_reference_the_first_step_does_not_depend_on_the_kl_coefficient() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    penalty = weighed(k3(logprobs, logprobs.detach()), MASK, "token_mean")
    assert penalty.item() == 0
    assert gradient(penalty, logprobs).count_nonzero() == 0


def test_sft_is_reinforce_with_reward_one() -> None:
    assert torch.equal(nll(LOGPROBS), weighted_likelihood(LOGPROBS, torch.ones_like(LOGPROBS)))
    assert_close(weighed(nll(LOGPROBS), MASK, "token_mean"), (0.9 + 2.3 + 0.8 + 0.9 + 1.5) / 5)


def test_likelihood_multiplies_the_log_prob_by_minus_the_advantage() -> None:
    assert weighted_likelihood(f64([[-2, -3]]), f64([[0.5, -1]])).tolist() == [[1, -3]]
    assert nll(f64([[-2, 0]])).tolist() == [[2, 0]]


def test_v07_the_log_prob_of_a_completion_is_the_sum_over_its_tokens() -> None:
    logprobs = torch.log(f64([[0.4, 0.5, 0.3, 0.4, 0.6, 0.4]]))
    assert_close(weighed(nll(logprobs), mask_of([6]), "seq_mean_token_sum"), 5.156818, PRINTED)


# V30: four completions of one token with rewards (1, -1, 1, -1) and mean NLL (.7, 1.1, .9, .4).
V30_REWARDS, V30_LOGPROBS = f64([1, -1, 1, -1]), -f64([[0.7], [1.1], [0.9], [0.4]])


def test_v30_rejection_sampling_is_sft_on_the_good_rows_times_their_share() -> None:
    mask, good = mask_of([1] * 4), [0, 2]
    rft = weighed(weighted_likelihood(V30_LOGPROBS, positive_part(V30_REWARDS)[:, None]), mask, "seq_mean_token_mean")
    sft = weighed(nll(V30_LOGPROBS[good]), mask[good], "seq_mean_token_mean")
    assert_close(rft, 0.4)
    assert_close(sft, 0.8)
    assert_close(rft, sft * len(good) / 4)
    signed = weighted_likelihood(V30_LOGPROBS, raw_reward(V30_REWARDS)[:, None])
    assert_close(weighed(signed, mask, "seq_mean_token_mean"), 0.025)


def test_rejection_sampling_is_reinforce_when_rewards_are_zero_or_one() -> None:
    rewards = f64([1, 0, 1, 1])
    assert torch.equal(positive_part(rewards), raw_reward(rewards))


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [1.0, 1.0], [0.1 + 0.2, 0.3]])
def test_a_constant_group_neither_costs_nor_pushes(rewards: list[float]) -> None:
    worth = spread(group_relative(f64(rewards), torch.tensor([0, 0])), MASK)
    logprobs = LOGPROBS.clone().requires_grad_()
    for loss in (clipped_surrogate(logprobs, OLD, worth), cispo(logprobs, OLD, worth)):
        total = weighed(loss, MASK, "seq_mean_token_mean")
        assert total.item() == 0
        assert gradient(total, logprobs).count_nonzero() == 0


def test_a_negative_advantage_pushes_down_even_where_the_log_prob_is_small() -> None:
    """Clipping log pi instead of the ratio would leave such a token without a gradient (V08, seed 002)."""
    for advantage, slope in ((-1.0, 1.0), (1.0, -1.0)):
        logprobs = f64([[-0.693147]]).requires_grad_()
        loss = weighted_likelihood(logprobs, f64([[advantage]]))
        assert_close(gradient(loss.sum(), logprobs), [[slope]])


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((), [0.5, 1.0, 1.28, 1.28]),
        ((1.0, 0.28), [0.5, 1.0, 1.28, 1.28]),
        ((0.2, 0.2), [0.8, 1.0, 1.2, 1.2]),
        ((1.0, 4.0), [0.5, 1.0, 1.5, 5.0]),
        ((1.0, 0.272), [0.5, 1.0, 1.272, 1.272]),
        ((1.0, 3.0), [0.5, 1.0, 1.5, 4.0]),
        ((1.0, math.inf), [0.5, 1.0, 1.5, 6.0]),
    ],
)
def test_v15_cispo_weights_the_likelihood_by_the_clipped_ratio(
    bounds: tuple[float, ...], expected: list[float]
) -> None:
    old = f64([[-1.0, -1.3, -2.0, -4.0]])
    logprobs = (old + torch.log(f64([[0.5, 1.0, 1.5, 6.0]]))).requires_grad_()
    advantages = f64([[2.0, -1.0, 0.5, -3.0]])
    loss = cispo(logprobs, old, advantages, *bounds)
    weights = f64([expected])
    assert_close(loss, -weights * advantages * logprobs.detach())
    assert_close(gradient(loss.sum(), logprobs), -weights * advantages)


def test_the_entropy_bonus_lowers_the_loss_by_the_entropy() -> None:
    """V24: entropy of (.5, .3, .2), its gradient, and the sum over three tokens."""
    logits = torch.log(f64([[0.5, 0.3, 0.2]] * 3)).requires_grad_()
    _, entropy = logprobs_and_entropy(logits, torch.tensor([0, 1, 2]))
    bonus = entropy_bonus(entropy[None])
    assert_close(bonus, [[-1.029653] * 3], PRINTED)
    assert_close(weighed(bonus, mask_of([3]), "seq_mean_token_sum"), -3.088959, PRINTED)
    assert_close(gradient(bonus[0, 0], logits)[0], [0.168253, -0.052296, -0.115957], PRINTED)


def test_the_defaults_of_cispo_leave_the_lower_side_open() -> None:
    assert_close(cispo(f64([[-5.0]]), f64([[-1.0]]), f64([[1.0]])), [[5 * math.exp(-4)]])
