"""Rewards that come with the library: pure functions of a completion's text, linear in its length.

A reward function's parameters say what it reads: `completion`, `answer`, `prompt`, `messages`, `finish_reason`,
`fields`, or a column of the data by its name; a parameter with a default is an option of the config. A completion
is untrusted: nothing in it is evaluated, and whatever cannot be read scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import regex

from upweight.errors import UserError
from upweight.rewards.call import CannotScore
from upweight.rewards.expressions import evaluate
from upweight.rewards.numbers import read_number

_PATTERN_SECONDS = 1.0


def number(completion: str, answer: str, tag: str = "") -> float:
    """1 if the completion's number equals the answer's, compared as exact decimals: 3.0 is 3, 1,080 is 1080.

    With `tag` only the text in the last `<tag>..</tag>` counts. There the number is the one in the last `\\boxed{}`,
    else the one right after the last `####`, else the last one. Currency and percent signs and a full stop are
    ignored; a fraction `1/2` is no number.
    Raises CannotScore when the answer itself has no number.
    """
    expected = read_number(answer)
    if expected is None:
        raise CannotScore(f"the answer {answer[:80]!r} is not a number")
    text = _tagged(completion, tag)
    return float(text is not None and read_number(text) == expected)


def exact(completion: str, answer: str, tag: str = "") -> float:
    """1 if the text, or that in the last `<tag>..</tag>`, is the answer but for white space around it."""
    text = _tagged(completion, tag)
    return float(text is not None and text.strip() == answer.strip())


def tags(completion: str, tags: Sequence[str] = ("think", "answer")) -> float:
    """1 if the completion is these tags in this order and nothing else, each opened and closed exactly once.

    White space may stand between and around them; what is inside does not matter.
    """
    position = 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if completion.count(opening) != 1 or completion.count(closing) != 1:
            return 0.0
        start, end = completion.find(opening), completion.find(closing)
        if not position <= start < end or completion[position:start].strip():
            return 0.0
        position = end + len(closing)
    return float(not completion[position:].strip())


def pattern(completion: str, pattern: str) -> float:
    """1 if the whole completion matches the regular expression; `.` matches a newline too.

    Matching can take exponential time with some patterns, so it is given one second. Raises CannotScore after that.
    """
    try:
        return float(compiled(pattern).fullmatch(completion, timeout=_PATTERN_SECONDS) is not None)
    except TimeoutError:
        shown = f"{pattern[:80]!r} took more than {_PATTERN_SECONDS:g} s on one completion"
        raise CannotScore(f"the pattern {shown}: mend it") from None


def countdown(completion: str, numbers: Sequence[int], target: int, tag: str = "answer") -> float:
    """1 if the text in the last `<tag>..</tag>` is an expression that comes to the target.

    It may use + - * / and parentheses and each given number at most once, and no other number; division is exact.
    Raises CannotScore when the row's own numbers or target are not numbers.
    """
    if not all(isinstance(given, int | float) for given in (target, *numbers)):
        raise CannotScore(f"countdown needs numbers and a target, not {numbers!r} and {target!r}")
    text = _tagged(completion, tag)
    return float(text is not None and evaluate(text, numbers) == target)


@lru_cache(maxsize=64)
def compiled(pattern: Any) -> regex.Pattern[str]:
    """The pattern ready for use. Raises UserError when it is not a regular expression."""
    if not isinstance(pattern, str):
        raise UserError(f"the reward `pattern` needs its pattern as text, not {pattern!r}")
    try:
        return regex.compile(pattern, regex.DOTALL)
    except regex.error as error:
        raise UserError(f"the reward `pattern` has no valid regular expression in {pattern!r}: {error}") from None


def _tagged(text: str, tag: str) -> str | None:
    """The text in the last complete `<tag>..</tag>`, or all of it without a tag; None when there is none."""
    if not tag:
        return text
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return None if start < 0 else text[start + len(tag) + 2 : end]
