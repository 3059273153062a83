"""Turns: a tool or an environment answers a completion, and sampling goes on behind its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from upweight import sandbox
from upweight.chat import encode_reply
from upweight.config import RewardsConfig, TurnsConfig
from upweight.drafts import Draft, text_of
from upweight.errors import UserError
from upweight.rewards.call import Failed
from upweight.rewards.make import bound_reads, limits_of
from upweight.rewards.score import GIVEN, given
from upweight.rewards.worker import Setup
from upweight.rewards.workers import Outcome, Pool
from upweight.tools import TOOLS, Tool
from upweight.types import SamplingParams
from upweight.userfile import load_object

READABLE = (*GIVEN, "turn")


@dataclass(frozen=True)
class Turns:
    """Who answers, and how many completions a rollout may have. `reads` and `may_read` are those of a reward's part.

    `stop` are strings that end a completion so that it can be answered.
    """

    name: str
    submit: Callable[[Mapping[str, Any]], Future[Outcome]]
    reads: tuple[str, ...]
    may_read: tuple[str, ...]
    limit: int
    role: str
    stop: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    context: int

    def ask(self, draft: Draft) -> Future[Outcome]:
        """What is answered: text, None when nothing is and the rollout is over, or a failure."""
        text = draft.completion(self.tokenizer)
        known = {**draft.prompt.fields, **given(draft.prompt, text, draft.finish_reason), "turn": draft.key.turn}
        known["transcript"] = draft.transcript(self.tokenizer)
        missing = next((key for key in self.reads if key not in known), None)
        if missing is None:
            return self.submit({key: known[key] for key in (*self.reads, *self.may_read) if key in known})
        failed: Future[Outcome] = Future()
        failed.set_result(Failed(self.name, "error", f"the row has no field {missing!r}"))
        return failed

    def goes_on(self, draft: Draft, reply: str, params: SamplingParams) -> Draft | None:
        """The draft with a reply behind it, or None where no turn, budget or context is left for another completion.

        A completion that ended with a stop token is answered by a message of the chat template; one that ended
        otherwise, or a model without a template, reads the bare text. Raises UserError where the template does not
        only append.
        """
        if draft.key.turn >= self.limit:
            return None
        told = self._told(draft, reply)
        fits = len(draft.prompt.token_ids) + len(told.token_ids) < self.context
        return told if fits and told.room(params) > 0 else None

    def _told(self, draft: Draft, reply: str) -> Draft:
        if self.tokenizer.chat_template is None or draft.token_ids[-1] not in self.stop_ids:
            return draft.told(tuple(self.tokenizer(reply, add_special_tokens=False)["input_ids"]))
        spoken = text_of(self.tokenizer, draft.token_ids[draft.speaking :])
        said = (*draft.said, {"role": "assistant", "content": spoken})
        message = {"role": self.role, "content": reply}
        try:
            ids = encode_reply(self.tokenizer, (*draft.prompt.messages, *said), message, self.stop_ids)
        except ValueError as error:
            raise UserError(f"turns.tool {self.name!r} cannot answer in this chat template: {error}") from None
        told = draft.told(ids)
        return replace(told, said=(*said, message), speaking=len(told.token_ids))


def make_turns(
    config: TurnsConfig,
    rewards: RewardsConfig,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    context: int,
) -> Turns | None:
    """Who answers according to a config, in worker processes like those of rewards; None where nobody does.

    Raises UserError for a function that cannot be found or has no such option.
    """
    if config.tool is None:
        return None
    tool = TOOLS.get(config.tool, Tool(config.tool, ()))
    if tool.sandboxed:
        sandbox.require()
    function = load_object(tool.reference, "tool")
    if not callable(function):
        raise UserError(f"turns.tool {config.tool!r} is a {type(function).__name__}, not a function")
    reads = bound_reads(config.tool, function, config.options, "turns", READABLE)
    limits = limits_of(rewards)
    pool = Pool(Setup({}, limits.memory_bytes, {config.tool: (tool.reference, config.options)}), limits)
    submit = partial(pool.submit, config.tool)
    return Turns(config.tool, submit, *reads, config.limit, config.role, tool.stop, tokenizer, stop_ids, context)
