"""What decodes: rows of tokens under way in one model, whatever keeps their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Compaction:
    """Rows leave: row `source[i]` takes the place `to[i]` of one that left, and `count` rows remain, without gaps."""

    count: int
    to: Sequence[int]
    source: Sequence[int]

    def apply(self, table: Tensor) -> None:
        """Moves the rows of a table [rows, ...] in place."""
        if self.to:
            to, source = self.indices(table.device)
            table[to] = table[source]

    def index(self) -> list[int]:
        """For each row that remains, where it was."""
        index = list(range(self.count))
        for to, source in zip(self.to, self.source, strict=True):
            index[to] = source
        return index

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`to` and `source` as tensors."""
        return torch.tensor(self.to, device=device), torch.tensor(self.source, device=device)


def without(rows: int, leaving: Sequence[int]) -> Compaction:
    """The compaction by which `leaving` of `rows` rows leave: the last rows fill the gaps, the others stay in place.

    Only as many rows are copied as have left. gain: see docs/speed.md
    """
    count = rows - len(leaving)
    left = set(leaving)
    return Compaction(
        count,
        to=[row for row in sorted(left) if row < count],
        source=[row for row in range(count, rows) if row not in left],
    )


class Decoder(Protocol):
    """Rows under way, numbered from 0. Logits are [rows, vocabulary], float32 or better, the caller's to overwrite."""

    @property
    def joins(self) -> bool:
        """Whether rows can be admitted while others are under way."""

    def refresh(self) -> None:
        """Takes in that the model's weights have changed; rows under way are lost."""

    def begin(self, rows: int) -> None:
        """Forgets all rows; at most `rows` will be under way at once."""

    def admit(self, prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Adds a row for each prefix behind those under way; logits of the token after each."""

    def advance(self, tokens: Tensor) -> Tensor:
        """Reads one token in each row; logits of the next."""

    def keep(self, compaction: Compaction) -> None:
        """Drops the rows that left."""
