"""How rows become one stream of tokens: each distinct prompt once, then the completions, and hardly any padding.

Only attention needs rectangles. `Tile`s are those: rows of about the same length, each with its prompt as prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upweight.objectives.tokens import own_positions, predicting_positions

TILE_CELLS = 2**18  # queries times keys of a tile, at most, unless one row alone has more: so much stays in cache
LENGTH_SPREAD = 0.75  # the shortest row of a tile has this share of the longest's tokens, or SLACK fewer
SLACK = 16
NOWHERE = -1


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of the stream, [start, start + length), that attend to a prefix and causally to themselves.

    The prefix is another segment's tokens, [prefix_start, prefix_start + prefix).
    """

    start: int
    length: int
    prefix_start: int = 0
    prefix: int = 0


@dataclass(frozen=True)
class Tile:
    """Segments side by side in a rectangle. The prefixes take the first `prefix` columns of the keys.

    `queries` [rows, width] and `keys` [rows, prefix + width] are places in the stream; where a row is shorter they say
    `NOWHERE`. `unused` marks the columns [rows, prefix] that a shorter prefix leaves empty, or is None where all are
    equally long.
    """

    prefix: int
    queries: Tensor
    keys: Tensor
    unused: Tensor | None

    def to(self, device: torch.device) -> Tile:
        """The same tile with its tensors on a device."""
        unused = None if self.unused is None else self.unused.to(device)
        return Tile(self.prefix, self.queries.to(device), self.keys.to(device), unused)


@dataclass(frozen=True)
class Stream:
    """The tokens of some rows: ids and positions [tokens], the tiles of attention, and which states are wanted.

    The first `useful` tokens are those of the rows; the others fill a bucket, see `bucket`.
    """

    ids: Tensor
    positions: Tensor
    tiles: tuple[Tile, ...]
    picked: Tensor
    useful: int

    def to(self, device: torch.device) -> Stream:
        """The same stream with its tensors on a device."""
        tiles = tuple(tile.to(device) for tile in self.tiles)
        return Stream(self.ids.to(device), self.positions.to(device), tiles, self.picked.to(device), self.useful)


def stream_of(prompt_ids: Sequence[Tensor], token_ids: Sequence[Tensor], predicting: bool) -> Stream:
    """The stream of some rows; `picked` [sum T_i] are the states before (`predicting`) or after each completion token.

    The last token of a completion is left out where only the states before tokens are wanted: nothing reads it.
    """
    prompts: dict[tuple[int, ...], Segment] = {}
    pieces: list[Tensor] = []
    places: list[Tensor] = []
    segments: list[Segment] = []
    picked: list[Tensor] = []
    end = 0
    for ids in prompt_ids:
        key = tuple(ids.tolist())
        if key and key not in prompts:
            prompts[key] = Segment(end, len(ids))
            pieces.append(ids)
            places.append(torch.arange(len(ids)))
            end += len(ids)
    for prompt, tokens in zip(prompt_ids, token_ids, strict=True):
        before = prompts.get(tuple(prompt.tolist()), Segment(0, 0))
        read = len(tokens) - 1 if predicting else len(tokens)
        own = Segment(end, read, before.start, before.length)
        if read > 0:
            segments.append(own)
            pieces.append(tokens[:read])
            places.append(torch.arange(before.length, before.length + read))
            end += read
        picked.append(_picked(before, own, len(tokens), predicting))
    fill = bucket(end) - end
    alone = [_tile([Segment(place, 1) for place in range(end, end + fill)])] if fill else []
    tiles = (*tiles_of(list(prompts.values())), *tiles_of(segments), *alone)
    nothing = torch.zeros(fill, dtype=torch.long)
    return Stream(torch.cat([*pieces, nothing]), torch.cat([*places, nothing]), tiles, torch.cat(picked), end)


def bucket(count: int) -> int:
    """The least size at or above `count` that tensors are made for: at most a sixteenth more.

    Batches of near sizes then have tensors of the same size. The C library's allocator leaves a gap for each size that
    it has not met, so that memory would grow, and be cleared by the kernel, for as long as a run lasts.
    Gain: see docs/speed.md.
    """
    step = max(1, 2 ** (count.bit_length() - 1) // 16) if count else 1
    return -(-count // step) * step


def _picked(before: Segment, own: Segment, tokens: int, predicting: bool) -> Tensor:
    """Places in the stream of the wanted positions of prompt + completion."""
    wanted = (predicting_positions if predicting else own_positions)(before.length, tokens)
    position = torch.tensor(wanted, dtype=torch.long)
    inside = position < before.length
    return torch.where(inside, before.start + position, own.start + position - before.length)


def tiles_of(segments: Sequence[Segment]) -> Iterator[Tile]:
    """Segments of similar length side by side, longest first."""
    members: list[Segment] = []
    width = prefix = 0
    for segment in sorted(segments, key=lambda s: (-s.length, -s.prefix)):
        prefix = max(prefix, segment.prefix)
        full = (len(members) + 1) * width * (prefix + width) > TILE_CELLS
        if members and (full or segment.length < LENGTH_SPREAD * width - SLACK):
            yield _tile(members)
            members = []
        if not members:
            width, prefix = segment.length, segment.prefix
        members.append(segment)
    if members:
        yield _tile(members)


def _tile(members: Sequence[Segment]) -> Tile:
    width, prefix = members[0].length, max(m.prefix for m in members)
    queries = torch.full((len(members), width), NOWHERE)
    keys = torch.full((len(members), prefix + width), NOWHERE)
    for row, m in enumerate(members):
        own = torch.arange(m.start, m.start + m.length)
        queries[row, : m.length] = own
        keys[row, prefix : prefix + m.length] = own
        keys[row, : m.prefix] = torch.arange(m.prefix_start, m.prefix_start + m.prefix)
    lengths = torch.tensor([m.prefix for m in members])
    unused = None if bool((lengths == prefix).all()) else torch.arange(prefix) >= lengths[:, None]
    return Tile(prefix, queries, keys, unused)
