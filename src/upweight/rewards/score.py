"""Scoring completions: the weighted sum of named parts, or which part failed and why."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

from upweight.config import RewardPart, RewardsConfig
from upweight.errors import UserError, nearest
from upweight.rewards.builtin import compiled
from upweight.rewards.call import CannotScore, Failed, called
from upweight.rewards.load import BUILTIN, resolve
from upweight.rewards.worker import Setup
from upweight.rewards.workers import Limits, Pool
from upweight.types import FinishReason, Prompt, Rollout

REWARD_MODEL = "reward_model"
GIVEN = ("completion", "answer", "prompt", "messages", "finish_reason", "fields")


@dataclass(frozen=True)
class Scored:
    """A reward and what each part said, before weighting."""

    reward: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class _Part:
    """One part, bound: `reads` are the parameters that a completion or its row must supply."""

    name: str
    reference: str
    function: Callable[..., Any]
    weight: float
    options: Mapping[str, Any]
    reads: tuple[str, ...]
    may_raise: type[Exception]
    isolated: bool


Batched = Callable[[Sequence[Rollout]], list[float]]


@dataclass(frozen=True)
class _BatchedPart:
    """A part that scores all completions of a step at once, such as a reward model."""

    name: str
    function: Batched
    weight: float


@dataclass(frozen=True)
class Pending:
    """A completion whose parts are known, or being computed in other processes."""

    parts: Mapping[str, float | Failed | Future[float | Failed]]
    weights: Mapping[str, float]

    def result(self) -> Scored | Failed:
        """The weighted sum, or the first part that failed. Waits until all are known."""
        values: dict[str, float] = {}
        for name, found in self.parts.items():
            value = found.result() if isinstance(found, Future) else found
            if isinstance(value, Failed):
                return value
            values[name] = value
        return Scored(sum(self.weights[name] * value for name, value in values.items()), values)

    def cancel(self) -> None:
        """Nobody will ask for the result."""
        for found in self.parts.values():
            if isinstance(found, Future):
                found.cancel()


@final
class Rewards:
    """The parts of a config, ready to score; made by `make_rewards`."""

    def __init__(self, parts: tuple[_Part, ...], batched: tuple[_BatchedPart, ...], pool: Pool) -> None:
        self._parts, self._batched, self._pool = parts, batched, pool

    @property
    def names(self) -> tuple[str, ...]:
        """The parts' names: first those of single completions, then the batched ones, each in the config's order."""
        return (*(part.name for part in self._parts), *(part.name for part in self._batched))

    @property
    def accuracy_part(self) -> str:
        """The part that says whether an answer is right: "correct" where there is one, else the first."""
        return "correct" if "correct" in self.names else self.names[0]

    def is_correct(self, parts: Mapping[str, float]) -> bool:
        """Whether a completion with these parts counts as right: the accuracy part is at least 1."""
        return parts[self.accuracy_part] >= 1

    def score(self, prompt: Prompt, text: str, finish_reason: FinishReason) -> Scored | Failed:
        """The weighted sum of the parts of single completions, or the first that failed; never their exception."""
        return self.submit(prompt, text, finish_reason).result()

    def submit(self, prompt: Prompt, text: str, finish_reason: FinishReason) -> Pending:
        """The same, without waiting for what is computed in other processes."""
        row = {**prompt.fields, **_given(prompt, text, finish_reason)}
        found = {part.name: self._begin(part, row) for part in self._parts}
        return Pending(found, {part.name: part.weight for part in self._parts})

    def close(self) -> None:
        """Ends the worker processes, if there are any."""
        self._pool.close()

    def _begin(self, part: _Part, row: Mapping[str, Any]) -> float | Failed | Future[float | Failed]:
        missing = next((key for key in part.reads if key not in row), None)
        if missing is not None:
            return Failed(part.name, "error", f"the row has no field {missing!r}{nearest(missing, row)}")
        arguments = {key: row[key] for key in part.reads}
        if part.isolated:
            return self._pool.submit(part.name, arguments)
        return called(part.name, partial(part.function, **part.options), arguments, part.may_raise)

    def complete(self, rollouts: Sequence[Rollout]) -> tuple[Rollout, ...]:
        """The rollouts with the batched parts added to their rewards.

        Raises UserError when such a part gives something else than a finite number.
        """
        for part in self._batched:
            values = part.function(rollouts)
            if not all(map(math.isfinite, values)):
                raise UserError(f"reward {part.name!r} gave a score that is not finite")
            rollouts = [
                replace(r, reward=r.reward + part.weight * value, reward_parts={**r.reward_parts, part.name: value})
                for r, value in zip(rollouts, values, strict=True)
            ]
        return tuple(rollouts)


def make_rewards(config: RewardsConfig, load_model: Callable[[str, RewardPart], Batched] | None = None) -> Rewards:
    """The rewards of a config, with every function found and its options checked; `load_model` loads reward models.

    Raises UserError when a function cannot be loaded or called by name, an option is unknown or of another kind,
    or there are no parts. Whether the data has the columns that a function reads shows with its rows.
    """
    if not config.parts:
        raise UserError('there is no reward: add for example [rewards.parts] correct = "number"')
    single, batched = [], []
    for name, part in config.parts.items():
        if part.function != REWARD_MODEL or load_model is None:
            single.append(_bind(name, part))
        else:
            batched.append(_BatchedPart(name, load_model(name, part), part.weight))
    isolated = {part.name: (part.reference, part.options) for part in single if part.isolated}
    limits = Limits(config.workers or os.cpu_count() or 1, config.deadline, config.memory_mb * 2**20)
    return Rewards(tuple(single), tuple(batched), Pool(Setup(isolated, limits.memory_bytes), limits))


def _bind(name: str, part: RewardPart) -> _Part:
    where = f"rewards.parts.{name}"
    function = resolve(part.function)
    parameters = _parameters(function, where)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    settable = [key for key in named if key not in GIVEN]
    for key, value in part.options.items():
        if key in GIVEN or (key not in settable and not open_ended):
            raise UserError(f"{where}.options: {part.function} has no option {key!r}{nearest(key, settable)}")
        if key in named:
            _check_kind(f"{where}.options.{key}", value, named[key].default)
    if function is BUILTIN["pattern"] and "pattern" in part.options:
        compiled(part.options["pattern"])
    required = (key for key, p in named.items() if p.default is p.empty or key in GIVEN)
    reads = tuple(key for key in required if key not in part.options)
    may_raise = CannotScore if part.function in BUILTIN else Exception
    isolated = part.function not in BUILTIN if part.isolate is None else part.isolate
    return _Part(name, part.function, function, part.weight, part.options, reads, may_raise, isolated)


def _parameters(function: Callable[..., Any], where: str) -> Mapping[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):
        raise UserError(f"{where}: the parameters of {function!r} cannot be read; wrap it in a def") from None
    for key, parameter in parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"{where}: parameter {key!r} is positional-only, but rewards are called by name")
    return parameters


def _check_kind(key: str, value: Any, default: Any) -> None:
    if default is None or default is inspect.Parameter.empty:
        return
    groups: tuple[tuple[type, ...], ...] = ((bool,), (int, float), (str,), (list, tuple), (dict,))
    kinds = next((group for group in groups if isinstance(default, group)), (object,))
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise UserError(f"{key} must be like {default!r}, not {value!r}")


def _given(prompt: Prompt, text: str, finish_reason: FinishReason) -> dict[str, Any]:
    """What is known of every completion; a column of the data of the same name gives way."""
    asked = next((m["content"] for m in reversed(prompt.messages) if m["role"] == "user"), "")
    return {
        "completion": text,
        "answer": prompt.answer,
        "prompt": asked,
        "messages": [dict(message) for message in prompt.messages],
        "finish_reason": finish_reason,
        "fields": dict(prompt.fields),
    }
