"""Pairs of a gold answer and a completion, of which it is known by construction whether they say the same.

Each category has right completions in the spellings that occur, and wrong ones that miss by little. Nothing here uses
the reward, sympy or math-verify: what is right is known from how the pair was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.unit import math_forms as forms
from tests.unit import math_numbers as numbers
from tests.unit import math_places as places


@dataclass(frozen=True)
class Pair:
    category: str
    gold: str
    completion: str
    right: bool


def pairs(count: int, seed: int) -> list[Pair]:
    """As many pairs of each category as `count` has room for; about half of them right."""
    rng, names = Random(seed), list(CATEGORIES)
    made = []
    for place in range(count):
        category, right = names[place % len(names)], rng.random() < 0.5
        made.append(Pair(category, *CATEGORIES[category](rng, right), right))
    return made


CATEGORIES: dict[str, Callable[[Random, bool], tuple[str, str]]] = {
    made.__name__: made
    for made in (
        *(
            numbers.integers,
            numbers.signs,
            numbers.decimals,
            numbers.fractions,
            numbers.thousands,
            numbers.percentages,
            numbers.units,
            numbers.currency,
            numbers.surds,
            numbers.pi_multiples,
            numbers.wrappers,
            numbers.scientific,
            numbers.mixed_numbers,
            numbers.nested_fractions,
            numbers.repeating,
            numbers.degrees,
        ),
        *(
            forms.intervals,
            forms.rays,
            forms.unions,
            forms.sets,
            forms.tuples,
            forms.polynomials,
            forms.rational_functions,
            forms.assignments,
            forms.equations,
            forms.lines,
            forms.powers,
            forms.complex_numbers,
            forms.matrices,
            forms.transcendental,
            forms.words,
        ),
        *(
            places.trailing_text,
            places.several_boxes,
            places.several_answers,
            places.gsm8k,
            places.prose,
            places.unfinished,
        ),
    )
}
