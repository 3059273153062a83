"""From the name of a reward in the config to the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from upweight.errors import UserError, nearest
from upweight.rewards import builtin, code, gym, lengths
from upweight.rewards.mathematics.algebra import require_library
from upweight.rewards.mathematics.reward import math
from upweight.rewards.steps import steps
from upweight.rewards.trl import has_trl_signature, one_at_a_time
from upweight.userfile import load_object

Function = Callable[..., Any]

BUILTIN: dict[str, Function] = {
    "number": builtin.number,
    "exact": builtin.exact,
    "format": builtin.tags,
    "pattern": builtin.pattern,
    "three_tier": builtin.three_tier,
    "countdown": builtin.countdown,
    "steps": steps,
    "soft_overlong": lengths.soft_overlong,
    "cosine_length": lengths.cosine_length,
    "repetition": lengths.repetition,
    "math": math,
    "code": code.code,
    "code_asserts": code.code_asserts,
    "gym": gym.gym,
}

ISOLATED = frozenset({"math", "code", "code_asserts", "gym"})
"""Those of them that are slow or run what they are given, and are computed in worker processes."""

PREPARED: dict[str, Callable[[], object]] = {"math": require_library, "gym": gym.require_library}
"""What has to be imported before the first completion is scored: that takes seconds, which no deadline allows for."""

SANDBOXED = frozenset({"code", "code_asserts"})
"""Those that run programs, and refuse to where the sandbox cannot start."""

OWN_CODE: dict[str, str] = {"steps": "judge"}
"""The option by which one of them may call a function of the user's, named file.py:name or module:name."""


def resolve(function: str) -> Function:
    """The function that a config names: one of `BUILTIN`, `module:name`, or `file.py:name`.

    One with TRL's signature is made one of a single completion. Raises UserError that names what is missing or what
    went wrong in the user's file.
    """
    if function in BUILTIN:
        return BUILTIN[function]
    place, separator, name = function.rpartition(":")
    if not separator or not place or not name:
        raise UserError(
            f"unknown reward {function!r}{nearest(function, BUILTIN)}; `upweight rewards` lists them; a function of "
            "your own is written file.py:name or module:name"
        )
    found: Function = load_object(function, "reward")
    if not callable(found):
        raise UserError(f"reward {function!r} is a {type(found).__name__}, not a function")
    return one_at_a_time(found) if has_trl_signature(found) else found
