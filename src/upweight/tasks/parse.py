"""One row of the user's data as what it is needed as; `BadRow` says why it is none.

Keys are those that Hugging Face's datasets use. A prompt is text or a list of turns; an answer is text, a list of one
assistant turn, or, in a pair, the whole conversation that it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from upweight.tasks.bad_rows import BadRow
from upweight.types import Demonstration, JudgedSteps, LabelledCompletion, Message, PreferencePair, Problem

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
    """`messages` with an assistant turn, or `prompt` and `completion`. Raises BadRow.

    All of the assistant's turns are trained, so a `prompt` may have none: `completion` alone was meant to be learned.
    """
    if row.get("messages") is None:
        prompt = _prompt(row)
        if any(message["role"] == "assistant" for message in prompt):
            raise BadRow("`prompt` has an assistant turn: write it as `messages` to imitate all its turns")
        return Demonstration(id, (*prompt, {"role": "assistant", "content": _completion(row)}))
    messages = _messages(row["messages"], "messages")
    if all(message["role"] != "assistant" for message in messages):
        raise BadRow("`messages` have no assistant turn to imitate")
    return Demonstration(id, messages)


def parse_pair(row: Row, id: str) -> PreferencePair:
    """`prompt` or `messages`, `chosen` and `rejected`, and perhaps `margin`, which is 0 where there is none.

    Where both answers are conversations, what they have in common is the prompt; a `prompt` beside them must be that,
    or its end. Raises BadRow.
    """
    before, chosen = _reply(row, "chosen")
    also_before, rejected = _reply(row, "rejected")
    if before != also_before:
        raise BadRow("`chosen` and `rejected` differ before their last turns: a pair is two answers to one prompt")
    if chosen == rejected:
        raise BadRow("`chosen` and `rejected` are the same")
    return PreferencePair(id, _common_prompt(row, before), chosen, rejected, _margin(row))


def parse_label(row: Row, id: str) -> LabelledCompletion:
    """`prompt` or `messages`, `completion`, and `label`: true or false, 1 or 0. Raises BadRow."""
    label = row.get("label")
    if label is None:
        raise BadRow("has no `label`")
    if not isinstance(label, int | float) or label not in (0, 1):
        raise BadRow(f"`label` must be true or false, not {str(label)[:40]!r}")
    return LabelledCompletion(id, _question(row), _completion(row), bool(label))


def parse_steps(row: Row, id: str) -> JudgedSteps:
    """`prompt` or `messages`, `completions`, the steps as texts, and `labels`, one for each. Raises BadRow.

    A label is true or false, or a number from 0 to 1. A `separator` that ends each step may be given; it is a newline
    where there is none.
    """
    steps, labels = _list(row, "completions"), _list(row, "labels")
    if len(steps) != len(labels):
        raise BadRow(f"has {len(steps)} `completions` and {len(labels)} `labels`: a step has one label")
    separator = row.get("separator")
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise BadRow(f"`separator` must be text, not {str(separator)[:40]!r}")
    judged = JudgedSteps(
        id,
        _question(row),
        tuple(_step(step, place) for place, step in enumerate(steps, 1)),
        tuple(_step_label(label, place) for place, label in enumerate(labels, 1)),
        separator or "\n",
    )
    for place, step in enumerate(judged.steps, 1):
        if judged.separator in step:
            raise BadRow(f"step {place} has the separator {judged.separator!r} in it, which is what ends a step")
    return judged


def _list(row: Row, key: str) -> list[Any] | tuple[Any, ...]:
    value = row.get(key)
    if value is None:
        raise BadRow(f"has no `{key}`")
    if not isinstance(value, list | tuple) or not value:
        raise BadRow(f"`{key}` must be a list, not " + ("empty" if value == [] else type(value).__name__))
    return value


def _step(value: Any, place: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"step {place} of `completions` must be text, not {str(value)[:40]!r}")
    return value


def _step_label(value: Any, place: int) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadRow(f"label {place} must be true or false, or from 0 to 1, not {str(value)[:40]!r}")
    return float(value)


def parse_answered(row: Row, id: str) -> tuple[Problem, str]:
    """A problem and a `completion` of it to be scored, which may be empty; the answer is "" where there is none.

    Raises BadRow.
    """
    given = row.get("completion")
    completion = given if isinstance(given, str) else _completion(row)
    known = {key: value for key, value in row.items() if key != "completion"}
    if known.get("answer") is not None:
        return parse_problem(known, id), completion
    problem = parse_problem({**known, "answer": "-"}, id)
    return replace(problem, answer=""), completion


def _reply(row: Row, key: str) -> tuple[tuple[Message, ...], str]:
    """(the turns before it, if the row tells them, the answer)."""
    value = row.get(key)
    if not isinstance(value, list | tuple):
        return (), _text(row, key)
    *before, last = _messages(value, key)
    if last["role"] != "assistant":
        raise BadRow(f"`{key}` does not end with an assistant turn")
    further = sorted(last.keys() - {"role", "content"})
    if further:
        raise BadRow(f"the last turn of `{key}` has more than text: {', '.join(further)}")
    return tuple(before), last["content"]


def _completion(row: Row) -> str:
    before, completion = _reply(row, "completion")
    if before:
        raise BadRow("`completion` has turns before the assistant's: they belong into the prompt")
    return completion


def _common_prompt(row: Row, before: tuple[Message, ...]) -> tuple[Message, ...]:
    if not before:
        return _question(row)
    if before[-1]["role"] != "user":
        raise BadRow("`chosen` and `rejected` have no user turn before their last")
    if row.get("messages") is None and row.get("prompt") is None:
        return before
    question = _question(row)
    if before[-len(question) :] != question:
        raise BadRow("`chosen` and `rejected` are conversations, but not about the row's prompt")
    return before


def _margin(row: Row) -> float:
    value = row.get("margin")
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRow(f"`margin` must be a finite number, not {str(value)[:40]!r}")
    return float(value)


def _question(row: Row) -> tuple[Message, ...]:
    """The messages up to the user's last turn."""
    if row.get("messages") is None:
        return _prompt(row)
    messages = _messages(row["messages"], "messages")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1]["role"] != "user":
        raise BadRow("`messages` do not end with a user turn to answer")
    return messages


