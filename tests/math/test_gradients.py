"""Every loss descends along its own finite difference, in every column that carries a gradient."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.math.numeric import finite_difference, slope
from tests.math.reference import assert_close, f64, mask_of
from upweight.objectives import kl, likelihood, policy, preference, steps, value
from upweight.objectives.advantages import spread
from upweight.objectives.tokens import logprobs_and_entropy

MASK = mask_of([3, 1, 4, 2])
# log(pi / old) of the tokens: every side of every bound used below is visited, and none sits on an edge.
LOG_RATIOS = f64([-0.9, -0.3, -0.1, 0.05, 0.12, 0.3, 0.7, -0.2, 0.25, 0.0, 1.7, 0.4, 0.1, -0.05, 0.6, -0.15]).view(4, 4)


def noise(seed: int) -> Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CURRENT = -noise(1).abs() - 0.1
COLUMNS: dict[str, Tensor] = {
    "logprobs": CURRENT,
    "old_logprobs": CURRENT - LOG_RATIOS,
    "ref_logprobs": CURRENT + 0.5 * noise(2),
    "advantages": f64([1.3, -0.7, 0.4, -1.9])[:, None] * f64([1, -1, 1, 1]),
    "entropy": noise(3).abs(),
    "values": noise(4),
    "old_values": noise(4) + 0.3 * noise(5),
    "returns": noise(6),
    "loss_mask": MASK,
    "label": torch.tensor([True, False, False, True]),
    "reference_point": torch.tensor(0.2, dtype=torch.float64),
    "chosen_logprobs": CURRENT,
    "rejected_logprobs": -noise(7).abs() - 0.1,
    "chosen_ref_logprobs": CURRENT + noise(8),
    "rejected_ref_logprobs": CURRENT + noise(9),
    "scores": noise(12),
    "step_labels": f64([1, 0, 1, 0.3])[:, None].expand(4, 4),
    "chosen_scores": noise(10),
    "rejected_scores": noise(11),
    "chosen_loss_mask": MASK,
    "rejected_loss_mask": MASK.flip(0),
    "chosen_margin": f64([0.1, 0.0, 0.5, -0.2]),
}
ROW_CONSTANT = {"advantages": spread(f64([1.3, -0.7, 0.4, -1.9]), torch.ones_like(MASK))}
WIDE = {"clip_low": 0.15, "clip_high": 0.12}

CASES: list[tuple[Callable[..., Tensor], tuple[str, ...], dict[str, Any]]] = [
    (policy.weighted_likelihood, ("logprobs",), {}),
    (likelihood.nll, ("logprobs",), {}),
    (policy.clipped_surrogate, ("logprobs",), {}),
    (policy.clipped_surrogate, ("logprobs",), {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 1.5}),
    (policy.clipped_surrogate, ("logprobs",), {"delta": 1.4}),
    (policy.clipped_surrogate, ("logprobs",), {"clip_low": math.inf, "clip_high": math.inf}),
    (policy.sequence_surrogate, ("logprobs",), {}),
    (policy.sequence_surrogate, ("logprobs",), WIDE),
    (policy.sequence_surrogate, ("logprobs",), {**WIDE, "ratio": "sum"}),
    (policy.entropy_bonus, ("entropy",), {}),
    (kl.k1, ("logprobs",), {}),
    (kl.k2, ("logprobs",), {}),
    (kl.k3, ("logprobs",), {}),
    (kl.weighted_k3, ("logprobs",), {}),
    *((kl.penalty, ("logprobs",), {"kl_estimator": name}) for name in ("k1", "k2", "k3", "weighted_k3")),
    (value.clipped_value_loss, ("values",), {}),
    (value.clipped_value_loss, ("values",), {"value_clip": math.inf}),
    (preference.dpo, ("chosen_logprobs", "rejected_logprobs"), {}),
    (preference.dpo, ("chosen_logprobs", "rejected_logprobs"), {"beta": 1.0, "label_smoothing": 0.2}),
    (preference.simpo, ("chosen_logprobs", "rejected_logprobs"), {}),
    (preference.odds_ratio, ("chosen_logprobs", "rejected_logprobs"), {}),
    (preference.kto, ("logprobs",), {"kto_beta": 0.5, "desirable_weight": 1.3, "undesirable_weight": 0.7}),
    (preference.bradley_terry, ("chosen_scores", "rejected_scores"), {}),
    (preference.bradley_terry, ("chosen_scores", "rejected_scores"), {"centring": 0.3}),
    (steps.step_cross_entropy, ("scores",), {}),
]


def total(function: Callable[..., Tensor], columns: Mapping[str, Tensor], options: Mapping[str, Any]) -> Tensor:
    """The loss summed with weights that differ from token to token, row to row, or unit to unit."""
    parameters = inspect.signature(function).parameters
    loss = function(**{name: column for name, column in columns.items() if name in parameters}, **options)
    return (loss * torch.linspace(0.5, 2.0, loss.numel(), dtype=torch.float64).view_as(loss)).sum()


@pytest.mark.parametrize(("function", "leaves", "options"), CASES, ids=[f"{c[0].__name__}-{c[2]}" for c in CASES])
def test_each_loss_descends_along_its_finite_difference(
    function: Callable[..., Tensor], leaves: tuple[str, ...], options: dict[str, Any]
) -> None:
    for name in leaves:
        leaf = COLUMNS[name].clone().requires_grad_()
        exact = slope(total(function, {**COLUMNS, name: leaf}, options), leaf)

        def loss(at: Tensor, name: str = name) -> Tensor:
            return total(function, {**COLUMNS, name: at}, options)

        assert_close(exact, finite_difference(loss, COLUMNS[name]), 1e-6)
        assert exact.abs().max() > 1e-3, "a gradient that vanishes everywhere would prove nothing"


def test_the_token_form_of_gspo_descends_along_the_sequence_form() -> None:
    """Its own value moves with the mean of the log ratios only; the sum over a row has the derivative it claims."""
    columns = {**COLUMNS, **ROW_CONSTANT}
    row_weights = f64([0.5, 1.0, 1.5, 2.0])[:, None]

    def loss(at: Tensor) -> Tensor:
        args = (at, columns["old_logprobs"], columns["advantages"], MASK)
        return (row_weights * policy.sequence_token_surrogate(*args, **WIDE)).sum()

    leaf = CURRENT.clone().requires_grad_()
    exact = slope(loss(leaf), leaf)
    assert_close(exact, finite_difference(loss, CURRENT), 1e-6)
    assert exact.abs().max() > 1e-3


def test_cispo_descends_along_the_likelihood_with_its_weights_held_fixed() -> None:
    advantages = COLUMNS["advantages"]
    weights = torch.exp(LOG_RATIOS).clamp(0.8, 1.28) * advantages

    def frozen(at: Tensor) -> Tensor:
        return policy.weighted_likelihood(at, weights).sum()

    leaf = CURRENT.clone().requires_grad_()
    exact = slope(policy.cispo(leaf, COLUMNS["old_logprobs"], advantages, 0.2, 0.28).sum(), leaf)
    assert_close(exact, finite_difference(frozen, CURRENT), 1e-6)
    assert_close(exact, -weights)


@pytest.mark.parametrize("output", [0, 1])
def test_log_prob_and_entropy_follow_their_finite_differences(output: int) -> None:
    logits, chosen = noise(12), torch.tensor([2, 0, 3, 1])

    def loss(at: Tensor) -> Tensor:
        return logprobs_and_entropy(at, chosen)[output].sum()

    leaf = logits.clone().requires_grad_()
    assert_close(slope(loss(leaf), leaf), finite_difference(loss, logits), 1e-6)
