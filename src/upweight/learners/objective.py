"""The objective of some rows, differentiated with respect to what the model said of them.

Minus that derivative is the *push*: the weight on grad log pi of each token, the only thing that the model's own
backward pass needs, and the number that every method reduces to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from upweight.algorithms import Term
from upweight.columns import first_of_units, padded_columns, ragged, with_pairs
from upweight.objectives.tokens import pad
from upweight.types import Batch

Ragged = Sequence[Tensor]


def differentiate(
    terms: Sequence[Term], rows: Batch, outputs: Mapping[str, Ragged], weights: Mapping[str, Ragged]
) -> tuple[dict[str, float], dict[str, dict[str, list[Tensor]]]]:
    """Each term's share of the loss, and pushes[term][output] for every output of the model that the term reads.

    Where no pass was made to find the old log-probs, this is the first step on the batch: old is current.
    """
    leaves = {name: pad([row.detach() for row in column]).requires_grad_() for name, column in outputs.items()}
    like = next(iter(leaves.values()))
    columns = {name: _as(like, column) for name, column in padded_columns(rows).items()}
    if "logprobs" in leaves:
        columns.setdefault("old_logprobs", leaves["logprobs"].detach())
    columns = with_pairs({**columns, **leaves})
    losses: dict[str, float] = {}
    pushes: dict[str, dict[str, list[Tensor]]] = {}
    for term in terms:
        loss = (_weights(term, rows, weights[term.name]).to(like) * term.loss(columns)).sum()
        losses[term.name] = loss.item()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        found = {name: g for name, g in zip(leaves, gradients, strict=True) if g is not None}
        pushes[term.name] = {name: ragged(-g, rows.lengths()) for name, g in found.items()}
    return losses, pushes


def total_pushes(pushes: Mapping[str, Mapping[str, Ragged]]) -> dict[str, Tensor]:
    """The sum of all terms' pushes for each output of the model, flat over the tokens of all rows."""
    total: dict[str, Tensor] = {}
    for by_output in pushes.values():
        for name, column in by_output.items():
            flat = torch.cat(list(column))
            total[name] = total[name] + flat if name in total else flat
    return total


def _weights(term: Term, rows: Batch, column: Ragged) -> Tensor:
    if term.level == "token":
        return pad(column)
    by_row = torch.cat(list(column))
    return by_row if term.level == "row" else by_row[first_of_units(rows.unit_ids)]


def _as(like: Tensor, column: Tensor) -> Tensor:
    return column.to(like) if column.is_floating_point() else column.to(like.device)
