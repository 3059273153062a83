"""Laws that every row of the table of methods must keep, through the very function that the learner calls.

The push of a token is minus the derivative of the loss with respect to what the model said of it: checked against
finite differences for every preset with every term on, and for every choice that one of its options has.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.contract import tiny
from tests.math.numeric import finite_difference
from upweight.algorithms import Algorithm
from upweight.columns import ragged
from upweight.learners.objective import differentiate, total_pushes
from upweight.objectives import policy
from upweight.presets import PRESETS
from upweight.types import Annotated, annotated
from upweight.update import weights_of


def problem(method: Algorithm) -> tuple[Annotated, dict[str, Tensor]]:
    """Rows with every column that a term may read, some way from the current outputs, and those outputs, padded."""
    rows = tiny.batch_for(method, rows=4, seed=2)
    draw = torch.Generator().manual_seed(9)
    shape = (len(rows), max(rows.lengths()))

    def numbers(scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=draw, dtype=torch.float64)

    logprobs = -0.2 - numbers(0.7).abs()
    constants = {
        "old_logprobs": logprobs + numbers(0.3),
        "ref_logprobs": logprobs + numbers(0.6),
        "advantages": numbers(1.0),
        "old_values": numbers(0.5),
        "returns": numbers(1.0),
    }
    columns = {name: ragged(column, rows.lengths()) for name, column in constants.items()}
    rows = annotated(rows, columns)
    rows.row_columns["reference_point"] = torch.full((len(rows),), 0.3, dtype=torch.float64)  # type: ignore[index]
    if method.model == "reward":
        return rows, {"scores": numbers(1.0)}
    outputs = {"logprobs": logprobs, "entropy": numbers(1.0).abs()}
    return rows, outputs | ({"values": constants["old_values"] + numbers(0.4)} if method.critic else {})


# Their ratio is a constant of the gradient but not of the value; test_gradients holds it fixed.
WITH_A_FIXED_RATIO = (policy.cispo, policy.sequence_token_surrogate)
EXACT = [name for name in PRESETS if PRESETS[name].terms[0].loss.function not in WITH_A_FIXED_RATIO]


@pytest.mark.parametrize("name", EXACT)
def test_pushes_are_minus_the_finite_differences_of_the_loss(name: str) -> None:
    for method in tiny.variants(name):
        rows, outputs = problem(method)
        terms, weights, lengths = method.active_terms(), weights_of(method, rows), rows.lengths()

        def loss(values: dict[str, Tensor]) -> Tensor:
            columns = {output: ragged(value, lengths) for output, value in values.items()}  # noqa: B023
            return torch.tensor(sum(differentiate(terms, rows, columns, weights)[0].values()), dtype=torch.float64)  # noqa: B023

        _, pushes = differentiate(terms, rows, {k: ragged(v, lengths) for k, v in outputs.items()}, weights)
        total = total_pushes(pushes)
        assert any(push.abs().max() > 1e-3 for push in total.values()), tiny.shown(method)
        if method.options() == tiny.every_term(name).options() or "kl_estimator" in tiny.shown(method):
            for output, push in total.items():
                slope = finite_difference(lambda x, o=output: loss({**outputs, o: x}), outputs[output])  # noqa: B023
                flat = torch.cat(ragged(slope, lengths))
                torch.testing.assert_close(push, -flat, rtol=0, atol=1e-6, msg=tiny.shown(method))


@pytest.mark.parametrize("name", PRESETS)
def test_tokens_outside_the_mask_get_no_push(name: str) -> None:
    method = tiny.every_term(name)
    rows, outputs = problem(method)
    _, pushes = differentiate(
        method.active_terms(),
        rows,
        {k: ragged(v, rows.lengths()) for k, v in outputs.items()},
        weights_of(method, rows),
    )
    mask = torch.cat(list(rows.loss_mask))
    for push in total_pushes(pushes).values():
        assert push[~mask].count_nonzero() == 0
        assert push[mask].count_nonzero() > 0
