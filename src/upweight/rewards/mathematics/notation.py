"""What a written answer says: a value, a set, a tuple or an interval, an equation, or words; read strictly.

The text is untrusted. Its length, depth and digits are bounded before anything else, only the notation below is read,
and what is left over makes the whole unreadable: nothing is skipped to make an answer of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from upweight.rewards.mathematics.formulas import Tree, Unreadable, difference, formula, variables
from upweight.rewards.mathematics.units import peel, unit_marks

LONGEST = 300
_DEEPEST = 12
_MOST_DIGITS = 60

_SPELLINGS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{MULTIPLICATION SIGN}": r"\times ",
    "\N{DIVISION SIGN}": r"\div ",
    "\N{MIDDLE DOT}": r"\cdot ",
    "\N{DOT OPERATOR}": r"\cdot ",
    "\N{GREEK SMALL LETTER PI}": r"\pi ",
    "\N{INFINITY}": r"\infty ",
    "\N{LESS-THAN OR EQUAL TO}": r"\le ",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
    "\N{UNION}": r"\cup ",
    "\N{ELEMENT OF}": r"\in ",
    "\N{SQUARE ROOT}": r"\sqrt ",
    "\N{PLUS-MINUS SIGN}": r"\pm ",
    "\N{SUPERSCRIPT TWO}": "^2",
    "\N{SUPERSCRIPT THREE}": "^3",
    "\N{NO-BREAK SPACE}": " ",
    "\N{THIN SPACE}": " ",
    "\N{NARROW NO-BREAK SPACE}": " ",
}
_TRANSLATION = str.maketrans(_SPELLINGS)
_NOISE = re.compile(r"\\(?:left|right)(?![A-Za-z])\.?|\\[bB]igg?[lr]?(?![A-Za-z])|\\displaystyle(?![A-Za-z])|\\!")
_SPACE = re.compile(r"(?<!\\)\\[,;:>\s]|\\q?quad(?![A-Za-z])|~")
_REALS = re.compile(r"\\mathbb\s*(?:\{R\}|R)")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])")
_THIN_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\,|\{,\}\s?)(?=[0-9]{3}(?![0-9]))")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?!,[0-9])")
_REPEATING = re.compile(r"(?<![0-9.])([0-9]{0,9})\.([0-9]{0,9})\\overline\s*\{([0-9]{1,9})\}")
_LIST = re.compile(r"\s*,?\s*(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|,|;")
_COMMA = re.compile(r",|;")
_CUP = re.compile(r"\\cup(?![A-Za-z])")
_RELATION = re.compile(r"<=|>=|<|>|\\leq?(?![A-Za-z])|\\geq?(?![A-Za-z])|\\lt(?![A-Za-z])|\\gt(?![A-Za-z])|=")
_NAME = r"(?:[A-Za-z]|\\[a-z]{2,8})(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,3}\}))?(?:\s*\([A-Za-z]\))?"
_NAME_ONLY = re.compile(_NAME)
_MEMBER = re.compile(rf"({_NAME})\s*\\in(?![A-Za-z])")
_WORDS = re.compile(
    r"(?!(?:sin|cos|tan|log|exp|sqrt)\b)[A-Za-z]{3,}(?:[ '-]+[A-Za-z]+)*|\x02([A-Za-z][A-Za-z0-9 .'-]*)\x03"
)
_BASE = re.compile(r"([0-9]+)_(?:([0-9])|\{([0-9]{1,2})\})")
_MATRIX = re.compile(r"\\begin\{([pbv]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_LESS = {"<": "<", r"\lt": "<", "<=": "<=", r"\le": "<=", r"\leq": "<="}
_MORE = {">": "<", r"\gt": "<", ">=": "<=", r"\ge": "<=", r"\geq": "<="}

_UNSIGNED = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_INNER = rf"\{{\s*([+-]?\s*{_UNSIGNED})\s*\}}"
_PLAIN = re.compile(rf"({_UNSIGNED})(?:[eE]([+-]?[0-9]{{1,2}}))?")
_SCIENTIFIC = re.compile(
    rf"({_UNSIGNED})\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:([0-9])|\{{\s*([+-]?[0-9]{{1,2}})\s*\}})"
)
_QUOTIENT = re.compile(rf"(?:\\frac\s*{_INNER}\s*{_INNER}|({_UNSIGNED})\s*/\s*({_UNSIGNED}))")
_MIXED = re.compile(r"([0-9]+)\s*(?:\\frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}|(?<=\s)([0-9]+)\s*/\s*([0-9]+))")


@dataclass(frozen=True)
class Answer:
    """One answer, taken apart.

    `kind`: "value", "words" (`formula` is the text), "equation" (`formula` is left minus right), "set", "union",
    "matrix", "row", or the brackets of a tuple or interval: "(]". `number` is the exact value where the text is a plain
    number, and `undone` whether it was written as a division that comes out even. `name` is that of a variable which it
    is said to be the value of.
    """

    kind: str
    parts: tuple[Answer, ...] = ()
    formula: Tree = ""
    number: Fraction | None = None
    undone: bool = False
    unit: str = ""
    name: str = ""


def read(text: str) -> Answer | None:
    """The answer that the whole text states; None when it is none, or exceeds the bounds."""
    if len(text) > LONGEST:
        return None
    try:
        return _structure(_plain(text))
    except Unreadable:
        return None


def _plain(text: str) -> str:
    """One spelling of many: no wrappers and spaces, set braces as \\x04 \\x05, units between \\x02 and \\x03."""
    text = text.translate(_TRANSLATION).strip()
    if any(ord(c) < 32 and c not in "\n\t" for c in text):
        raise Unreadable
    while text[-1:] in (".", "*") or text[:2] == "**":
        text = text.removeprefix("**").rstrip(".*").strip()
    for left, right in ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$")):
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            middle = text[len(left) : -len(right)]
            text = middle.replace(left, " ").replace(right, " ").strip().rstrip(".")
    text = _REALS.sub(r"(-\\infty,\\infty)", text)
    text = _THIN_THOUSANDS.sub(",", _NOISE.sub("", text))
    text = " ".join(_SPACE.sub(" ", text).split())
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", _FRACTION.sub(r"\\frac", text))
    text = re.sub(r"\\\{|\\lbrace(?![a-z])", "\x04", re.sub(r"\\\}|\\rbrace(?![a-z])", "\x05", text))
    text = _REPEATING.sub(_repeating, unit_marks(text))
    if not text.isascii() or max(_depths(text), default=0) > _DEEPEST:
        raise Unreadable
    return text


def _repeating(match: re.Match[str]) -> str:
    start, once, again = match.groups()
    denominator = 10 ** len(once) * (10 ** len(again) - 1)
    return rf"\frac{{{int(start + once + again) - int(start + once or 0)}}}{{{denominator}}}"


def _depths(text: str, opening: str = "([{\x04", closing: str = ")]}\x05") -> list[int]:
    """How many brackets are open at each character. Unreadable when one is missing."""
    depths, depth = [], 0
    for character in text:
        depth -= character in closing
        depths.append(depth)
        if depth < 0:
            raise Unreadable
        depth += character in opening
    if depth:
        raise Unreadable
    return depths


def _split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The pieces between separators that stand in no bracket and no word of a unit, and the separators."""
    depths, pieces, found, start = _depths(text), [], [], 0
    marked = _depths(text, "\x02", "\x03")
    for match in separator.finditer(text):
        place = match.end() - 1
        if depths[place] == 0 and marked[place] == 0:
            pieces.append(text[start : match.start()])
            found.append(match[0].strip())
            start = match.end()
    return [*pieces, text[start:]], found


