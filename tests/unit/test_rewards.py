"""Rewards: what counts as right, what never runs, and what a failing function of the user's leads to."""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upweight.config import RewardsConfig
from upweight.errors import UserError
from upweight.rewards.builtin import countdown, exact, number, pattern, tags
from upweight.rewards.call import CannotScore, Failed
from upweight.rewards.combine import Scored
from upweight.rewards.expressions import evaluate
from upweight.rewards.load import BUILTIN, resolve
from upweight.rewards.make import make_rewards
from upweight.rewards.score import Rewards
from upweight.types import Prompt


def rewards_of(**parts: object) -> Rewards:
    return make_rewards(RewardsConfig.model_validate({"parts": parts}))


def prompt_with(answer: str = "4", **fields: object) -> Prompt:
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2="})
    return Prompt("id", messages, (1,), answer, fields)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("it is 46", "46"),
        ("46", "46.0"),
        ("3.0", "3"),
        ("so 1,080 in all.", "1080"),
        ("1080", "1,080"),
        ("#### 109,200,000", "109200000"),
        ("first 3 then 46.", "46"),
        ("= -5", "-5"),
        ("\N{MINUS SIGN}5", "-5"),
        ("10-5", "5"),
        ("costs $12", "12"),
        ("costs -$12", "-12"),
        ("costs $-12", "-12"),
        ("50%", "50"),
        (".5", "0.5"),
        ("wait...46", "46"),
        ("1e3", "1000"),
        ("答案是46", "46"),
        ("#### 12 of 13", "12"),
        ("#### 12\nand then 13", "12"),
        ("#### 13 no, #### 12", "12"),
        ("\\boxed{12} of 13", "12"),
        ("#### 13, \\boxed{12}", "12"),
        ("\\boxed{1} \\boxed{12}", "12"),
        ("\\boxed{1{,}080 \\text{ dollars}}", "1080"),
        ("\\boxed{\\$12}", "12"),
        ("#### Step two\nit is 46", "46"),
        ("0.1234567890123456789012345678901234567890", "0.1234567890123456789012345678901234567890"),
    ],
)
def test_number_reads(text, answer):
    assert number(text, answer) == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "46"),
        ("forty-six", "46"),
        ("46 or 47", "46"),
        ("-46", "46"),
        ("460", "46"),
        ("4.6", "46"),
        ("x46", "46"),
        ("1.2.46", "46"),
        ("1/2", "2"),
        ("#### 1/2", "1"),
        ("\\boxed{\\frac{1}{2}}", "2"),
        ("\\boxed{46", "46"),
        ("\\boxed{} 46", "46"),
        ("46 #### 47", "46"),
        ("0.1234567890123456789012345678901234567891", "0.1234567890123456789012345678901234567890"),
    ],
)
def test_number_refuses(text, answer):
    assert number(text, answer) == 0


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<answer>46</answer>", 1),
        ("<answer>12</answer><answer>46</answer> or 12", 1),
        ("<answer>4<answer>46</answer>", 1),
        ("<answer>12+34=46</answer>", 1),
        ("<answer>46", 0),
        ("46</answer>", 0),
        ("46", 0),
        ("<answer></answer>46", 0),
        ("</answer>46<answer>", 0),
    ],
)
def test_number_within_a_tag(text, score):
    assert number(text, "46", tag="answer") == score


def test_an_answer_without_a_number_is_no_zero():
    with pytest.raises(CannotScore, match="'Paris' is not a number"):
        number("46", "Paris")


FORMS = ["{}", "{:,}", "it is {:,}.", "#### {:,}", "\\boxed{{{}}}", "{}.0"]


@given(st.integers(-(10**12), 10**12), st.sampled_from(FORMS))
def test_number_reads_every_way_of_writing_an_integer(value, form):
    assert number(form.format(value), str(value)) == 1
    assert number(form.format(value + 1), str(value)) == 0


@pytest.mark.parametrize(
    "text",
    ["1" * 400_000, "1," * 200_000, ",111" * 100_000, "-$" * 200_000, "a1,111" * 60_000, "1.1." * 100_000,
     "1e" * 200_000, "\\boxed{" * 50_000, "####" * 100_000, "<answer>" * 50_000, "</answer>" * 50_000,
     "\\text" * 80_000, "((" * 200_000],
)  # fmt: skip
def test_hostile_text_takes_linear_time(text):
    started = time.perf_counter()
    for tag in ("", "answer"):
        number(text, "1", tag=tag)
        exact(text, "1", tag=tag)
    tags(text)
    countdown(f"<answer>{text}</answer>", [1], 1)
    assert time.perf_counter() - started < 2


def test_exact():
    assert exact(" Paris\n", "Paris ") == 1
    assert exact("paris", "Paris") == 0
    assert exact("so <answer> Paris </answer>.", "Paris", tag="answer") == 1
    assert exact("Paris", "Paris", tag="answer") == 0
    assert exact("<answer>Rome</answer><answer>Paris</answer>", "Paris", tag="answer") == 1


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        (" <think>a\n</think>\n\n<answer>b</answer>\n", 1),
        ("<think></think><answer></answer>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a</think>", 0),
        ("<think>a</think><answer>b", 0),
        ("<think>a</think> so <answer>b</answer>", 0),
        ("Sure: <think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer> done", 0),
        ("<think>a</think><answer>b</answer><answer>b</answer>", 0),
        ("<think><think>a</think><answer>b</answer>", 0),
        ("<think>a<answer></think>b</answer>", 0),
        ("<think>a<answer>b</answer></think>", 0),
        ("</think>a<think><answer>b</answer>", 0),
    ],
)
def test_tags(text, score):
    assert tags(text) == score


def test_tags_of_another_name():
    assert tags("<sql>x</sql>", tags=["sql"]) == 1
    assert tags("<sql>x</sql>") == 0


def test_pattern_matches_all_of_the_text():
    assert pattern("a\nb", r"a.b") == 1
    assert pattern("a\nb!", r"a.b") == 0


def test_no_pattern_explodes():
    started = time.perf_counter()
    assert pattern("a" * 100_000 + "!", r"(a|a|aa)*(a|a|aa)*(a|a|aa)*[^!]") == 0
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("expression", "score"),
    [
        ("(12-7)*3", 1),
        (" ( 12 - 7 ) * 3 ", 1),
        ("12+3", 1),
        ("7*12/3-12", 0),
        ("12+3+3-3", 0),
        ("15", 0),
        ("12+3.0", 0),
        ("-(7-12)*3", 0),
        ("12+3=15", 0),
        ("(12+3", 0),
        ("12+3)", 0),
        ("12 3", 0),
        ("12++3", 0),
        ("", 0),
        ("12+3/(7-7)", 0),
        ("__import__('os')", 0),
        ("12**3", 0),
        ("12//3", 0),
        ("\N{FULLWIDTH DIGIT ONE}2+3", 0),
    ],
)
def test_countdown(expression, score):
    assert countdown(f"so <answer>{expression}</answer>", [3, 7, 12], 15) == score


def test_countdown_details():
    assert countdown("12+3", [3, 12], 15) == 0, "the tag is wanted"
    assert countdown("12+3", [3, 12], 15, tag="") == 1
    assert countdown("<answer>(1/3)*3</answer>", [1, 3, 3], 1) == 1, "division is exact"
    assert countdown("<answer>10/(5-5)</answer>", [10, 5, 5], 0) == 0
    assert countdown("<answer>8-3-2</answer>", [8, 3, 2], 3) == 1, "subtraction is left-associative"
    assert countdown("<answer>12/3/2</answer>", [12, 3, 2], 2) == 1, "division is left-associative"
    assert countdown("<answer>2+3*4</answer>", [2, 3, 4], 14) == 1, "products bind tighter"
    with pytest.raises(CannotScore, match="needs numbers and a target"):
        countdown("<answer>1+2</answer>", ["1", "2"], 3)


def test_expressions_are_bounded():
    assert evaluate("(" * 16 + "1" + ")" * 16, [1]) == Fraction(1)
    assert evaluate("(" * 17 + "1" + ")" * 17, [1]) is None
    assert evaluate("1" + " " * 300, [1]) is None


