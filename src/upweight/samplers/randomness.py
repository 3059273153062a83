"""Counter-based randomness: the numbers that decide a completion depend on its key and on nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upweight.types import SampleKey

BLOCK = 512  # tokens of a vocabulary whose probabilities are summed before any of them is looked at singly


def uniforms(key: SampleKey, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), float64: number t decides token t of the completion with this key.

    Philox keyed by a hash of the key, so neither batching nor refill nor the number of workers plays a part.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(tuple(key)))).random(count)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution, and its log-prob under that distribution.

    `logits` [rows, vocabulary], which are overwritten, `uniform` [rows] in [0, 1). Temperature 0 takes the most likely
    token, whose log-prob is then 0. top_p and top_k renormalise what they keep; the most likely token is always kept.
    """
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros(len(tokens), dtype=logits.dtype, device=logits.device)
    if temperature != 1:
        logits.div_(temperature)
    # In place: the pages of a new [rows, vocabulary] tensor cost several times the arithmetic.
    probabilities = torch.softmax(_truncate(logits, top_p, top_k), -1, out=logits)
    tokens = invert(probabilities, uniform)
    return tokens, probabilities.gather(1, tokens[:, None])[:, 0].log_()


def invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token [rows] at which the cumulative distribution of each row passes `uniform`.

    In two steps, so that no cumulative sum over the vocabulary is made: over blocks of tokens, then within one block.
    """
    vocabulary = probabilities.shape[1]
    if vocabulary <= 2 * BLOCK:
        return _passes(probabilities, uniform)[0]
    whole = vocabulary // BLOCK * BLOCK
    sums = probabilities[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < vocabulary:
        sums = torch.cat([sums, probabilities[:, whole:].sum(-1, keepdim=True)], dim=1)
    block, rest = _passes(sums, uniform)
    columns = block[:, None] * BLOCK + torch.arange(BLOCK, device=block.device)
    inside = probabilities.gather(1, columns.clamp(max=vocabulary - 1)).masked_fill_(columns >= vocabulary, 0)
    return block * BLOCK + _passes(inside, rest)[0]


def _passes(weights: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Where the cumulative sum of each row of `weights` passes a share of its total, and how far into that weight.

    The second result is again a share in [0, 1). Never a place of weight 0: below the total, the first sum that is
    greater than the target ends with a positive weight.
    """
    sums = weights.cumsum(-1, dtype=torch.float64)
    total = sums[:, -1:]
    target = torch.minimum(share[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(sums, target, right=True)
    weight = weights.gather(1, place).double()
    into = (target - (sums.gather(1, place) - weight)) / weight
    return place[:, 0], into[:, 0].clamp_(0, 1 - 2**-53)


def _truncate(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    if top_k > 0:
        floor = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits
