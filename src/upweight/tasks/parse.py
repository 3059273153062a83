"""One row of the user's data as a problem or a demonstration; `BadRow` says why it is neither."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from upweight.tasks.bad_rows import BadRow
from upweight.types import Demonstration, Message, Problem

ROLES = ("system", "user", "assistant")
_OWN_KEYS = frozenset({"prompt", "messages", "answer", "completion"})

Row = Mapping[str, Any]


def parse_problem(row: Row, id: str) -> Problem:
    """`prompt` or `messages`, and `answer`; every other column goes to `fields`. Raises BadRow.

    One assistant turn at the end of `messages` is left out, so that one file serves imitation and reward alike.
    `messages` wins over a `prompt` beside it.
    """
    answer = _answer(row)
    fields = {key: value for key, value in row.items() if key not in _OWN_KEYS}
    return Problem(id, _question(row), answer, fields)


def parse_demonstration(row: Row, id: str) -> Demonstration:
    """`messages` with an assistant turn, or `prompt` and `completion`. Raises BadRow."""
    if row.get("messages") is None:
        turn = {"role": "assistant", "content": _text(row, "completion")}
        return Demonstration(id, (*_prompt(row), turn))
    messages = _messages(row["messages"])
    if all(message["role"] != "assistant" for message in messages):
        raise BadRow("`messages` have no assistant turn to imitate")
    return Demonstration(id, messages)


def _question(row: Row) -> tuple[Message, ...]:
    """The messages up to the user's last turn."""
    if row.get("messages") is None:
        return _prompt(row)
    messages = _messages(row["messages"])
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1]["role"] != "user":
        raise BadRow("`messages` do not end with a user turn to answer")
    return messages


def _prompt(row: Row) -> tuple[Message, ...]:
    if row.get("prompt") is None:
        raise BadRow("has neither `prompt` nor `messages`")
    return ({"role": "user", "content": _text(row, "prompt")},)


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        raise BadRow(f"has no `{key}`")
    if not isinstance(value, str):
        hint = "; lists of turns go into `messages`" if isinstance(value, list) else ""
        raise BadRow(f"`{key}` must be text, not {type(value).__name__}{hint}")
    if not value.strip():
        raise BadRow(f"`{key}` is empty")
    return value


def _answer(row: Row) -> str:
    """The answer as text; a number is written out in full, and without a fraction when that is zero."""
    value = row.get("answer")
    if isinstance(value, str | None):
        return _text(row, "answer")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"`answer` must be text or a number, not {type(value).__name__}")
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise BadRow(f"`answer` is {value}, not a number")
    return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise BadRow("`messages` must be a list of turns, not " + ("empty" if value == [] else type(value).__name__))
    return tuple(_message(message, place) for place, message in enumerate(value, 1))


def _message(value: Any, place: int) -> Message:
    """One turn. Further keys that a template may read are kept where they are text; null ones are no keys."""
    if not isinstance(value, Mapping):
        raise BadRow(f"message {place} must be an object with `role` and `content`, not {type(value).__name__}")
    message = {key: item for key, item in value.items() if item is not None}
    if message.get("role") not in ROLES:
        raise BadRow(f"message {place} has role {message.get('role')!r}, not one of {', '.join(ROLES)}")
    for key in ("content", *message):
        if not isinstance(message.get(key), str):
            raise BadRow(f"message {place}: `{key}` must be text, not {type(message.get(key)).__name__}")
    if not message["content"].strip() and message["role"] != "system":
        raise BadRow(f"message {place} is empty")
    return message
