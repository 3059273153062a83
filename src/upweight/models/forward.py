"""How rows are laid out for a forward pass. Private to models: objectives never see it.

Rows are padded on the right. Attention is causal, so no real token can see the padding and no mask is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from upweight.models.head import token_logprobs
from upweight.objectives.tokens import predicting_positions


def score_rows(
    model: PreTrainedModel,
    prompt_ids: Sequence[Tensor],
    token_ids: Sequence[Tensor],
    temperature: float,
    pad_multiple: int = 1,
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probs (with gradient) and entropies of each row's completion tokens, ragged: [T_i] each.

    `prompt_ids[i]` is [P_i], `token_ids[i]` is [T_i]. The padded width is a multiple of `pad_multiple`.
    """
    rows = [torch.cat(pair) for pair in zip(prompt_ids, token_ids, strict=True)]
    longest = max(map(len, rows))
    width = max(longest, min(-(-longest // pad_multiple) * pad_multiple, context_length(model)))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    hidden = model.base_model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
    lengths = [len(tokens) for tokens in token_ids]
    positions = [
        torch.tensor(predicting_positions(len(prompt), length)) + i * width
        for i, (prompt, length) in enumerate(zip(prompt_ids, lengths, strict=True))
    ]
    picked = hidden.flatten(0, 1)[torch.cat(positions).to(hidden.device)]
    head = model.get_output_embeddings()
    targets = torch.cat(list(token_ids)).to(hidden.device)
    logprobs, entropy = token_logprobs(picked, head.weight, getattr(head, "bias", None), targets, temperature)
    return list(logprobs.split(lengths)), list(entropy.split(lengths))


def context_length(model: PreTrainedModel) -> int:
    """The longest sequence that the model can read, in tokens."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2**31)
