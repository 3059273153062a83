"""The forward pass of Llama-family blocks over a stream in which a prompt is computed once for all its completions."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from upweight.models.attention import stream_attention
from upweight.models.dense import linear
from upweight.models.layout import Stream
from upweight.models.llama import Block, Blocks, Norm
from upweight.models.ops import rms_norm, rotate, swiglu


def stream_states(blocks: Blocks, stream: Stream, dtype: torch.dtype, checkpointing: bool = False) -> Tensor:
    """The last hidden states [tokens, width], after the final norm, in `dtype`.

    Matrix products are made in `dtype`; the sum that runs through the layers and its norms keep the weights' own type.
    """
    state = blocks.embedding(stream.ids)
    angles = blocks.angles(stream.positions, dtype)
    for block in blocks.layers:
        step = partial(_layer, blocks, block, stream, angles, dtype)
        state = checkpoint(step, state, use_reentrant=False) if checkpointing else step(state)
    return _normed(blocks.norm, state, dtype)


def _layer(
    blocks: Blocks, block: Block, stream: Stream, angles: tuple[Tensor, Tensor], dtype: torch.dtype, state: Tensor
) -> Tensor:
    read = _normed(block.input_norm, state, dtype)
    q, k, v = (_linear(part, read).unflatten(-1, (-1, blocks.head_size)) for part in (block.q, block.k, block.v))
    if block.q_norm is not None and block.k_norm is not None:
        q, k = _normed(block.q_norm, q, dtype), _normed(block.k_norm, k, dtype)
    q, k = rotate(q, *angles), rotate(k, *angles)
    attended = stream_attention(q, k, v, stream.tiles, blocks.scale)
    state = state + _linear(block.o, attended.flatten(1))
    read = _normed(block.mlp_norm, state, dtype)
    return state + _linear(block.down, swiglu(_linear(block.gate, read), _linear(block.up, read)))


def _linear(module: torch.nn.Linear, x: Tensor) -> Tensor:
    bias = None if module.bias is None else module.bias.to(x.dtype)
    return linear(x, module.weight.to(x.dtype), bias)


def _normed(norm: Norm, x: Tensor, dtype: torch.dtype) -> Tensor:
    return rms_norm(x, norm.weight, norm.variance_epsilon, dtype)
