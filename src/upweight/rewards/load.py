"""From the name of a reward in the config to the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from upweight.errors import UserError, nearest
from upweight.rewards import builtin
from upweight.userfile import load_object

Function = Callable[..., Any]

BUILTIN: dict[str, Function] = {
    "number": builtin.number,
    "exact": builtin.exact,
    "tags": builtin.tags,
    "pattern": builtin.pattern,
    "countdown": builtin.countdown,
}


def resolve(function: str) -> Function:
    """The function that a config names: one of `BUILTIN`, `module:name`, or `file.py:name`.

    Raises UserError that names what is missing or what went wrong in the user's file.
    """
    if function in BUILTIN:
        return BUILTIN[function]
    place, separator, name = function.rpartition(":")
    if not separator or not place or not name:
        raise UserError(
            f"unknown reward {function!r}{nearest(function, BUILTIN)}; a function of your own is written file.py:name "
            "or module:name"
        )
    found: Function = load_object(function, "reward")
    if not callable(found):
        raise UserError(f"reward {function!r} is a {type(found).__name__}, not a function")
    return found
