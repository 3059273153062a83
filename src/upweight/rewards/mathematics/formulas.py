"""Formulas in completions, read by a small grammar into trees that can be taken in one way only.

    sum := [sign] product (sign product)*            product := power ((\\cdot | / | nothing) power)*
    power := atom [!] [^ exponent]                   atom := number | name | ( sum ) | \\frac | \\sqrt | \\binom

A tree is an exact number, a name, or a tuple of an operation and its trees: "+", "*", "^", "root", "!", "binom" or one
of `FUNCTIONS`. Nothing is evaluated here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, TypeAlias

Tree: TypeAlias = Fraction | str | tuple[Any, ...]
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp"
_GREEK_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega"
)

FUNCTIONS = frozenset(_FUNCTIONS.split())
CONSTANTS = {"pi": "pi", "infty": "infinity", "infinity": "infinity", "inf": "infinity"}
_GREEK = frozenset(_GREEK_LETTERS.split())
_MOST_COUNTED = 200  # factorials and binomial coefficients of no more than this
_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)|\\([A-Za-z]+)|([A-Za-z]+)|([-+*/^_!(){}\[\]]))")
_TIMES, _OVER = ("*", "\\cdot", "\\times", "\\ast"), ("/", "\\div")
_CLOSING = {"{": "}", "(": ")"}


class Unreadable(Exception):
    """The text is not an answer, or exceeds the bounds."""


def formula(text: str) -> Tree:
    """The tree of a formula. Raises Unreadable when any of the text is left over."""
    reader = _Reader(_tokens(text))
    tree = reader.sum()
    if reader.tokens:
        raise Unreadable
    return tree


def difference(left: Tree, right: Tree) -> Tree:
    """left - right"""
    return ("+", left, negative(right))


def negative(tree: Tree) -> Tree:
    """-tree"""
    return -tree if isinstance(tree, Fraction) else ("*", Fraction(-1), tree)


def functions(tree: Tree) -> frozenset[str]:
    """The functions that a formula uses, factorial and binomial coefficient among them."""
    if not isinstance(tree, tuple):
        return frozenset()
    operation, *parts = tree
    own = {operation} - {"+", "*", "^", "root"}
    return frozenset(own).union(*map(functions, parts))


def variables(tree: Tree) -> frozenset[str]:
    """The names in a formula but for the constants."""
    if isinstance(tree, str):
        return frozenset([tree]) - {"pi", "infinity", "e", "i"}
    return frozenset().union(*map(variables, tree[1:])) if isinstance(tree, tuple) else frozenset()


def _tokens(text: str) -> list[str]:
    """The tokens; names of functions and constants get their backslash, other short words become single letters."""
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable
        position = match.end()
        word = match[3]
        if word and (word in FUNCTIONS or word in CONSTANTS or word == "sqrt"):
            tokens.append(f"\\{word}")
        elif word and len(word) > 3:
            raise Unreadable
        else:
            tokens += list(word) if word else [match[0].strip()]
    return tokens


class _Reader:
    """Each method reads one rule of the grammar from the front of the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    @property
    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    @property
    def command(self) -> str:
        return self.next.removeprefix("\\") if self.next.startswith("\\") else ""

    def take(self, expected: str = "") -> str:
        if not self.tokens or (expected and self.next != expected):
            raise Unreadable
        return self.tokens.pop()

    def sum(self) -> Tree:
        sign = self.take() if self.next in ("+", "-") else "+"
        parts = [negative(self.product()) if sign == "-" else self.product()]
        while self.next in ("+", "-"):
            sign = self.take()
            parts.append(negative(self.product()) if sign == "-" else self.product())
        return ("+", *parts) if len(parts) > 1 else parts[0]

    def product(self) -> Tree:
        parts = [self.mixed() or self.power()]
        while True:
            if self.next in _TIMES:
                self.take()
                parts.append(self.signed())
            elif self.next in _OVER:
                self.take()
                parts.append(("^", self.signed(), Fraction(-1)))
            elif self.begins_factor():
                parts.append(self.power())
            else:
                return ("*", *parts) if len(parts) > 1 else parts[0]

    def signed(self) -> Tree:
        if self.next != "-":
            return self.power()
        self.take()
        return negative(self.power())

    def begins_factor(self) -> bool:
        """A number may not follow a factor without a sign: `4 5` and `x2` are nothing."""
        names = FUNCTIONS | CONSTANTS.keys() | _GREEK | {"frac", "sqrt", "binom"}
        return self.next == "(" or self.next.isalpha() or self.command in names

    def mixed(self) -> Tree | None:
        """`2\\frac{1}{2}` is two and a half, with digits only."""
        head = self.tokens[:-9:-1]
        digits, rest = [token.isdigit() for token in head], [token for token in head if not token.isdigit()]
        if digits != [True, False, False, True, False, False, True, False] or rest != ["\\frac", *"{}{}"]:
            return None
        return ("+", self.atom(), self.atom())

    def power(self) -> Tree:
        if self.command in FUNCTIONS:
            return self.function()
        tree = self.atom()
        if self.next == "!":
            self.take()
            if isinstance(tree, tuple) or (isinstance(tree, Fraction) and not _countable(tree)):
                raise Unreadable
            tree = ("!", tree)
        return ("^", tree, self.exponent()) if self.next == "^" else tree

    def exponent(self) -> Tree:
        self.take("^")
        if self.next in _CLOSING:
            return self.group()
        if self.next != "-":
            return self.atom()
        self.take()
        return negative(self.atom())

    def group(self) -> Tree:
        """{sum} or (sum)"""
        opening = self.take()
        if opening not in _CLOSING:
            raise Unreadable
        tree = self.sum()
        self.take(_CLOSING[opening])
        return tree

    def atom(self) -> Tree:
        if self.next == "(":
            return self.group()
        command, token = self.command, self.take()
        if token[0] in "0123456789.":
            return Fraction(token)
        if token.isalpha() or command in _GREEK:
            return token + self.subscript()
        if command == "frac":
            return ("*", self.argument(), ("^", self.argument(), Fraction(-1)))
        if command == "binom":
            return self.binomial()
        if command == "sqrt":
            return self.root()
        if command not in CONSTANTS:
            raise Unreadable
        return CONSTANTS[command]

    def subscript(self) -> str:
        if self.next != "_":
            return ""
        self.take()
        taken = []
        if self.next == "{":
            self.take()
            while self.next.isalnum():
                taken.append(self.take())
            self.take("}")
        else:
            taken.append(self.take())
        text = "".join(taken)
        if not text.isalnum():
            raise Unreadable
        return f"_{text}"

    def argument(self) -> Tree:
        """{sum}, or one digit or letter."""
        if self.next == "{":
            return self.group()
        if self.next.isdigit():
            digit, self.tokens[-1] = self.next[0], self.next[1:]
            if not self.next:
                self.take()
            return Fraction(digit)
        if not self.next.isalpha() and self.command not in CONSTANTS:
            raise Unreadable
        return self.atom()

    def binomial(self) -> Tree:
        above, below = self.argument(), self.argument()
        if not _countable(above) or not _countable(below):
            raise Unreadable
        return ("binom", above, below)

    def root(self) -> Tree:
        degree = "2"
        if self.next == "[":
            self.take()
            degree = self.take()
            self.take("]")
        if not degree.isdigit() or len(degree) > 2 or not 2 <= int(degree) <= 12:
            raise Unreadable
        return ("root", self.group() if self.next in _CLOSING else self.atom(), Fraction(degree))

    def function(self) -> Tree:
        name = self.take().removeprefix("\\")
        base: tuple[Tree, ...] = ()
        power: Tree | None = None
        if name == "log" and self.next == "_":
            self.take()
            base = (self.group() if self.next == "{" else self.atom(),)
        if self.next == "^":
            power = self.exponent()
            if power == -1:  # an inverse, or one over it
                raise Unreadable
        tree: Tree = (name, self.group() if self.next in _CLOSING else self.operand(), *base)
        return tree if power is None else ("^", tree, power)

    def operand(self) -> Tree:
        """What a function without parentheses applies to: `\\sin 2x`, up to the next sign, bracket or function."""
        parts: list[Tree] = []
        while not parts or (self.begins_factor() and self.next != "(" and self.command not in FUNCTIONS):
            if self.command in FUNCTIONS:
                raise Unreadable
            parts.append(self.power())
        return ("*", *parts) if len(parts) > 1 else parts[0]


def _countable(tree: Tree) -> bool:
    return isinstance(tree, Fraction) and tree.denominator == 1 and 0 <= tree <= _MOST_COUNTED
