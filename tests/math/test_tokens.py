"""Alignment, log-probs, entropy, and the weight of every token."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.reference import PRINTED, assert_close, f64, mask_of, padded
from upweight.objectives.tokens import (
    REDUCTIONS,
    TOKEN_REDUCTIONS,
    Reduction,
    last_trained,
    logprobs_and_entropy,
    masked,
    own_positions,
    pad,
    predicting_positions,
    token_weights,
)

NORMALISED: list[Reduction] = ["token_mean", "seq_mean_token_mean", "group_token_mean"]
EVERY = list(TOKEN_REDUCTIONS)

# Two sequences with the probabilities of their tokens (V04).
NLL = -torch.log(padded([[0.5, 0.25], [0.5, 0.5, 0.8, 0.1]]).abs())
V04_MASK = mask_of([2, 4])


def weights_of(mask: Tensor, reduction: Reduction, group_ids: Tensor | None = None) -> Tensor:
    """Weights under any reduction of tokens: rows are in groups of two and the constant length is 5."""
    groups = torch.arange(len(mask)) // 2 if group_ids is None else group_ids
    return token_weights(mask, reduction, groups, 5)


@st.composite
def masks(draw: Callable, any_trained: bool = True) -> Tensor:
    rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    cells = draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
    mask = torch.tensor(cells).view(rows, width)
    if any_trained:
        mask[draw(st.integers(0, rows - 1)), draw(st.integers(0, width - 1))] = True
    return mask


def test_v34_alignment_of_logits_and_targets() -> None:
    prompt, completion = [5, 6, 7], [10, 11, 12, 2]
    sequence = prompt + completion
    positions = predicting_positions(len(prompt), len(completion))
    assert positions[0] == 2, "the last prompt position scores the first completion token"
    assert [sequence[p + 1] for p in positions] == completion
    targets = [sequence[p + 1] if p in positions else -100 for p in range(len(sequence))]
    assert targets == [-100, -100, 10, 11, 12, 2, -100]


def test_v34_a_token_stands_one_after_what_predicts_it() -> None:
    assert list(own_positions(3, 4)) == [3, 4, 5, 6]
    assert [p + 1 for p in predicting_positions(3, 4)] == list(own_positions(3, 4))
    assert list(predicting_positions(1, 2)) == [0, 1]
    assert list(predicting_positions(4, 0)) == []


def test_a_completion_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        predicting_positions(0, 3)


def test_v24_entropy_and_its_gradient() -> None:
    logits = torch.log(f64([[0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3]])) + 4.0
    logits.requires_grad_()
    _, entropy = logprobs_and_entropy(logits, torch.tensor([0, 0]))
    assert_close(entropy, [1.029653, 1.098612], PRINTED)
    grad = torch.autograd.grad(entropy[0], logits)[0][0]
    assert_close(grad, [-0.168253, 0.052296, 0.115957], PRINTED)


def test_logprobs_are_those_of_the_chosen_token() -> None:
    logits = torch.log(f64([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]])) - 3.0
    logprobs, _ = logprobs_and_entropy(logits, torch.tensor([2, 1]))
    assert_close(torch.exp(logprobs), [0.2, 0.7])


def test_logprobs_and_entropy_survive_extreme_logits() -> None:
    logits = f64([[1e4, 0.0, -1e4]]).requires_grad_()
    logprobs, entropy = logprobs_and_entropy(logits, torch.tensor([0]))
    (logprobs + entropy).sum().backward()
    assert_close(logprobs, [0.0])
    assert_close(entropy, [0.0])
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("reduction", "loss", "weight_a", "weight_b"),
    [
        ("token_mean", 0.998577, 0.166667, 0.166667),
        ("seq_mean_token_mean", 1.008863, 0.25, 0.125),
        ("seq_mean_token_sum", 2.995732, 0.5, 0.5),
    ],
)
def test_v04_reductions(reduction: Reduction, loss: float, weight_a: float, weight_b: float) -> None:
    weights = token_weights(V04_MASK, reduction)
    assert_close((weights * NLL).sum(), loss, PRINTED)
    assert_close(weights[0], [weight_a, weight_a, 0, 0], PRINTED)
    assert_close(weights[1], [weight_b] * 4, PRINTED)


def test_v04_sum_of_tokens_and_constant_length() -> None:
    sequence_sum = (token_weights(V04_MASK, "seq_mean_token_sum") * NLL).sum()
    assert_close(2 * sequence_sum, 5.991465, PRINTED)
    weights = token_weights(V04_MASK, "constant_length", constant_length=8)
    assert_close((weights * NLL).sum(), 0.374467, PRINTED)
    assert_close(weights[V04_MASK], [0.0625] * 6)


def test_a_group_token_mean_is_a_token_mean_within_each_group_and_a_mean_over_groups() -> None:
    mask, group_ids = mask_of([2, 1, 4, 3, 0]), torch.tensor([9, 2, 9, 2, 5])
    weights = token_weights(mask, "group_token_mean", group_ids)
    assert_close(weights[mask], [1 / 12] * 2 + [1 / 8] + [1 / 12] * 4 + [1 / 8] * 3)
    for group in (9, 2):
        own = token_weights(mask[group_ids == group], "token_mean")
        assert_close(weights[group_ids == group], own / 2)


def test_one_group_or_equal_totals_make_the_two_token_means_agree() -> None:
    token_mean = token_weights(V04_MASK, "token_mean")
    assert_close(token_weights(V04_MASK, "group_token_mean", torch.tensor([3, 3])), token_mean)
    equal = mask_of([2, 1, 1, 2])
    by_group = token_weights(equal, "group_token_mean", torch.tensor([0, 0, 1, 1]))
    assert_close(by_group, token_weights(equal, "token_mean"))


def test_v05_weights_belong_to_the_step_and_not_to_the_micro_batch() -> None:
    whole = token_weights(V04_MASK, "token_mean")
    pieces = [(whole[i : i + 1] * NLL[i : i + 1]).sum() for i in range(2)]
    assert_close(torch.stack(pieces).sum(), 0.998577, PRINTED)
    per_micro = [(token_weights(V04_MASK[i : i + 1], "token_mean") * NLL[i : i + 1]).sum() for i in range(2)]
    assert_close(torch.stack(per_micro), [1.039721, 0.978006], PRINTED)
    assert_close(torch.stack(per_micro).mean(), 1.008863, PRINTED)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(Exception, match="mean_of_means"):
        token_weights(V04_MASK, "mean_of_means")  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", ["row_mean", "unit_mean"])
def test_a_reduction_that_is_not_of_tokens_is_refused(reduction: Reduction) -> None:
    with pytest.raises(ValueError, match=f"'{reduction}' is not a reduction of tokens; known: token_mean, seq_mean"):
        token_weights(V04_MASK, reduction, torch.tensor([0, 0]), 4)


def test_the_reductions_are_those_of_tokens_of_rows_and_of_units() -> None:
    tokens = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant_length", "group_token_mean")
    assert tokens == TOKEN_REDUCTIONS
    assert (*tokens, "row_mean", "unit_mean") == REDUCTIONS


@pytest.mark.parametrize("length", [None, 0])
def test_a_constant_length_must_be_given_and_positive(length: int | None) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {length}"):
        token_weights(V04_MASK, "constant_length", constant_length=length)
    assert_close(token_weights(V04_MASK, "constant_length", constant_length=1).sum(), 3.0)


def test_a_group_token_mean_needs_groups() -> None:
    with pytest.raises(ValueError, match="group_token_mean needs the group"):
        token_weights(V04_MASK, "group_token_mean")


@pytest.mark.parametrize("reduction", NORMALISED)
@given(mask=masks())
def test_means_have_weights_that_sum_to_one(reduction: Reduction, mask: Tensor) -> None:
    assert_close(weights_of(mask, reduction).sum(), 1.0)


@given(mask=masks())
def test_a_token_sum_counts_every_token_once_a_row(mask: Tensor) -> None:
    rows = mask.any(-1).sum()
    assert_close(token_weights(mask, "seq_mean_token_sum").sum() * rows, float(mask.sum()))


@given(mask=masks())
def test_a_mean_of_means_gives_every_row_that_trains_the_same_share(mask: Tensor) -> None:
    shares = token_weights(mask, "seq_mean_token_mean").sum(-1)
    trains = mask.any(-1)
    assert_close(shares, trains.double() / trains.sum())


@pytest.mark.parametrize("reduction", EVERY)
@given(mask=masks(any_trained=False))
def test_weights_are_positive_where_trained_and_zero_elsewhere(reduction: Reduction, mask: Tensor) -> None:
    weights = weights_of(mask, reduction)
    assert weights.dtype == torch.float64
    assert torch.equal(weights > 0, mask)
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("reduction", EVERY)
@given(mask=masks(), columns=st.integers(0, 5), rows=st.integers(0, 3))
def test_padding_and_untrained_rows_change_nothing(reduction: Reduction, mask: Tensor, columns: int, rows: int) -> None:
    bigger = torch.nn.functional.pad(mask, (0, columns, 0, rows), value=False)
    weights = weights_of(bigger, reduction)
    assert torch.equal(weights[: len(mask), : mask.shape[1]], weights_of(mask, reduction))
    assert weights.count_nonzero() == mask.sum()


@pytest.mark.parametrize("reduction", EVERY)
@given(mask=masks(), data=st.data())
def test_weights_move_with_their_rows(reduction: Reduction, mask: Tensor, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(mask))))
    group_ids = torch.arange(len(mask)) // 2
    moved = weights_of(mask[order], reduction, group_ids[order])
    assert torch.equal(moved, weights_of(mask, reduction, group_ids)[order])


@given(length=st.integers(1, 6), rows=st.integers(1, 6))
def test_reductions_agree_up_to_a_constant_when_lengths_are_equal(length: int, rows: int) -> None:
    mask = torch.ones(rows, length, dtype=torch.bool)
    token_mean = token_weights(mask, "token_mean")
    assert_close(token_weights(mask, "seq_mean_token_mean"), token_mean)
    assert_close(token_weights(mask, "seq_mean_token_sum"), length * token_mean)


def test_padding_goes_to_the_right() -> None:
    assert pad([f64([1, 2]), f64([3])]).tolist() == [[1, 2], [3, 0]]
    assert pad([f64([1]), f64([3, 4])], fill=-7.0).tolist() == [[1, -7], [3, 4]]


def test_what_is_masked_is_exactly_zero_whatever_stood_there() -> None:
    mask = mask_of([1, 2])
    infinite = f64([[1, math.inf], [2, 3]])
    assert masked(infinite, mask).tolist() == [[1, 0], [2, 3]]
    assert masked(f64([math.nan, 5]), torch.tensor([[False, False], [False, True]])).tolist() == [[0, 0], [0, 5]]
    assert masked(f64([1.5, -2]), mask).tolist() == [[1.5, 0], [-2, -2]]
    assert masked(torch.ones(2), mask).dtype == torch.float32


@given(mask=masks(any_trained=False))
def test_the_last_trained_token_of_a_row(mask: Tensor) -> None:
    found = last_trained(mask)
    for row, trained in zip(found.tolist(), mask.tolist(), strict=True):
        places = [t for t, is_trained in enumerate(trained) if is_trained]
        assert [t for t, is_last in enumerate(row) if is_last] == places[-1:]
