"""Units after a number: recognised, brought to one spelling and taken off."""

from __future__ import annotations

import re

from upweight.rewards.mathematics.formulas import FUNCTIONS, Unreadable

_SYNONYMS = {
    "percent": "percent percentage pct",
    "dollar": "dollar usd buck",
    "euro": "euro eur",
    "pound sterling": "gbp",
    "cent": "cent",
    "degree": "degree deg",
    "radian": "radian rad",
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "inch inche in",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gm gram",
    "kg": "kg kilogram",
    "lb": "lb pound",
    "oz": "oz ounce",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "gal": "gal gallon",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week wk",
    "month": "month",
    "year": "year yr",
    "mi/h": "mph",
    "km/h": "kmh kph",
}
_KNOWN = {word: unit for unit, words in _SYNONYMS.items() for word in words.split()}
_MONEY = ("dollar", "euro", "pound sterling", "cent")
# Words that change what a number says, or say that it is not one number. With one of these nothing is read.
_REFUSED_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand "
    "million billion trillion dozen half third quarter k bn mn or and nor not to from than through between either "
    "neither except unless if maybe perhaps possibly plus minus times over divided squared cubed more less fewer "
    "greater least most any all base mod"
)
_REFUSED = frozenset(_REFUSED_WORDS.split())
_GROUP = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_LETTERS = re.compile(r"[A-Za-z][A-Za-z0-9 ./'()-]*")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))|\\degree(?![a-z])|\N{DEGREE SIGN}")
_SIGNS = {
    "\\$": "dollar",
    "$": "dollar",
    "\N{EURO SIGN}": "euro",
    "\N{POUND SIGN}": "pound sterling",
    "\\%": "percent",
    "%": "percent",
}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_POWER = r"(?:\s*\^\s*(?:([23])|\{\s*([23])\s*\}))?"
_LAST_MARK = re.compile(rf"\x02([^\x02\x03]*)\x03{_POWER}$")
_LAST_WORD = re.compile(rf"(?:(?<=[\s0-9)}}])|(?<=\x03)|^)([A-Za-z]{{2,}}(?:/[A-Za-z]+)?){_POWER}$")
_FIRST_MARK = re.compile(r"([+-]?)\s*\x02(dollar|euro|pound sterling)\x03\s*([+-]?)")
_MOST_WORDS = 8


def unit_marks(text: str) -> str:
    """The text with what \\text{..} holds, degree, percent and currency signs between the marks \\x02 and \\x03."""

    def marked(match: re.Match[str]) -> str:
        held = match[1].strip()
        if held in ("e", "i", "and", "or") or held in FUNCTIONS or not _LETTERS.fullmatch(held):
            return f" {held} "
        return f"\x02{held}\x03"

    text = _GROUP.sub(marked, _GROUP.sub(marked, text))
    text = _DEGREES.sub("\x02degree\x03", text)
    return _SIGN.sub(lambda sign: f"\x02{_SIGNS[sign[0]]}\x03", text)


def peel(text: str) -> tuple[str, str]:
    """What is left without the units around it, and the unit where it is one that is known, else "".

    Nouns are dropped whatever they are: `18 eggs`. Unreadable with words that change the number: `18 million`.
    """
    pieces: list[str] = []
    first = _FIRST_MARK.match(text)
    if first is not None:
        pieces.append(first[2])
        text = first[1] + first[3] + text[first.end() :]
    while (last := _last_unit(text)) is not None:
        if re.search(r"[0-9]", last[1]):
            raise Unreadable
        pieces.insert(0, last[1].lower() + ("^" + (last[2] or last[3]) if last[2] or last[3] else ""))
        text = text[: last.start()].rstrip()
    words = [word for piece in pieces for word in re.findall(r"[a-z]+(?:\^[23])?|/", piece)]
    if "\x02" in text or len(words) > _MOST_WORDS or not _REFUSED.isdisjoint(words):
        raise Unreadable
    return text, _unit(words)


def _last_unit(text: str) -> re.Match[str] | None:
    text = text.rstrip()
    mark = _LAST_MARK.search(text)
    if mark is not None:
        return mark
    word = _LAST_WORD.search(text)
    if word is None or word[1] in FUNCTIONS or word.start() == 0:
        return None
    known = all(_known(part.lower()) for part in word[1].split("/"))
    separate = text[word.start() - 1] in " \x03"
    letters = re.sub(r"\\[a-zA-Z]+|\x02[^\x03]*\x03|[A-Za-z]{3,}", "", text[: word.start()])
    free = separate and len(word[1]) > 2 and not re.search(r"[A-Za-z]", letters)
    return word if known or free else None


def _known(word: str) -> str | None:
    return _KNOWN.get(word) or _KNOWN.get(word.removesuffix("s"))


def _unit(words: list[str]) -> str:
    """`square centimeters` as cm^2 and `miles per hour` as mi/h; the first word decides whether it is known."""
    power, found = "", ""
    for word in words:
        stem, _, exponent = word.partition("^")
        known = _known(stem)
        if word in ("square", "sq", "cubic", "cu"):
            power = "^2" if word in ("square", "sq") else "^3"
        elif word in ("per", "/", "a", "an"):
            found += "/"
        elif known is None or (found and not found.endswith("/")):
            break
        else:
            found += known + (f"^{exponent}" if exponent else power)
            power = ""
    found = found.strip("/")
    base = found.partition("/")[0]
    return base if base in _MONEY else found
