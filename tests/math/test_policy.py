"""The clipped surrogate, GRPO worked by hand, and the identities that join one method to the next."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.reference import PRINTED, assert_close, f64, gradient, mask_of, padded, total_loss
from upweight.algorithms import PRESETS
from upweight.objectives.policy import clipped_surrogate, weighted_likelihood

# ratio, advantage: objective and its derivative for clip (0.2, 0.2), then for clip (0.2, 0.28). (V08)
V08 = [
    (0.5, 1, 0.5, 0.5, 0.5, 0.5),
    (0.5, -1, -0.8, 0.0, -0.8, 0.0),
    (0.9, 1, 0.9, 0.9, 0.9, 0.9),
    (0.9, -1, -0.9, -0.9, -0.9, -0.9),
    (1.0, 1, 1.0, 1.0, 1.0, 1.0),
    (1.0, -1, -1.0, -1.0, -1.0, -1.0),
    (1.1, 1, 1.1, 1.1, 1.1, 1.1),
    (1.1, -1, -1.1, -1.1, -1.1, -1.1),
    (1.25, 1, 1.2, 0.0, 1.25, 1.25),
    (1.25, -1, -1.25, -1.25, -1.25, -1.25),
    (1.5, 1, 1.2, 0.0, 1.28, 0.0),
    (1.5, -1, -1.5, -1.5, -1.5, -1.5),
    (4.0, 1, 1.2, 0.0, 1.28, 0.0),
    (4.0, -1, -4.0, -4.0, -4.0, -4.0),
]


def surrogate_at(ratio: float, advantage: float, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """The maximised objective of one token and its derivative by that token's log-prob."""
    old = f64([[-1.3]])
    logprobs = (old + math.log(ratio)).requires_grad_()
    objective = -clipped_surrogate(logprobs, old, f64([[advantage]]), clip_low, clip_high)
    return objective.detach(), gradient(objective.sum(), logprobs)


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope", "value_higher", "slope_higher"), V08)
def test_v08_clip_table(
    ratio: float, advantage: float, value: float, slope: float, value_higher: float, slope_higher: float
) -> None:
    objective, derivative = surrogate_at(ratio, advantage, 0.2, 0.2)
    assert_close(objective, [[value]])
    assert_close(derivative, [[slope]])
    objective, derivative = surrogate_at(ratio, advantage, 0.2, 0.28)
    assert_close(objective, [[value_higher]])
    assert_close(derivative, [[slope_higher]])


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope"), [row[:4] for row in V08])
def test_v08_is_what_the_grpo_preset_does(ratio: float, advantage: float, value: float, slope: float) -> None:
    old = f64([[-1.3]])
    logprobs = (old + math.log(ratio)).requires_grad_()
    columns = {"logprobs": logprobs, "old_logprobs": old, "advantages": f64([[advantage]])}
    loss = total_loss(PRESETS["grpo"], columns, mask_of([1]))
    assert_close(loss, -value)
    assert_close(gradient(loss, logprobs), [[-slope]])


@given(ratio=st.floats(0.01, 20), advantage=st.floats(-3, 3), low=st.floats(0.01, 0.9), high=st.floats(0.01, 3))
def test_the_gradient_is_rho_times_advantage_except_in_two_one_sided_regions(
    ratio: float, advantage: float, low: float, high: float
) -> None:
    edges = (1 - low, 1 + high)
    if min(abs(ratio - edge) for edge in edges) < 1e-6:
        return
    stopped = (advantage > 0 and ratio > edges[1]) or (advantage < 0 and ratio < edges[0])
    _, derivative = surrogate_at(ratio, advantage, low, high)
    assert_close(derivative, [[0.0 if stopped else ratio * advantage]], 1e-9)


@pytest.mark.parametrize("advantage", [-2.0, 0.5])
@pytest.mark.parametrize("ratio", [0.01, 0.7, 1.0, 1.9, 30.0])
def test_a_boundless_clip_is_no_clip(ratio: float, advantage: float) -> None:
    objective, derivative = surrogate_at(ratio, advantage, 1e9, 1e9)
    assert_close(objective, [[ratio * advantage]])
    assert_close(derivative, [[ratio * advantage]])


@given(ratio=st.floats(0.01, 20), advantage=st.floats(-3, 0))
def test_a_higher_upper_clip_changes_nothing_for_a_bad_answer(ratio: float, advantage: float) -> None:
    narrow, higher = surrogate_at(ratio, advantage, 0.2, 0.2), surrogate_at(ratio, advantage, 0.2, 0.28)
    assert torch.equal(narrow[0], higher[0])
    assert torch.equal(narrow[1], higher[1])


MASK = mask_of([2, 3])
V12 = {
    "logprobs": padded([[-0.9, -2.3], [-0.8, -0.9, -1.5]]),
    "old_logprobs": padded([[-1, -2], [-0.5, -1, -1.5]]),
    "ref_logprobs": padded([[-1.1, -2.1], [-0.5, -1.2, -1.4]]),
    "advantages": padded([[1, 1], [-1, -1, -1]]),
}


@pytest.mark.parametrize(
    ("options", "divisor", "expected"),
    [
        ({"kl_coef": 0.04}, 1, 0.023738),
        ({"kl_coef": 0.04, "reduction": "token_mean"}, 1, 0.212924),
        ({"kl_coef": 0.04, "reduction": "seq_mean_token_sum"}, 4, 0.133078),
        ({}, 1, 0.022698),
    ],
)
def test_v12_grpo_of_two_rows(options: dict[str, float | str], divisor: int, expected: float) -> None:
    loss = total_loss(PRESETS["grpo"].with_options(options), V12, MASK) / divisor
    assert_close(loss, expected, PRINTED)


