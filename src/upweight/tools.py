"""Tools that answer a completion: a calculator, and Python in the sandbox.

A tool is a function of the completion so far: it returns the text to go on with, or None when it was not called and
the rollout is over. It runs in a worker process, and what it reads is untrusted.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

_LONGEST = 256  # characters of an expression, which bound its depth too
_MOST_BITS = 4096  # of a number: powers of powers must not take the worker's time
_LARGEST_EXPONENT = 256
_BINARY: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Tool(NamedTuple):
    """Where the function is, the strings that end a completion which calls it, and whether it runs programs."""

    reference: str
    stop: tuple[str, ...]
    sandboxed: bool = False


TOOLS: Mapping[str, Tool] = {
    "calculator": Tool("upweight.tools:calculator", ("</calc>",)),
    "python": Tool("upweight.tools:python", ("</python>",), sandboxed=True),
}


def calculator(completion: str) -> str | None:
    """`<result>408</result>` for a completion that ends with `<calc>12*34</calc>`; None for any other.

    + - * / ** and parentheses over integers and decimals, computed exactly; what has no finite decimal is rounded to
    ten digits. Whatever is no such expression is answered by `<result>error</result>`.
    """
    expression = called_with(completion, "calc")
    if expression is None:
        return None
    value = calculate(expression)
    return f"<result>{'error' if value is None else written(value)}</result>"


def python(completion: str, seconds: float = 5.0, memory_mb: int = 512, longest: int = 2000) -> str | None:
    """What a program prints, in `<output>` tags, for a completion that ends with `<python>program</python>`.

    The program runs in the sandbox, without network or files, for at most `seconds`; an exception's last line comes
    after what was printed, and of long outputs the first `longest` characters. Raises UserError where the sandbox
    cannot start.
    """
    from upweight.sandbox import Limits, run_python

    program = called_with(completion, "python")
    if program is None:
        return None
    outcome = run_python(program, limits=Limits(seconds=seconds, memory_mb=memory_mb))
    said = outcome.stdout.decode(errors="replace")[:longest]
    return f"<output>{said.rstrip()}{_complaint(outcome)[:longest]}</output>"


def _complaint(outcome: Any) -> str:
    """The last line of what went wrong, if anything did."""
    if outcome.timed_out:
        return "\nout of time"
    if outcome.ok:
        return ""
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    return f"\n{lines[-1] if lines else 'the program was ended'}"


def called_with(completion: str, tag: str) -> str | None:
    """What stands between the last `<tag>` and the `</tag>` that the completion ends with; None without such a call."""
    body, closing, after = completion.rpartition(f"</{tag}>")
    _, opening, inside = body.rpartition(f"<{tag}>")
    return inside if closing and opening and not after.strip() else None


def calculate(expression: str) -> Fraction | None:
    """The exact value of an arithmetic expression; None for what is none, is too long or comes to too much."""
    if len(expression) > _LONGEST:
        return None
    try:
        return _value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def written(value: Fraction) -> str:
    """An integer or a decimal, exact where ten digits are enough."""
    return str(value.numerator) if value.denominator == 1 else format(float(value), ".10g")


def _value(node: ast.expr) -> Fraction:
    """Raises ValueError for anything but numbers and arithmetic, and for numbers that grow too long."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            value = Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            exponent = _value(right)
            if exponent.denominator != 1 or abs(exponent) > _LARGEST_EXPONENT:
                raise ValueError("an exponent that is no small integer")
            value = Fraction(_value(left) ** int(exponent))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            value = _BINARY[type(op)](_value(left), _value(right))
        case _:
            raise ValueError("no arithmetic")
    if value.numerator.bit_length() + value.denominator.bit_length() > _MOST_BITS:
        raise ValueError("a number of too many digits")
    return value
