"""The chunked head against a plain log-softmax with autograd, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upweight.models import head

TOKENS, WIDTH, VOCABULARY = 7, 5, 11


def case(bias: bool) -> tuple[list[Tensor], Tensor, torch.Generator]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(TOKENS, WIDTH), (VOCABULARY, WIDTH)] + ([(VOCABULARY,)] if bias else [])
    leaves = [torch.randn(*shape, dtype=torch.float64, generator=draw).requires_grad_() for shape in shapes]
    return leaves, torch.randint(0, VOCABULARY, (TOKENS,), generator=draw), draw


def ours(leaves: list[Tensor], ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return head.token_logprobs(leaves[0], leaves[1], leaves[2] if len(leaves) > 2 else None, ids, temperature)


def plain(leaves: list[Tensor], ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logprobs = torch.log_softmax(torch.nn.functional.linear(*leaves) / temperature, -1)
    return logprobs.gather(-1, ids[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


@pytest.fixture(params=[1, 3, 100])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_BYTES", request.param * VOCABULARY * 8)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("used", ["logprobs", "entropy", "both"])
def test_values_and_gradients_are_those_of_log_softmax(bias: bool, temperature: float, used: str) -> None:
    leaves, ids, draw = case(bias)
    upstream = [torch.randn(TOKENS, dtype=torch.float64, generator=draw) for _ in range(2)]
    picked = {"logprobs": [0], "entropy": [1], "both": [0, 1]}[used]

    def gradients(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad([outputs[i] for i in picked], leaves, [upstream[i] for i in picked])

    mine, theirs = ours(leaves, ids, temperature), plain(leaves, ids, temperature)
    for x, y in zip([*mine, *gradients(mine)], [*theirs, *gradients(theirs)], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_finite_differences(bias: bool) -> None:
    leaves, ids, _ = case(bias)
    assert torch.autograd.gradcheck(lambda *leaves: ours(list(leaves), ids, 0.6), leaves, eps=1e-6, atol=1e-7)


def test_the_gradient_of_an_entropy_worked_by_hand() -> None:
    """V24: for p = (.5, .3, .2), H = 1.029653 and dH/dz = -p (log p + H)."""
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
    one = torch.ones(1, 1, dtype=torch.float64)
    _, entropy = head.token_logprobs(one, logits[:, None], None, torch.tensor([0]), 1.0)
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    assert entropy.item() == pytest.approx(1.029653, abs=1e-6)
    assert gradient.tolist() == pytest.approx([-0.168253, 0.052296, 0.115957], abs=1e-6)


def test_an_entropy_that_the_loss_leaves_out_costs_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, ids, _ = case(bias=True)
    logprobs, entropy = ours(leaves, ids, 1.0)
    assert entropy.requires_grad
    monkeypatch.setattr(torch, "log_softmax", lambda *_: pytest.fail("log p is only needed for the entropy's gradient"))
    logprobs.sum().backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)


def test_log_probs_alone_are_the_same_bits() -> None:
    leaves, ids, _ = case(bias=True)
    both, _ = ours(leaves, ids, 0.6)
    alone = head.token_logprobs_only(*leaves, ids, 0.6)
    assert torch.equal(alone, both)
    for mine, theirs in zip(*(torch.autograd.grad(x.sum(), leaves) for x in (alone, both)), strict=True):
        assert torch.equal(mine, theirs)


def test_a_scalar_head_does_not_round_its_answer() -> None:
    layer = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0]]))
        layer.bias.zero_()
    states = torch.tensor([[256.0, 0.5], [256.0, 0.25]], dtype=torch.bfloat16)
    assert head.scalar_head(states, layer).tolist() == [256.5, 256.25]
