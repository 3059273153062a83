"""Decoding with the transformers forward and its own cache: works for every architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from upweight.models.forward import context_length
from upweight.phases import count, decode_step
from upweight.samplers.decoder import Compaction


class GeneralDecoder:
    """Rows are padded on the left so that all have one width; so none can join others that are under way."""

    joins = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.begin(0)

    def refresh(self) -> None:
        """The model's own weights are what is read."""

    def begin(self, rows: int) -> None:
        """Forgets all rows."""
        self.cache = DynamicCache(config=self.model.config)
        self.visible = torch.zeros(0, 0, dtype=torch.bool, device=self.model.device)  # [rows, width]: no padding
        self.positions = torch.zeros(0, dtype=torch.long, device=self.model.device)  # [rows]: of the next token

    def admit(self, prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Runs each distinct prefix once and hands its cache to every row that begins with it."""
        assert not len(self.positions)
        distinct = list(dict.fromkeys(prefixes))
        width = max(map(len, distinct))
        ids = torch.zeros(len(distinct), width, dtype=torch.long)
        visible = torch.zeros(len(distinct), width, dtype=torch.bool)
        for i, prefix in enumerate(distinct):
            ids[i, width - len(prefix) :] = torch.tensor(prefix)
            visible[i, width - len(prefix) :] = True
        # A padded query sees itself: a row of attention with nothing to see would be NaN and spread.
        mask = torch.ones(width, width, dtype=torch.bool).tril() & visible[:, None] | torch.eye(width, dtype=torch.bool)
        self.cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, mask[:, None], (visible.cumsum(-1) - 1).clamp(min=0))
        count("prefill", processed=ids.numel(), useful=int(visible.sum()))
        self.visible, self.positions = visible.to(self.model.device), visible.sum(-1).to(self.model.device)
        place = {prefix: i for i, prefix in enumerate(distinct)}
        index = self._select([place[prefix] for prefix in prefixes])
        return logits[index]

    def advance(self, tokens: Tensor) -> Tensor:
        """Reads one token in each row; logits of the next."""
        self.visible = torch.cat([self.visible, self.visible.new_ones(len(tokens), 1)], dim=1)
        # Tokens drawn beyond the end of a row, before it is found to have ended, may have no position left.
        positions = self.positions.clamp(max=context_length(self.model) - 1)
        logits = self._forward(tokens[:, None], self.visible[:, None, None], positions[:, None])
        self.positions = self.positions + 1
        decode_step(len(tokens), len(tokens), self.visible.numel())
        return logits

    def keep(self, compaction: Compaction) -> None:
        """Drops the rows that left."""
        self._select(compaction.index())

    def _select(self, rows: Sequence[int]) -> Tensor:
        index = torch.tensor(rows, dtype=torch.long, device=self.model.device)
        self.cache.batch_select_indices(index)
        self.visible, self.positions = self.visible[index], self.positions[index]
        return index

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        device = self.model.device
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