def _structure(text: str) -> Answer:
    """list > union > membership > relation > bracket > plus-minus > value, by what stands outside every bracket."""
    text = text.strip()
    words = _WORDS.fullmatch(text)
    if words is not None:
        return Answer("words", formula=" ".join((words[1] or text).casefold().split()))
    if text in (r"\emptyset", r"\varnothing", "\x04\x05"):
        return Answer("words", formula="no solution")
    outside = _depths(text, "([\x04", ")]\x05")
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", "") if outside[m.start()] == 0 else m[0], text)
    pieces, separators = _split(text, _LIST)
    if separators:
        parts = tuple(map(_structure, pieces))
        between = {separator.lstrip(", ") for separator in separators}
        is_union = between == {"or"} and all(part.kind in _INTERVALS for part in parts)
        return Answer("union" if is_union else "set", parts)
    pieces, separators = _split(text, _CUP)
    if separators:
        return Answer("union", tuple(map(_structure, pieces)))
    member = _MEMBER.match(text)
    if member is not None:
        return _named(member[1], _structure(text[member.end() :]))
    pieces, separators = _split(text, _RELATION)
    if separators:
        return _relation([piece.strip() for piece in pieces], separators)
    return _bracketed(text) or _plus_minus(text)


_INTERVALS = ("()", "(]", "[)", "[]")


