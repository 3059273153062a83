"""The proof that a forward pass of our own computes what transformers computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from upweight.models.forward import context_length

PROBE_TOKENS = 12
# Norm-wise relative. Rounding alone stays a tenth of these or less; a block of another kind differs by more.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@torch.no_grad()
def agrees(model: PreTrainedModel, forward: Callable[[Tensor], Tensor]) -> bool:
    """Whether `forward` gives the logits of the last positions of a probe as the model itself does.

    `forward` takes ids [tokens] and returns logits [positions, vocabulary] of as many last positions as it likes.
    """
    tokens = min(PROBE_TOKENS, context_length(model))
    ids = torch.arange(tokens, device=model.device) % model.config.get_text_config().vocab_size
    expected = model(input_ids=ids[None], use_cache=False).logits[0]
    actual = forward(ids)
    expected = expected[-len(actual) :].to(actual.dtype)
    return bool((actual - expected).norm() <= TOLERANCE[model.dtype] * expected.norm())
