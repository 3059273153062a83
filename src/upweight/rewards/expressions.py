"""Arithmetic expressions in completions: a small parser instead of `eval`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

_LONGEST = 256
_DEEPEST = 16
_TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/()]))")


class _Refused(Exception):
    pass


def evaluate(text: str, numbers: Iterable[int]) -> Fraction | None:
    """The exact value of an expression of + - * / ( ) and the given numbers, each used at most once.

    None for anything else: another number, a sign, division by zero, more than 256 characters, more than 16 nested
    parentheses. The bounds keep values and recursion small whatever the text.
    """
    if len(text) > _LONGEST:
        return None
    try:
        return _Parser(_tokens(text.strip()), Counter(numbers)).whole()
    except _Refused:
        return None


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _Refused
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens


class _Parser:
    """sum := product ((+|-) product)*; product := atom ((*|/) atom)*; atom := number | ( sum )"""

    def __init__(self, tokens: list[str], available: Counter[int]) -> None:
        self.tokens = tokens[::-1]
        self.available = available

    def whole(self) -> Fraction:
        value = self.sum(0)
        if self.tokens:
            raise _Refused
        return value

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
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
        if not token.isdigit() or self.available[int(token)] < 1:
            raise _Refused
        self.available[int(token)] -= 1
        return Fraction(int(token))

    def next_is(self, symbols: str) -> bool:
        return bool(self.tokens) and self.tokens[-1] in symbols
