"""The in-process sampler: prompts read once for their group, rows decoded together, freed places taken at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.models.forward import context_length
from upweight.phases import phase
from upweight.samplers.choose import decoder_for
from upweight.samplers.decoder import without
from upweight.samplers.randomness import draw
from upweight.samplers.slots import Slots
from upweight.types import Completion, Request, SamplingParams

REFILL_SHARE = 8  # waiting requests are admitted when an eighth of the rows is free: a prefill of few is no dearer
POLL = 8  # an accelerator is asked this rarely which rows have ended: asking makes it wait for the host


class NativeSampler:
    """Owns a copy of the policy. At most `max_rows` are decoded at once; the others wait their turn."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], max_rows: int = 512
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self.max_rows = max_rows
        self.version = -1  # nothing loaded yet
        self.context = context_length(model)
        self.decoder = decoder_for(model)
        self.poll = 1 if model.device.type == "cpu" else POLL
        self._uses = 0  # of the decoder, which has the rows of one call at a time

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
        self.decoder.refresh()
        self._uses += 1
        self.version = version

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters by their Hugging Face names."""
        yield from self.model.named_parameters()

    @torch.inference_mode()
    def score(self, prefix_ids: Sequence[int], temperature: float) -> Tensor:
        """Log-probs [vocabulary] of the token after a prefix, by the very code that samples."""
        self._uses += 1
        self.decoder.begin(1)
        return (self.decoder.admit([tuple(prefix_ids)])[0] / temperature).log_softmax(-1)

    def sample(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they finish.

        Raises ValueError for a prefix that leaves no room in the context, and RuntimeError when the sampler was used
        otherwise before the last completion was taken.
        """
        for request in requests:
            self._budget(request)
        for params, same in groupby(sorted(requests, key=lambda r: repr(_drawing(r))), key=_drawing):
            yield from self._decode(list(same), params)

    def _decode(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Completion]:
        waiting = groups_of(requests)
        slots = self._slots(requests)
        self._uses += 1
        use, steps, logits = self._uses, 0, None
        while waiting or len(slots):
            logits = self._refill(slots, waiting, logits)
            self._draw(slots, logits, params)
            steps += 1
            if steps % self.poll == 0:
                yield from self._finished(slots, params)
                if self._uses != use:
                    raise RuntimeError("the sampler was used otherwise before the last completion was taken")
            logits = self._advance(slots) if len(slots) else None

    def _slots(self, requests: Sequence[Request]) -> Slots:
        """Places for the rows of a call, in the decoder too."""
        rows = min(self.max_rows, len(requests))
        # No float64 on Apple's GPUs: tokens are drawn on the CPU there.
        device = torch.device("cpu") if self.model.device.type == "mps" else self.model.device
        stops = torch.zeros(self.model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        stops[[stop for stop in self.stop_ids if stop < len(stops)]] = True
        with torch.inference_mode():
            self.decoder.begin(rows)
            return Slots(rows, max(map(self._budget, requests)), self.poll, stops.to(device))

    def _budget(self, request: Request) -> int:
        length = len(request.prefix_ids)
        budget = min(request.params.max_completion_tokens, self.context - length)
        if budget < 1:
            raise ValueError(f"a prefix of {length} tokens leaves no room in a context of {self.context}")
        return budget

    @torch.inference_mode()
    def _refill(self, slots: Slots, waiting: deque[list[Request]], logits: Tensor | None) -> Tensor:
        """Gives free places to waiting requests where that pays; logits of all rows. gain: see docs/speed.md"""
        enough = slots.free() * REFILL_SHARE >= slots.free() + len(slots) and self.decoder.joins
        taken = take(waiting, slots.free(), bool(len(slots))) if enough or not len(slots) else []
        if not taken:
            assert logits is not None
            return logits
        with phase("prefill"):
            slots.add(taken, [self._budget(request) for request in taken])
            old = [] if logits is None else [logits]
            return torch.cat([*old, self.decoder.admit([request.prefix_ids for request in taken])])

    @torch.inference_mode()
    def _draw(self, slots: Slots, logits: Tensor, params: SamplingParams) -> None:
        with phase("decode"):
            uniform = slots.next_uniforms()
            slots.record(*draw(logits.to(uniform.device), uniform, params.temperature, params.top_p, params.top_k))

    @torch.inference_mode()
    def _advance(self, slots: Slots) -> Tensor:
        with phase("decode"):
            return self.decoder.advance(slots.latest[: len(slots)].to(self.model.device))

    @torch.inference_mode()
    def _finished(self, slots: Slots, params: SamplingParams) -> list[Completion]:
        """The completions that have ended; their rows leave."""
        with phase("decode"):
            if params.stop:
                self._end_at_strings(slots, params.stop)
            ended = slots.ended()
            if not ended:
                return []
            done = [self._completion(slots.requests[row], *slots.drawn(row)) for row in ended]
            compaction = without(len(slots), ended)
            slots.keep(compaction)
            self.decoder.keep(compaction)
            return done

    def _end_at_strings(self, slots: Slots, stop: tuple[str, ...]) -> None:
        """Ends rows where a stop string ends. Tokens that came before the last poll have been looked at."""
        for row in range(len(slots)):
            tokens, _ = slots.drawn(row)
            for end in range(max(0, len(tokens) - self.poll) + 1, len(tokens) + 1):
                if self._ends_with(tokens[:end], stop):
                    slots.end(row, end)
                    break

    def _ends_with(self, token_ids: list[int], stop: tuple[str, ...]) -> bool:
        if not stop:
            return False
        # A token is at least one byte and a character at most four, so this tail holds any stop string.
        tail = self.tokenizer.decode(token_ids[-4 * max(map(len, stop)) :])
        return any(text in tail for text in stop)

    def _completion(self, request: Request, tokens: list[int], logprobs: list[float]) -> Completion:
        stopped = tokens[-1] in self.stop_ids or self._ends_with(tokens, request.params.stop)
        return Completion(
            key=request.key,
            token_ids=tuple(tokens),
            logprobs=tuple(logprobs),
            finish_reason="stop" if stopped else "length",
            policy_version=self.version,
        )


def _drawing(request: Request) -> SamplingParams:
    """How tokens are drawn: requests that differ in their budgets alone are decoded together."""
    return replace(request.params, max_completion_tokens=0)


def groups_of(requests: Sequence[Request]) -> deque[list[Request]]:
    """Requests with the same prefix together, in order of first appearance."""
    groups: dict[tuple[int, ...], list[Request]] = {}
    for request in requests:
        groups.setdefault(request.prefix_ids, []).append(request)
    return deque(groups.values())


def take(waiting: deque[list[Request]], free: int, whole: bool) -> list[Request]:
    """Requests for `free` places. Groups stay together if they fit, so that each prefix is read once.

    With `whole`, a group that does not fit waits; else it is begun when nothing else was taken.
    """
    taken: list[Request] = []
    while waiting and len(taken) + len(waiting[0]) <= free:
        taken += waiting.popleft()
    if waiting and not taken and not whole:
        taken, waiting[0] = waiting[0][:free], waiting[0][free:]
    return taken
