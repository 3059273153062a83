"""Attention over a stream of tokens in tiles, with a backward pass of its own.

Keys and values of a shared prompt are read by every completion of its group, and their gradients summed there. Nothing
but queries, keys and values is kept: the backward pass computes the probabilities again, one tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from upweight.models.layout import NOWHERE, Tile

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
        out = _room(q)
        for tile in tiles:
            queries, keys, values = _queries(q, k, tile), _cells(k, tile.keys), _cells(v, tile.keys)
            found = torch.empty_like(queries)
            for part, seen in _blocks(tile):
                weights = _weights(queries[:, :, part], keys[:, :seen], tile, part, scale)
                found[:, :, part] = _unfold(torch.bmm(weights, values[:, :seen]), part)
            _put(out, found, tile.queries)
        return out[:-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad_q, grad_k, grad_v = _room(q), _room(k).zero_(), _room(v).zero_()
        for tile in ctx.tiles:
            queries, keys, values = _queries(q, k, tile), _cells(k, tile.keys), _cells(v, tile.keys)
            above = _queries(grad, k, tile)
            above.view(len(tile.queries), -1, *above.shape[-2:]).masked_fill_(
                (tile.queries == NOWHERE)[:, None, :, None], 0
            )
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
            _put(grad_q, to_queries, tile.queries)
            _add(grad_k, to_keys, tile.keys)
            _add(grad_v, to_values, tile.keys)
        return grad_q[:-1].mul_(ctx.scale), grad_k[:-1], grad_v[:-1], None, None


def _blocks(tile: Tile) -> Iterator[tuple[slice, int]]:
    """Queries of a tile, some at a time, and how many columns of the keys they can see."""
    width = tile.queries.shape[1]
    for start in range(0, width, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, width)
        yield slice(start, end), tile.prefix + end


def _weights(queries: Tensor, keys: Tensor, tile: Tile, part: slice, scale: float) -> Tensor:
    """Attention probabilities [rows * kv_heads, heads a kv head * queries, columns]."""
    mask = _causal(queries.shape[1], part.stop - part.start, keys.shape[1], keys.dtype, keys.device)
    scores = torch.baddbmm(mask.expand(len(keys), -1, -1), _fold(queries), keys.transpose(1, 2), alpha=scale)
    if tile.unused is not None:
        by_row = scores.view(len(tile.unused), -1, scores.shape[-1])[..., : tile.prefix]
        by_row.masked_fill_(tile.unused[:, None], -torch.inf)
    return torch.softmax(scores, -1)


@lru_cache(maxsize=64)
def _causal(heads: int, queries: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 where one of the last queries of `columns` tokens may look, -inf behind it; for each head in turn."""
    hidden = torch.full((queries, columns), -torch.inf, dtype=dtype, device=device).triu_(columns - queries + 1)
    return hidden.repeat(heads, 1)


def _queries(q: Tensor, k: Tensor, tile: Tile) -> Tensor:
    """A tile of the queries, [rows * kv_heads, heads a kv head, width, size]: heads that share keys stand together."""
    return _cells(q, tile.queries).view(len(tile.queries) * k.shape[1], -1, tile.queries.shape[1], q.shape[2])


def _cells(x: Tensor, places: Tensor) -> Tensor:
    """Heads [tokens, heads, size] at places [rows, width] of the stream, [rows * heads, width, size].

    Where a place is nowhere some token stands: no mask lets anybody see it.
    """
    found = x.reshape(-1, x.shape[2]).index_select(0, _of_heads(places.clamp(min=0), x.shape[1]))
    return found.view(-1, places.shape[1], x.shape[2])


def _room(x: Tensor) -> Tensor:
    """An empty tensor like `x` with one token more, for what belongs nowhere."""
    return x.new_empty(len(x) + 1, *x.shape[1:])


def _put(out: Tensor, cells: Tensor, places: Tensor) -> None:
    """Writes cells [rows * heads, width, size], however they are folded, to their places [rows, width] of a stream."""
    index = _of_heads(places.where(places >= 0, len(out) - 1), out.shape[1])
    out.view(-1, out.shape[2]).index_copy_(0, index, cells.reshape(-1, out.shape[2]))


def _add(out: Tensor, cells: Tensor, places: Tensor) -> None:
    """Adds cells to their places: a shared prompt gathers what its completions have for it."""
    index = _of_heads(places.where(places >= 0, len(out) - 1), out.shape[1])
    out.view(-1, out.shape[2]).index_add_(0, index, cells.reshape(-1, out.shape[2]))


def _of_heads(places: Tensor, heads: int) -> Tensor:
    """Where each head of the tokens at places [rows, width] stands among all heads, [rows * heads * width]."""
    return (places[:, None] * heads + torch.arange(heads, device=places.device)[:, None]).flatten()


def _fold(queries: Tensor) -> Tensor:
    """The heads that share keys one after the other, as if they were further queries."""
    return queries.flatten(1, 2)


def _unfold(folded: Tensor, part: slice) -> Tensor:
    return folded.unflatten(1, (-1, part.stop - part.start))
