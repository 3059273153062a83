"""k3: its values, and what it really descends on."""

from __future__ import annotations

import pytest
import torch

from tests.math.reference import PRINTED, assert_close, f64, gradient
from upweight.objectives.kl import k3

P = f64([0.5, 0.3, 0.2])
Q = f64([0.4, 0.4, 0.2])


@pytest.mark.parametrize(
    ("logprob", "ref", "value", "derivative"),
    [(-1.0, -1.5, 0.106531, 0.393469), (-1.5, -1.0, 0.148721, -0.648721), (-2.0, -2.0, 0.0, 0.0)],
)
def test_v11_values_and_derivatives(logprob: float, ref: float, value: float, derivative: float) -> None:
    logprobs = f64([[logprob]]).requires_grad_()
    estimate = k3(logprobs, f64([[ref]]))
    assert_close(estimate, [[value]], PRINTED)
    assert_close(gradient(estimate.sum(), logprobs), [[derivative]], PRINTED)


def test_v11_expected_value_is_the_reverse_kl() -> None:
    estimate = k3(torch.log(P)[None], torch.log(Q)[None])
    expected = (P * estimate[0]).sum()
    assert_close(expected, (P * torch.log(P / Q)).sum())
    assert_close(expected, 0.025267, PRINTED)


def test_v11_expected_gradient_as_a_loss_is_that_of_the_forward_kl() -> None:
    logits = torch.log(P).requires_grad_()
    per_token = k3(torch.log_softmax(logits, -1)[None], torch.log(Q)[None])[0]
    expected = gradient((P * per_token).sum(), logits)
    assert_close(expected, P - Q)
    assert_close(expected, [0.1, -0.1, 0.0])
    forward = (Q * (torch.log(Q) - torch.log_softmax(logits, -1))).sum()
    assert_close(expected, gradient(forward, logits))


def test_v11_value_is_never_negative_and_keeps_its_precision_near_the_reference() -> None:
    gaps = torch.cat([torch.linspace(-5, 5, 101), torch.tensor([1e-9, -1e-9])]).double()[None]
    estimate = k3(gaps, torch.zeros_like(gaps))
    assert bool((estimate >= 0).all())
    assert_close(k3(f64([[1e-9]]), f64([[0.0]])), [[5e-19]], 1e-24)


def test_at_the_reference_value_and_gradient_are_exactly_zero() -> None:
    logprobs = f64([[-0.1, -3.0, -20.0]]).requires_grad_()
    estimate = k3(logprobs, logprobs.detach())
    assert estimate.tolist() == [[0.0, 0.0, 0.0]]
    assert gradient(estimate.sum(), logprobs).tolist() == [[0.0, 0.0, 0.0]]