def _prompt(row: Row) -> tuple[Message, ...]:
    if row.get("prompt") is None:
        raise BadRow("has neither `prompt` nor `messages`")
    if not isinstance(row["prompt"], list | tuple):
        return ({"role": "user", "content": _text(row, "prompt")},)
    messages = _messages(row["prompt"], "prompt")
    if messages[-1]["role"] != "user":
        raise BadRow("`prompt` does not end with a user turn to answer")
    return messages


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        raise BadRow(f"has no `{key}`")
    if not isinstance(value, str):
        raise BadRow(f"`{key}` must be text, not {type(value).__name__}")
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


def _messages(value: Any, key: str) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise BadRow(f"`{key}` must be a list of turns, not " + ("empty" if value == [] else type(value).__name__))
    name = "message" if key == "messages" else f"`{key}`: message"
    return tuple(_message(message, f"{name} {place}") for place, message in enumerate(value, 1))


def _message(value: Any, name: str) -> Message:
    """One turn. Further keys that a template may read are kept where they are text; null ones are no keys."""
    if not isinstance(value, Mapping):
        raise BadRow(f"{name} must be an object with `role` and `content`, not {type(value).__name__}")
    message = {key: item for key, item in value.items() if item is not None}
    if message.get("role") not in ROLES:
        raise BadRow(f"{name} has role {message.get('role')!r}, not one of {', '.join(ROLES)}")
    for key in ("content", *message):
        if not isinstance(message.get(key), str):
            raise BadRow(f"{name}: `{key}` must be text, not {type(message.get(key)).__name__}")
    if not message["content"].strip() and message["role"] != "system":
        raise BadRow(f"{name} is empty")
    return message
