"""How rows are laid out for a forward pass. Private to models: objectives never see it.

Rows are padded on the right. Attention is causal, so no real token can see the padding and no mask is needed.
Packed, several rows follow one another in one sequence; a row's positions begin at 0 again, and that is what tells
the model to part them: transformers then masks attention to the blocks of the diagonal, sliding windows included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from upweight.errors import UserError
from upweight.models.packing import first_fit_decreasing
from upweight.objectives.tokens import own_positions, predicting_positions

Positions = Literal["predicting", "own"]


def hidden_rows(
    model: PreTrainedModel,
    prompt_ids: Sequence[Tensor],
    token_ids: Sequence[Tensor],
    positions: Positions = "predicting",
    pad_multiple: int = 1,
    packing: bool = False,
) -> tuple[Tensor, int]:
    """The last hidden states that belong to the rows' completion tokens, row after row, and the tokens processed.

    The states are [sum T_i, width].

    `prompt_ids[i]` is [P_i], `token_ids[i]` is [T_i]. "predicting" is the state before each token is read, which
    scores it; "own" the state that has read it. The padded width is a multiple of `pad_multiple` where the model's
    context allows. With `packing`, short rows share a sequence no wider than that; see `check_packing`.
    """
    rows = [torch.cat(pair) for pair in zip(prompt_ids, token_ids, strict=True)]
    width = _padded_width(max(map(len, rows)), pad_multiple, context_length(model))
    bins = first_fit_decreasing([len(row) for row in rows], width) if packing else [[i] for i in range(len(rows))]
    ids, places, starts = _lay_out(rows, bins, width)
    hidden = model.base_model(
        input_ids=ids.to(model.device),
        position_ids=places.to(model.device) if packing else None,
        use_cache=False,
    ).last_hidden_state
    wanted = predicting_positions if positions == "predicting" else own_positions
    picked = [
        torch.tensor(wanted(len(prompt), len(tokens)), dtype=torch.long) + start
        for prompt, tokens, start in zip(prompt_ids, token_ids, starts, strict=True)
    ]
    return hidden.flatten(0, 1)[torch.cat(picked).to(hidden.device)], ids.numel()


def head_inputs(
    model: PreTrainedModel, hidden: Tensor, token_ids: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Hidden states, weight and bias of the output head, and the tokens to score: what `token_logprobs` begins with.

    The head computes in the type of the states.
    """
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    weight, bias = head.weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
    return hidden, weight, bias, torch.cat(list(token_ids)).to(hidden.device)


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """Raises UserError when rows that share a sequence can see one another in this model.

    Architectures without attention (state space models), and code that is not transformers' own, may not know that
    positions which begin again part the rows; training them packed would be a silent error.
    """
    one, two = torch.tensor([1, 2]), torch.tensor([3, 4])
    rows = [torch.tensor([1, 2, 3, 4]), one, two]
    changed = [rows[0], two, two]
    prompts = [row[:0] for row in rows]
    before, _ = hidden_rows(model, prompts, rows, "own", packing=True)
    after, _ = hidden_rows(model, prompts, changed, "own", packing=True)
    if not torch.equal(before[-len(two) :], after[-len(two) :]):
        raise UserError(
            f"{type(model).__name__} lets rows that share a sequence see one another: switch packing off for this model"
        )


def context_length(model: PreTrainedModel) -> int:
    """The longest sequence that the model can read, in tokens."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2**31)


def _padded_width(longest: int, pad_multiple: int, context: int) -> int:
    return max(longest, min(-(-longest // pad_multiple) * pad_multiple, context))


def _lay_out(rows: Sequence[Tensor], bins: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor, list[int]]:
    """Token ids and positions [bins, width], and where each row begins in the flattened sequences.

    Padding goes on counting where the last row of a bin ends: a sequence of one row then needs no mask.
    """
    ids = torch.zeros(len(bins), width, dtype=torch.long)
    places = torch.zeros(len(bins), width, dtype=torch.long)
    starts = [0] * len(rows)
    for i, members in enumerate(bins):
        offset = 0
        for row in members:
            end = offset + len(rows[row])
            ids[i, offset:end] = rows[row]
            places[i, offset:] = torch.arange(width - offset)
            starts[row] = i * width + offset
            offset = end
    return ids, places, starts