def test_v12_terms_token_by_token() -> None:
    policy, kl = PRESETS["grpo"].terms
    surrogate, penalty = -policy.loss(V12), kl.loss(V12)
    assert_close(surrogate[MASK], [1.105171, 0.740818, -0.8, -1.105171, -1.0], PRINTED)
    assert_close(penalty[MASK], [0.018731, 0.021403, 0.049859, 0.040818, 0.005171], PRINTED)


def test_a_term_with_coefficient_zero_asks_for_nothing() -> None:
    without = {name: column for name, column in V12.items() if name != "ref_logprobs"}
    assert not PRESETS["grpo"].needs("ref_logprobs")
    assert PRESETS["grpo"].with_options({"kl_coef": 0.04}).needs("ref_logprobs")
    assert_close(total_loss(PRESETS["grpo"], without, MASK), 0.022698, PRINTED)


def test_at_the_reference_the_first_step_does_not_depend_on_the_kl_coefficient() -> None:
    logprobs = V12["logprobs"].clone().requires_grad_()
    columns = {**V12, "logprobs": logprobs, "ref_logprobs": logprobs.detach()}
    plain, penalised = (PRESETS["grpo"].with_options({"kl_coef": coefficient}) for coefficient in (0.0, 0.5))
    losses = [total_loss(method, columns, MASK) for method in (plain, penalised)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(gradient(losses[0], logprobs), gradient(losses[1], logprobs))


def test_on_policy_grpo_has_the_gradient_of_reinforce_with_the_same_advantage() -> None:
    logprobs = V12["logprobs"].clone().requires_grad_()
    worth = padded([[1.5] * 2, [-0.3] * 3])
    columns = {**V12, "logprobs": logprobs, "old_logprobs": logprobs.detach(), "advantages": worth}
    grpo = PRESETS["grpo"]
    for reduction in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum"):
        chosen = {"reduction": reduction}
        ours = gradient(total_loss(grpo.with_options(chosen), columns, MASK), logprobs)
        theirs = gradient(total_loss(PRESETS["reinforce"].with_options(chosen), columns, MASK), logprobs)
        assert_close(ours, theirs)
        assert ours.count_nonzero() == MASK.sum()


def test_sft_is_reinforce_with_reward_one() -> None:
    columns = {**V12, "advantages": torch.ones_like(V12["logprobs"])}
    sft = total_loss(PRESETS["sft"], columns, MASK)
    reinforce = total_loss(PRESETS["reinforce"].with_options({"reduction": "token_mean"}), columns, MASK)
    assert torch.equal(sft, reinforce)
    assert_close(sft, (0.9 + 2.3 + 0.8 + 0.9 + 1.5) / 5)


def v30_loss(name: str, reduction: str, rows: list[int]) -> Tensor:
    """Four one-token completions with rewards (1, -1, 1, -1) and mean NLL (.7, 1.1, .9, .4), or some of them."""
    method = PRESETS[name].with_options({"reduction": reduction})
    rewards, logprobs = f64([1, -1, 1, -1])[rows], -f64([0.7, 1.1, 0.9, 0.4])[rows]
    worth = method.advantage({"rewards": rewards, "group_ids": torch.zeros(len(rows), dtype=torch.long)})
    return total_loss(method, {"logprobs": logprobs[:, None], "advantages": worth[:, None]}, mask_of([1] * len(rows)))


def test_v30_rejection_sampling_is_sft_on_the_good_rows_times_their_share() -> None:
    everything, good = [0, 1, 2, 3], [0, 2]
    rft = v30_loss("rft", "seq_mean_token_mean", everything)
    sft = v30_loss("sft", "seq_mean_token_mean", good)
    assert_close(rft, 0.4)
    assert_close(sft, 0.8)
    assert_close(rft, sft * len(good) / len(everything))
    assert_close(v30_loss("reinforce", "seq_mean_token_mean", everything), 0.025)


def test_rejection_sampling_is_reinforce_when_rewards_are_zero_or_one() -> None:
    rewards = f64([1, 0, 1, 1])
    columns = {"rewards": rewards, "group_ids": torch.zeros(4, dtype=torch.long)}
    assert torch.equal(PRESETS["rft"].advantage(columns), PRESETS["reinforce"].advantage(columns))
    assert PRESETS["rft"].terms[0].loss == PRESETS["reinforce"].terms[0].loss


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1 + 0.2])
def test_a_constant_group_neither_costs_nor_pushes(reward: float) -> None:
    grpo = PRESETS["grpo"]
    columns = {"rewards": f64([reward, reward]), "group_ids": torch.zeros(2, dtype=torch.long)}
    worth = grpo.advantage(columns)[:, None].expand(2, 3)
    logprobs = V12["logprobs"].clone().requires_grad_()
    loss = total_loss(grpo, {**V12, "logprobs": logprobs, "advantages": worth}, MASK)
    assert loss.item() == 0
    assert gradient(loss, logprobs).count_nonzero() == 0


def test_a_negative_advantage_pushes_down_even_where_the_log_prob_is_small() -> None:
    logprobs = f64([[-0.693147]]).requires_grad_()
    loss = weighted_likelihood(logprobs, f64([[-1.0]]))
    assert_close(gradient(loss.sum(), logprobs), [[1.0]])
