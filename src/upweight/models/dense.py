"""Matrix products of float32 by oneDNN, where the library that PyTorch would take is slower.

PyTorch hands them to MKL, which uses AVX-512 on Intel processors only: on an AMD EPYC that has it, oneDNN is 2.0 to 2.3
times as fast from 64 rows on, forward and backward, at the same precision (gain: see docs/speed.md). In bfloat16
PyTorch takes oneDNN by itself. The rule looks at shapes alone, never at a clock: a run rounds alike twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

PAYS_FROM = 2**20  # multiplications; with fewer, oneDNN's preparation of a call costs more than it gains

PACKED_PAYS_FROM = 2**19  # the same with a packed weight; in bfloat16 it always pays
PACKED_FOR = 64  # rows that a packed weight's layout is chosen for
Product = Callable[[Tensor], Tensor]

# What `torch.compile` calls for a linear layer on a CPU. It is not public: without it, everything is as it would be.
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, as `torch.nn.functional.linear`. `x` is [..., inputs], `weight` [outputs, inputs]."""
    if not _pays(x, weight):
        return functional.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def packed(weight: Tensor, bias: Tensor | None) -> Product:
    """x -> x weight^T + bias without gradient, the weight copied into the layout that oneDNN reads.

    With few rows, as at decode, most of a product's time goes into that layout. Where oneDNN has none for a weight, the
    product is `linear`, which reads the weight itself. Gain: see docs/speed.md.
    """
    if not (_AVAILABLE and weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)):
        return lambda x: linear(x, weight, bias)
    own = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR)
    least = PACKED_PAYS_FROM if weight.dtype == torch.float32 else 0
    return lambda x: _product(x, own, bias) if x.numel() * len(weight) >= least else functional.linear(x, weight, bias)


def _pays(x: Tensor, weight: Tensor) -> bool:
    return (
        _AVAILABLE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= PAYS_FROM
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """dx = g W, dW = g^T x, db = sum of g over rows."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        return (
            _product(grad, weight.t()) if wants_x else None,
            _product(rows.t(), inputs.t()) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )
