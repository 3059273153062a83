"""Attention over a stream of tokens in tiles, with a backward pass of its own.

Keys and values of a shared prompt are read by every completion of its group, and their gradients summed there. Nothing
but queries, keys and values is kept: the backward pass computes the probabilities again, one tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from upweight.models.layout import Tile

QUERY_BLOCK = 128  # queries of a block see no key beyond its end: less work where the mask hides half


def stream_attention(q: Tensor, k: Tensor, v: Tensor, tiles: Sequence[Tile], scale: float) -> Tensor:
    """softmax(scale q k^T + mask) v for each segment of the stream over its prefix and, causally, itself.

    `q` is [tokens, heads, size], `k` and `v` [tokens, kv_heads, size]; the result is shaped like `q`.
    """
    return _StreamAttention.apply(q, k, v, tiles, scale)


class _StreamAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tiles: Sequence[Tile], scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.tiles, ctx.scale = tiles, scale
        out = torch.empty_like(q)
        for tile in tiles:
            queries, keys, values = _queries(q, k, tile), _keys(k, tile), _keys(v, tile)
            found = torch.empty_like(queries)
            for part, seen in _blocks(tile):
                weights = _weights(queries[:, :, part], keys[:, :seen], tile, part, scale)
                found[:, :, part] = _unfold(torch.bmm(weights, values[:, :seen]), part)
            out.index_copy_(0, tile.queries, _to_stream(found, q, tile))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile in ctx.tiles:
            queries, keys, values = _queries(q, k, tile), _keys(k, tile), _keys(v, tile)
            above = _queries(grad, k, tile)
            to_queries, to_keys, to_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
            for part, seen in _blocks(tile):
                asked = queries[:, :, part]
                weights = _weights(asked, keys[:, :seen], tile, part, ctx.scale)
                upstream = _fold(above[:, :, part])
                to_values[:, :seen].baddbmm_(weights.transpose(1, 2), upstream)
                to_weights = torch.bmm(upstream, values[:, :seen].transpose(1, 2))
                to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
                to_queries[:, :, part] = _unfold(torch.bmm(to_scores, keys[:, :seen]), part)
                to_keys[:, :seen].baddbmm_(to_scores.transpose(1, 2), _fold(asked), alpha=ctx.scale)
            grad_q.index_copy_(0, tile.queries, _to_stream(to_queries, q, tile).mul_(ctx.scale))
            grad_k.index_add_(0, tile.keys, _keys_to_stream(to_keys, k, tile))
            grad_v.index_add_(0, tile.keys, _keys_to_stream(to_values, v, tile))
        return grad_q, grad_k, grad_v, None, None


def _blocks(tile: Tile) -> Iterator[tuple[slice, int]]:
    """Queries of a tile, some at a time, and how many columns of the keys they can see."""
    for start in range(0, tile.width, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, tile.width)
        yield slice(start, end), tile.prefix + end


def _weights(queries: Tensor, keys: Tensor, tile: Tile, part: slice, scale: float) -> Tensor:
    """Attention probabilities [rows * kv_heads, heads a kv head * queries, columns]."""
    folded = _fold(queries)
    count, seen = part.stop - part.start, keys.shape[1]
    hidden = torch.full((count, seen), -torch.inf, dtype=keys.dtype, device=keys.device).triu_(seen - count + 1)
    mask = hidden.repeat(folded.shape[1] // count, 1)
    scores = torch.baddbmm(mask.expand(len(folded), -1, -1), folded, keys.transpose(1, 2), alpha=scale)
    if tile.unused is not None:
        by_row = scores.view(tile.rows, -1, scores.shape[-1])[..., : tile.prefix]
        by_row.masked_fill_(tile.unused[:, None], -torch.inf)
    return torch.softmax(scores, -1)


def _queries(q: Tensor, k: Tensor, tile: Tile) -> Tensor:
    """A tile of the queries, [rows * kv_heads, heads a kv head, width, size], zeros where a row is shorter."""
    heads, size = q.shape[1:]
    kv_heads = k.shape[1]
    cells = q.new_zeros(tile.rows * tile.width, heads, size).index_copy_(0, tile.query_cells, q[tile.queries])
    shape = (tile.rows, tile.width, kv_heads, heads // kv_heads, size)
    return cells.view(shape).permute(0, 2, 3, 1, 4).reshape(tile.rows * kv_heads, heads // kv_heads, tile.width, size)


def _keys(k: Tensor, tile: Tile) -> Tensor:
    """A tile of the keys or values, [rows * kv_heads, prefix + width, size]."""
    kv_heads, size = k.shape[1:]
    columns = tile.prefix + tile.width
    cells = k.new_zeros(tile.rows * columns, kv_heads, size).index_copy_(0, tile.key_cells, k[tile.keys])
    return cells.view(tile.rows, columns, kv_heads, size).transpose(1, 2).reshape(-1, columns, size)


def _fold(queries: Tensor) -> Tensor:
    """The heads that share keys one after the other, as if they were further queries."""
    return queries.flatten(1, 2)


def _unfold(folded: Tensor, part: slice) -> Tensor:
    return folded.unflatten(1, (-1, part.stop - part.start))


def _to_stream(found: Tensor, q: Tensor, tile: Tile) -> Tensor:
    """What was found for the queries of a tile, [queries, heads, size]."""
    heads, size = q.shape[1:]
    by_row = found.view(tile.rows, -1, heads * tile.rows // len(found), tile.width, size)
    return by_row.permute(0, 3, 1, 2, 4).reshape(tile.rows * tile.width, heads, size)[tile.query_cells]


def _keys_to_stream(found: Tensor, k: Tensor, tile: Tile) -> Tensor:
    kv_heads, size = k.shape[1:]
    by_row = found.view(tile.rows, kv_heads, -1, size).transpose(1, 2)
    return by_row.reshape(-1, kv_heads, size)[tile.key_cells]
