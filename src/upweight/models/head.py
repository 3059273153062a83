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

from upweight.models.dense import linear
from upweight.objectives.tokens import logprobs_and_entropy

CHUNK_BYTES = 64 * 2**20


def token_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-prob of each token and entropy of its distribution softmax((W h + b) / temperature), both [n].

    `hidden` is [n, width], `weight` [vocabulary, width], `token_ids` [n]. Both carry the gradient to hidden, weight
    and bias, and both are at least float32. The entropy's gradient costs nothing where the loss does not use it.
    """
    logprobs, entropy = _TokenLogprobs.apply(hidden, weight, bias, token_ids, temperature, True)
    return logprobs, entropy


def token_logprobs_only(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, temperature: float
) -> Tensor:
    """The log-probs of `token_logprobs`, bit for bit, without the work for the entropy."""
    logprobs, _ = _TokenLogprobs.apply(hidden, weight, bias, token_ids, temperature, False)
    return logprobs


def scalar_head(hidden: Tensor, head: torch.nn.Linear) -> Tensor:
    """One number [n] for each state [n, width]: a value or a score, in float32 or better.

    Casting up before the product keeps the differences of near values, which a bfloat16 result would round away.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    bias = None if head.bias is None else head.bias.to(dtype)
    return torch.nn.functional.linear(hidden.to(dtype), head.weight.to(dtype), bias).squeeze(-1)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        entropy = torch.empty_like(logprobs) if with_entropy else None
        for part in _chunks(len(hidden), weight, dtype):
            logits = _logits(hidden[part], weight, bias, temperature, dtype)
            if entropy is None:
                chosen = logits.gather(-1, token_ids[part, None]).squeeze(-1)
                logprobs[part] = chosen - torch.logsumexp(logits, dim=-1)
            else:
                logprobs[part], entropy[part] = logprobs_and_entropy(logits, token_ids[part])
        ctx.save_for_backward(hidden, weight, bias, token_ids, entropy)
        ctx.temperature, ctx.dtype = temperature, dtype
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_logprobs is None and grad_entropy is None:
            return (None,) * 6
        hidden, weight, bias, token_ids, entropy = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for part in _chunks(len(hidden), weight, ctx.dtype):
            # z = logits / temperature, hence the division of what comes from above
            z = _logits(hidden[part], weight, bias, ctx.temperature, ctx.dtype)
            terms = []
            if grad_logprobs is not None:
                terms.append(_logprob_gradient(z, token_ids[part], grad_logprobs[part] / ctx.temperature))
            if grad_entropy is not None:
                terms.append(_entropy_gradient(z, entropy[part], grad_entropy[part] / ctx.temperature))
            grad_logits = (terms[0] if len(terms) == 1 else terms[0].add_(terms[1])).to(weight.dtype)
            torch.mm(grad_logits, weight, out=grad_hidden[part])
            grad_weight.addmm_(grad_logits.t(), hidden[part])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _logprob_gradient(logits: Tensor, token_ids: Tensor, upstream: Tensor) -> Tensor:
    """Upstream times d log softmax(z)[token] / dz = onehot(token) - softmax(z)."""
    gradient = torch.softmax(logits, -1).neg_()
    gradient[torch.arange(len(gradient), device=gradient.device), token_ids] += 1
    return gradient.mul_(upstream[:, None])


def _entropy_gradient(logits: Tensor, entropy: Tensor, upstream: Tensor) -> Tensor:
    """Upstream times dH / dz = -p (log p + H), with p = softmax(z)."""
    log_p = torch.log_softmax(logits, -1)
    return (log_p + entropy[:, None]).mul_(log_p.exp_()).mul_(-upstream[:, None])


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, dtype: torch.dtype) -> Tensor:
    logits = linear(hidden, weight, bias).to(dtype)
    return logits if temperature == 1.0 else logits.div_(temperature)


def _chunks(tokens: int, weight: Tensor, dtype: torch.dtype) -> list[slice]:
    size = max(1, CHUNK_BYTES // (len(weight) * dtype.itemsize))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
