"""Process supervision: a completion's steps, each scored by itself, such that more steps than needed do not pay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from upweight.errors import UserError
from upweight.rewards.builtin import span
from upweight.rewards.call import Stepwise, finite
from upweight.rewards.equations import Grounds, equations
from upweight.userfile import load_object

ARITHMETIC = "arithmetic"
_JUDGED = 256  # steps
_LONGEST = 500  # characters of a step

Scores = Callable[[str, Sequence[str]], float]


def steps(
    completion: str,
    prompt: str,
    answer: str,
    tag: str = "",
    separator: str = "\n",
    judge: str = ARITHMETIC,
    most: int = 4,
    wrong: float = 0.0,
    grounded: bool = True,
) -> Stepwise:
    """Each step's score / `most`, and their sum from -1 to 1; at most `most` steps earn something, the first that do.

    A step is what stands between separators in the completion, or in its last `<tag>..</tag>`, if it is not blank.
    Only the first 256 are looked at, and one of more than 500 characters scores 0. Two rules score from -1 to 1:

    - "arithmetic": `wrong` if an equation in it is false; 1 if all are true and one of them calculates with a number
      for the first time; else 0, as for a step without an equation or one that says again what is known. When
      `grounded`, it may only calculate with the prompt's numbers, their digits, a 1 carried, and results of steps
      before (`Grounds`); otherwise with any but 0 and 1, as problems in words need, which say half and mean 2.
    - `file.py:name` or `module:name`: a function of yours that reads by name any of `step`, `before` (the texts of
      the steps before), `prompt` and `answer`. A step that repeats one before, but for case and white space, is not
      shown to it and scores 0. A score beyond -1 or 1 counts as that.

    A true equation need not lead anywhere: let the answer count for more. Process supervision is that of 2402.03300,
    sec. 4.1.3. Raises UserError for options that cannot be.
    """
    check(separator, most, wrong, judge)
    found = _split(completion, tag, separator)
    texts = [completion[start:end] for start, end in found]
    score = _equations_scored(prompt, wrong, grounded) if judge == ARITHMETIC else _judged(judge, prompt, answer)
    scores, earning = [], 0
    for place, text in enumerate(texts):
        scored = score(text, texts[:place]) if len(text) <= _LONGEST else 0.0
        earning += scored > 0
        scores.append(0.0 if scored > 0 and earning > most else scored)
    value = max(-1.0, min(1.0, sum(scores) / most))
    return Stepwise(value, tuple(end for _, end in found), tuple(score / most for score in scores))


def check(separator: str = "\n", most: int = 4, wrong: float = 0.0, judge: str = ARITHMETIC, **others: object) -> None:
    """Raises UserError for options that cannot be, before anything is scored; a judge is loaded."""
    if not separator:
        raise UserError('the reward `steps` needs a separator of its steps, such as "\\n"')
    if not isinstance(most, int) or most < 1:
        raise UserError(f"the reward `steps` needs a whole number of steps that may earn, from 1, not most = {most!r}")
    if wrong > 0:
        raise UserError(f"the reward `steps` may not pay for a wrong step: wrong = {wrong!r} must be 0 or less")
    if judge != ARITHMETIC:
        _function(judge)


def _split(completion: str, tag: str, separator: str) -> list[tuple[int, int]]:
    """Where the first steps begin and end, without the white space around them."""
    whole = span(completion, tag)
    if whole is None:
        return []
    found: list[tuple[int, int]] = []
    start, last = whole
    while start < last and len(found) < _JUDGED:
        end = completion.find(separator, start, last)
        end = last if end < 0 else end
        text = completion[start:end]
        if text.strip():
            found.append((start + len(text) - len(text.lstrip()), start + len(text.rstrip())))
        start = end + len(separator)
    return found


def _equations_scored(prompt: str, wrong: float, grounded: bool) -> Scores:
    grounds = Grounds(prompt, open_to_all=not grounded)

    def score(step: str, before: Sequence[str]) -> float:
        found = list(equations(step))
        if not all(equation.holds for equation in found):
            return max(wrong, -1.0)
        got_on = [grounds.use(equation) for equation in found]
        return float(any(got_on))

    return score


def _judged(reference: str, prompt: str, answer: str) -> Scores:
    function, reads = _function(reference)
    seen: set[str] = set()

    def score(step: str, before: Sequence[str]) -> float:
        text = " ".join(step.split()).casefold()
        if text in seen:
            return 0.0
        seen.add(text)
        given = {"step": step, "before": tuple(before), "prompt": prompt, "answer": answer}
        scored = finite(function(**{key: given[key] for key in reads}))
        if scored is None:
            raise ValueError(f"the judge of steps {reference!r} returned no finite number")
        return max(-1.0, min(1.0, scored))

    return score


@lru_cache(maxsize=16)
def _function(reference: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    function = load_object(reference, "judge of steps")
    if not callable(function):
        raise UserError(f"the judge of steps {reference!r} is a {type(function).__name__}, not a function")
    reads = ("step", "before", "prompt", "answer")
    return function, tuple(key for key in inspect.signature(function).parameters if key in reads)
