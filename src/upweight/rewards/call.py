"""One reward function called on one completion, and what can come of it.

Worker processes import this module, so it must stay light: no torch, no config.
"""

from __future__ import annotations

import math
import numbers
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# timeout: no result before the deadline; memory: more than the limit; crash: its process died; error: it raised;
# not_a_number: it returned something else than a finite number; refusal: it cannot judge this row.
Kind = Literal["timeout", "memory", "crash", "error", "not_a_number", "refusal"]
TRACEBACK_CHARACTERS = 4000


class CannotScore(Exception):
    """A reward that cannot judge: the row or the clock is at fault, not the completion, so 0 would be a lie."""


@dataclass(frozen=True)
class Stepwise:
    """What a part that scores steps returns: its one number, and where in the completion which step earned what.

    `ends[j]` is the offset in characters at which step j ends (exclusive, ascending), `rewards[j]` what it earned.
    """

    value: float
    ends: tuple[int, ...]
    rewards: tuple[float, ...]


@dataclass(frozen=True)
class Failed:
    """A part that gave no finite number, which is not the same as a wrong answer."""

    part: str
    kind: Kind
    message: str
    traceback: str = ""


def called(
    part: str, function: Callable[..., Any], arguments: Mapping[str, Any], may_raise: type[BaseException] = Exception
) -> float | Stepwise | Failed:
    """What a reward returns for some arguments, or why it returned none.

    Exceptions of other kinds than `may_raise` are bugs of our own, and are not caught.
    """
    try:
        value = function(**arguments)
        number = _stepwise(value) if isinstance(value, Stepwise) else finite(value)
    except may_raise as error:
        return _raised(part, error)
    if number is None:
        return Failed(part, "not_a_number", f"returned {_show(value)}, not a finite number")
    return number


def replied(tool: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> str | Failed | None:
    """The text that a tool answers with, None where it has nothing to say, or why there is neither."""
    try:
        value = function(**arguments)
    except BaseException as error:  # in a process of its own, which ends with it if it must
        return _raised(tool, error)
    if not isinstance(value, str | None):
        return Failed(tool, "error", f"returned {_show(value)}, neither text nor None")
    return value


def _stepwise(value: Stepwise) -> Stepwise | None:
    """The same in plain numbers; None when one is not finite. Raises ValueError for ends that are not ascending."""
    total, rewards = finite(value.value), [finite(reward) for reward in value.rewards]
    ends = [int(end) for end in value.ends]
    if len(ends) != len(rewards) or ends != sorted(set(ends)) or min(ends, default=1) < 1:
        raise ValueError(f"the ends of steps must be ascending, positive and as many as rewards, not {ends[:20]}")
    if total is None or None in rewards:
        return None
    return Stepwise(total, tuple(ends), tuple(reward for reward in rewards if reward is not None))


def finite(value: Any) -> float | None:
    """The value as a float; None for what is no real number, nan, infinities and integers beyond any float."""
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _raised(part: str, error: BaseException) -> Failed:
    """`Error: message (file:line)` in one line; a refusal says itself what is wrong."""
    if isinstance(error, CannotScore):
        return Failed(part, "refusal", str(error))
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})"
    kind: Kind = "memory" if isinstance(error, MemoryError) else "error"
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"
    return Failed(part, kind, message, "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:])


def _show(value: Any) -> str:
    """None, nan and inf as they are, text shortened, and of anything else only its type."""
    if isinstance(value, str):
        return f"the text {value[:80]!r}"
    return repr(value) if value is None or isinstance(value, float) else f"a {type(value).__name__}"
