"""Projections of a decoder block that read the same input, as one matrix each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from upweight.models.llama import Block


@dataclass(frozen=True)
class Fused:
    """One matrix product in place of several: weight [sum of outputs, inputs], and bias or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class FusedBlock:
    """A block whose q, k, v and whose gate, up are one product each."""

    parts: Block
    qkv: Fused
    gate_up: Fused


def fuse_block(block: Block) -> FusedBlock:
    """Fuses a block's projections in place: see `fuse`."""
    return FusedBlock(block, fuse([block.q, block.k, block.v]), fuse([block.gate, block.up]))


@torch.no_grad()
def fuse(linears: Sequence[nn.Linear]) -> Fused:
    """One weight for several layers, whose own parameters become views of it.

    What is copied into a layer's parameter is therefore in the fused weight at once, nothing is held twice, and the
    model itself goes on working. A decoding step makes 4 matrix products a layer instead of 7. gain: see docs/speed.md
    """
    weight = torch.cat([linear.weight for linear in linears])
    biases: list[Tensor] = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias for linear in linears
    ]
    bias = torch.cat(biases) if any(linear.bias is not None for linear in linears) else None
    start = 0
    for linear in linears:
        part = slice(start, start + linear.out_features)
        linear.weight = nn.Parameter(weight[part], requires_grad=linear.weight.requires_grad)
        if bias is not None and linear.bias is not None:
            linear.bias = nn.Parameter(bias[part], requires_grad=linear.bias.requires_grad)
        start = part.stop
    return Fused(weight, bias)
