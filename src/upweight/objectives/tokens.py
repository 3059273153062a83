"""Positions, log-probs and weights of tokens: the only place that knows of the next-token shift.

Everywhere else `x[b, t]` belongs to token `t` of row `b`. A completion token at position p of a sequence is scored
by the hidden state at position p - 1; `predicting_positions` says so once, and no other module shifts anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Reduction = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


def predicting_positions(prompt_length: int, completion_length: int) -> range:
    """Positions whose logits score the completion tokens: p - 1 .. p + T - 2 for a prompt of p tokens.

    Raises ValueError for an empty prompt, since nothing would predict the first token (vector V34).
    """
    if prompt_length < 1:
        raise ValueError("a completion needs at least one prompt token before it")
    return range(prompt_length - 1, prompt_length + completion_length - 1)


def logprobs_and_entropy(
    logits: Float[Tensor, "n vocab"], token_ids: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """log softmax(z)[token] and H(softmax(z)) = log Z - sum_v p_v z_v, in nats, for each row of logits."""
    normalizer = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(-1, token_ids[:, None]).squeeze(-1) - normalizer
    probabilities = torch.exp(logits - normalizer[:, None])
    return logprobs, normalizer - (probabilities * logits).sum(-1)


def pad(rows: Sequence[Tensor], fill: float = 0) -> Tensor:
    """Ragged rows [T_i] as one tensor [N, max T], filled on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def token_weights(loss_mask: Bool[Tensor, "rows T"], reduction: Reduction) -> Float[Tensor, "rows T"]:
    """The weight of every token of one optimizer step, in float64; 0 where the mask is False.

    With T_i trained tokens in row i and N rows that have any:

    - `token_mean`: 1 / sum_j T_j;
    - `seq_mean_token_mean`: 1 / (N T_i), the paper's GRPO;
    - `seq_mean_token_sum`: 1 / N, REINFORCE.

    `loss_mask` must hold *all* rows of the step, every micro-batch and rank: the loss is then
    `(weights * per_token_loss).sum()` and its pieces are added, never averaged. Rows without a trained token are
    not counted in N. All-zero weights when nothing is trained.
    """
    trained = loss_mask.sum(-1, keepdim=True).double()
    rows = (trained > 0).sum().double()
    if reduction == "token_mean":
        per_token = 1.0 / trained.sum().clamp(min=1)
    elif reduction == "seq_mean_token_mean":
        per_token = 1.0 / (rows.clamp(min=1) * trained.clamp(min=1))
    elif reduction == "seq_mean_token_sum":
        per_token = 1.0 / rows.clamp(min=1)
    else:
        raise ValueError(f"unknown reduction {reduction!r}; known: {', '.join(REDUCTIONS)}")
    return torch.where(loss_mask, per_token, torch.zeros((), dtype=torch.float64))
