"""The form of a completion: tags, patterns, three tiers."""

from __future__ import annotations

import time

import pytest

from upweight.errors import UserError
from upweight.rewards.builtin import CannotScore, compiled, exact, number, pattern, tags, three_tier

FINE = "<think>a</think><answer>b</answer>"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("<think>a</think>", "one is missing"),
        ("<think>a</think><answer>b", "not closed"),
        ("<think>a<answer>b</answer></think>", "nested"),
        ("<think><think>a</think></think><answer>b</answer>", "nested in itself"),
        ("<answer>b</answer><think>a</think>", "out of order"),
        (FINE + FINE, "twice"),
        (FINE + "</answer>", "closed twice"),
        (FINE + " so", "something after"),
        ("so " + FINE, "something before"),
        (FINE.replace("><answer", "> so <answer"), "something between"),
        (FINE + "\0", "a NUL is something"),
        (FINE.replace("><answer", ">\u200b<answer"), "a zero-width space is something"),
        (FINE.replace("think", "Think"), "other case"),
        (FINE.replace("<answer>", '<answer kind="sure">'), "attribute"),
        (FINE.replace("<answer>", "<answer >"), "space in the tag"),
        (FINE.replace("answer", "\N{CYRILLIC SMALL LETTER A}nswer"), "look-alike letter"),
        (FINE.replace("<", "\N{FULLWIDTH LESS-THAN SIGN}"), "look-alike bracket"),
        (FINE.replace("think", "thi\u200bnk"), "zero-width space in the tag"),
        (FINE.replace("<think>", "<think\u2060>"), "word joiner in the tag"),
        ("\u202e" + FINE, "right-to-left override"),
        ("<think></think><answer>b</answer>", "nothing in it"),
        ("<think> \n\t\u200b</think><answer>b</answer>", "nothing to be seen in it"),
        ("<think>...</think><answer>b</answer>", "only dots in it"),
    ],
)
def test_what_is_not_in_form(text, why):
    assert tags(FINE) == 1
    assert tags(text) == 0, why


@pytest.mark.parametrize("inside", ["<b>x</b>", "<THINK>x</THINK>", "x < y > z", "1", "\N{CJK UNIFIED IDEOGRAPH-4E00}"])
def test_anything_else_may_stand_inside(inside):
    assert tags(f"<think>{inside}</think>\n<answer>b</answer>") == 1


def test_tags_may_be_allowed_to_be_empty():
    assert tags("<think></think><answer>b</answer>", filled=False) == 1


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_tags_that_nothing_can_have_are_refused(names):
    with pytest.raises(UserError, match=r"`format` needs tags = \[\.\.\.\], each once"):
        tags("", tags=names)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (r"(a|a|aa)*(a|a|aa)*(a|a|aa)*[^!]", "a" * 1_000_000 + "!"),
        (r"(a+)+b", "a" * 1_000_000),
        (r"(.*)*x(.*)*y", "x" * 1_000_000),
        (r"(\w+\s?)*\.", "word " * 200_000),
        (r"([a-z]+)*([a-z]+)*([0-9]+)*$!", "a1" * 500_000),
    ],
)
def test_no_pattern_explodes(expression, text):
    started = time.perf_counter()
    assert pattern(text, expression) == 0
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("expression", "text", "score"),
    [
        (r"<a>.*</a>", "<a>1\n2</a>", 1),
        (r"<a>.*</a>", " <a>1</a>", 0),
        (r"<a>.*</a>", "<a>1</a>\n", 0),
        (r"a|ab", "ab", 1),
        (r"(?i)yes", "YES", 1),
        (r"^\d{1,3}$", "85", 1),
        (r"\d+", "85\ud800", 0),
        (r".", "\0", 1),
        (r"", "", 1),
    ],
)
def test_a_pattern_is_of_the_whole_text(expression, text, score):
    assert pattern(text, expression) == score


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(a", r"no valid regular expression in '\(a': unclosed group"),
        ("a)(b", "unopened group"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences are not supported"),
        ("(a{1000}){1000}", "size limit"),
        ("[z-a]", "invalid character class range"),
        (3, "needs its pattern as text, not 3"),
    ],
)
def test_what_is_no_pattern_is_said_in_one_line(expression, message):
    with pytest.raises(UserError, match=message) as raised:
        compiled(expression)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", 5.0), ("it is 4.0", 5.0), ("3", 0.25), ("", -7.0), ("four", -7.0), ("1/4", -7.0), ("1e99999", -7.0)],
)
def test_three_tiers(text, value):
    assert three_tier(text, "4", correct=5.0, wrong=0.25, bad_format=-7.0) == value


def test_three_tiers_with_tags():
    form = {"tag": "answer", "tags": ("think", "answer")}
    assert three_tier("<think>2+2</think><answer>4</answer>", "4", **form) == 1
    assert three_tier("<think>2+2</think><answer>5</answer>", "4", **form) == -1
    assert three_tier("<think>2+2</think><answer>four</answer>", "4", **form) == -2
    assert three_tier("<answer>4</answer>", "4", **form) == -2
    assert three_tier("<think></think><answer>4</answer>", "4", **form) == -2
    assert three_tier("<answer>4</answer>", "4", tag="answer") == 1
    assert three_tier("4", "4", tag="answer") == -2
    with pytest.raises(CannotScore, match="'Paris' is not a number"):
        three_tier("4", "Paris")


def test_a_row_without_an_answer_cannot_be_scored():
    for blank in ("", " \n"):
        with pytest.raises(CannotScore, match="no answer"):
            exact(blank, blank)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1e9999", "1"),
        ("1e-99999999999", "1"),
        ("1e" + "9" * 100_000, "1"),
        ("1/   2", "2"),
        ("1\N{FRACTION SLASH}2", "2"),
        ("1 \N{DIVISION SLASH} 2", "1"),
        ("x = \\frac{1}{2}", "2"),
        ("\N{FULLWIDTH DIGIT FOUR}6", "6"),
        ("4\N{FULLWIDTH DIGIT SIX}", "4"),
        ("4\N{SUPERSCRIPT TWO}", "4"),
        ("\N{ARABIC-INDIC DIGIT FOUR}6", "6"),
        ("\N{EN DASH}6", "6"),
        ("\N{FULLWIDTH HYPHEN-MINUS}6", "6"),
    ],
)
def test_numbers_that_are_pieces_of_others(text, answer):
    assert number(text, answer) == 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [("-0", "0"), ("1e999", "1" + "0" * 999), ("\N{EN DASH}6", "-6"), ("45\N{EN DASH}46", "46"), ("1e-3", "0.001"),
     ("2/3 is wrong, 6", "6"), ("and/or\n6", "6")],
)  # fmt: skip
def test_numbers_that_are_whole(text, answer):
    assert number(text, answer) == 1
