"""Laws that every row of the table of algorithms must keep: derivatives, and one loss however the step is cut."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.math.reference import assert_close, f64, gradient, mask_of
from upweight.algorithms import PRESETS, Algorithm, Term
from upweight.objectives.tokens import logprobs_and_entropy, token_weights

LENGTHS = [3, 1, 4, 2]
MASK = mask_of(LENGTHS)
VOCABULARY = 5
TERMS = [pytest.param(term, id=f"{method.name}-{term.name}") for method in PRESETS.values() for term in method.terms]
METHODS = [pytest.param(method, id=method.name) for method in PRESETS.values()]

# log(pi / old) of the tokens: every side of a clip at 0.2 is visited, and none sits on an edge.
LOG_RATIOS = f64([-0.9, -0.3, -0.1, 0.05, 0.12, 0.3, 0.7, -0.2, 0.25, 0.0, -0.5, 0.4, 0.1, -0.05, 0.6, -0.15])


def problem() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits [rows, T, vocabulary], the sampled tokens, and the constant columns, all made from one seed."""
    generator = torch.Generator().manual_seed(7)
    shape = (len(LENGTHS), max(LENGTHS))
    logits = torch.randn(*shape, VOCABULARY, generator=generator, dtype=torch.float64)
    tokens = torch.randint(VOCABULARY, shape, generator=generator)
    logprobs = score(logits, tokens)
    signs = f64([1.3, -0.7, 0.4, -1.9])[:, None].expand(shape)
    alternating = f64([1, -1, 1, 1]).expand(shape)
    columns = {
        "old_logprobs": logprobs - LOG_RATIOS.view(shape),
        "behavior_logprobs": logprobs - 0.5 * LOG_RATIOS.view(shape),
        "ref_logprobs": logprobs + torch.randn(shape, generator=generator, dtype=torch.float64),
        "advantages": signs * alternating,
    }
    return logits, tokens, columns


def score(logits: Tensor, tokens: Tensor) -> Tensor:
    return logprobs_and_entropy(logits.reshape(-1, VOCABULARY), tokens.reshape(-1))[0].view(tokens.shape)


def finite_difference(function: object, at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a scalar function, one coordinate at a time."""
    slope = torch.zeros_like(at)
    for index in range(at.numel()):
        nudge = torch.zeros_like(at).view(-1)
        nudge[index] = step
        nudge = nudge.view_as(at)
        slope.view(-1)[index] = (function(at + nudge) - function(at - nudge)) / (2 * step)  # type: ignore[operator]
    return slope


@pytest.mark.parametrize("term", TERMS)
def test_each_term_descends_along_its_finite_difference(term: Term) -> None:
    logits, tokens, columns = problem()
    weights = token_weights(MASK, term.reduction)

    def loss(at: Tensor) -> Tensor:
        return (weights * term.loss({**columns, "logprobs": score(at, tokens)})).sum()

    leaf = logits.clone().requires_grad_()
    exact = gradient(loss(leaf), leaf)
    assert_close(exact, finite_difference(loss, logits), 1e-6)
    assert exact[MASK].abs().max() > 1e-3, "a gradient that vanishes everywhere would prove nothing"
    assert exact[~MASK].count_nonzero() == 0


def test_log_prob_and_entropy_follow_their_finite_differences() -> None:
    logits, tokens, _ = problem()
    flat, chosen = logits.reshape(-1, VOCABULARY)[:4], tokens.reshape(-1)[:4]
    for output in (0, 1):

        def total(at: Tensor, output: int = output) -> Tensor:
            return logprobs_and_entropy(at, chosen)[output].sum()

        leaf = flat.clone().requires_grad_()
        assert_close(gradient(total(leaf), leaf), finite_difference(total, flat), 1e-6)


def step_gradient(method: Algorithm, pieces: list[list[int]], whole_step: bool = True) -> Tensor:
    """The gradient summed over pieces of the step; `whole_step=False` plants a denominator of each piece's own."""
    logits, tokens, constants = problem()
    leaf = logits.requires_grad_()
    columns = {**constants, "logprobs": score(leaf, tokens)}

    def piece_loss(rows: list[int]) -> Tensor:
        part: Mapping[str, Tensor] = {name: column[rows] for name, column in columns.items()}
        weighed = [
            term.coefficient
            * (
                (token_weights(MASK, term.reduction)[rows] if whole_step else token_weights(MASK[rows], term.reduction))
                * term.loss(part)
            ).sum()
            for term in method.active_terms()
        ]
        return torch.stack(weighed).sum()

    return gradient(torch.stack([piece_loss(rows) for rows in pieces]).sum(), leaf)


CUTS = [[[0], [1], [2], [3]], [[3, 1], [0, 2]], [[2, 0, 1], [3]]]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_has_one_gradient_however_it_is_cut(method: Algorithm, cut: list[list[int]]) -> None:
    whole = step_gradient(method, [[0, 1, 2, 3]])
    assert (step_gradient(method, cut) - whole).norm() <= 1e-12 * whole.norm()


@pytest.mark.parametrize("method", METHODS)
def test_a_denominator_of_the_micro_batch_would_be_noticed(method: Algorithm) -> None:
    whole = step_gradient(method, [[0, 1, 2, 3]])
    planted = step_gradient(method, CUTS[0], whole_step=False)
    assert (planted - whole).norm() > 0.1 * whole.norm()
