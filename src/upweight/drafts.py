"""A rollout under way: what the policy sampled and what was said in between, as tokens that are only ever appended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from upweight.types import Completion, FinishReason, Message, Prompt, Request, SampleKey, SamplingParams


@dataclass(frozen=True)
class Draft:
    """One rollout before it is scored. The lists are aligned; `key` is that of its next completion.

    `latest` is where the latest completion begins, `speaking` where the assistant's present turn does: they differ
    when a tool has answered in the middle of it. `said` are the messages after the prompt's.
    """

    prompt: Prompt
    key: SampleKey
    token_ids: tuple[int, ...] = ()
    loss_mask: tuple[bool, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason = "length"
    policy_version: int = 0
    latest: int = 0
    speaking: int = 0
    said: tuple[Message, ...] = field(default=())

    def room(self, params: SamplingParams) -> int:
        """What is left of the budget of tokens, which all turns share."""
        return params.max_completion_tokens - len(self.token_ids)

    def request(self, params: SamplingParams) -> Request:
        """What to ask the sampler for next."""
        prefix = self.prompt.token_ids + self.token_ids
        return Request(prefix, self.key, replace(params, max_completion_tokens=self.room(params)))

    def sampled(self, completion: Completion) -> Draft:
        """With a completion behind it."""
        return replace(
            self,
            token_ids=self.token_ids + completion.token_ids,
            loss_mask=self.loss_mask + (True,) * len(completion.token_ids),
            logprobs=self.logprobs + completion.logprobs,
            finish_reason=completion.finish_reason,
            policy_version=completion.policy_version,
            latest=len(self.token_ids),
            key=self.key._replace(turn=self.key.turn + 1),
        )

    def told(self, token_ids: tuple[int, ...]) -> Draft:
        """With tokens behind it that the policy did not choose."""
        return replace(
            self,
            token_ids=self.token_ids + token_ids,
            loss_mask=self.loss_mask + (False,) * len(token_ids),
            logprobs=self.logprobs + (math.nan,) * len(token_ids),
        )

    def cut_off(self) -> Draft:
        """Ended before it was done."""
        return replace(self, finish_reason="length")

    def completion(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text of the latest completion, without special tokens such as the end-of-sequence token."""
        return text_of(tokenizer, self.token_ids[self.latest :])

    def transcript(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """All that was said after the prompt."""
        return text_of(tokenizer, self.token_ids)


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    """Tokens as text, without special tokens."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
