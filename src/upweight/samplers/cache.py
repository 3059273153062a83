"""Keys and values of rows, in memory that is allocated once and used again."""

from __future__ import annotations

import torch
from torch import Tensor

from upweight.models.layout import bucket
from upweight.samplers.decoder import Compaction

WIDTH_STEP = 32  # columns that a cache grows by, at least


def width_for(columns: int) -> int:
    """The width that holds so many columns: a multiple of 32, and of an eighth of the power of two below it."""
    step = max(WIDTH_STEP, 2 ** (columns.bit_length() - 1) // 8)
    return -(-columns // step) * step


class KeyValueCache:
    """For each layer [2, slots * kv_heads, width, size]: keys, then values, with no gap between the columns in use.

    Batched matrix products of bfloat16 copy their operands unless these are contiguous, so the cache is as wide as the
    longest row and is laid out anew when that passes a bucket. One spare layer takes turns as the target: memory is
    touched once and never returned. gain: see docs/speed.md
    """

    def __init__(self, layers: int, kv_heads: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.kv_heads, self.size = kv_heads, size
        self._buffers = [torch.zeros(0, dtype=dtype, device=device) for _ in range(layers + 1)]
        self.begin()

    def begin(self) -> None:
        """Forgets what is held."""
        self.slots = self.width = 0
        self.layers = [self._view(i) for i in range(len(self._buffers) - 1)]

    def fit(self, columns: int, rows: int, used: int) -> None:
        """Makes room for so many rows and columns; the first `used` rows keep what they hold.

        It narrows only when it is half empty. New columns are 0: what is masked out must still be a number.
        """
        width, slots = width_for(columns), max(self.slots, bucket(rows))
        if self.width // 2 < width <= self.width and slots == self.slots:
            return
        both, part = min(width, self.width), slice(used * self.kv_heads)
        self.slots, self.width = slots, width
        for i, held in enumerate(self.layers):
            target = self._view(-1)
            target[:, part, :both] = held[:, part, :both]
            target[:, part, both:] = 0
            self._buffers[i], self._buffers[-1] = self._buffers[-1], self._buffers[i]
            self.layers[i] = target

    def fill(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """Gives rows from `first` on the keys and values [rows, columns, kv_heads, size] of their prefixes."""
        rows, columns = keys.shape[:2]
        part = slice(first * self.kv_heads, (first + rows) * self.kv_heads)
        for held, new in zip(self.layers[layer], (keys, values), strict=True):
            held[part].unflatten(0, (rows, -1))[:, :, :columns] = new.transpose(1, 2)
            held[part, columns:] = 0

    def keep(self, compaction: Compaction) -> None:
        """Moves the last rows into the places of those that left."""
        if not compaction.to:
            return
        to, source = compaction.indices(self._buffers[0].device)
        for held in self.layers:
            rows = held.view(2, self.slots, -1)
            rows[:, to] = rows[:, source]

    def _view(self, buffer: int) -> Tensor:
        """A buffer in the present layout; it grows when it is too small."""
        shape = (2, self.slots * self.kv_heads, self.width, self.size)
        numbers = 2 * self.slots * self.kv_heads * self.width * self.size
        if len(self._buffers[buffer]) < numbers:
            self._buffers[buffer] = self._buffers[buffer].new_zeros(numbers)
        return self._buffers[buffer][:numbers].view(shape)
