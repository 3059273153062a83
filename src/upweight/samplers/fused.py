"""Decoding with the blocks of the Llama family: dense memory, no padding, prompts shared.

A step has no host sync and no shape that depends on data, only on the buckets of rows and of width, and on which rows
are under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from upweight.models.attention import stream_attention
from upweight.models.layout import Segment, bucket, tiles_of
from upweight.models.llama import Blocks
from upweight.phases import count, decode_step
from upweight.samplers.cache import KeyValueCache
from upweight.samplers.decoder import Compaction
from upweight.samplers.layers import Layers
from upweight.samplers.prefixes import Prefixes

PREFILL_TOKENS = 8192  # tokens of one prefill pass, unless one prefix alone has more
SHARE_FROM = 96  # prefixes are shared when that saves a row so many columns on average: bringing rows together costs

Copies = tuple[tuple[int, ...], int]  # a prefix, and how many rows begin with it


class FusedDecoder:
    """Rows are aligned on the left, each with its own length.

    A row of another length costs the others masked columns of attention and no padding in any matrix product, and a
    row can join at any time. The cache of a row holds its prefix too, unless prefixes are shared.
    """

    joins = True

    def __init__(self, blocks: Blocks, head: nn.Linear) -> None:
        self.layers, self.shape, self.device = Layers(blocks, head), blocks, blocks.embedding.weight.device
        of_a_layer = (len(blocks.layers), blocks.kv_heads, blocks.head_size, self.layers.dtype, self.device)
        self.cache = KeyValueCache(*of_a_layer)
        self.prefixes = Prefixes(KeyValueCache(*of_a_layer), blocks.scale, self.device)
        self.share_from: float = SHARE_FROM
        self.begin(0)

    def refresh(self) -> None:
        """Takes in that the weights have changed."""
        self.layers.refresh()

    def begin(self, rows: int) -> None:
        """Forgets all rows; at most `rows` will be under way at once."""
        self.cache.begin()
        self.prefixes.begin()
        self.rows = self._steps = 0
        self._shares = False
        self._born: list[int] = []  # of each row: the step at which its cache was, or would have been, empty
        slots = bucket(rows)
        self._tokens = torch.zeros(slots, dtype=torch.long, device=self.device)
        self._lengths = torch.zeros(slots, dtype=torch.long, device=self.device)  # columns of the cache in use
        self._starts = torch.zeros(slots, dtype=torch.long, device=self.device)  # position of the first column

    def admit(self, prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Adds a row for each prefix. Neighbours that are equal are computed once; see `_prefill`."""
        runs = [(prefix, len(list(same))) for prefix, same in groupby(prefixes)]
        if not self.rows:
            saved = sum(len(prefix) * (copies - 1) for prefix, copies in runs) / len(prefixes)
            self._shares = saved >= self.share_from
        first, self.rows = self.rows, self.rows + len(prefixes)
        lengths = [len(prefix) for prefix in prefixes]
        self._born += [self._steps - (0 if self._shares else length) for length in lengths]
        self._reserve(first)
        self._lengths[first : self.rows] = 0 if self._shares else torch.tensor(lengths, device=self.device)
        self._starts[first : self.rows] = torch.tensor(lengths, device=self.device) if self._shares else 0
        self.layers.reach(max(lengths))
        logits = []
        for part in passes_of(runs):
            logits.append(self._prefill(part, first))
            first += sum(copies for _, copies in part)
        return torch.cat(logits)

    def advance(self, tokens: Tensor) -> Tensor:
        """Reads one token in each row; logits of the next."""
        self._reserve(self.rows)
        self.layers.reach(self.cache.width + max(self.prefixes.lengths, default=0))
        padded = bucket(self.rows)
        self._tokens[: self.rows] = tokens
        logits = self._step(padded)
        self._lengths[: self.rows] += 1
        self._steps += 1
        own = self.rows * self._steps - sum(self._born)
        decode_step(padded, self.rows, own + sum(self.prefixes.lengths))
        return logits[: self.rows]

    def keep(self, compaction: Compaction) -> None:
        """Drops the rows that left."""
        self.cache.keep(compaction)
        if self._shares:
            self.prefixes.keep(compaction)
        for table in (self._lengths, self._starts):
            compaction.apply(table)
            table[compaction.count :] = 0
        self._born = [self._born[row] for row in compaction.index()]
        self.rows = compaction.count

    def _reserve(self, used: int) -> None:
        """Room for one more token in the longest row; the first `used` rows hold something."""
        self.cache.fit(self._steps - min(self._born) + 1, self.rows, used)

    def _prefill(self, prefixes: Sequence[Copies], first: int) -> Tensor:
        """Runs each prefix once, all in one stream without padding, and hands its keys and values to its rows.

        Rows from `first` on begin with them, in order; logits [rows, vocabulary]. gain: see docs/speed.md
        """
        lengths, copies = [len(prefix) for prefix, _ in prefixes], [count for _, count in prefixes]
        ends = torch.tensor(lengths).cumsum(0)
        starts = ends - torch.tensor(lengths)
        tiles = [*tiles_of([Segment(*span) for span in zip(starts.tolist(), lengths, strict=True)])]
        rows = torch.arange(len(prefixes)).repeat_interleave(torch.tensor(copies)).to(self.device)
        source = torch.minimum(starts[:, None] + torch.arange(max(lengths)), ends[:, None] - 1).to(self.device)
        if self._shares:
            cache, first = self.prefixes.cache, self.prefixes.add(lengths, copies)
        else:
            cache, source = self.cache, source[rows]

        def attend(layer: int, heads: Tensor) -> Tensor:
            q, k, v = heads.split([self.shape.heads, self.shape.kv_heads, self.shape.kv_heads], dim=1)
            cache.fill(layer, first, k[source], v[source])
            return stream_attention(q, k, v, tiles, self.shape.scale).flatten(1)

        ids = torch.tensor([token for prefix, _ in prefixes for token in prefix], device=self.device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        state = self.layers.states(ids, positions, attend)
        count("prefill", processed=len(ids), useful=len(ids))
        return self.layers.logits(state[ends.to(self.device) - 1])[rows]

    def _step(self, rows: int) -> Tensor:
        """One token in each of the first `rows` rows, some of which may be padding of the bucket."""
        width, kv_heads, size = self.cache.width, self.shape.kv_heads, self.shape.head_size
        lengths = self._lengths[:rows]
        hidden = torch.arange(width, device=self.device) > lengths[:, None]
        mask = torch.zeros_like(hidden, dtype=self.layers.dtype).masked_fill_(hidden, -torch.inf)
        mask = mask[:, None].expand(-1, kv_heads, -1).reshape(-1, 1, width)
        line = torch.arange(rows * kv_heads, device=self.device).view(rows, kv_heads)
        cells = torch.cat([line, line + self.cache.slots * kv_heads], dim=1) * width + lengths[:, None]

        def attend(layer: int, heads: Tensor) -> Tensor:
            held = self.cache.layers[layer]
            held.view(-1, size).index_put_((cells,), heads[:, self.shape.heads :])
            keys, values = held[0, : rows * kv_heads], held[1, : rows * kv_heads]
            queries = heads[:, : self.shape.heads].reshape(rows * kv_heads, -1, size)
            if self._shares:
                return self.prefixes.attention(layer, queries, keys, values, mask).view(rows, -1)
            return decode_attention(queries, keys, values, mask, self.shape.scale).view(rows, -1)

        positions = lengths + self._starts[:rows]
        return self.layers.logits(self.layers.states(self._tokens[:rows], positions, attend))


def decode_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of one new token a row: the heads that share keys are further queries, so nothing is repeated.

    `queries` [rows * kv_heads, heads a kv head, size], `keys` and `values` [rows * kv_heads, width, size], `mask`
    [rows * kv_heads, 1, width] of 0 and -inf. gain: see docs/speed.md
    """
    scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scale)
    return torch.bmm(torch.softmax(scores, -1), values)


def passes_of(prefixes: Sequence[Copies]) -> list[list[Copies]]:
    """Prefixes cut into passes of a bounded number of tokens."""
    passes: list[list[Copies]] = [[]]
    tokens = 0
    for prefix, copies in prefixes:
        if passes[-1] and tokens + len(prefix) > PREFILL_TOKENS:
            passes.append([])
            tokens = 0
        passes[-1].append((prefix, copies))
        tokens += len(prefix)
    return passes
