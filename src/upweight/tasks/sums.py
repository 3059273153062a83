"""Sums done on paper: what is asked, the worked steps, and the mistakes that are made on the way."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

_HIGHEST = {"+": 19, "-": 9}  # a column comes to 9+9+1 at most, and leaves one digit when it is a difference
_SIGN_SHARE = 0.25


class Question(NamedTuple):
    """One sum; operands are 0 .. 10**digits - 1."""

    left: int
    operator: str
    right: int

    @property
    def text(self) -> str:
        """As it is asked, without the equals sign."""
        return f"{self.left}{self.operator}{self.right}"

    @property
    def key(self) -> str:
        """Equal for 3+4 and 4+3, so that both are on the same side of the split."""
        if self.operator == "-":
            return self.text
        return f"{min(self.left, self.right)}{self.operator}{max(self.left, self.right)}"

    @property
    def value(self) -> int:
        """What the question comes to."""
        if self.operator == "+":
            return self.left + self.right
        return self.left - self.right if self.operator == "-" else self.left * self.right


class Slip(NamedTuple):
    """A mistake in one step: its result is `off` by this much, or with 0 the carry or borrow is forgotten in it."""

    step: int
    off: int


class Worked(NamedTuple):
    """A sum as it was worked: the steps as text, the result of each, and what they add up to."""

    steps: str
    results: tuple[int, ...]
    value: int


def work(question: Question, slip: Slip | None = None) -> Worked:
    """The sum as it is done on paper, comma-separated: columns from the right, or partial products and their sum.

    47+38 is `7+8=15,4+3+1=8`; 52-38 is `12-8=4,5-3-1=1`; 12-38 is `-(38-12):8-2=6,3-1=2`;
    47*38 is `47*8=376,47*30=1410,376+1410=1786`. After a slip all goes on as it should: with the carry forgotten,
    47+38 is `7+8=15,4+3=7` and comes to 75.
    """
    left, operator, right = question
    if operator == "+":
        return _column_addition(left, right, slip)
    if operator == "*":
        return _partial_products(left, right, slip)
    if left >= right:
        return _column_subtraction(left, right, slip)
    turned = _column_subtraction(right, left, slip)
    return Worked(f"-({right}-{left}):{turned.steps}", turned.results, -turned.value)


def slips(question: Question) -> list[Slip]:
    """Every slip that looks like a step and changes what the question comes to; there is always one."""
    results = work(question).results
    possible = (Slip(step, off) for step, result in enumerate(results) for off in _offs(question, result))
    return [slip for slip in possible if work(question, slip).value != question.value]


def mistaken(question: Question, random: Random) -> Worked:
    """The sum with a wrong value: near the right one, or with the sign of a difference turned.

    Half of the slips are in the steps, which then lead to the value; otherwise the steps are right and the value does
    not follow from them.
    """
    right = work(question)
    if question.operator == "-" and right.value and random.random() < _SIGN_SHARE:
        return right._replace(value=-right.value)
    wrong = work(question, random.choice(slips(question)))
    return wrong if random.random() < 0.5 else right._replace(value=wrong.value)


def _offs(question: Question, result: int) -> Iterator[int]:
    """By how much a step may be off: one in a column, one of any digit in a product; 0 forgets the carry."""
    yield 0
    highest = _HIGHEST.get(question.operator)
    for place in range(1 if highest else len(str(result))):
        for off in (-(10**place), 10**place):
            if result + off >= 0 and (highest is None or result + off <= highest):
                yield off


def _columns(left: int, right: int) -> Iterator[tuple[int, int]]:
    width = max(len(str(left)), len(str(right)))
    pairs = zip(str(left).zfill(width), str(right).zfill(width), strict=True)
    return ((int(x), int(y)) for x, y in reversed(list(pairs)))


def _column_addition(left: int, right: int, slip: Slip | None) -> Worked:
    steps, results, value, carry = [], [], 0, 0
    for place, (x, y) in enumerate(_columns(left, right)):
        carry, off = _slipped(slip, place, carry)
        total = x + y + carry + off
        steps.append(f"{x}+{y}{'+1' * carry}={total}")
        results.append(total)
        value += total % 10 * 10**place
        carry = total // 10
    return Worked(",".join(steps), tuple(results), value + carry * 10 ** len(steps))


def _column_subtraction(left: int, right: int, slip: Slip | None) -> Worked:
    steps, results, value, borrow = [], [], 0, 0
    for place, (x, y) in enumerate(_columns(left, right)):
        borrow, off = _slipped(slip, place, borrow)
        top = x if x >= y + borrow else x + 10
        digit = top - y - borrow + off
        steps.append(f"{top}-{y}{'-1' * borrow}={digit}")
        results.append(digit)
        value += digit * 10**place
        borrow = int(top > x)
    return Worked(",".join(steps), tuple(results), value)


def _partial_products(left: int, right: int, slip: Slip | None) -> Worked:
    factors = [int(digit) * 10**place for place, digit in enumerate(reversed(str(right))) if digit != "0"] or [0]
    results = [left * factor + _slipped(slip, step, 0)[1] for step, factor in enumerate(factors)]
    steps = [f"{left}*{factor}={result}" for factor, result in zip(factors, results, strict=True)]
    if len(factors) > 1:
        total = sum(results) + _slipped(slip, len(factors), 0)[1]
        steps.append("+".join(map(str, results)) + f"={total}")
        results.append(total)
    return Worked(",".join(steps), tuple(results), results[-1])


def _slipped(slip: Slip | None, step: int, carry: int) -> tuple[int, int]:
    """(the carry that is remembered, by how much the result is off) in a step."""
    if slip is None or slip.step != step:
        return carry, 0
    return (carry, slip.off) if slip.off else (0, 0)
