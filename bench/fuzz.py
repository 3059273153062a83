"""Whether any text breaks or stalls what reads completions: hypothesis against every parser, for as long as asked.

    PYTHONPATH=. python bench/fuzz.py --minutes 10
    PYTHONPATH=. python bench/fuzz.py --minutes 1 number steps

The texts are pieces of what parsers look for (tags, boxes, LaTeX, signs, digits of many scripts, invisible
characters), joined, nested and repeated, and arbitrary text. A parser fails when an exception escapes, when it
returns no finite number, or when a call takes longer than `SECONDS`. The tests run the same for a few seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from upweight import tools
from upweight.rewards import builtin, code, gym, lengths, steps
from upweight.rewards.call import Stepwise, finite
from upweight.rewards.equations import equations
from upweight.rewards.expressions import evaluate, worked
from upweight.rewards.mathematics.reward import math
from upweight.rewards.numbers import read_number
from upweight.rewards.verdicts import Scale, read_verdict

SECONDS = 1.0
LONGEST = 400_000  # characters: a completion of a hundred thousand tokens
SCALE = Scale("right?", 0.0, 1.0)
ROUND = 200  # examples between two looks at the clock

Parser = Callable[[str], Any]


def _read_only(parse: Callable[[str], object]) -> Parser:
    """For what returns something else than a score: only that it returns matters."""

    def call(text: str) -> float:
        parse(text)
        return 0.0

    return call


PARSERS: dict[str, Parser] = {
    "number": lambda text: builtin.number(text, "85"),
    "number in a tag": lambda text: builtin.number(text, "85", tag="answer"),
    "exact": lambda text: builtin.exact(text, "Paris", tag="answer"),
    "format": builtin.tags,
    "pattern": lambda text: builtin.pattern(text, r"((a|a|aa)*|(\d+,?)*|<\w+>.*</\w+>)*x"),
    "countdown": lambda text: builtin.countdown(text, [1, 2, 3, 12], 15, tag=""),
    "three_tier": lambda text: builtin.three_tier(text, "85", tag="answer", tags=("think", "answer")),
    "steps": lambda text: steps.steps(text, "What is 47+38?", "85", wrong=-1.0),
    "steps, ungrounded": lambda text: steps.steps(text, "", "85", tag="think", separator=",", grounded=False),
    "cosine_length": lambda text: lengths.cosine_length(text, "85", len(text), 1000),
    "repetition": lengths.repetition,
    "read_number": _read_only(read_number),
    "evaluate": _read_only(lambda text: evaluate(text, [1, 2, 3, 12])),
    "worked": _read_only(worked),
    "math": lambda text: math(text, "85"),
    "math of a formula": lambda text: math(text, "x^2+2x+1", tag="answer"),
    "math of a set": lambda text: math(text, "(1,2] \\cup \\{5\\}"),
    "program of a completion": _read_only(code.program_of),
    "is_inert": _read_only(gym.is_inert),
    "is_formula": _read_only(gym.is_formula),
    "calculator": _read_only(lambda text: tools.calculator(f"<calc>{text}</calc>")),
    "called_with": _read_only(lambda text: tools.called_with(text, "calc")),
    "a judge's verdict": _read_only(lambda text: read_verdict(text, SCALE)),
    "equations": _read_only(lambda text: list(equations(text[:500]))),
}

PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "<answer", "</", ">", "<<", ">>", "####", "\\boxed{",
    "\\frac{1}{2}", "\\frac", "\\sqrt[3]{8}", "\\left(", "\\right)", "\\text{", "\\times", "\\cdot", "\\div", "\\(",
    "\\)", "\\[", "\\]", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\pm", "\\infty", "\\%", "\\$", "\\", "{", "}",
    "{,}", "$", "$$", "%", "^{2}", "^", "_", "&", "(", ")", "[", "]", "|", "**", "*", "+", "-", "/", "=", "==", "!",
    "x", "e", "E", "i", "\N{GREEK SMALL LETTER PI}", ".", ",", ";", ":", " ", "\n", "\r\n", "\t", "\0", "1", "12",
    "85", "0", "-0", "1,080", "1,08", "0.5", ".5", "5.", "1e999", "1e9999999", "7+8=15", "4+3+1=8", "47*8=376,",
    "1/0=1", "3:4", "50%", "(1,2]", "{1,2,3}", "nan", "inf", "None", "\N{MINUS SIGN}", "\N{EN DASH}",
    "\N{FULLWIDTH DIGIT SEVEN}", "\N{SUPERSCRIPT TWO}", "\N{VULGAR FRACTION ONE HALF}",
    "\N{ARABIC-INDIC DIGIT FOUR}", "\N{ROMAN NUMERAL FIVE}", "\N{CYRILLIC SMALL LETTER A}",
    "\N{MULTIPLICATION SIGN}", "\N{DIVISION SIGN}", "\u200b", "\u2060", "\u202e", "\ufeff", "\ud800",
    "\N{COMBINING ACUTE ACCENT}", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "\N{GRINNING FACE}", "Paris",
    "the answer is ", "aaaa", "9" * 300,
]  # fmt: skip


def _wrapped(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    ends = st.sampled_from(
        [
            ("<answer>", "</answer>"),
            ("<think>", "</think>"),
            ("\\boxed{", "}"),
            ("(", ")"),
            ("{", "}"),
            ("\\frac{1}{", "}"),
        ]
    )
    return st.one_of(
        st.lists(texts, max_size=6).map("".join),
        st.tuples(ends, texts).map(lambda found: found[0][0] + found[1] + found[0][1]),
        st.tuples(ends, texts, st.integers(2, 60)).map(lambda f: f[0][0] * f[2] + f[1] + f[0][1] * f[2]),
        st.tuples(texts, st.sampled_from([2, 10, 1000, 100_000])).map(_repeated),
    )


def _repeated(found: tuple[str, int]) -> str:
    text, times = found
    return text * min(times, max(1, LONGEST // max(1, len(text))))


def texts() -> st.SearchStrategy[str]:
    """Completions as no model should write them."""
    leaves = st.one_of(st.sampled_from(PIECES), st.text(max_size=20), st.integers().map(str), st.decimals().map(str))
    structured = st.recursive(leaves, _wrapped, max_leaves=12)
    any_text = st.text(st.characters(), max_size=300)
    return st.one_of(structured, any_text).map(lambda text: text[:LONGEST])


@dataclass
class Found:
    """What was seen of one parser."""

    examples: int = 0
    slowest: float = 0.0
    failure: str = ""


def call(parser: Parser, text: str) -> float:
    """The seconds that a parser takes for a text. Raises AssertionError when it returns no finite number."""
    started = time.perf_counter()
    value = parser(text)
    took = time.perf_counter() - started
    number = value.value if isinstance(value, Stepwise) else value
    assert finite(number) is not None, f"returned {number!r}"
    return took


def fuzz(name: str, examples: int) -> Found:
    """Hypothesis against one parser, with other texts at each call; a failure is shown with a smallest text."""
    found, parser = Found(), PARSERS[name]

    @settings(max_examples=examples, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
              suppress_health_check=list(HealthCheck), print_blob=False, report_multiple_bugs=False)  # fmt: skip
    @given(texts())
    def run(text: str) -> None:
        found.examples += 1
        took = call(parser, text)
        found.slowest = max(found.slowest, took)
        assert took < SECONDS, f"took {took:.2f} s for {len(text)} characters"

    try:
        run()
    except Exception as error:  # whatever a parser lets escape is what is looked for
        notes = " ".join(getattr(error, "__notes__", ()))
        found.failure = f"{type(error).__name__}: {error} {notes}"[:2000]
    return found


def fuzz_all(names: Iterable[str], minutes: float) -> dict[str, Found]:
    """Each parser in turn, again and again until the time is over; one that has failed is left alone."""
    seen, end = {name: Found() for name in names}, time.monotonic() + 60 * minutes
    while time.monotonic() < end and not all(found.failure for found in seen.values()):
        for name, found in seen.items():
            if not found.failure and time.monotonic() < end:
                new = fuzz(name, ROUND)
                found.examples += new.examples
                found.slowest = max(found.slowest, new.slowest)
                found.failure = new.failure
    return seen


def main() -> int:
    """Prints a table; 1 when something failed."""
    arguments = argparse.ArgumentParser(description="fuzz the parsers of completions")
    arguments.add_argument("parsers", nargs="*", help="names of parsers; all without")
    arguments.add_argument("--minutes", type=float, default=10.0)
    chosen = arguments.parse_args()
    unknown = set(chosen.parsers) - PARSERS.keys()
    if unknown:
        arguments.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARSERS)}")
    seen = fuzz_all(chosen.parsers or PARSERS, chosen.minutes)
    print("| parser | examples | slowest call (ms) | failure |\n|---|---|---|---|")
    for name, found in seen.items():
        print(
            f"| {name} | {found.examples} | {found.slowest * 1000:.0f} | {found.failure.splitlines()[:1] or 'none'} |"
        )
    for name, found in seen.items():
        if found.failure:
            print(f"\n{name}:\n{found.failure}", file=sys.stderr)
    return int(any(found.failure for found in seen.values()))


if __name__ == "__main__":
    sys.exit(main())
