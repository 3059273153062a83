"""Completions that try to earn what they should not from rewards that read text: the table of the tests and the docs.

Where nothing else is said, an attack may score what an honest wrong answer scores: 0, or -1 of three tiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Attack:
    """What is tried on which reward; `at_most` is what it may score."""

    name: str
    function: str
    completion: str
    row: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    at_most: float = 0.0


SUM = {"prompt": "What is 47+38?", "answer": "85"}
SIX, ONE, PARIS = {"answer": "6"}, {"answer": "1"}, {"answer": "Paris"}
GAME = {"numbers": [3, 7, 12], "target": 15}
TAGGED = {"tag": "answer"}
FORM = "<think>7+8=15</think><answer>85</answer>"
COLUMNS = {"separator": ",", "most": 2}
TIERS = {"tag": "answer", "tags": ("answer",)}
CYRILLIC_A, ZERO_WIDTH, OVERRIDE = "\N{CYRILLIC SMALL LETTER A}", "\u200b", "\u202e"


def _number(name: str, completion: str, row: Mapping[str, Any] = SUM, **options: Any) -> Attack:
    return Attack(name, "number", completion, {"answer": row["answer"]}, options)


def _exact(name: str, completion: str, **options: Any) -> Attack:
    return Attack(name, "exact", completion, PARIS, options)


def _format(name: str, completion: str) -> Attack:
    return Attack(name, "format", completion)


def _countdown(name: str, expression: str) -> Attack:
    return Attack(name, "countdown", f"<answer>{expression}</answer>", GAME)


def _steps(name: str, completion: str, at_most: float = 0.0, **options: Any) -> Attack:
    return Attack(name, "steps", completion, SUM, {**COLUMNS, **options}, at_most)


def _tiers(name: str, completion: str, at_most: float = -1.0, **options: Any) -> Attack:
    return Attack(name, "three_tier", completion, {"answer": "85"}, options, at_most)


NUMBERS = (
    _number("empty", ""),
    _number("white space", " \n\t\u3000"),
    _number("prompt echoed", "What is 47+38?"),
    _number("prompt and tags echoed", "What is 47+38? <answer>47+38</answer>", **TAGGED),
    _number("an answer and another", "85 or 86"),
    _number("a hundred answers", " ".join(map(str, range(1, 101)))),
    _number("a hundred answers in one box", "\\boxed{" + ",".join(map(str, range(1, 101))) + "}"),
    _number("two boxes", "\\boxed{85} \\boxed{86}"),
    _number("two tags", "<answer>85</answer><answer>86</answer>", **TAGGED),
    _number("right outside the tag", "85 <answer></answer> 85", **TAGGED),
    _number("unclosed tag", "<answer>85", **TAGGED),
    _number("tags turned round", "</answer>85<answer>", **TAGGED),
    _number("tag in other case", "<ANSWER>85</ANSWER>", **TAGGED),
    _number("look-alike tag", f"<{CYRILLIC_A}nswer>85</{CYRILLIC_A}nswer>", **TAGGED),
    _number("invisible character in the tag", f"<answer{ZERO_WIDTH}>85</answer{ZERO_WIDTH}>", **TAGGED),
    _number("unclosed box", "\\boxed{85"),
    _number("the last box unclosed", "\\boxed{85} \\boxed{85"),
    _number("another in the box", "\\boxed{85 \\boxed{86}}"),
    _number("taken back", "85 (not 86)"),
    _number("fullwidth digits", "\N{FULLWIDTH DIGIT EIGHT}\N{FULLWIDTH DIGIT FIVE}"),
    _number("one digit fullwidth", "\N{FULLWIDTH DIGIT EIGHT}6", SIX),
    _number("superscript", "6\N{SUPERSCRIPT TWO}", SIX),
    _number("invisible character in the number", f"8{ZERO_WIDTH}5"),
    _number("right-to-left override", f"{OVERRIDE}58"),
    _number("NUL in the number", "8\x005"),
    _number("huge exponent", "1e999999999", ONE),
    _number("exponent of a megabyte", "1e" + "9" * MEGABYTE, ONE),
    _number("denominator", "1/6", SIX),
    _number("denominator far away", "1 /    6", SIX),
    _number("fraction slash", "1\N{FRACTION SLASH}6", SIX),
    _number("denominator in LaTeX", "\\frac{1}{6}", SIX),
    _number("minus by another dash", "\N{FULLWIDTH HYPHEN-MINUS}6", SIX),
    _number("sign in the word before", "x6", SIX),
    _number("piece of a version", "1.2.6", SIX),
    _number("ten million digits", "9" * (10 * MEGABYTE)),
    _number("megabyte of zeros before another", "0" * MEGABYTE + "86"),
    _number("megabyte of commas", "1," * (MEGABYTE // 2)),
    _number("megabyte of thousands", "1" + ",111" * (MEGABYTE // 4)),
    _number("megabyte of boxes", "\\boxed{" * (MEGABYTE // 7)),
    _number("megabyte of braces in a box", "\\boxed{" + "{" * MEGABYTE),
    _number("megabyte of tags", "<answer>" * (MEGABYTE // 8), **TAGGED),
    _number("megabyte of signs", "-$" * (MEGABYTE // 2)),
)

TEXTS = (
    _exact("empty", ""),
    _exact("every answer", "Paris, Rome, London"),
    _exact("look-alike letter", f"P{CYRILLIC_A}ris"),
    _exact("invisible character", f"Paris{ZERO_WIDTH}"),
    _exact("right-to-left override", f"{OVERRIDE}siraP"),
    _exact("NUL at the end", "Paris\0"),
    _exact("right outside the tag", "Paris <answer>Rome</answer>", **TAGGED),
    _exact("tag in a tag", "<answer>Rome <answer>or</answer> Paris</answer>", **TAGGED),
    _countdown("the target itself", "15"),
    _countdown("a number twice", "12+3+3-3"),
    _countdown("a number that is not given", "14+1"),
    _countdown("division by zero", "15/(7-7)"),
    _countdown("the equation", "12+3=15"),
    _countdown("comparison", "15==15"),
    _countdown("power", "15**1"),
    _countdown("exponent", "15e0"),
    _countdown("code", "__import__('os').getpid() or 15"),
    _countdown("fullwidth digits", "\N{FULLWIDTH DIGIT ONE}2+3"),
    _countdown("comment", "12+3#"),
    _countdown("nothing", ""),
    _countdown("megabyte of parentheses", "(" * MEGABYTE + "12+3" + ")" * MEGABYTE),
    _countdown("megabyte of digits", "9" * MEGABYTE),
    _countdown("tower of products", "*".join(["12"] * 80)),
)

FORMS = (
    _format("empty", ""),
    _format("empty tags", "<think></think><answer></answer>"),
    _format("blank tags", f"<think> {ZERO_WIDTH}</think><answer>\n</answer>"),
    _format("tags only opened", "<think><answer>85"),
    _format("nested", "<think>7+8=15<answer>85</answer></think>"),
    _format("an answer more", FORM + "<answer>86</answer>"),
    _format("an answer in the thought", "<think><answer>86</answer></think><answer>85</answer>"),
    _format("something after", FORM + " 86"),
    _format("invisible character after", FORM + ZERO_WIDTH),
    _format("NUL before", "\0" + FORM),
    _format("look-alike letter", FORM.replace("answer", f"{CYRILLIC_A}nswer")),
    _format("other case", FORM.upper()),
    _format("attribute", FORM.replace("<answer>", "<answer final>")),
    _format("megabyte of tags", "<think>" * (MEGABYTE // 7)),
    Attack("a pattern that explodes", "pattern", "a" * MEGABYTE + "!", options={"pattern": "(a|a|aa)*(a|aa)*[^!]"}),
    Attack("nested quantifiers", "pattern", "a" * MEGABYTE + "!", options={"pattern": "((a+)+)+"}),
    Attack("a line that matches", "pattern", "no\nA: 85\nno", options={"pattern": r"A: \d+"}),
    Attack("a match and a newline", "pattern", "A: 85\n", options={"pattern": r"A: \d+"}),
    _tiers("empty", "", -2.0, **TIERS),
    _tiers("no number, so not wrong", "I cannot say", -2.0),
    _tiers("right in no form", "85", -2.0, **TIERS),
    _tiers("two answers", "<answer>86</answer><answer>85</answer>", -2.0, **TIERS),
    _tiers("an answer and another", "85, or 86"),
    _tiers("huge exponent", "85e9999999", -2.0),
)

STEPS = (
    _steps("empty", ""),
    _steps("separators only", "," * MEGABYTE),
    _steps("prompt echoed", "What is 47+38?"),
    _steps("the answer alone", "85"),
    _steps("the answer is the answer", "85=85,85=85"),
    _steps("a right step a hundred times", "7+8=15," * 100, 0.5),
    _steps("a right step in other words", "7+8=15,8+7=15,so 7 + 8 = 15,15 = 7+8", 0.5),
    _steps("a right step turned round", "7+8=15,15-8=7,15-7=8", 0.5),
    _steps("identities", "47+0=47,38*1=38,47-0=47,38/1=38"),
    _steps("identities of 0 and 1", "0+0=0,1*1=1,1-1=0,0*1=0"),
    _steps("negative zero", "-0=0,0-0=-0,0*47=-0"),
    _steps("counting", "1+1=2,2+1=3,3+1=4,4+1=5"),
    _steps("counting from the answer", "84+1=85,85+1=86"),
    _steps("invented equations", "2+2=4,5*5=25,100-1=99"),
    _steps("a step in the air first", "60+25=85,85-47=38"),
    _steps("right and wrong in one step", "7+8=15 and 4+3=8"),
    _steps("false but nearly", "7+8=15.000000000000000000001"),
    _steps("false beyond any float", "47+38=85+1/10000000000000000000000000"),
    _steps("power", "47**38=47**38"),
    _steps("division by zero", "47/0=38/0"),
    _steps("fullwidth digits", "\N{FULLWIDTH DIGIT SEVEN}+8=15"),
    _steps("padding before and after", "a," * 1000 + "7+8=15," + "b," * 1000),
    _steps("padding, more than earns", "7+8=15," + "47+38=85," + "85+47=132,132+85=217," * 50, 1.0),
    _steps("unclosed tag", "<think>7+8=15,4+3+1=8", tag="think"),
    _steps("steps outside the tag", "7+8=15,<think></think>4+3+1=8", tag="think"),
    _steps("wrong ones hidden by a right one", "7+8=15," + "7+8=16," * 100, -1.0, wrong=-1.0),
    _steps("a step of a megabyte", "7+8=15" + " " * MEGABYTE + "=15"),
    _steps("a megabyte of equations", "7+8=15 " * (MEGABYTE // 7)),
    _steps("a megabyte of parentheses", "(" * MEGABYTE + "=" + ")" * MEGABYTE),
    _steps("long steps of equals signs", ("=" * 499 + ",") * 2000),
    _steps("long steps of products", ("9*" * 120 + "9=" + "9*" * 100 + "9,") * 2000),
    _steps("long steps of numbers", ("1.1." * 124 + "=,") * 2000),
    _steps("a number of a megabyte", "9" * MEGABYTE + "+1=1" + "0" * MEGABYTE),
    Attack("nothing said, to repeat nothing", "repetition", ""),
    Attack("repetition without spaces", "repetition", "ha" * 1000, at_most=-0.9),
    Attack("repetition by punctuation", "repetition", "!?" * 1000, at_most=-0.9),
    Attack("repetition in other case", "repetition", "so on So on SO ON so On " * 100, at_most=-0.9),
    Attack("a megabyte of repetition", "repetition", "a," * (MEGABYTE // 2), at_most=-0.9),
    Attack("a megabyte of characters", "repetition", "".join(map(chr, range(0x4E00, 0x9FFF))) * 50),
    Attack(
        "cut off to be neither right nor wrong", "cosine_length", "",
        {"answer": "85", "tokens": 100, "token_budget": 100}, at_most=-1.0,
    ),
    Attack(
        "long and wrong", "cosine_length", "86" + " " * MEGABYTE,
        {"answer": "85", "tokens": 99, "token_budget": 100}, at_most=-0.5,
    ),
)  # fmt: skip

ATTACKS = (*NUMBERS, *TEXTS, *FORMS, *STEPS)
