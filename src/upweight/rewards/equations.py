"""Equations in the steps of a completion: which ones there are, whether they hold, and whether they get on.

Whatever cannot be read is no equation: it is neither right nor wrong.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from upweight.rewards.expressions import NUMBER, worked

_RUN = re.compile(rf"(?:{NUMBER}|[-+*/()= \t])+")
_SPELLINGS = {
    "\\times": "*", "\\cdot": "*", "\\div": "/", "\N{MULTIPLICATION SIGN}": "*", "\N{MIDDLE DOT}": "*",
    "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-",
}  # fmt: skip
# What stands for an operator; dollars, bold type and LaTeX's \( \), which only decorate; an x between two numbers.
_SPELLED = re.compile(
    r"\\(?:times|cdot|div)(?![A-Za-z])|[\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}\N{DIVISION SIGN}\N{MINUS SIGN}]"
    r"|(?P<noise>\\?\$|\\[()\[\]]|(?<![0-9)])\*\*(?=[0-9(])|(?<=[0-9)])\*\*(?![0-9(]))"
    r"|(?P<cross>(?<=[0-9])[ \t]?[xX][ \t]?(?=[0-9]))"
)
# An expression that begins or ends beside anything else is a piece of something larger: x+3, 2^3, 12%.
_BEFORE = frozenset("\n\r:;,.<>([{\"'|")
_AFTER = re.compile(r"[\s:;?<>\])}\"'|]|[.,](?![0-9])|\Z")


@dataclass(frozen=True)
class Equation:
    """`operands` are the numbers of the first side that has an operator: what was worked out, to be `value`."""

    holds: bool
    operands: tuple[Fraction, ...]
    value: Fraction


def equations(text: str) -> Iterator[Equation]:
    """Every `a op b (op c) = d` in a text, or `a op b = c op d = e`, compared exactly; 5 = 5 works nothing out."""
    text = _SPELLED.sub(_plain, text)
    for run in _RUN.finditer(text):
        if "=" in run[0]:
            found = _equation(_sides(run))
            if found is not None:
                yield found


@final
class Grounds:
    """Which numbers may be calculated with, and which of them have not been yet.

    A number is at hand when it is one of the prompt's; the result of a step before; or a digit of the prompt's longer
    numbers, as itself, at its place (30 of 38), or with a ten borrowed (18 of 38), each digit once, and 0 as often as
    a number is shorter than the longest; or a 1 carried, beside two more operands. When `open_to_all`, every number
    but 0 and 1 is at hand.
    """

    def __init__(self, prompt: str, open_to_all: bool = False) -> None:
        texts = [number.replace(",", "") for number in re.findall(NUMBER, prompt)]
        self._known = {Fraction(text) for text in texts}
        self._unused = set(self._known)
        self._open = open_to_all
        self._left: Counter[int] = Counter()
        self._digits: dict[Fraction, list[int]] = defaultdict(list)
        integers = [text for text in texts if text.isdigit()]
        for text in integers:
            self._left[0] += max(map(len, integers)) - len(text)
            if len(text) > 1:
                self._add_digits(text)
        self._digits[Fraction(0)].append(0)

    def _add_digits(self, text: str) -> None:
        for place, digit in enumerate(map(int, reversed(text))):
            self._left[digit] += 1
            self._digits[Fraction(10 + digit)].insert(0, digit)  # 10 is first of all a 0 that has borrowed
            self._digits[Fraction(digit)].append(digit)
            self._digits[Fraction(digit * 10**place)].append(digit)

    def use(self, equation: Equation) -> bool:
        """Takes what the equation calculates with; whether all of it was at hand, and some of it for the first time.

        So a repeated step, or a number plus 0, gets nowhere. Its result is at hand from now on, save 0 and 1.
        """
        taken: Counter[int] = Counter()
        operands = [abs(operand) for operand in equation.operands]
        fresh, carry = not self._unused.isdisjoint(operands), len(operands) > 2
        for operand in operands:
            if operand in self._known:
                continue
            if operand == 1 and carry:
                carry = False
            elif (digit := self._digit(operand, taken)) is not None:
                taken[digit] += 1
            elif self._open and operand > 1:
                fresh = True
            else:
                return False
        if not taken and not fresh:  # a number of the prompt may stand for its digit too: 30*38 has 30*8 and 30*30
            again = (self._digit(operand, taken) for operand in operands)
            taken.update(digit for digit in again if digit is not None)
        self._left -= taken
        self._unused.difference_update(operands)
        self._add_result(abs(equation.value))
        self._known.update(operand for operand in operands if self._open and operand > 1)
        return bool(taken) or fresh

    def _digit(self, operand: Fraction, taken: Counter[int]) -> int | None:
        possible = self._digits.get(operand, ())
        return next((digit for digit in possible if self._left[digit] > taken[digit]), None)

    def _add_result(self, value: Fraction) -> None:
        if value not in self._known and value not in (0, 1):
            self._known.add(value)
            self._unused.add(value)


def _plain(match: re.Match[str]) -> str:
    if match["noise"]:
        return ""
    return "*" if match["cross"] else _SPELLINGS[match[0]]


def _sides(run: re.Match[str]) -> list[str]:
    """The sides of the equations in a run of their characters, without those at its ends that go on beyond it."""
    sides = run[0].split("=")
    before, after = run.string[: run.start()][-1:], run.string[run.end() :]
    is_operator = run[0].lstrip()[:1] in ("+", "-", "*", "/")
    if before and before not in _BEFORE and (is_operator or not run[0][0].isspace()):
        sides[0] = ""
    if after.startswith("%") or not (run[0][-1].isspace() or _AFTER.match(after)):
        sides[-1] = ""
    sides[0] = sides[0][max(_unmatched(sides[0]), default=-1) + 1 :]
    sides[-1] = sides[-1][: min(_unmatched(sides[-1]), default=None)]
    filled = [place for place, side in enumerate(sides) if side.strip()]
    return sides[filled[0] : filled[-1] + 1] if filled else []


def _unmatched(side: str) -> list[int]:
    """Where parentheses stand that have no partner, as in `(12+30` and in `1) 12+30`."""
    opened, alone = [], []
    for place, character in enumerate(side):
        if character == "(":
            opened.append(place)
        elif character == ")" and opened:
            opened.pop()
        elif character == ")":
            alone.append(place)
    return opened + alone


def _equation(sides: list[str]) -> Equation | None:
    read = [worked(side) for side in sides]
    found = [side for side in read if side is not None]
    calculated = next((side for side in found if len(side[1]) > 1), None)
    if len(found) < max(2, len(sides)) or calculated is None:
        return None
    value, operands = calculated
    return Equation(all(side[0] == value for side in found), operands, value)
