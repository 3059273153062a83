"""Reward functions with TRL's signature, `f(completions, **columns) -> list`, as functions of one completion.

TRL hands over lists of the whole batch; here each list has one element, so that a completion that breaks the function
breaks no other one. A function that compares the completions of a batch with each other would not notice the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from upweight.errors import nearest

_TRLS_OWN = ("prompts", "completions", "completion_ids", "trainer_state")
_READS = ("completion", "answer", "prompt", "messages", "fields")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def has_trl_signature(function: Callable[..., Any]) -> bool:
    """Whether a function reads `completions`, in the plural, and not `completion`."""
    try:
        named = inspect.signature(function).parameters
    except (ValueError, TypeError):  # of C, without a signature to read
        return False
    return "completions" in named and "completion" not in named


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of one completion that calls `function` with lists of one element.

    `prompts` and `completions` are text, or lists of messages when the prompt has several or `conversational` is set.
    Other parameters are columns of the data; `None`, by which TRL says that a function does not apply, is 0.
    Raises ValueError when the function returns anything else than one element.
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    wanted = [name for name, p in parameters.items() if p.kind in _NAMED]
    options = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters.values() if p.default is not p.empty]

    def reward(
        completion: str,
        answer: str,
        prompt: str,
        messages: list[dict[str, str]],
        fields: dict[str, Any],
        token_ids: Sequence[int] = (),
        conversational: bool = False,
        **chosen: Any,
    ) -> Any:
        turns = conversational or len(messages) > 1
        known = {**fields, "answer": answer, "completion_ids": token_ids, "trainer_state": None}
        known["prompts"] = messages if turns else prompt
        known["completions"] = [{"role": "assistant", "content": completion}] if turns else completion
        lists: dict[str, Any] = {name: [value] for name, value in known.items() if takes_all or name in wanted}
        if "trainer_state" in lists:
            lists["trainer_state"] = None
        for name in wanted:
            if name not in lists and name not in chosen and parameters[name].default is inspect.Parameter.empty:
                raise KeyError(f"the row has no column {name!r}{nearest(name, fields)}")
        (value,) = function(**{**lists, **chosen})
        return 0.0 if value is None else value

    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in _READS]
    own += [inspect.Parameter("token_ids", inspect.Parameter.KEYWORD_ONLY, default=())]  # unknown of a file's rows
    turns = inspect.Parameter("conversational", inspect.Parameter.KEYWORD_ONLY, default=False)
    further = [p for p in options if p.name not in (*_TRLS_OWN, *_READS, "conversational", "token_ids")]
    reward.__signature__ = inspect.Signature([*own, turns, *further])  # type: ignore[attr-defined]
    return reward
