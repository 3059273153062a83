"""Counter-based randomness: the numbers that decide a completion depend on its key and on nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upweight.types import SampleKey


def uniforms(key: SampleKey, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), float64: number t decides token t of the completion with this key.

    Philox keyed by a hash of the key, so neither batching nor refill nor the number of workers plays a part.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(tuple(key)))).random(count)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution, and its log-prob under that distribution.

    `logits` [rows, vocabulary], `uniform` [rows] in [0, 1). Temperature 0 takes the most likely token, whose
    log-prob is then 0. top_p and top_k renormalise what they keep; the most likely token is always kept.
    """
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros(len(tokens), dtype=logits.dtype)
    logprobs = torch.log_softmax(_truncate(logits / temperature, top_p, top_k), -1)
    cumulative = logprobs.double().exp().cumsum(-1)
    # Scaled by the total so that rounding cannot push u past the end; "right" never lands on a token of probability 0.
    tokens = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1)


def _truncate(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    if top_k > 0:
        floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits
