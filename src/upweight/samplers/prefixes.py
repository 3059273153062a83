"""Prompts of the rows under way, each held once and read once a step for all the rows that begin with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upweight.models.layout import bucket
from upweight.samplers.cache import KeyValueCache
from upweight.samplers.decoder import Compaction, without


class Prefixes:
    """Which row begins with which prefix, and attention of rows over their prefix and their own tokens together."""

    def __init__(self, cache: KeyValueCache, scale: float, device: torch.device) -> None:
        self.cache, self.scale, self.device = cache, scale, device
        self.begin()

    def begin(self) -> None:
        """Forgets all prefixes."""
        self.cache.begin()
        self.lengths: list[int] = []
        self._of_row: list[int] = []

    def add(self, lengths: Sequence[int], copies: Sequence[int]) -> int:
        """Room for further prefixes, to be filled by the caller, each with its rows; the place of the first."""
        first = len(self.lengths)
        self._of_row += [first + i for i, count in enumerate(copies) for _ in range(count)]
        self.lengths += lengths
        self.cache.fit(max(self.lengths), len(self.lengths), first)
        self._index()
        return first

    def keep(self, compaction: Compaction) -> None:
        """Drops rows, and prefixes that are left without any."""
        self._of_row = [self._of_row[row] for row in compaction.index()]
        in_use = set(self._of_row)
        left = without(len(self.lengths), [i for i in range(len(self.lengths)) if i not in in_use])
        self.cache.keep(left)
        now = {before: place for place, before in enumerate(left.index())}
        self.lengths = [self.lengths[before] for before in left.index()]
        self._of_row = [now[before] for before in self._of_row]
        if self._of_row:
            self._index()

    def attention(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """As `decode_attention`, over the row's prefix and `keys` and `values`, its own. gain: see docs/speed.md

        The queries of all rows that share a prefix stand in one matrix, so that its keys are read once for them.
        """
        rows, heads, size = queries.shape
        held = self.cache.layers[layer][:, : len(self._mask)]
        width = held.shape[2]
        together = self._together(queries).unflatten(1, (-1, size))
        scores = torch.baddbmm(self._mask, together, held[0].transpose(1, 2), alpha=self.scale)
        before = self._apart(scores.view(-1, heads * width)).view(rows, heads, width)
        own = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=self.scale)
        weights = torch.softmax(torch.cat([before, own], dim=-1), -1)
        together = self._together(weights[..., :width]).unflatten(1, (-1, width))
        found = torch.bmm(weights[..., width:].contiguous(), values)
        return found.add_(self._apart(torch.bmm(together, held[1]).view(-1, heads * size)).view_as(found))

    def _together(self, by_row: Tensor) -> Tensor:
        """[rows * kv_heads, ...] as [prefixes * kv_heads, most rows of a prefix * ...]."""
        return by_row.flatten(1).index_select(0, self._members).view(len(self._mask), -1)

    def _apart(self, by_prefix: Tensor) -> Tensor:
        """[prefixes * kv_heads * most rows, ...] as [rows * kv_heads, ...]."""
        return by_prefix.index_select(0, self._places)

    def _index(self) -> None:
        """Where each row's part is among those of its prefix, and which rows each prefix has: tensors for a step.

        A prefix with fewer rows than the largest has its first row several times; a row of padding has any place.
        """
        members: list[list[int]] = [[] for _ in self.lengths]
        slots = [0] * bucket(len(self._of_row))
        for row, prefix in enumerate(self._of_row):
            slots[row] = len(members[prefix])
            members[prefix].append(row)
        most = max(map(len, members))
        full = torch.tensor([rows + rows[:1] * (most - len(rows)) for rows in members])
        head = torch.arange(self.cache.kv_heads)
        self._members = (full[:, None] * len(head) + head[:, None]).flatten().to(self.device)
        of_row = torch.tensor(self._of_row + [0] * (len(slots) - len(self._of_row)))
        places = (of_row[:, None] * len(head) + head) * most + torch.tensor(slots)[:, None]
        self._places = places.flatten().to(self.device)
        hidden = torch.arange(self.cache.width) >= torch.tensor(self.lengths)[:, None]
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf).repeat_interleave(len(head), 0)[:, None]
        self._mask = mask.to(self.device, self.cache.layers[0].dtype)
