"""The in-process sampler: batched, KV-cached decoding with a transformers model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from upweight.models.forward import context_length
from upweight.samplers.randomness import draw, uniforms
from upweight.types import Completion, Request, SamplingParams

# Finished rows leave the batch once they are an eighth of it: leaving copies the cache of those that stay.
COMPACT_SHARE = 8


@dataclass
class _Row:
    """A completion in the making."""

    request: Request
    budget: int
    uniforms: np.ndarray
    token_ids: list[int]
    logprobs: list[float]


@dataclass
class _Decoder:
    """The rows of the batch and what the next forward pass needs; everything has one entry a row."""

    rows: list[_Row]
    cache: DynamicCache
    visible: Tensor  # bool [rows, width]: which cached positions are real
    positions: Tensor  # long [rows]: position of the next token
    logits: Tensor  # [rows, vocabulary]: of the next token
    device: torch.device  # where the cache is; everything else is on the CPU

    def keep(self, index: Tensor) -> None:
        self.rows = [self.rows[i] for i in index.tolist()]
        self.cache.batch_select_indices(index.to(self.device))
        self.visible, self.positions, self.logits = self.visible[index], self.positions[index], self.logits[index]


class NativeSampler:
    """Owns a copy of the policy: each prompt is prefilled once, then decoded together with all others.

    Rows are padded on the left so that all decode at one width. At most `max_rows` are decoded at once.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], max_rows: int = 512
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self.max_rows = max_rows
        self.version = -1  # nothing loaded yet

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies the learner's weights in."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own or own[name].shape != tensor.shape:
                    raise ValueError(f"weight {name} {tuple(tensor.shape)} does not fit the sampler's model")
                own.pop(name).copy_(tensor)
        if own:
            raise ValueError(f"weights not received by the sampler: {', '.join(sorted(own))}")
        self.version = version

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters by their Hugging Face names."""
        yield from self.model.named_parameters()

    @torch.inference_mode()
    def score(self, prefix_ids: Sequence[int], temperature: float) -> Tensor:
        """Log-probs [vocabulary] of the token after a prefix."""
        ids = torch.tensor([list(prefix_ids)], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, -1]
        return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)

    def sample(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they finish. Raises ValueError for a prefix that leaves no room in the context."""
        for params, same in groupby(sorted(requests, key=lambda r: repr(r.params)), key=lambda r: r.params):
            chosen = list(same)
            for start in range(0, len(chosen), self.max_rows):
                yield from self._decode(chosen[start : start + self.max_rows], params)

    def _decode(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        state = self._prefill(requests, params)
        finished: set[int] = set()
        while state.rows:
            tokens, logprobs = self._draw(state, params)
            for i, row in enumerate(state.rows):
                if i in finished:
                    continue
                row.token_ids.append(tokens[i])
                row.logprobs.append(logprobs[i])
                stopped = tokens[i] in self.stop_ids or self._ends_with(row.token_ids, params.stop)
                if stopped or len(row.token_ids) == row.budget:
                    finished.add(i)
                    yield self._completion(row, stopped)
            if len(finished) == len(state.rows):
                return
            if len(finished) * COMPACT_SHARE >= len(state.rows):
                live = [i for i in range(len(state.rows)) if i not in finished]
                state.keep(torch.tensor(live))
                tokens, finished = [tokens[i] for i in live], set()
            self._advance(state, tokens)

    @torch.inference_mode()
    def _prefill(self, requests: Sequence[Request], params: SamplingParams) -> _Decoder:
        """Runs each distinct prefix once and hands its cache to every request that has it."""
        prefixes = list(dict.fromkeys(request.prefix_ids for request in requests))
        width = max(map(len, prefixes))
        ids = torch.zeros(len(prefixes), width, dtype=torch.long)
        visible = torch.zeros(len(prefixes), width, dtype=torch.bool)
        for i, prefix in enumerate(prefixes):
            ids[i, width - len(prefix) :] = torch.tensor(prefix)
            visible[i, width - len(prefix) :] = True
        # A padded query sees itself: a row of attention with nothing to see would be NaN and spread.
        mask = torch.ones(width, width, dtype=torch.bool).tril() & visible[:, None] | torch.eye(width, dtype=torch.bool)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, mask[:, None], (visible.cumsum(-1) - 1).clamp(min=0), cache)
        state = _Decoder([], cache, visible, visible.sum(-1), logits, self.model.device)
        place = {prefix: i for i, prefix in enumerate(prefixes)}
        room = context_length(self.model)
        rows = []
        for request in requests:
            budget = min(params.max_completion_tokens, room - len(request.prefix_ids))
            if budget < 1:
                raise ValueError(f"a prefix of {len(request.prefix_ids)} tokens leaves no room in a context of {room}")
            rows.append(_Row(request, budget, uniforms(request.key, budget), [], []))
        state.rows = [rows[0]] * len(prefixes)
        state.keep(torch.tensor([place[request.prefix_ids] for request in requests]))
        state.rows = rows
        return state

    @torch.inference_mode()
    def _draw(self, state: _Decoder, params: SamplingParams) -> tuple[list[int], list[float]]:
        spots = [min(len(row.token_ids), row.budget - 1) for row in state.rows]
        uniform = torch.tensor([row.uniforms[spot] for row, spot in zip(state.rows, spots, strict=True)])
        tokens, logprobs = draw(state.logits, uniform, params.temperature, params.top_p, params.top_k)
        return tokens.tolist(), logprobs.tolist()

    @torch.inference_mode()
    def _advance(self, state: _Decoder, tokens: list[int]) -> None:
        state.visible = torch.cat([state.visible, torch.ones(len(tokens), 1, dtype=torch.bool)], dim=1)
        ids = torch.tensor(tokens)[:, None]
        state.logits = self._forward(ids, state.visible[:, None, None], state.positions[:, None], state.cache)
        state.positions = state.positions + 1

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the last position [rows, vocabulary], at least float32."""
        device = self.model.device
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).cpu()

    def _ends_with(self, token_ids: list[int], stop: tuple[str, ...]) -> bool:
        if not stop:
            return False
        # A token is at least one byte and a character at most four, so this tail holds any stop string.
        tail = self.tokenizer.decode(token_ids[-4 * max(map(len, stop)) :])
        return any(text in tail for text in stop)

    def _completion(self, row: _Row, stopped: bool) -> Completion:
        return Completion(
            key=row.request.key,
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            finish_reason="stop" if stopped else "length",
            policy_version=self.version,
        )
