"""The chunked head against a plain log-softmax with autograd."""

from __future__ import annotations

import pytest
import torch

from upweight.models import head


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_values_and_gradients_are_those_of_log_softmax(
    bias: bool, chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    tokens, width, vocabulary, temperature = 7, 5, 11, 0.6
    monkeypatch.setattr(head, "CHUNK_BYTES", chunk_tokens * vocabulary * 8)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw).requires_grad_()

    leaves = [leaf(tokens, width), leaf(vocabulary, width)] + ([leaf(vocabulary)] if bias else [])
    ids = torch.randint(0, vocabulary, (tokens,), generator=draw)
    upstream = torch.randn(tokens, dtype=torch.float64, generator=draw)

    def gradients(logprobs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(logprobs, leaves, upstream)

    offset = leaves[2] if bias else None
    ours, entropy = head.token_logprobs(leaves[0], leaves[1], offset, ids, temperature)
    plain = torch.log_softmax(torch.nn.functional.linear(leaves[0], leaves[1], offset) / temperature, -1)
    torch.testing.assert_close(ours, plain.gather(-1, ids[:, None])[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1).detach(), rtol=0, atol=1e-12)
    expected = gradients(plain.gather(-1, ids[:, None])[:, 0])
    for mine, theirs in zip(gradients(ours), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
