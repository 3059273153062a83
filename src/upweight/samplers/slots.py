"""What is known of each row under way: its request, its randomness, what was drawn. Tables on one device, no loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from upweight.samplers.decoder import Compaction
from upweight.samplers.randomness import uniforms
from upweight.types import Request


class Slots:
    """At most `slots` rows of at most `budget` tokens. A row ends where its budget does, or with a stop token before.

    `surplus` tokens may be recorded after the end of a row, before anybody looks: they are cut off. `stops`
    [vocabulary] says which tokens are stop tokens.
    """

    def __init__(self, slots: int, budget: int, surplus: int, stops: Tensor) -> None:
        device, columns = stops.device, budget + surplus
        self.stops = stops
        self.requests: list[Request] = []
        self.latest = torch.zeros(slots, dtype=torch.long, device=device)  # the token drawn last
        self._uniforms = torch.zeros(slots, columns, dtype=torch.float64, device=device)
        self._tokens = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(slots, columns, dtype=torch.float64, device=device)
        self._counts = torch.zeros(slots, dtype=torch.long, device=device)
        self._ends = torch.zeros(slots, dtype=torch.long, device=device)

    def __len__(self) -> int:
        return len(self.requests)

    def free(self) -> int:
        """How many more rows there is room for."""
        return len(self._ends) - len(self)

    def add(self, requests: Sequence[Request], budgets: Sequence[int]) -> None:
        """Further rows, with nothing drawn yet."""
        rows = slice(len(self), len(self) + len(requests))
        numbers = np.zeros((len(requests), self._uniforms.shape[1]))
        for row, request, budget in zip(numbers, requests, budgets, strict=True):
            row[:budget] = uniforms(request.key, budget)
        self._uniforms[rows] = torch.from_numpy(numbers).to(self._uniforms.device)
        self._ends[rows] = torch.tensor(budgets, device=self._ends.device)
        self._counts[rows] = 0
        self.requests += requests

    def next_uniforms(self) -> Tensor:
        """The numbers [rows] that decide the next token of each row."""
        rows = len(self)
        return self._uniforms[:rows].gather(1, self._counts[:rows, None])[:, 0]

    def record(self, tokens: Tensor, logprobs: Tensor) -> None:
        """One token more in each row. Waits for no device."""
        rows = len(self)
        spot = self._counts[:rows, None]
        self._tokens[:rows].scatter_(1, spot, tokens[:, None])
        self._logprobs[:rows].scatter_(1, spot, logprobs[:, None].to(self._logprobs.dtype))
        self.latest[:rows] = tokens
        self._counts[:rows] += 1
        ends = self._ends[:rows]
        ends.copy_(torch.where(self.stops.index_select(0, tokens), torch.minimum(ends, self._counts[:rows]), ends))

    def end(self, row: int, tokens: int) -> None:
        """Ends a row after so many tokens, if it has not ended before."""
        self._ends[row].clamp_(max=tokens)

    def ended(self) -> list[int]:
        """The rows that have reached their end. Waits for the device."""
        rows = len(self)
        return (self._counts[:rows] >= self._ends[:rows]).nonzero()[:, 0].tolist()

    def drawn(self, row: int) -> tuple[list[int], list[float]]:
        """Tokens of a row up to its end, and their log-probs. Waits for the device."""
        end = min(self._counts[row].item(), self._ends[row].item())
        return self._tokens[row, :end].tolist(), self._logprobs[row, :end].tolist()

    def keep(self, compaction: Compaction) -> None:
        """Drops the rows that left."""
        for table in (self.latest, self._uniforms, self._tokens, self._logprobs, self._counts, self._ends):
            compaction.apply(table)
        self.requests = [self.requests[row] for row in compaction.index()]
