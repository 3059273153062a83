"""The second law: the gradient of a step does not depend on how the step is cut up.

Driven from the table of presets: a new row is covered without a new test. float64; the measure is the norm of the
difference over the norm of the gradient.
"""

from __future__ import annotations

import pytest
import torch

from tests.contract import tiny
from upweight.algorithms import PRESETS, Term
from upweight.learners.gloo import GlooLearner
from upweight.objectives.tokens import pad, token_weights
from upweight.types import Annotated, annotated
from upweight.update import annotate, weights_of

TOLERANCE = 1e-12
ROWS = 8


def prepared(name: str) -> tuple[tuple[Term, ...], Annotated, dict]:
    method = tiny.every_term(name)
    teacher = tiny.learner(method.active_terms())
    rows = annotate(teacher, method, tiny.batch(ROWS), extra=("ref_logprobs",))
    rows = tiny.with_old_logprobs(annotated(rows, {"old_logprobs": teacher.score(rows, "policy")}))
    return method.active_terms(), rows, weights_of(method, rows)


def gradient_of(learner, rows, weights) -> torch.Tensor:
    learner.step(rows, weights)
    return tiny.gradient(learner)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("budget", [1, 40, 90, 10**6])
@pytest.mark.parametrize("pad_multiple", [1, 7, 64])
def test_microbatches_and_padding(name: str, budget: int, pad_multiple: int) -> None:
    terms, rows, weights = prepared(name)
    whole = gradient_of(tiny.learner(terms), rows, weights)
    cut = tiny.learner(terms, tokens_per_microbatch=budget, pad_multiple=pad_multiple)
    assert whole.norm() > 1e-3
    assert relative(gradient_of(cut, rows, weights), whole) < TOLERANCE


@pytest.mark.parametrize("name", PRESETS)
def test_row_order(name: str) -> None:
    terms, rows, weights = prepared(name)
    whole = gradient_of(tiny.learner(terms), rows, weights)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(5)).tolist()
    moved = {term: [column[i] for i in order] for term, column in weights.items()}
    shuffled = tiny.learner(terms, tokens_per_microbatch=60)
    assert relative(gradient_of(shuffled, rows.select(order), moved), whole) < TOLERANCE


@pytest.mark.parametrize("name", PRESETS)
def test_two_ranks(name: str) -> None:
    terms, rows, weights = prepared(name)
    whole_learner = tiny.learner(terms)
    alone = whole_learner.step(rows, weights)
    whole = tiny.gradient(whole_learner)
    pair = GlooLearner(tiny.factory(name), ranks=2)
    try:
        together = pair.step(rows, weights)
        assert relative(tiny.gradient(pair), whole) < TOLERANCE
        assert together.loss == pytest.approx(alone.loss, abs=1e-12)
        for mine, theirs in zip(alone.logprobs, together.logprobs, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        scores = zip(pair.score(rows, "reference"), rows.token_columns["ref_logprobs"], strict=True)
        for one, other in scores:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    finally:
        pair.close()


def test_a_denominator_per_microbatch_is_caught() -> None:
    """The commonest bug of the field, planted: each micro-batch divided by its own tokens."""
    method = tiny.every_term("sft")
    terms, rows, weights = prepared("sft")
    whole = gradient_of(tiny.learner(terms), rows, weights)
    wrong = tiny.learner(terms)
    wrong.zero_grad()
    for half in (list(range(ROWS // 2)), list(range(ROWS // 2, ROWS))):
        piece = rows.select(half)
        local = token_weights(pad(piece.loss_mask).bool(), method.terms[0].reduction) / 2
        own = {"policy": [local[i, :n] for i, n in enumerate(piece.lengths())]}
        wrong.backward(piece, own, [[i] for i in range(len(piece))])
    assert relative(tiny.gradient(wrong), whole) > 1e-3
