"""Rewards that come with the library: pure functions of a completion's text, linear in its length.

A reward function's parameters say what it reads: `completion`, `answer`, `prompt`, `messages`, `finish_reason`,
`fields`, or a column of the data by its name; a parameter with a default is an option of the config. A completion
is untrusted: nothing in it is evaluated, and whatever cannot be read scores 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any

from upweight.errors import UserError
from upweight.rewards.call import CannotScore
from upweight.rewards.expressions import evaluate
from upweight.rewards.numbers import read_number


def number(completion: str, answer: str, tag: str = "") -> float:
    """1 if the completion's number equals the answer's, compared as exact decimals: 3.0 is 3, 1,080 is 1080.

    With `tag` only the text in the last `<tag>..</tag>` counts. There the number is the one in the last `\\boxed{}`,
    else the one right after the last `####`, else the last one. Currency and percent signs and a full stop are
    ignored; a fraction `1/2` is no number, nor is one with more than three digits in its exponent. -0 is 0.
    Raises CannotScore when the answer itself has no number.
    """
    return float(_is_right(completion, answer, tag) is True)


def exact(completion: str, answer: str, tag: str = "") -> float:
    """1 if the text, or that in the last `<tag>..</tag>`, is the answer but for white space around it.

    Raises CannotScore when the answer is blank, since saying nothing would then be right.
    """
    if not answer.strip():
        raise CannotScore("the row has no answer")
    text = tagged(completion, tag)
    return float(text is not None and text.strip() == answer.strip())


def tags(completion: str, tags: Sequence[str] = ("think", "answer"), filled: bool = True) -> float:
    """1 if the completion is these tags in this order and nothing else, each opened and closed exactly once.

    White space may stand between and around them; with `filled`, each holds a letter or a digit. A tag is the very
    characters `<name>` and `</name>`: in other case, with an attribute, a look-alike letter or an invisible character
    it is none, and so it is text where no text may stand, unless it is inside one, where anything may.
    Raises UserError when no tags are named, or one twice.
    """
    if not tags or len(set(tags)) < len(tags):
        raise UserError(f"the reward `format` needs tags = [...], each once, not {list(tags)}")
    return float(_in_order(completion, tags, filled))


def pattern(completion: str, pattern: str) -> float:
    """1 if the whole completion matches the regular expression; `.` matches a newline too.

    Matching takes linear time whatever the pattern and the text: an automaton, which neither looks around nor back.
    """
    return float(compiled(pattern)(completion))


def three_tier(
    completion: str,
    answer: str,
    tag: str = "",
    tags: Sequence[str] = (),
    correct: float = 1.0,
    wrong: float = -1.0,
    bad_format: float = -2.0,
) -> float:
    """One of three values: what `number` finds right, what it finds wrong, and what has not the form of an answer.

    The form is bad when there is no number where `number` looks for one, or when the completion is not `tags` in this
    order, if any are named, as `format` wants them. Raises CannotScore when the answer itself has no number.
    """
    right = _is_right(completion, answer, tag)
    if right is None or (tags and not _in_order(completion, tags, filled=True)):
        return bad_format
    return correct if right else wrong


def countdown(completion: str, numbers: Sequence[int], target: int, tag: str = "answer") -> float:
    """1 if the text in the last `<tag>..</tag>` is an expression that comes to the target.

    It may use + - * / and parentheses and each given number at most once, and no other number; division is exact.
    Raises CannotScore when the row's own numbers or target are not numbers.
    """
    if not all(isinstance(given, int | float) for given in (target, *numbers)):
        raise CannotScore(f"countdown needs numbers and a target, not {numbers!r} and {target!r}")
    text = tagged(completion, tag)
    return float(text is not None and evaluate(text, numbers) == target)


@lru_cache(maxsize=64)
def compiled(pattern: Any) -> Callable[[str], bool]:
    """Whether a text matches the pattern. Raises UserError for one that linear-time matching does not know."""
    from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
    from pydantic_core import SchemaError

    if not isinstance(pattern, str):
        raise UserError(f"the reward `pattern` needs its pattern as text, not {pattern!r}")

    def adapter(pattern: str) -> TypeAdapter[str]:
        matched = Annotated[str, StringConstraints(strict=True, pattern=pattern)]
        return TypeAdapter(matched, config=ConfigDict(regex_engine="rust-regex"))

    try:
        adapter(pattern)  # alone, since `a)(b` is valid in parentheses
        whole = adapter(rf"\A(?s:{pattern})\z")
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("error: ")
        raise UserError(
            f"the reward `pattern` has no valid regular expression in {pattern!r}: {reason} (matching takes linear "
            "time, so a pattern may not look around or refer back)"
        ) from None

    def matches(text: str) -> bool:
        try:
            whole.validate_python(text)
        except ValidationError:
            return False
        return True

    return matches


def span(text: str, tag: str) -> tuple[int, int] | None:
    """Where the text in the last complete `<tag>..</tag>` begins and ends; all of it without a tag."""
    if not tag:
        return 0, len(text)
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return None if start < 0 else (start + len(tag) + 2, end)


def tagged(text: str, tag: str) -> str | None:
    """The text in the last complete `<tag>..</tag>`, or all of it without a tag; None when there is none."""
    found = span(text, tag)
    return None if found is None else text[slice(*found)]


def _is_right(completion: str, answer: str, tag: str) -> bool | None:
    """Whether the completion's number is the answer's; None when it has none."""
    expected = read_number(answer)
    if expected is None:
        raise CannotScore(f"the answer {answer[:80]!r} is not a number")
    text = tagged(completion, tag)
    found = None if text is None else read_number(text)
    return None if found is None else found == expected


def _in_order(completion: str, tags: Sequence[str], filled: bool) -> bool:
    position = 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if completion.count(opening) != 1 or completion.count(closing) != 1:
            return False
        start, end = completion.find(opening), completion.find(closing)
        if not position <= start < end or completion[position:start].strip():
            return False
        if filled and not any(map(str.isalnum, completion[start + len(opening) : end])):
            return False
        position = end + len(closing)
    return not completion[position:].strip()
