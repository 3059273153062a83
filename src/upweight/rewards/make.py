"""From the config to rewards that can score: functions found, their options checked, each given its place to run."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from upweight import sandbox
from upweight.config import RewardPart, RewardsConfig
from upweight.errors import UserError, nearest
from upweight.rewards.builtin import compiled
from upweight.rewards.call import CannotScore, called
from upweight.rewards.combine import composition
from upweight.rewards.load import BUILTIN, ISOLATED, OWN_CODE, SANDBOXED, resolve
from upweight.rewards.score import GIVEN, Batched, BatchedPart, Part, Rewards
from upweight.rewards.steps import check as check_steps
from upweight.rewards.worker import Setup
from upweight.rewards.workers import Limits, Pool

JUDGE = "judge"
MODELS = ("reward_model", "process_reward_model")

LoadModel = Callable[[str, RewardPart], Batched]


def make_rewards(config: RewardsConfig, load_model: Mapping[str, LoadModel] | None = None) -> Rewards:
    """The rewards of a config, with every function found and its options checked; `load_model` loads those of `MODELS`.

    Raises UserError when a function cannot be loaded or called by name, an option is unknown or of another kind,
    or there are no parts. Whether the data has the columns that a function reads shows with its rows.
    """
    if not config.parts:
        raise UserError('there is no reward: add for example [rewards.parts] correct = "number"')
    together = composition(config.parts)
    isolated = {name: (part.function, part.options) for name, part in config.parts.items() if _is_isolated(part)}
    limits = limits_of(config)
    pool = Pool(Setup(isolated, limits.memory_bytes), limits)
    closers: list[Callable[[], None]] = [pool.close]
    single: list[Part] = []
    batched: list[BatchedPart] = []
    for name, part in config.parts.items():
        if part.function in MODELS:
            if load_model is None:
                raise UserError(f"rewards.parts.{name}: {part.function} reads tokens, so it needs a run that samples")
            batched.append(BatchedPart(name, load_model[part.function](name, part)))
        elif part.function == JUDGE:
            single.append(_judge(name, part, closers))
        else:
            single.append(_bind(name, part, pool))
    return Rewards(tuple(single), tuple(batched), together, tuple(closers))


def limits_of(config: RewardsConfig) -> Limits:
    """What worker processes are given."""
    return Limits(config.workers or os.cpu_count() or 1, config.deadline, config.memory_mb * 2**20)


def _is_isolated(part: RewardPart) -> bool:
    if part.function in (*MODELS, JUDGE):
        return False
    if part.isolate is not None:
        return part.isolate
    return part.function not in BUILTIN or part.function in ISOLATED or _calls_own_code(part)


def _calls_own_code(part: RewardPart) -> bool:
    """Whether a builtin will call a function of the user's."""
    return part.function in OWN_CODE and ":" in str(part.options.get(OWN_CODE[part.function], ""))


def _judge(name: str, part: RewardPart, closers: list[Callable[[], None]]) -> Part:
    from upweight.rewards.judge import load_judge

    judge = load_judge(name, part)
    closers.append(judge.close)
    return Part(name, ("completion", "prompt", "answer"), (), judge.submit)


def _bind(name: str, part: RewardPart, pool: Pool) -> Part:
    where = f"rewards.parts.{name}"
    function = resolve(part.function)
    reads = bound_reads(part.function, function, part.options, where)
    if function is BUILTIN["pattern"] and "pattern" in part.options:
        compiled(part.options["pattern"])
    if function is BUILTIN["steps"]:
        check_steps(**part.options)
    if part.function in SANDBOXED and not part.options.get(sandbox.OPTION):
        sandbox.require()
    if _is_isolated(part):
        return Part(name, *reads, partial(pool.submit, name, deadline=part.deadline))
    may_raise = CannotScore if part.function in BUILTIN and not _calls_own_code(part) else Exception
    return Part(name, *reads, partial(called, name, partial(function, **part.options), may_raise=may_raise))


def bound_reads(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], where: str, known: tuple[str, ...] = GIVEN
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parameters that a completion or its row must supply once `options` are set, and those that it may.

    These have a default and are `known` of completions, so that no option can set them. Raises UserError for options
    that the function does not have, or of another kind.
    """
    parameters = _parameters(function, where)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    settable = [key for key in named if key not in known]
    for key, value in options.items():
        if key in known or (key not in settable and not open_ended):
            raise UserError(f"{where}.options: {name} has no option {key!r}{nearest(key, settable)}")
        if key in named:
            _check_kind(f"{where}.options.{key}", value, named[key].default)
    required = (key for key, p in named.items() if p.default is p.empty and key not in options)
    return tuple(required), tuple(key for key, p in named.items() if p.default is not p.empty and key in known)


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
