"""The number that a text gives as its answer, read in linear time and exactly."""

from __future__ import annotations

import re
from decimal import Decimal

# A minus sign after a digit, a letter or a closing bracket is an operator. A digit after a letter belongs to a word,
# and one after "3." to a version or a date. Each alternative gives up within one character, so a scan is linear.
_NUMBER = re.compile(
    r"(?:(?<![A-Za-z0-9_)\]}])-)?\$?(?<![A-Za-z0-9_])(?<![0-9]\.)"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?:[eE](?P<exponent>[+-]?[0-9]+))?"
)
_EXPONENT_DIGITS = 3
_DASHES = "\N{MINUS SIGN}\N{EN DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FULLWIDTH HYPHEN-MINUS}"
_MINUS = str.maketrans(dict.fromkeys(_DASHES, "-"))
_OVER = ("/", "\N{FRACTION SLASH}", "\N{DIVISION SLASH}")
_BOXED = "\\boxed{"
_LATEX_NOISE = re.compile(r"\\(?:[$%,;! ]|text|mathrm|left|right)|\{,\}")


def read_number(text: str) -> Decimal | None:
    """The number in the last `\\boxed{..}`, else the one right after the last `####`, else the last in the text.

    None when there is none, when it belongs to a fraction (`1/2` is neither 1 nor 2), when digits of another script
    or a power stand beside it, or when its exponent has more than three digits: 1e9999 is not 1.
    """
    text = text.translate(_MINUS)
    boxed = _last_boxed(text)
    if boxed is not None:
        return _last_number(boxed)
    _, marker, after = text.rpartition("####")
    marked = _NUMBER.match(after.lstrip()) if marker else None  # else a Markdown heading
    return _value(marked) if marked is not None else _last_number(text)


def _last_number(text: str) -> Decimal | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return None if last is None else _value(last)


def _value(match: re.Match[str]) -> Decimal | None:
    before, after = match.string[: match.start()].rstrip(" \t"), match.string[match.end() :].lstrip(" \t")
    if before.endswith((*_OVER, "}{")) or after.startswith(_OVER):
        return None
    if match.string[match.end() : match.end() + 1].isdigit() or match.string[: match.start()][-1:].isdigit():
        return None
    exponent = match["exponent"] or "0"
    if len(exponent.lstrip("+-")) > _EXPONENT_DIGITS:
        return None
    value = Decimal(f"{match['digits'].replace(',', '')}e{exponent}")
    return -value if match[0].startswith("-") else value


def _last_boxed(text: str) -> str | None:
    """What the last `\\boxed{..}` holds, with the LaTeX that only decorates a number removed.

    Empty when the braces are not closed or other LaTeX is left: `\\frac{1}{2}` must not be read as 2.
    """
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    start, depth = start + len(_BOXED), 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            content = _LATEX_NOISE.sub(lambda noise: "," if noise[0] == "{,}" else "", text[start:place])
            return "" if "\\" in content else content
    return ""