def test_functions_by_file_and_module(tmp_path, monkeypatch):
    (tmp_path / "helper_of_mine.py").write_text("FACTOR = 3\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom helper_of_mine import FACTOR\n"
        "@dataclass\nclass Box:\n    value: int\n"
        "def scaled(completion, by=1):\n    return Box(FACTOR * by * len(completion)).value\nLIMIT = 3\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert resolve(f"{file}:scaled")("ab") == 6
    assert resolve(f"{file}:scaled") is resolve(f"{file}:scaled")
    assert resolve("math:sqrt")(4) == 2
    here = tmp_path / "here"
    here.mkdir()
    (here / "module_of_mine.py").write_text("def double(completion):\n    return 2 * len(completion)\n")
    monkeypatch.chdir(here)
    assert resolve("module_of_mine:double")("ab") == 4
    assert resolve("number") is BUILTIN["number"]


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (None, "f", r"mine\.py does not exist"),
        ("def good(completion): return 1\n", "god", r"has no 'god' \(did you mean 'good'\?\)"),
        ("good = 3\n", "good", "is a int, not a function"),
        ("x = 1\ny = 1 / 0\n", "f", r"mine\.py:2: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:\n", "f", r"mine\.py:2: SyntaxError: "),
        ("import json\n\njson.loads('{')\n", "f", r"mine\.py:3: JSONDecodeError: "),
        ("import not_there_at_all\n", "f", r"mine\.py:1: ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_what_is_wrong_with_a_users_file_is_said_in_one_line(tmp_path, monkeypatch, source, name, message):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "mine.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(UserError, match=message) as raised:
        resolve(f"{file}:{name}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("numbr", r"unknown reward 'numbr' \(did you mean 'number'\?\); .*file\.py:name or module:name"),
        (":f", "unknown reward"),
        ("no_such_module_here:f", "no_such_module_here' does not exist"),
        ("json.no_such:f", r"json\.no_such' does not exist"),
        ("math:sqroot", r"has no 'sqroot' \(did you mean 'sqrt'\?\)"),
    ],
)
def test_a_reward_that_is_not_there(function, message, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=message):
        resolve(function)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The name of a function in a user's file, from the source of that function."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source: str, name: str = "f") -> str:
        (tmp_path / "mine.py").write_text(source)
        return f"{tmp_path / 'mine.py'}:{name}"

    return write


def test_parts_are_weighted_and_reported_unweighted():
    rewards = rewards_of(
        correct={"function": "number", "weight": 2.0, "options": {"tag": "answer"}},
        format={"function": "format", "weight": 0.5, "options": {"tags": ("answer",)}},
    )
    right = rewards.score(prompt_with(), "<answer>4</answer>", "stop")
    assert right == Scored(2.5, {"correct": 1.0, "format": 1.0})
    wrong = rewards.score(prompt_with(), "<answer>5</answer>", "stop")
    assert wrong == Scored(0.5, {"correct": 0.0, "format": 1.0})
    assert rewards.is_correct(right.parts)
    assert not rewards.is_correct(wrong.parts)


def test_the_accuracy_part():
    assert rewards_of(format="format", correct="number").accuracy_part == "correct"
    assert rewards_of(format="format", correct="number").names == ("format", "correct")
    assert rewards_of(right="number", format="format").accuracy_part == "right"


def test_a_function_reads_what_its_parameters_name(mine):
    name = mine(
        "seen = {}\n"
        "def f(completion, answer, prompt, messages, finish_reason, fields, level, scale=2, *, extra=None):\n"
        "    seen.update(locals())\n    return scale\n"
    )
    rewards = rewards_of(mine={"function": name, "options": {"scale": 3}, "isolate": False})
    scored = rewards.score(prompt_with(level="easy", extra="a column never overrides an option"), "four", "length")
    assert scored == Scored(3.0, {"mine": 3.0})
    seen = {key: value for key, value in resolve(name).__globals__["seen"].items() if key != "fields"}
    assert seen == {
        "completion": "four", "answer": "4", "prompt": "2+2=", "finish_reason": "length", "level": "easy", "scale": 3,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2="}], "extra": None,
    }  # fmt: skip


def test_a_users_function_cannot_change_the_data(mine):
    name = mine("def f(fields, messages):\n    fields.clear(); messages[0].clear(); messages.clear()\n    return 1\n")
    prompt = prompt_with(level="easy")
    rewards_of(mine=name).score(prompt, "x", "stop")
    assert prompt == prompt_with(level="easy")


def test_a_missing_field_is_a_failure_that_names_it():
    failed = rewards_of(correct="countdown").score(prompt_with(number=[1]), "x", "stop")
    assert failed == Failed("correct", "error", "the row has no field 'numbers' (did you mean 'number'?)")


def test_a_users_exception_is_recorded_with_its_place(mine):
    name = mine("def g():\n    raise KeyError('no\\nsuch')\ndef f(completion):\n    return g()\n")
    failed = rewards_of(format="format", mine=name).score(prompt_with(), "x", "stop")
    assert isinstance(failed, Failed)
    assert (failed.part, failed.kind) == ("mine", "error")
    assert failed.message.startswith("KeyError: ")
    assert failed.message.endswith("mine.py:2)")
    assert "\n" not in failed.message


def test_an_interrupt_is_not_swallowed(mine):
    raises = {"function": mine("def f():\n    raise KeyboardInterrupt\n"), "isolate": False}
    with pytest.raises(KeyboardInterrupt):
        rewards_of(mine=raises).score(prompt_with(), "x", "stop")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("float('nan')", "returned nan"),
        ("float('inf')", "returned inf"),
        ("-float('inf')", "returned -inf"),
        ("10 ** 400", "returned a int"),
        ("'good'", "returned the text 'good'"),
        ("None", "returned None"),
        ("[1.0]", "returned a list"),
    ],
)
def test_what_is_no_number_is_a_failure(mine, value, shown):
    failed = rewards_of(mine=mine(f"def f():\n    return {value}\n")).score(prompt_with(), "x", "stop")
    assert failed == Failed("mine", "not_a_number", f"{shown}, not a finite number")


