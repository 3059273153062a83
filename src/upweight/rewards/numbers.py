"""The number that a text gives as its answer, read in linear time and exactly."""

from __future__ import annotations

import re
from decimal import Decimal

# A minus sign after a digit, a letter or a closing bracket is an operator. A digit after a letter belongs to a word,
# and one after "3." to a version or a date. Each alternative gives up within one character, so a scan is linear.
_NUMBER = re.compile(
    r"(?:(?<![A-Za-z0-9_)\]}])-)?\$?(?<![A-Za-z0-9_])(?<![0-9]\.)"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?P<exponent>[eE][+-]?[0-9]{1,3}(?![0-9]))?"
)
_BOXED = "\\boxed{"
_LATEX_NOISE = re.compile(r"\\(?:[$%,;! ]|text|mathrm|left|right)|\{,\}")


def read_number(text: str) -> Decimal | None:
    """The number in the last `\\boxed{..}`, else the one right after the last `####`, else the last in the text.

    None when there is none, or when it belongs to a fraction: `1/2` is neither 1 nor 2.
    """
    text = text.replace("\N{MINUS SIGN}", "-")
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
    before, after = match.string[max(0, match.start() - 2) : match.start()], match.string[match.end() : match.end() + 2]
    if before.rstrip().endswith("/") or after.lstrip().startswith("/"):
        return None
    value = Decimal(match["digits"].replace(",", "") + (match["exponent"] or ""))
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
