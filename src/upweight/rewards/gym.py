"""The reward of the task `reasoning_gym`: what the dataset's own scorer gives a completion's answer.

Those scorers are not made for untrusted text. Some hand an answer to Python's `eval`, or to sympy's, which knows all
built-in functions: they get to see only what cannot do anything. Some give full marks to text that has nothing to do
with the question: they are refused. Tests look through the installed package for more of either.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import regex

from upweight.errors import UserError
from upweight.rewards.builtin import tagged
from upweight.rewards.call import CannotScore

LONGEST = 10_000  # characters: the longest reference answer, a grid, has about 2,000
_LONGEST_SUM = 200
_LONGEST_FORMULA = 1000

FOOLED: Mapping[str, str] = {
    "coin_flip": "0 is within its tolerance of many a small probability",
    "complex_arithmetic": "nan counts as right",
    "game_of_life_halting": "any text counts as right",
    "puzzle24": "any four numbers that make 24 count, whichever are given",
}
"""Datasets whose scorer can be had without an answer to the question, and how."""

_INERT = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.UAdd, ast.Load)
_SUM = regex.compile(r"[-+*/()0-9\s]*+")
_FORMULA = regex.compile(r"[-+*/^().0-9A-Za-z ]*+")
_WORD = regex.compile(r"[A-Za-z]+")
_LARGE_POWER = regex.compile(r"\*\* *+[-+(]*+ *+(?:\d{3}|\w++ *+\*\*)")
_FUNCTIONS = frozenset({"sin", "cos", "tan", "asin", "acos", "atan", "exp", "log", "ln", "sqrt", "pi", "Abs"})


def gym(
    completion: str,
    gym_dataset: str,
    gym_options: Mapping[str, Any],
    gym_entry: Mapping[str, Any],
    tag: str = "",
    partial: bool = True,
) -> float:
    """The score that reasoning-gym gives the text in the last `<tag>..</tag>`, or the whole completion without a tag.

    White space around it is dropped. With `partial = false` a score below 1 counts as 0: many scorers give something
    for a part of the answer, or for any text at all. What the scorer cannot read, is longer than 10,000 characters, or
    would make it evaluate more than numbers and formulas, scores 0.
    Raises CannotScore for the datasets of `FOOLED`, UserError without the package, and what the scorer raises when the
    row's own answer breaks it too.
    """
    if gym_dataset in FOOLED:
        raise CannotScore(f"the scorer of {gym_dataset} can be fooled ({FOOLED[gym_dataset]}): use `exact` or `number`")
    text = tagged(completion, tag)
    if text is None or len(text) > LONGEST:
        return 0.0
    answer, reference = text.strip(), gym_entry["answer"]
    is_harmless = EVALUATED.get(gym_dataset)
    if is_harmless is not None and answer != reference and not is_harmless(answer):
        return 0.0
    scorer = _scorer(gym_dataset, json.dumps(gym_options, sort_keys=True))
    try:
        score = float(scorer(answer, gym_entry))
    except MemoryError:
        raise
    except Exception:  # whatever a scorer makes of text that it does not expect
        scorer(reference or "", gym_entry)  # raises if it is the row that is at fault
        return 0.0
    return score if partial or score >= 1 else 0.0


def require_library() -> None:
    """Raises UserError without reasoning-gym."""
    try:
        import reasoning_gym  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("the reward `gym` needs the package reasoning-gym: pip install 'upweight[gym]'") from None


@lru_cache(maxsize=256)
def _scorer(dataset: str, options: str) -> Callable[[str, Mapping[str, Any]], float]:
    """The scorer of a dataset; some of them depend on its options."""
    require_library()
    import reasoning_gym

    scorer: Callable[[str, Mapping[str, Any]], float]
    scorer = reasoning_gym.create_dataset(dataset, seed=0, **json.loads(options)).score_answer
    return scorer


def is_inert(text: str) -> bool:
    """Whether Python's `eval` has nothing to do: the text is no expression, or lists of numbers and quoted text."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return True
    except (RecursionError, MemoryError):
        return False
    return all(isinstance(node, _INERT) for node in ast.walk(tree))


def is_sum(text: str) -> bool:
    """Whether the text is short and has only whole numbers, parentheses and + - * /."""
    return len(text) <= _LONGEST_SUM and _SUM.fullmatch(text) is not None and "**" not in text


def is_formula(text: str) -> bool:
    """Whether the text is short and has only numbers, operators, single letters and elementary functions.

    So sympy finds no built-in function and no quoted text in it, and no number of astronomical size.
    """
    if len(text) > _LONGEST_FORMULA or _FORMULA.fullmatch(text) is None:
        return False
    return not _LARGE_POWER.search(text) and all(len(word) == 1 or word in _FUNCTIONS for word in _WORD.findall(text))


EVALUATED: Mapping[str, Callable[[str], bool]] = {
    "binary_matrix": is_inert,
    "n_queens": is_inert,
    "spiral_matrix": is_inert,
    "string_insertion": is_inert,
    "countdown": is_sum,
    "puzzle24": is_sum,
    "intermediate_integration": is_formula,
    "polynomial_multiplication": is_formula,
    "simple_integration": is_formula,
}
"""Datasets whose scorer evaluates the answer, and what it may be shown."""