@pytest.mark.parametrize(("value", "reward"), [("True", 1.0), ("2", 2.0), ("__import__('numpy').float32(0.5)", 0.5)])
def test_numbers_of_other_types_count(mine, value, reward):
    assert rewards_of(mine=mine(f"def f():\n    return {value}\n")).score(prompt_with(), "", "stop").reward == reward


def test_a_builtin_that_cannot_judge_fails_and_is_no_zero():
    failed = rewards_of(correct="number").score(prompt_with("Paris"), "4", "stop")
    assert failed == Failed("correct", "refusal", "the answer 'Paris' is not a number")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"function": "number", "options": {"tagg": "a"}}, r"parts\.p\.options: number has no option 'tagg'.*'tag'"),
        ({"function": "number", "options": {"answer": "4"}}, "no option 'answer'"),
        ({"function": "number", "options": {"tag": 3}}, r"options\.tag must be like '', not 3"),
        ({"function": "format", "options": {"tags": "answer"}}, r"options\.tags must be like \('think', 'answer'\)"),
        ({"function": "pattern", "options": {"pattern": "(a"}}, r"no valid regular expression in '\(a'"),
        ({"function": "pattern", "options": {"pattern": 3}}, "needs its pattern as text, not 3"),
        ({"function": "math:sqrt"}, "positional-only"),
    ],
)
def test_options_are_checked_before_anything_runs(part, message):
    with pytest.raises(UserError, match=message):
        rewards_of(p=part)


def test_a_function_with_open_options_takes_any(mine):
    name = mine("def f(completion, **options):\n    return options['bonus']\n")
    rewards = rewards_of(p={"function": name, "options": {"bonus": 0.25}})
    assert rewards.score(prompt_with(), "", "stop") == Scored(0.25, {"p": 0.25})


def test_a_pattern_comes_from_the_options():
    rewards = rewards_of(form={"function": "pattern", "options": {"pattern": r"\d+"}})
    assert rewards.score(prompt_with(), "12", "stop") == Scored(1.0, {"form": 1.0})


def test_no_parts_is_an_error():
    with pytest.raises(UserError, match="there is no reward"):
        rewards_of()
