"""Scoring one completion: the weighted sum of named parts, or which part failed and why."""

from __future__ import annotations

import inspect
import math
import numbers
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from upweight.config import RewardPart, RewardsConfig
from upweight.errors import UserError, nearest
from upweight.rewards.builtin import CannotScore, compiled
from upweight.rewards.load import BUILTIN, resolve
from upweight.types import FinishReason, Prompt, Rollout

REWARD_MODEL = "reward_model"
GIVEN = ("completion", "answer", "prompt", "messages", "finish_reason", "fields")


@dataclass(frozen=True)
class Scored:
    """A reward and what each part said, before weighting."""

    reward: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """A part gave no finite number: it raised ("error") or returned something else ("not_a_number")."""

    part: str
    kind: Literal["error", "not_a_number"]
    message: str


@dataclass(frozen=True)
class _Part:
    """One part, bound: `reads` are the parameters that a completion or its row must supply."""

    name: str
    function: Callable[..., Any]
    weight: float
    options: Mapping[str, Any]
    reads: tuple[str, ...]
    may_raise: type[Exception]


Batched = Callable[[Sequence[Rollout]], list[float]]


@dataclass(frozen=True)
class _BatchedPart:
    """A part that scores all completions of a step at once, such as a reward model."""

    name: str
    function: Batched
    weight: float


@final
class Rewards:
    """The parts of a config, ready to score; made by `make_rewards`."""

    def __init__(self, parts: tuple[_Part, ...], batched: tuple[_BatchedPart, ...] = ()) -> None:
        self._parts, self._batched = parts, batched

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
        row = {**prompt.fields, **_given(prompt, text, finish_reason)}
        values: dict[str, float] = {}
        for part in self._parts:
            value = _call(part, row)
            if isinstance(value, Failed):
                return value
            values[part.name] = value
        return Scored(sum(part.weight * values[part.name] for part in self._parts), values)

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
    return Rewards(tuple(single), tuple(batched))


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
    return _Part(name, function, part.weight, part.options, reads, may_raise)


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


def _call(part: _Part, row: Mapping[str, Any]) -> float | Failed:
    missing = next((key for key in part.reads if key not in row), None)
    if missing is not None:
        return Failed(part.name, "error", f"the row has no field {missing!r}{nearest(missing, row)}")
    try:
        value = part.function(**{key: row[key] for key in part.reads}, **part.options)
    except part.may_raise as error:
        return Failed(part.name, "error", _describe(error))
    number = _finite(value)
    if number is None:
        return Failed(part.name, "not_a_number", f"returned {_show(value)}, not a finite number")
    return number


def _finite(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:  # an integer beyond the largest float
        return None
    return number if math.isfinite(number) else None


def _describe(error: Exception) -> str:
    """`Error: message (file:line)` in one line."""
    if isinstance(error, CannotScore):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"


def _show(value: Any) -> str:
    """None, nan and inf as they are, text shortened, and of anything else only its type."""
    if isinstance(value, str):
        return f"the text {value[:80]!r}"
    return repr(value) if value is None or isinstance(value, float) else f"a {type(value).__name__}"
