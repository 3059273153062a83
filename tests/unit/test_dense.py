"""The products of oneDNN against those of PyTorch, in both passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from upweight.models import dense


def both(shape: tuple[int, ...], outputs: int, with_bias: bool, grad: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Result and gradients by `dense.linear` in float32, and by PyTorch in float64."""
    found = []
    for kind, linear in ((torch.float32, dense.linear), (torch.float64, functional.linear)):
        generator = torch.Generator().manual_seed(3)
        made = [
            torch.randn(s, generator=generator)
            for s in (shape, (outputs, shape[-1]), (outputs,), (*shape[:-1], outputs))
        ]
        x, weight, bias, upstream = (tensor.to(kind).requires_grad_(grad) for tensor in made)
        inputs = [x, weight, bias] if with_bias else [x, weight]
        result = linear(*inputs)
        found.append([result, *(torch.autograd.grad(result, inputs, upstream) if grad else ())])
    return found[0], found[1]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(64, 256), (2, 40, 256), (3, 16)])
def test_results_and_gradients(
    shape: tuple[int, ...], with_bias: bool, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "PAYS_FROM", 0)
    for ours, exact in zip(*both(shape, 96, with_bias, grad), strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == exact.shape
        assert (ours.double() - exact).norm() < 1e-6 * exact.norm()


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    x, weight = torch.randn(128, 128), torch.randn(256, 128, requires_grad=True)
    dense.linear(x, weight).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, x.sum(0).expand(256, -1), atol=1e-3)


@pytest.mark.skipif(not dense._AVAILABLE, reason="this PyTorch has no oneDNN")
def test_where_it_is_used() -> None:
    x, weight = torch.randn(128, 128), torch.randn(64, 128)
    assert dense._pays(x, weight)
    assert not dense._pays(x[:127], weight)
    assert not dense._pays(x.double(), weight.double())
    assert not dense._pays(x.bfloat16(), weight.bfloat16())
