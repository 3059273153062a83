"""Where a completion states its final answer, found in linear time, and what it states there.

The first of these that the text has decides, and nothing else is tried when it cannot be read:

1. the last `\\boxed{..}`; boxes parted by no more than commas, `and` or `or` are one list;
2. the rest of the line after the last `####`, unless that is a heading;
3. all of the text, where it is one line and an answer;
4. what follows the last `answer is` or `answer:`;
5. the last number or formula between `$..$`, `\\(..\\)`, `\\[..\\]`.
"""

from __future__ import annotations

import re

from upweight.rewards.mathematics.notation import LONGEST, Answer, read

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BETWEEN_BOXES = re.compile(
    r"[\s$]*(?:,|;|,?\s*(?P<word>and|or))[\s$]*|[\s$]*\\text\s*\{\s*(?P<text>and|or)\s*\}[\s$]*"
)
_BRACE = re.compile(r"[{}]")
_LONGEST_JOINT, _MOST_LISTED = 40, 20
_PROSE = 4000  # characters at the end of the text in which an answer outside of a box is looked for
_PHRASE = re.compile(r"\banswer\b(?:[^.:\n=]{0,60}?\b(?:is|are)\b\s*:?|[*_\s]*[:=])[*_]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")
_HEADING = re.compile(r"[A-Za-z*_]{2}")

_NUMBER = (
    r"(?:(?<![A-Za-z0-9_)\]}])-\s?)?(?:\\?\$\s?)?(?<![A-Za-z0-9_.])-?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?(?:(?<=[0-9])(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]{1,2}(?![0-9])|\s?/\s?[0-9]+(?![0-9]))?(?:\s?(?:\\?%|percent\b))?"
)
_ITEM = re.compile(
    r"\$\$(?P<a>[^$]{1,300})\$\$|(?<![\\$0-9A-Za-z])\$(?=[^\s$])(?P<b>[^$\n]{1,300})(?<=[^\s\\])\$(?![0-9])"
    r"|\\\((?P<c>[^\n]{1,300}?)\\\)|\\\[(?P<d>.{1,300}?)\\\]"
    r"|-?\\[dt]?frac\{-?[0-9]+\}\{-?[0-9]+\}"
    r"|[(\[]\s*-?[0-9./]{1,20}(?:\s*,\s*-?[0-9./]{1,20}){1,9}\s*[)\]]"
    rf"|{_NUMBER}",
    re.DOTALL,
)
_JOINT = re.compile(r"\s*(?:,|;|,?\s*(?:and|or|to|through))\s*(?:[A-Za-z]\s*=\s*)?", re.IGNORECASE)
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_BEFORE = re.compile(r"(?:[+*/^_<>{\\(\[:]|[\u00d7÷·≤≥≈~±√]|[0-9a-zA-Z)}]\s*-|[0-9]\s?[xX])\s*$")
_AFTER = re.compile(
    r"\s*(?:[+*/^_=<>!\\\u00d7÷·≤≥±]|-\s?[0-9A-Za-z(\\])|[:.][0-9]|,[0-9]|(?!(?:st|nd|rd|th|cm|mm|km|kg|g|m|mph|ft|lb|lbs|h)\b)"
    r"[A-Za-z(]|\s+(?:hundred|thousand|million|billion|trillion|dozen|and\s+a\s+half)\b",
    re.IGNORECASE,
)


def final_answer(text: str) -> Answer | None:
    """The answer that a text states in its final place; None when there is none that can be read."""
    boxed = _boxed(text)
    if boxed is not None:
        return read(boxed)
    _, marker, after = text.rpartition("####")
    line = after.lstrip(" \t").partition("\n")[0][: LONGEST + 1].strip()
    if marker and line and not _HEADING.match(line):
        return read(line)
    alone = text.strip()
    if "\n" not in alone and (whole := read(alone)) is not None:
        return whole
    return _of_prose(text[-_PROSE:])


def _boxed(text: str) -> str | None:
    """What the last boxes hold, as one list; "" when a box is never closed; None when there is none."""
    joined: str | None = None
    before = position = 0
    while (box := _BOX.search(text, position)) is not None:
        end = _closing(text, box.end())
        if end is None:
            return ""
        held = text[box.end() : end]
        if len(held) <= LONGEST and _BOX.match(held.strip()):
            held = _boxed(held) or ""
        between = None if joined is None else _between(_BETWEEN_BOXES, text, before, box.start())
        joined = held if between is None else f"{joined} {between['word'] or between['text'] or ','} {held}"
        joined = joined[: LONGEST + 1]
        before = position = end + 1
    return joined


def _closing(text: str, start: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        if text[brace.start() - 1] == "\\":
            continue
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return None


def _between(joint: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    """What joins two answers to a list, if that is all that stands between them."""
    return joint.fullmatch(text, start, end) if end - start <= _LONGEST_JOINT else None


def _of_prose(text: str) -> Answer | None:
    phrases = list(_PHRASE.finditer(text))
    if phrases:
        text = text[phrases[-1].end() :].lstrip()
        sentence = _SENTENCE_END.split(text, maxsplit=1)[0]
        stated = read(sentence)
        if stated is not None:
            return stated
        items = list(_ITEM.finditer(sentence))
        if items and not sentence[: items[0].start()].strip("*_ "):
            return _first(sentence, items)
    return _last(text)


def _first(text: str, items: list[re.Match[str]]) -> Answer | None:
    """The item that a sentence begins with, where it goes on in words that name no other."""
    if len(items) > 1:
        start, end = items[0].end(), items[1].start()
        if _between(_JOINT, text, start, end) or _OR.search(text, start, end):
            return None
    return _item(text, items[0])


def _last(text: str) -> Answer | None:
    """The last item, with those that it is listed together with; none where it is one of several to choose from."""
    items = list(_ITEM.finditer(text))
    if not items:
        return None
    first = len(items) - 1
    while first and _between(_JOINT, text, items[first - 1].end(), items[first].start()):
        first -= 1
    before = text[items[first - 1].end() if first else 0 : items[first].start()].rpartition("\n")[2]
    if first and _OR.search(before):
        return None
    if first == len(items) - 1:
        return _item(text, items[-1])
    listed = [_item(text, item) for item in items[first:][: _MOST_LISTED + 1]]
    known = tuple(answer for answer in listed if answer is not None)
    return Answer("set", known) if len(known) == len(listed) <= _MOST_LISTED else None


def _item(text: str, item: re.Match[str]) -> Answer | None:
    """What one item says; none for a number that is part of a formula, a date, a time, or of a larger number."""
    held = next((group for group in item.groups() if group is not None), None)
    if held is not None:
        return read(held.strip().rstrip(",;"))
    before, after = text[max(0, item.start() - 8) : item.start()], text[item.end() : item.end() + 20]
    return None if _BEFORE.search(before) or _AFTER.match(after) else read(item[0])
