"""The layers of a Llama-family model on a stream of tokens, for sampling: few operations, and attention left open.

Matrix products and attention are made in the model's type; the sum that runs through the layers, its norms and the
logits are float32 or better. That costs nothing at decode, where a norm of bfloat16 converts both ways anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, silu

from upweight.models.dense import Product, packed
from upweight.models.llama import Blocks, Norm
from upweight.samplers.fusion import FusedBlock, fuse_block

# Attention of one layer: (layer, heads [tokens, heads + 2 kv_heads, size], rotated) -> [tokens, heads * size].
Attend = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Products:
    """The matrix products of a block, their weights packed."""

    qkv: Product
    o: Product
    gate_up: Product
    down: Product


class Layers:
    """Weights and how they are applied. Packed copies of the matrices are what is read: `refresh` follows a change."""

    def __init__(self, blocks: Blocks, head: nn.Linear) -> None:
        self.shape, self.head = blocks, head
        self.dtype, self.device = blocks.embedding.weight.dtype, blocks.embedding.weight.device
        self.wide = torch.promote_types(self.dtype, torch.float32)
        self.blocks = [fuse_block(block) for block in blocks.layers]
        self.refresh()
        self._angles = self._angle_table(1)
        self._eps = torch.tensor(blocks.norm.variance_epsilon, dtype=self.wide, device=self.device)

    def refresh(self) -> None:
        """Packs the weights as they are now."""
        self.products = [_products(block) for block in self.blocks]
        self.to_logits = packed(self.head.weight, self.head.bias)

    def reach(self, positions: int) -> None:
        """Prepares the angles of so many positions."""
        if len(self._angles) < positions:
            self._angles = self._angle_table(positions)

    def states(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states [tokens, width] before the final norm."""
        cos, sin = self._angles.index_select(0, positions).split(1, dim=1)
        state = embedding(ids, self.shape.embedding.weight).to(self.wide)
        for layer in range(len(self.blocks)):
            self._add_layer(state, layer, (cos, sin), attend)
        return state

    def logits(self, state: Tensor) -> Tensor:
        """Logits of some states [tokens, width]."""
        return self.to_logits(self._normed(self.shape.norm, state)).to(self.wide)

    def _angle_table(self, positions: int) -> Tensor:
        """Cosine and sine of each position, [positions, 2, size]; the sine signed as `_rotate` wants it."""
        cos, sin = self.shape.angles(torch.arange(positions, device=self.device), self.dtype)
        signed = torch.cat([-sin[:, : self.shape.head_size // 2], sin[:, self.shape.head_size // 2 :]], dim=1)
        return torch.stack([cos, signed], dim=1)

    def _add_layer(self, state: Tensor, layer: int, angles: tuple[Tensor, Tensor], attend: Attend) -> None:
        """Adds a layer's attention and then its feed-forward to the state, in place."""
        parts, products = self.blocks[layer].parts, self.products[layer]
        heads, turned = self.shape.heads, self.shape.heads + self.shape.kv_heads
        read = products.qkv(self._normed(parts.input_norm, state))
        read = read.view(len(state), -1, self.shape.head_size)
        if parts.q_norm is not None and parts.k_norm is not None:
            read[:, :heads] = self._normed(parts.q_norm, read[:, :heads])
            read[:, heads:turned] = self._normed(parts.k_norm, read[:, heads:turned])
        _rotate(read[:, :turned], *angles)
        state += products.o(attend(layer, read))
        gate, up = products.gate_up(self._normed(parts.mlp_norm, state)).chunk(2, dim=-1)
        state += products.down(silu(gate).mul_(up))

    def _normed(self, norm: Norm, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps), rounded to the model's type, times the norm's weight."""
        if self.dtype == torch.float64:
            # Transformers rounds to float32 within its norms: only the same rounding can be compared exactly.
            return cast(nn.Module, norm)(x)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=self.wide)
        inverse = torch.addcmul(self._eps, size, size, value=1 / x.shape[-1]).rsqrt_()
        return (x * inverse).to(self.dtype).mul_(norm.weight)


def _products(block: FusedBlock) -> Products:
    parts = block.parts
    return Products(
        qkv=packed(block.qkv.weight, block.qkv.bias),
        o=packed(parts.o.weight, parts.o.bias),
        gate_up=packed(block.gate_up.weight, block.gate_up.bias),
        down=packed(parts.down.weight, parts.down.bias),
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary positions in place, queries and keys at once. The first half of `sin` is negative: no sign to change here.

    `x` [tokens, heads, size], `cos` and `sin` [tokens, 1, size].
    """
    swapped = x.roll(x.shape[-1] // 2, dims=-1).mul_(sin)
    x.mul_(cos).add_(swapped)
