"""Whether two written answers say the same: the reward `math`, by math-verify (extra `math`)."""

from __future__ import annotations

from functools import lru_cache

from upweight.rewards.builtin import tagged
from upweight.rewards.call import CannotScore
from upweight.rewards.mathematics.algebra import computable, equal, proportional, require_library
from upweight.rewards.mathematics.final_answer import final_answer
from upweight.rewards.mathematics.formulas import Tree, difference, functions
from upweight.rewards.mathematics.notation import Answer, read


def math(completion: str, answer: str, tag: str = "") -> float:
    """1 if the completion's final answer equals the gold answer: exactly, with its brackets, and alone.

    With `tag` only the text in the last `<tag>..</tag>` counts. Where the final answer stands, and which spellings are
    read, is in `docs/mathematics.md`: what is not read, or is too large to compute with, scores 0. Where the gold
    answer is a plain number, so must the completion's be: a calculation that is left undone earns nothing.
    Raises CannotScore when the gold answer cannot be read, UserError without math-verify.
    """
    gold = _gold(answer)
    text = tagged(completion, tag)
    given = None if text is None else final_answer(text)
    return float(given is not None and _same(gold, given))


@lru_cache(maxsize=4096)
def _gold(answer: str) -> Answer:
    require_library()
    gold = read(answer)
    if gold is None and any(place in answer for place in ("\\boxed", "####")):  # a whole solution
        gold = final_answer(answer)
    if gold is None:
        raise CannotScore(f"the answer {answer[:80]!r} cannot be read as mathematics")
    for value in _values(gold):
        if value.number is None and not computable(value.formula):
            raise CannotScore(f"the answer {answer[:80]!r} cannot be computed with")
    return gold


def _values(answer: Answer) -> list[Answer]:
    own = [answer] if answer.kind in ("value", "equation") else []
    return own + [value for part in answer.parts for value in _values(part)]


def _same(gold: Answer, given: Answer) -> bool:
    """Whether two answers agree in kind, name, unit and value; a name or unit that one leaves out is no difference."""
    if "equation" in (gold.kind, given.kind):
        return _same_equation(gold, given)
    if gold.kind != given.kind or _differ(gold.name, given.name) or _differ(gold.unit, given.unit):
        return False
    if gold.kind == "value":
        return _same_value(gold, given)
    if gold.kind == "words":
        return gold.formula == given.formula
    if gold.kind in ("set", "union"):
        return _names_agree(gold, given) and _covers(gold, given) and _covers(given, gold)
    return len(gold.parts) == len(given.parts) and all(map(_same, gold.parts, given.parts))


def _differ(gold: str, given: str) -> bool:
    return bool(gold and given and gold != given)


def _names_agree(gold: Answer, given: Answer) -> bool:
    """Where the values of several variables are listed, each must be said to be whose."""
    names = [{part.name for part in answer.parts if part.name} for answer in (gold, given)]
    return max(map(len, names)) < 2 or (names[0] == names[1] and all(part.name for part in (*gold.parts, *given.parts)))


def _covers(one: Answer, other: Answer) -> bool:
    return all(any(_same(mine, its) for its in other.parts) for mine in one.parts)


def _same_value(gold: Answer, given: Answer) -> bool:
    if gold.number is not None:
        return gold.number == given.number and (gold.undone or not given.undone)
    if not functions(given.formula) <= functions(gold.formula):
        return False
    return gold.formula == given.formula or equal(gold.formula, given.formula)


def _same_equation(gold: Answer, given: Answer) -> bool:
    """One equation is the other times a number other than 0. A name and its value are an equation too."""
    left, right = _residual(gold), _residual(given)
    if left is None or right is None or not functions(right) <= functions(left):
        return False
    return proportional(left, right)


def _residual(answer: Answer) -> Tree | None:
    if answer.kind == "value" and answer.name:
        side = read(answer.name)
        return difference(side.formula, answer.formula) if side is not None and side.kind == "value" else None
    return answer.formula if answer.kind == "equation" else None
