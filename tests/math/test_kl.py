"""Estimators of the KL to the reference: their values, and what each really descends on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.math.numeric import slope
from tests.math.reference import PRINTED, assert_close, f64
from upweight.objectives.kl import k1, k2, k3, penalty, weighted_k3

P = f64([0.5, 0.3, 0.2])
Q = f64([0.4, 0.4, 0.2])
OLD = f64([0.45, 0.35, 0.2])
REVERSE, FORWARD = [0.098938, -0.093885, -0.005053], [0.1, -0.1, 0.0]


@pytest.mark.parametrize(
    ("logprob", "ref", "values", "derivatives"),
    [
        (-1.0, -1.5, [0.5, 0.125, 0.106531], [1.0, 0.5, 0.393469]),
        (-1.5, -1.0, [-0.5, 0.125, 0.148721], [1.0, -0.5, -0.648721]),
        (-2.0, -2.0, [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
    ],
)
def test_v11_values_and_derivatives(logprob: float, ref: float, values: list[float], derivatives: list[float]) -> None:
    logprobs = f64([[logprob]]).requires_grad_()
    for estimator, value, derivative in zip((k1, k2, k3), values, derivatives, strict=True):
        estimate = estimator(logprobs, f64([[ref]]))
        assert_close(estimate, [[value]], PRINTED)
        assert_close(slope(estimate.sum(), logprobs), [[derivative]], PRINTED)


def policy() -> tuple[Tensor, Tensor]:
    """Logits of P, a leaf, and the log-prob of each of the three tokens [1, 3]."""
    logits = torch.log(P).requires_grad_()
    return logits, torch.log_softmax(logits, -1)[None]


def test_v11_expected_values() -> None:
    logprobs, ref = torch.log(P)[None], torch.log(Q)[None]
    for estimator, expected in ((k1, 0.025267), (k2, 0.024862), (k3, 0.025267)):
        assert_close((P * estimator(logprobs, ref)[0]).sum(), expected, PRINTED)
    for estimator in (k1, k3):
        assert_close((P * estimator(logprobs, ref)[0]).sum(), (P * torch.log(P / Q)).sum())


def test_v11_expected_gradients_as_a_loss() -> None:
    logits, logprobs = policy()
    ref = torch.log(Q)[None]
    for estimator, expected in ((k1, [0.0] * 3), (k2, REVERSE), (k3, FORWARD)):
        found = slope((P * estimator(logprobs, ref)[0]).sum(), logits)
        assert_close(found, expected, PRINTED)
    reverse = (torch.exp(logprobs) * (logprobs - ref)).sum()
    forward = (Q * (ref - logprobs)).sum()
    assert_close(slope((P * k2(logprobs, ref)[0]).sum(), logits), slope(reverse, logits))
    assert_close(slope((P * k3(logprobs, ref)[0]).sum(), logits), slope(forward, logits))
    assert_close(slope(forward, logits), P - Q)


def test_v11_expected_gradients_in_the_reward() -> None:
    """Detached and multiplied with the score function, only k1 gives the gradient of a KL."""
    logits, logprobs = policy()
    ref = torch.log(Q)[None]
    for estimator, expected in (
        (k1, REVERSE),
        (k2, [0.000017, 0.004955, -0.004972]),
        (k3, [-0.001062, 0.006115, -0.005053]),
    ):
        found = slope((P * estimator(logprobs, ref)[0].detach() * logprobs[0]).sum(), logits)
        assert_close(found, expected, PRINTED)
    assert_close(found, f64(REVERSE) - f64(FORWARD), PRINTED)


@pytest.mark.parametrize("sampled_from", [P, OLD])
def test_v11_the_weighted_k3_is_the_reverse_kl_on_and_off_policy(sampled_from: Tensor) -> None:
    logits, logprobs = policy()
    estimate = weighted_k3(logprobs, torch.log(sampled_from)[None], torch.log(Q)[None])
    expected = (sampled_from * estimate[0]).sum()
    assert_close(expected, 0.025267, PRINTED)
    assert_close(slope(expected, logits), REVERSE, PRINTED)


def test_v11_a_detached_ratio_would_be_the_forward_kl_again() -> None:
    logits, logprobs = policy()
    estimate = torch.exp(logprobs - torch.log(OLD)).detach() * k3(logprobs, torch.log(Q)[None])
    assert_close(slope((OLD * estimate[0]).sum(), logits), P - Q)


def test_v07_k3_of_three_tokens() -> None:
    old, ref = f64([[-1, -0.5, -2]]), f64([[-1.2, -0.4, -2.5]])
    assert_close(k1(old, ref), [[0.2, -0.1, 0.5]])
    assert_close(k3(old, ref), [[0.018731, 0.005171, 0.106531]], PRINTED)


def test_k3_is_never_negative_and_keeps_its_precision_near_the_reference() -> None:
    gaps = torch.cat([torch.linspace(-5, 5, 101), torch.tensor([1e-9, -1e-9])]).double()[None]
    estimate = k3(gaps, torch.zeros_like(gaps))
    assert bool((estimate >= 0).all())
    assert bool((k2(gaps, torch.zeros_like(gaps)) >= 0).all())
    assert_close(k3(f64([[1e-9]]), f64([[0.0]])), [[5e-19]], 1e-24)


@pytest.mark.parametrize("estimator", [k2, k3])
def test_at_the_reference_value_and_gradient_are_exactly_zero(estimator: Callable[..., Tensor]) -> None:
    logprobs = f64([[-0.1, -3.0, -20.0]]).requires_grad_()
    estimate = estimator(logprobs, logprobs.detach())
    assert estimate.tolist() == [[0.0, 0.0, 0.0]]
    assert slope(estimate.sum(), logprobs).tolist() == [[0.0, 0.0, 0.0]]


def test_the_penalty_is_the_estimator_of_that_name_and_k3_by_default() -> None:
    logprobs, old, ref = f64([[-1, -2]]), f64([[-1.5, -1.0]]), f64([[-0.7, -2.2]])
    assert torch.equal(penalty(logprobs, old, ref), k3(logprobs, ref))
    assert torch.equal(penalty(logprobs, old, ref, "k1"), k1(logprobs, ref))
    assert torch.equal(penalty(logprobs, old, ref, "k2"), k2(logprobs, ref))
    assert torch.equal(penalty(logprobs, old, ref, "k3"), k3(logprobs, ref))
    assert torch.equal(penalty(logprobs, old, ref, "weighted_k3"), weighted_k3(logprobs, old, ref))
    assert_close(weighted_k3(logprobs, old, ref), torch.exp(f64([[0.5, -1.0]])) * k3(logprobs, ref))
    with pytest.raises(Exception, match="k4"):
        penalty(logprobs, old, ref, "k4")  # type: ignore[arg-type]