def _bracketed(text: str) -> Answer | None:
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        rows = re.split(r"\\\\", matrix[2].strip().removesuffix("\\\\"))
        return Answer("matrix", tuple(Answer("row", tuple(map(_structure, row.split("&")))) for row in rows))
    if text[:1] not in ("(", "[", "\x04") or len(text) < 3 or 0 in _depths(text)[1:-1] or text[-1] not in ")]\x05":
        return None
    brackets, inner = text[0] + text[-1], text[1:-1]
    if re.search(r",\s|;", inner):  # with spaces after the commas that part, those without are in numbers
        inner = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), inner)
    parts = tuple(map(_structure, _split(inner, _COMMA)[0]))
    if brackets == "\x04\x05":
        return Answer("set", parts)
    if "\x04" in brackets or "\x05" in brackets or (len(parts) == 1 and brackets != "()"):
        raise Unreadable
    if len(parts) == 1:
        return parts[0] if parts[0].kind in ("words", "set") else _value(text)
    return Answer(brackets, parts)


def _named(name: str, answer: Answer) -> Answer:
    if answer.name:
        raise Unreadable
    return replace(answer, name=re.sub(r"[\s{}]", "", name))


def _relation(pieces: list[str], signs: list[str]) -> Answer:
    if signs == ["="]:
        if _NAME_ONLY.fullmatch(pieces[0]):
            return _named(pieces[0], _structure(pieces[1]))
        left, right = map(_value, pieces)
        residual = difference(left.formula, right.formula)
        if left.unit or right.unit or not variables(residual):  # `4=4`
            raise Unreadable
        return Answer("equation", formula=residual)
    if all(sign in _MORE for sign in signs):
        pieces, signs = pieces[::-1], [_MORE[sign] for sign in signs[::-1]]
    elif all(sign in _LESS for sign in signs):
        signs = [_LESS[sign] for sign in signs]
    else:
        raise Unreadable
    return _interval(pieces, signs)


def _interval(pieces: list[str], signs: list[str]) -> Answer:
    """a < x <= b as the interval (a, b]."""
    names = [place for place, piece in enumerate(pieces) if _NAME_ONLY.fullmatch(piece)]
    if len(names) != 1 or len(pieces) > 3 or (len(pieces) == 3 and names != [1]):
        raise Unreadable
    place = names[0]
    below = _value(pieces[place - 1] if place else r"-\infty")
    above = _value(pieces[place + 1] if place + 1 < len(pieces) else r"\infty")
    opening = "[" if place and signs[place - 1] == "<=" else "("
    closing = "]" if place < len(signs) and signs[place] == "<=" else ")"
    return _named(pieces[place], Answer(opening + closing, (below, above)))


def _plus_minus(text: str) -> Answer:
    before, sign, after = text.partition(r"\pm")
    if not sign:
        return _value(text)
    return Answer("set", (_value(f"{before}+{after}"), _value(f"{before}-{after}")))


def _value(text: str) -> Answer:
    core, unit = peel(text.strip())
    base = _BASE.fullmatch(core)
    if base is not None:
        return Answer("words", formula=f"{base[1].lstrip('0')} in base {base[2] or base[3]}")
    number, undone = _number(core)
    if number is not None:
        return Answer("value", formula=number, number=number, undone=undone, unit=unit)
    return Answer("value", formula=formula(core), unit=unit)


def _number(text: str) -> tuple[Fraction | None, bool]:
    """The exact value of a number, decimal, quotient, mixed or scientific one; and if it is an even division."""
    if sum(c.isdigit() for c in text) > _MOST_DIGITS:
        raise Unreadable
    while text[:1] == "(" and text[-1:] == ")" and 0 not in _depths(text)[1:-1]:
        text = text[1:-1].strip()
    sign, text = (-1, text[1:].lstrip()) if text[:1] == "-" else (1, text.removeprefix("+").lstrip())
    if (match := _PLAIN.fullmatch(text)) or (match := _SCIENTIFIC.fullmatch(text)):
        digits, *exponents = match.groups()
        return sign * Fraction(digits) * Fraction(10) ** int(next(filter(None, exponents), 0)), False
    if match := _QUOTIENT.fullmatch(text):
        above, below = (Fraction(group.replace(" ", "")) for group in match.groups() if group is not None)
        if below == 0:
            raise Unreadable
        return sign * above / below, (above / below).denominator == 1
    if match := _MIXED.fullmatch(text):
        whole, above, below = (Fraction(group) for group in match.groups() if group is not None)
        if below == 0 or above >= below:
            raise Unreadable
        return sign * (whole + above / below), False
    return None, False
