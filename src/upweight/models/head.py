"""From hidden states to log-probs without ever holding all the logits.

The full matrix of logits is [tokens, vocabulary], the largest tensor of a training step by far. Here it exists one
chunk at a time: the forward pass keeps only the log-normalizer of each token, and the backward pass computes each
chunk's logits again. Memory is bounded by `CHUNK_BYTES` whatever the vocabulary; time is one more matmul.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from upweight.objectives.tokens import logprobs_and_entropy

CHUNK_BYTES = 64 * 2**20


def token_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-prob of each token and entropy of its distribution softmax((W h + b) / temperature), both [n].

    `hidden` is [n, width], `weight` [vocabulary, width], `token_ids` [n]. The log-probs carry the gradient to hidden,
    weight and bias; the entropy is a measurement and carries none. Both are at least float32.
    """
    return _TokenLogprobs.apply(hidden, weight, bias, token_ids, temperature)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs, entropy = (torch.empty(len(hidden), dtype=dtype, device=hidden.device) for _ in range(2))
        for part in _chunks(len(hidden), weight, dtype):
            logits = _logits(hidden[part], weight, bias, temperature, dtype)
            logprobs[part], entropy[part] = logprobs_and_entropy(logits, token_ids[part])
        ctx.save_for_backward(hidden, weight, bias, token_ids)
        ctx.temperature, ctx.dtype = temperature, dtype
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for part in _chunks(len(hidden), weight, ctx.dtype):
            # d log softmax(z)[token] / dz = onehot(token) - softmax(z), and z = logits / temperature
            grad_logits = torch.softmax(_logits(hidden[part], weight, bias, ctx.temperature, ctx.dtype), -1).neg_()
            grad_logits[torch.arange(len(grad_logits), device=grad_logits.device), token_ids[part]] += 1
            grad_logits *= (grad_logprobs[part] / ctx.temperature)[:, None]
            grad_logits = grad_logits.to(weight.dtype)
            torch.mm(grad_logits, weight, out=grad_hidden[part])
            grad_weight.addmm_(grad_logits.t(), hidden[part])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, dtype: torch.dtype) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).to(dtype)
    return logits if temperature == 1.0 else logits.div_(temperature)


def _chunks(tokens: int, weight: Tensor, dtype: torch.dtype) -> list[slice]:
    size = max(1, CHUNK_BYTES // (len(weight) * dtype.itemsize))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
