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

Tokens = Float[Tensor, "rows T"]
Mask = Bool[Tensor, "rows T"]
Rows = Float[Tensor, " rows"]

TokenReduction = Literal[
    "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant_length", "group_token_mean"
]
Reduction = Literal[TokenReduction, "row_mean", "unit_mean"]
TOKEN_REDUCTIONS: tuple[str, ...] = get_args(TokenReduction)
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


def predicting_positions(prompt_length: int, completion_length: int) -> range:
    """Positions whose logits score the completion tokens: p - 1 .. p + T - 2 for a prompt of p tokens.

    The state *before* a token is also what a critic values. Raises ValueError for an empty prompt, since nothing
    would predict the first token (vector V34).
    """
    if prompt_length < 1:
        raise ValueError("a completion needs at least one prompt token before it")
    return range(prompt_length - 1, prompt_length + completion_length - 1)


def own_positions(prompt_length: int, completion_length: int) -> range:
    """Positions of the completion tokens themselves, p .. p + T - 1: where a prefix that ends with one is scored."""
    return range(prompt_length, prompt_length + completion_length)


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


def masked(values: Float[Tensor, " rows *tokens"], loss_mask: Mask) -> Tokens:
    """`values` where the mask is True and exactly 0 elsewhere, whatever stands there; [rows] is first spread over T."""
    spread_out = values if values.dim() == 2 else values[:, None]
    return torch.where(loss_mask, spread_out, torch.zeros((), dtype=values.dtype, device=values.device))


def last_trained(loss_mask: Mask) -> Mask:
    """True at the last trained token of each row and nowhere else; a row that trains nothing has none."""
    trained_from_here = loss_mask.flip(-1).cumsum(-1).flip(-1)
    return loss_mask & (trained_from_here == 1)


def token_weights(
    loss_mask: Mask,
    reduction: Reduction,
    group_ids: Int[Tensor, " rows"] | None = None,
    constant_length: int | None = None,
) -> Tokens:
    """The weight of every token of one optimizer step, in float64; 0 where the mask is False.

    With T_i trained tokens in row i, N rows that have any, and P groups that have any:

    - `token_mean`: 1 / sum_j T_j;
    - `seq_mean_token_mean`: 1 / (N T_i), the paper's GRPO;
    - `seq_mean_token_sum`: 1 / N, REINFORCE;
    - `constant_length`: 1 / (N L) with L = `constant_length`, Dr. GRPO;
    - `group_token_mean`: 1 / (P sum of T_j over the row's group), DAPO's equation read literally.

    `loss_mask` must hold *all* rows of the step, every micro-batch and rank: the loss is then
    `(weights * per_token_loss).sum()` and its pieces are added, never averaged. Rows without a trained token are
    not counted in N. All-zero weights when nothing is trained. Raises ValueError for a reduction that is not of
    tokens, and where the group ids or the constant length that it needs are missing.
    """
    trained = loss_mask.sum(-1, keepdim=True).double()
    rows = (trained > 0).sum().double()
    if reduction == "token_mean":
        divisor = trained.sum()
    elif reduction == "seq_mean_token_mean":
        divisor = rows * trained
    elif reduction == "seq_mean_token_sum":
        divisor = rows
    elif reduction == "constant_length":
        if constant_length is None or constant_length < 1:
            raise ValueError(f"constant_length needs a length of at least 1, not {constant_length}")
        divisor = rows * constant_length
    elif reduction == "group_token_mean":
        if group_ids is None:
            raise ValueError("group_token_mean needs the group of each row")
        divisor = _group_divisor(trained, group_ids)
    else:
        raise ValueError(f"{reduction!r} is not a reduction of tokens; known: {', '.join(TOKEN_REDUCTIONS)}")
    # A divisor of 0 belongs to tokens that are not trained.
    return masked((1.0 / divisor).expand(len(loss_mask), 1), loss_mask)


def _group_divisor(trained: Float[Tensor, "rows 1"], group_ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows 1"]:
    ids, index = torch.unique(group_ids, return_inverse=True)
    totals = trained.new_zeros(len(ids), 1).index_add(0, index, trained)
    return (totals > 0).sum() * totals[index]
