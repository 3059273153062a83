"""Whether two formulas are equal, by math-verify, behind bounds on what is computed.

math-verify's own deadlines are off, since they need signals: the worker's deadline holds, and the bounds here make it
the last resort. Values at a few points, with 120 digits, bound what a formula comes to and disprove what is wrong at
once; only what they leave goes to sympy and the verifier.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from upweight.errors import UserError
from upweight.rewards.mathematics.formulas import Tree, negative, variables

_LARGEST = 10**6000
_LARGEST_EXPONENT = 2000
_LARGEST_ARGUMENT = 10**5
_DIGITS = 120
_NEAR = 10.0**-100
_LARGEST_DENOMINATOR = 10**9
_INFINITIES: tuple[Tree, ...] = ("infinity", negative("infinity"))
_POINTS = ((3, 7), (-5, 11), (17, 13), (-29, 19))
_LIBRARY_NAMES = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "ln": "log",
    "!": "factorial",
    "binom": "binomial",
}


class _TooLarge(Exception):
    pass


def require_library() -> None:
    """Raises UserError without math-verify."""
    try:
        import math_verify  # noqa: F401
    except ImportError:
        raise UserError("the reward `math` needs math-verify: pip install 'upweight[math]'") from None
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def computable(tree: Tree) -> bool:
    """Whether the formula has a value within the bounds, so that others can be compared with it."""
    return tree in _INFINITIES or any(value is not None for value in _values(tree, variables(tree)))


def equal(gold: Tree, given: Tree) -> bool:
    """Whether two formulas are equal for all values of their variables."""
    if gold == given:
        return True
    pairs = _samples(gold, given)
    return bool(pairs) and all(_near(a, b) for a, b in pairs) and _verified(gold, given)


def proportional(gold: Tree, given: Tree) -> bool:
    """Whether one formula is the other times a rational number other than 0."""
    pairs = _samples(gold, given)
    if len(pairs) < 2 or not all(a and b for a, b in pairs):
        return False
    (first, second), *others = pairs
    ratio = first / second
    if not all(_near(a, b * ratio) for a, b in others):
        return False
    factor = Fraction(_context().nstr(ratio.real, 40)).limit_denominator(_LARGEST_DENOMINATOR)
    return _near(ratio * factor.denominator, factor.numerator) and _verified(gold, ("*", factor, given))


def _verified(gold: Tree, given: Tree) -> bool:
    from math_verify import verify

    try:
        left, right = _built(gold), _built(given)
        return left == right or bool(verify(left, right, timeout_seconds=None))
    except MemoryError:
        raise
    except Exception:  # what sympy cannot compare is not shown to be equal
        return False


def _near(a: Any, b: Any) -> bool:
    return bool(abs(a - b) <= _NEAR * max(1, abs(a)))


def _samples(gold: Tree, given: Tree) -> list[tuple[Any, Any]]:
    """Both values at some points, where they have one."""
    names = variables(gold) | variables(given)
    pairs = zip(_values(gold, names), _values(given, names), strict=True)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


@lru_cache(maxsize=1024)
def _values(tree: Tree, names: frozenset[str]) -> tuple[Any, ...]:
    """The complex values of a formula at some points; None where it has none, or is too large to compute."""
    context, found = _context(), []
    for above, below in _POINTS if names else _POINTS[:1]:
        point = {name: context.mpf(above) / (below + 2 * place) for place, name in enumerate(sorted(names))}
        try:
            found.append(_value(tree, point, context))
        except (_TooLarge, ArithmeticError, ValueError):  # 1/0, ln 0
            found.append(None)
    return tuple(found)


@lru_cache(maxsize=1)
def _context() -> Any:
    """Arithmetic with `_DIGITS` digits."""
    from mpmath import MPContext

    context = MPContext()
    context.dps = _DIGITS
    return context


def _value(tree: Tree, point: Mapping[str, Any], context: Any) -> Any:
    """The value at a point. Raises _TooLarge where it or one in between is out of bounds, infinite ones among them."""
    if isinstance(tree, Fraction):
        return context.mpf(tree.numerator) / tree.denominator
    if isinstance(tree, str):
        return point[tree] if tree in point else _constant(tree, context)
    operation: str = tree[0]
    values = [_value(part, point, context) for part in tree[1:]]
    if operation in ("+", "*"):
        value = context.fsum(values) if operation == "+" else context.fprod(values)
    elif operation in ("^", "root"):
        _refuse_beyond(_LARGEST_EXPONENT, values[1])
        value = context.power(*values) if operation == "^" else _root(values[0], values[1], not point, context)
    else:
        _refuse_beyond(_LARGEST if operation in ("ln", "log") else _LARGEST_ARGUMENT, *values)
        ten = (10,) if operation == "log" and len(values) == 1 else ()
        value = getattr(context, _LIBRARY_NAMES.get(operation, operation))(*values, *ten)
    _refuse_beyond(_LARGEST, value, 1 / value if value else 0)
    return value


def _constant(name: str, context: Any) -> Any:
    if name not in ("pi", "e", "i"):
        raise _TooLarge
    return context.j if name == "i" else +getattr(context, name)


def _refuse_beyond(largest: int, *values: Any) -> None:
    if not all(abs(value) <= largest for value in values):  # so is nan
        raise _TooLarge


def _root(value: Any, degree: Any, real: bool, context: Any) -> Any:
    """The real root of a number where there is one: that of odd degree of a negative number is negative."""
    if real and degree % 2 and not context.im(value) and context.re(value) < 0:
        return -context.power(-value, 1 / degree)
    return context.power(value, 1 / degree)


def _built(tree: Tree) -> Any:
    import sympy

    if isinstance(tree, Fraction):
        return sympy.Rational(tree.numerator, tree.denominator)
    if isinstance(tree, str):
        constants = {"pi": sympy.pi, "infinity": sympy.oo, "e": sympy.E, "i": sympy.I}
        return constants[tree] if tree in constants else sympy.Symbol(tree, real=True)
    operation: str = tree[0]
    built = [_built(part) for part in tree[1:]]
    if operation == "+":
        return sympy.Add(*built)
    if operation == "*":
        return sympy.Mul(*built)
    if operation == "^":
        return sympy.Pow(*built)
    if operation == "root":
        sign = -1 if built[0].is_negative and built[1] % 2 else 1
        return sign * sympy.root(sign * built[0], built[1])
    if operation == "log":
        return sympy.log(built[0]) / sympy.log(built[1] if len(built) > 1 else 10)
    return getattr(sympy, _LIBRARY_NAMES.get(operation, operation))(*built)
