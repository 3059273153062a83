"""Scoring completions: the weighted sum of named parts, or which part failed and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, final

from upweight.errors import UserError, nearest
from upweight.rewards.call import Failed, Stepwise
from upweight.rewards.combine import Composition, Scored, Value, number
from upweight.types import FinishReason, Prompt, Rollout, Step

Begin = Callable[[Mapping[str, Any]], Any]
Batched = Callable[[Sequence[Rollout]], Sequence[Value]]
Locate = Callable[[Rollout, Stepwise], tuple[Step, ...]]

# What is known of every completion; a column of the data of the same name gives way. Those of the second row only
# where it was sampled, and not read from a file.
GIVEN = (
    *("completion", "answer", "prompt", "messages", "finish_reason", "fields", "transcript"),
    *("token_ids", "tokens", "token_budget"),
)


@dataclass(frozen=True)
class Part:
    """One part: a completion or its row must supply the parameters `reads`, and supplies those of `may_read` it has.

    `begin` computes its value, or begins to, and returns what will be known as a Future.
    """

    name: str
    reads: tuple[str, ...]
    may_read: tuple[str, ...]
    begin: Begin


@dataclass(frozen=True)
class BatchedPart:
    """A part that scores all completions of a step at once, such as a reward model."""

    name: str
    function: Batched


@dataclass(frozen=True)
class Pending:
    """A completion whose parts are known, or being computed elsewhere."""

    parts: Mapping[str, Any]
    composition: Composition

    def result(self) -> Scored | Failed:
        """The parts put together, or the first that failed. Waits until all are known."""
        values: dict[str, Value] = {}
        for name, found in self.parts.items():
            value = found.result() if isinstance(found, Future) else found
            if isinstance(value, Failed):
                return value
            values[name] = value
        return self.composition.scored(values)

    def cancel(self) -> None:
        """Nobody will ask for the result."""
        for found in self.parts.values():
            if isinstance(found, Future):
                found.cancel()


@final
class Rewards:
    """The parts of a config, ready to score; made by `make_rewards`."""

    def __init__(
        self,
        parts: tuple[Part, ...],
        batched: tuple[BatchedPart, ...],
        composition: Composition,
        closers: tuple[Callable[[], None], ...] = (),
    ) -> None:
        self._parts, self._batched, self._composition, self._closers = parts, batched, composition, closers

    @property
    def names(self) -> tuple[str, ...]:
        """The parts' names: first those of single completions, then the batched ones, each in the config's order."""
        return (*(part.name for part in self._parts), *(part.name for part in self._batched))

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each part."""
        return self._composition.weights

    @property
    def accuracy_part(self) -> str:
        """The part that says whether an answer is right: "correct" where there is one, else the first."""
        return "correct" if "correct" in self.names else self.names[0]

    def is_correct(self, parts: Mapping[str, float]) -> bool:
        """Whether a completion with these parts counts as right: the accuracy part is at least 1."""
        return parts[self.accuracy_part] >= 1

    def score(self, prompt: Prompt, text: str, finish_reason: FinishReason, **known: Any) -> Scored | Failed:
        """The parts of single completions put together, or the first that failed; never their exception."""
        return self.submit(prompt, text, finish_reason, **known).result()

    def submit(self, prompt: Prompt, text: str, finish_reason: FinishReason, **known: Any) -> Pending:
        """The same, without waiting for what is computed elsewhere.

        `known` may have what else `GIVEN` lists; the transcript is the text itself where it has no turns.
        """
        row = {**prompt.fields, **given(prompt, text, finish_reason), **known}
        found = {part.name: _begin(part, row) for part in self._parts}
        return Pending(found, self._composition)

    def close(self) -> None:
        """Ends whatever computes beside this process, if anything does."""
        for close in self._closers:
            close()

    def complete(self, rollouts: Sequence[Rollout], locate: Locate) -> tuple[Rollout, ...]:
        """The rollouts with the batched parts added, their steps found in the tokens by `locate`, and gates closed.

        Raises UserError when such a part gives something else than a finite number.
        """
        for part in self._batched:
            values = part.function(rollouts)
            if not all(math.isfinite(number(value)) for value in values):
                raise UserError(f"reward {part.name!r} gave a score that is not finite")
            rollouts = [_with(r, part.name, value, locate) for r, value in zip(rollouts, values, strict=True)]
        return tuple(map(self._gated, rollouts)) if self._batched else tuple(rollouts)

    def _gated(self, rollout: Rollout) -> Rollout:
        closed = self._composition.closed(rollout.reward_parts)
        parts = {name: 0.0 if name in closed else value for name, value in rollout.reward_parts.items()}
        steps = {name: () if name in closed else found for name, found in rollout.steps.items()}
        return replace(rollout, reward=self._composition.total(parts), reward_parts=parts, steps=steps)


def _begin(part: Part, row: Mapping[str, Any]) -> Any:
    missing = next((key for key in part.reads if key not in row), None)
    if missing is not None:
        return Failed(part.name, "error", f"the row has no field {missing!r}{nearest(missing, row)}")
    return part.begin({key: row[key] for key in (*part.reads, *part.may_read) if key in row})


def _with(rollout: Rollout, name: str, value: Value, locate: Locate) -> Rollout:
    parts = {**rollout.reward_parts, name: number(value)}
    if not isinstance(value, Stepwise):
        return replace(rollout, reward_parts=parts)
    return replace(rollout, reward_parts=parts, steps={**rollout.steps, name: locate(rollout, value)})


def given(prompt: Prompt, text: str, finish_reason: FinishReason) -> dict[str, Any]:
    """What is known of every completion, by the names that a function may read it by."""
    asked = next((m["content"] for m in reversed(prompt.messages) if m["role"] == "user"), "")
    return {
        "completion": text,
        "answer": prompt.answer,
        "prompt": asked,
        "messages": [dict(message) for message in prompt.messages],
        "finish_reason": finish_reason,
        "fields": dict(prompt.fields),
        "transcript": text,
    }
