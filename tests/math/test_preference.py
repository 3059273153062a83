"""Pairs and labels: the printed vectors, and what each preference loss does not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.numeric import slope, weighed
from tests.math.reference import PRINTED, assert_close, f64, mask_of
from upweight.objectives.likelihood import nll
from upweight.objectives.preference import bradley_terry, dpo, kto, odds_ratio, reference_point, simpo

# V19: chosen log-prob -10 (reference -11) over 5 tokens, rejected -12 (reference -11.5) over 8; the ninth is padding.
CHOSEN_MASK, REJECTED_MASK = mask_of([5, 9])[:1], mask_of([8, 9])[:1]


def spread_over(total: float, mask: Tensor) -> Tensor:
    """Log-probs that add up to `total` over the mask, all different, with wild padding."""
    uneven = torch.arange(mask.shape[1], dtype=torch.float64)[None] * mask
    return torch.where(mask, total * (1 + uneven) / (1 + uneven)[mask].sum(), 777.0)


CHOSEN, CHOSEN_REF = spread_over(-10, CHOSEN_MASK), spread_over(-11, CHOSEN_MASK)
REJECTED, REJECTED_REF = spread_over(-12, REJECTED_MASK), spread_over(-11.5, REJECTED_MASK)
MASKS = (CHOSEN_MASK, REJECTED_MASK)


def v19_dpo(*options: float) -> Tensor:
    return dpo(CHOSEN, REJECTED, CHOSEN_REF, REJECTED_REF, *MASKS, *options)


def test_v19_dpo() -> None:
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    loss = dpo(chosen, rejected, CHOSEN_REF, REJECTED_REF, *MASKS)
    assert_close(loss, [0.620957], PRINTED)
    assert_close(v19_dpo(0.1, 0.0), [0.620957], PRINTED)
    assert_close(slope(loss.sum(), chosen), -0.046257 * CHOSEN_MASK, PRINTED)
    assert_close(slope(loss.sum(), rejected), 0.046257 * REJECTED_MASK, PRINTED)


def test_v19_label_smoothing_believes_that_some_pairs_are_the_wrong_way_round() -> None:
    assert_close(v19_dpo(0.1, 0.1), [0.635957], PRINTED)
    turned = dpo(REJECTED, CHOSEN, REJECTED_REF, CHOSEN_REF, REJECTED_MASK, CHOSEN_MASK, 0.1, 0.9)
    assert_close(turned, [0.635957], PRINTED)
    assert_close(v19_dpo(0.1, 1.0), v19_dpo(-0.1, 0.0))


@pytest.mark.parametrize("beta", [0.1, 3.0])
def test_v19_at_the_reference_dpo_is_log_two(beta: float) -> None:
    found = dpo(CHOSEN, REJECTED, CHOSEN, REJECTED, *MASKS, beta)
    assert_close(found, [math.log(2)])
    assert_close(found, [0.693147], PRINTED)


@given(beta=st.floats(0.01, 2), scale=st.floats(0.1, 5))
def test_beta_scales_the_margin(beta: float, scale: float) -> None:
    scaled = [column * scale for column in (CHOSEN, REJECTED, CHOSEN_REF, REJECTED_REF)]
    assert_close(dpo(*scaled, *MASKS, beta), v19_dpo(beta * scale), 1e-9)
    assert_close(v19_dpo(beta), [math.log1p(math.exp(-1.5 * beta))], 1e-9)


def test_a_small_beta_makes_dpo_linear_in_the_margin() -> None:
    assert_close((v19_dpo(1e-4) - math.log(2)) / 1e-4, [-0.75], 1e-4)


def test_v19_simpo() -> None:
    chosen, rejected = spread_over(-10, CHOSEN_MASK), spread_over(-12, REJECTED_MASK)
    assert_close(simpo(chosen, rejected, *MASKS), [2.694936], PRINTED)
    assert_close(simpo(chosen, rejected, *MASKS, 2.5, 1.375), [2.694936], PRINTED)
    assert_close(simpo(chosen, rejected, *MASKS, 2.0, 0.5), [math.log1p(math.exp(1.5))])


def test_simpo_weighs_a_token_by_one_over_its_length() -> None:
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    loss = simpo(chosen, rejected, *MASKS)
    weight = 2.5 / (1 + math.exp(-2.625))
    assert_close(slope(loss.sum(), chosen), -weight / 5 * CHOSEN_MASK.double())
    assert_close(slope(loss.sum(), rejected), weight / 8 * REJECTED_MASK.double())


def test_v19_orpo() -> None:
    loss = odds_ratio(CHOSEN, REJECTED, *MASKS)
    odds = [math.exp(-2) / (1 - math.exp(-2)), math.exp(-1.5) / (1 - math.exp(-1.5))]
    assert_close(loss, [math.log1p(odds[1] / odds[0])])
    assert_close(-torch.log(torch.expm1(loss)), [-0.607069], PRINTED)
    likelihood = weighed(nll(CHOSEN), CHOSEN_MASK, "token_mean")
    assert_close(likelihood, 2.0)
    assert_close(likelihood + 0.1 * loss[0], 2.104206, PRINTED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odds_stay_finite_for_what_is_certain_and_for_what_is_impossible(dtype: torch.dtype) -> None:
    mask = mask_of([1] * 5)
    chosen = torch.tensor([[0.0], [-1e-9], [-1e-30], [-5000.0], [0.0]], dtype=dtype).requires_grad_()
    rejected = torch.tensor([[-5000.0], [-1.0], [0.0], [-1e-3], [0.0]], dtype=dtype).requires_grad_()
    loss = odds_ratio(chosen, rejected, mask, mask)
    for found in (loss, slope(loss.sum(), chosen), slope(loss.sum(), rejected)):
        assert torch.isfinite(found).all()
    assert_close(loss[4], math.log(2), 1e-6)
    assert slope(loss.sum(), chosen)[0].item() == 0, "what is certain is not pushed"
    assert loss[3].item() > 4000


def test_the_odds_of_what_is_nearly_certain_are_precise() -> None:
    """log odds of P = 1 - q is log((1 - q) / q); naively 1 - exp(log P) would have no digit left."""
    for q in (1e-3, 1e-8, 1e-14):
        loss = odds_ratio(f64([[math.log(0.5)]]), f64([[math.log1p(-q)]]), mask_of([1]), mask_of([1]))
        assert_close(loss, [math.log1p((1 - q) / q)], 1e-7)


POINT = torch.tensor(0.3, dtype=torch.float64)
ROWS = (torch.cat([CHOSEN, REJECTED]), torch.cat([CHOSEN_REF, REJECTED_REF]), torch.cat(MASKS))
LABELS = torch.tensor([True, False])


@pytest.mark.parametrize("options", [(), (0.1,), (0.1, 1.0, 1.0)])
def test_v19_kto(options: tuple[float, ...]) -> None:
    assert_close(kto(*ROWS, LABELS, POINT, *options), [0.482507, 0.480011], PRINTED)
    assert_close(kto(*ROWS, LABELS, POINT.expand(2), *options), [0.482507, 0.480011], PRINTED)


def test_kto_weighs_the_two_kinds_and_sees_one_reference_point_a_row() -> None:
    plain = kto(*ROWS, LABELS, POINT)
    assert_close(kto(*ROWS, LABELS, POINT, 0.1, 3.0), plain * f64([3, 1]))
    assert_close(kto(*ROWS, LABELS, POINT, 0.1, 1.0, 3.0), plain * f64([1, 3]))
    turned = kto(*ROWS, ~LABELS, POINT)
    assert_close(turned, 1 - plain)
    apart = kto(*ROWS, LABELS, f64([1.0, -0.5]))
    assert_close(apart, [0.5, 0.5])


def test_kto_pushes_by_the_slope_of_the_sigmoid_and_not_through_the_reference_point() -> None:
    logprobs = ROWS[0].clone().requires_grad_()
    point = POINT.clone().requires_grad_()
    loss = kto(logprobs, ROWS[1], ROWS[2], LABELS, point, 0.1, 2.0, 5.0)
    values = [1 / (1 + math.exp(0.07)), 1 / (1 + math.exp(0.08))]
    slopes = [0.1 * value * (1 - value) for value in values]
    assert_close(slope(loss.sum(), logprobs)[ROWS[2]], [-2 * slopes[0]] * 5 + [5 * slopes[1]] * 8)
    assert torch.autograd.grad(loss.sum(), point, allow_unused=True)[0] is None


def test_the_reference_point_is_a_mean_of_sums_and_never_negative() -> None:
    logprobs, ref, mask = ROWS
    assert_close(reference_point(logprobs, ref, mask), 0.25)
    assert_close(reference_point(ref, logprobs, mask), 0.0)
    assert_close(reference_point(logprobs[:1], ref[:1], mask[:1]), 1.0)
    idle = torch.cat([mask, torch.zeros_like(mask[:1])])
    longer = [torch.cat([column, column[:1]]) for column in (logprobs, ref)]
    assert_close(reference_point(*longer, idle), 0.25)
    assert not reference_point(logprobs.clone().requires_grad_(), ref, mask).requires_grad
    assert reference_point(logprobs, ref, torch.zeros_like(mask)).item() == 0


# V20: scores 1.2 and 0.3 at the last trained token, anything elsewhere.
SCORE_MASKS = (torch.tensor([[True, True, False]]), torch.tensor([[True, False, True]]))
CHOSEN_SCORES, REJECTED_SCORES = f64([[9, 1.2, -50]]), f64([[-9, 70, 0.3]])
NO_MARGIN = f64([0.0])


def test_v20_bradley_terry() -> None:
    chosen, rejected = CHOSEN_SCORES.clone().requires_grad_(), REJECTED_SCORES.clone().requires_grad_()
    loss = bradley_terry(chosen, rejected, *SCORE_MASKS, NO_MARGIN)
    assert_close(loss, [0.341154], PRINTED)
    assert_close(torch.exp(-loss), [0.710950], PRINTED)
    assert_close(slope(loss.sum(), chosen), [[0, -0.289050, 0]], PRINTED)
    assert_close(slope(loss.sum(), rejected), [[0, 0, 0.289050]], PRINTED)


def test_v20_centring_and_margin() -> None:
    columns = (CHOSEN_SCORES, REJECTED_SCORES, *SCORE_MASKS)
    assert_close(bradley_terry(*columns, NO_MARGIN, 0.01), [0.363654], PRINTED)
    assert_close(bradley_terry(*columns, NO_MARGIN, 0.0), [0.341154], PRINTED)
    assert_close(bradley_terry(*columns, NO_MARGIN, 0.01) - bradley_terry(*columns, NO_MARGIN), [0.0225])
    assert_close(bradley_terry(*columns, f64([0.5])), [0.513015], PRINTED)


@given(shift=st.floats(-5, 5))
def test_only_centring_sees_a_constant_added_to_all_scores(shift: float) -> None:
    columns = (CHOSEN_SCORES + shift, REJECTED_SCORES + shift, *SCORE_MASKS, NO_MARGIN)
    assert_close(bradley_terry(*columns), [0.341154], PRINTED)
    assert_close(bradley_terry(*columns, 0.01) - bradley_terry(*columns), [0.01 * (1.5 + 2 * shift) ** 2], 1e-9)


def test_v20_equal_scores_cost_log_two() -> None:
    loss = bradley_terry(CHOSEN_SCORES, CHOSEN_SCORES, SCORE_MASKS[0], SCORE_MASKS[0], NO_MARGIN)
    assert_close(loss, [math.log(2)])


def test_units_do_not_see_each_other() -> None:
    """A loss of two pairs is the losses of each; a pair without a trained token is worth nothing but its constant."""
    chosen, rejected = torch.cat([CHOSEN, 2 * CHOSEN]), torch.cat([REJECTED, REJECTED / 3])
    masks = [torch.cat([mask, torch.zeros_like(mask)]) for mask in MASKS]
    both = dpo(chosen, rejected, chosen * 0, rejected * 0, *masks)
    assert_close(both[0], dpo(CHOSEN, REJECTED, CHOSEN * 0, REJECTED * 0, *MASKS)[0])
    assert_close(both[1], math.log(2))
    assert_close(simpo(chosen, rejected, *masks)[1], math.log1p(math.exp(1.375)))
    assert_close(odds_ratio(chosen, rejected, *masks)[1], math.log(2))


def test_the_wrong_order_of_a_pair_turns_the_push_around() -> None:
    chosen = CHOSEN.clone().requires_grad_()
    right = dpo(chosen, REJECTED, CHOSEN_REF, REJECTED_REF, *MASKS)
    wrong = dpo(REJECTED, chosen, REJECTED_REF, CHOSEN_REF, REJECTED_MASK, CHOSEN_MASK)
    assert bool((slope(right.sum(), chosen)[CHOSEN_MASK] < 0).all())
    assert bool((slope(wrong.sum(), chosen)[CHOSEN_MASK] > 0).all())
    assert wrong.item() > right.item(), "a pair that is ranked wrongly weighs more"
