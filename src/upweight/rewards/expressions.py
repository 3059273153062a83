"""Arithmetic expressions in completions: a small parser instead of `eval`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction

NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_LONGEST = 256
_DEEPEST = 16
_INTEGERS = re.compile(r"\s*(?:([0-9]+)|([-+*/()]))")
_DECIMALS = re.compile(rf"\s*(?:({NUMBER})|([-+*/()]))")


class _Refused(Exception):
    pass


def evaluate(text: str, numbers: Iterable[int]) -> Fraction | None:
    """The exact value of an expression of + - * / ( ) and the given numbers, each used at most once.

    None for anything else: another number, a sign, division by zero, more than 256 characters, more than 16 nested
    parentheses. The bounds keep values and recursion small whatever the text.
    """
    available = Counter(numbers)

    def take(number: str) -> Fraction:
        if available[int(number)] < 1:
            raise _Refused
        available[int(number)] -= 1
        return Fraction(int(number))

    return _whole(text, _INTEGERS, take, signs=False)


def worked(text: str) -> tuple[Fraction, tuple[Fraction, ...]] | None:
    """The exact value of an expression of any numbers, and those numbers; None as above.

    Decimals, thousands separators and a minus before a term are read: `1,080`, `.5`, `2*(-3+5)`.
    """
    operands: list[Fraction] = []

    def take(number: str) -> Fraction:
        operands.append(Fraction(number.replace(",", "")))
        return operands[-1]

    value = _whole(text, _DECIMALS, take, signs=True)
    return None if value is None else (value, tuple(operands))


def _whole(text: str, token: re.Pattern[str], take: Callable[[str], Fraction], signs: bool) -> Fraction | None:
    if len(text) > _LONGEST:
        return None
    try:
        return _Parser(_tokens(text.strip(), token), take, signs).whole()
    except _Refused:
        return None


def _tokens(text: str, token: re.Pattern[str]) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = token.match(text, position)
        if match is None:
            raise _Refused
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


class _Parser:
    """sum := [-] product ((+|-) product)*; product := atom ((*|/) atom)*; atom := number | ( sum )"""

    def __init__(self, tokens: list[str], take: Callable[[str], Fraction], signs: bool) -> None:
        self.tokens = tokens[::-1]
        self.take = take
        self.signs = signs

    def whole(self) -> Fraction:
        value = self.sum(0)
        if self.tokens:
            raise _Refused
        return value

    def sum(self, depth: int) -> Fraction:
        value = Fraction(0) if self.signs and self.next_is("-") else self.product(depth)
        while self.next_is("+-"):
            sign = 1 if self.tokens.pop() == "+" else -1
            value += sign * self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while self.next_is("*/"):
            operator, factor = self.tokens.pop(), self.atom(depth)
            if operator == "/" and factor == 0:
                raise _Refused
            value = value * factor if operator == "*" else value / factor
        return value

    def atom(self, depth: int) -> Fraction:
        token = self.tokens.pop() if self.tokens else ""
        if token == "(" and depth < _DEEPEST:
            value = self.sum(depth + 1)
            if not self.next_is(")"):
                raise _Refused
            self.tokens.pop()
            return value
        if not token or token in "+-*/()":
            raise _Refused
        return self.take(token)

    def next_is(self, symbols: str) -> bool:
        return bool(self.tokens) and self.tokens[-1] in symbols
