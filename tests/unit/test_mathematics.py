"""The reward `math`: pairs whose truth is known, what must not earn anything, and what the gold answer may be."""

from __future__ import annotations

import builtins
import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.math_pairs import CATEGORIES, pairs
from upweight.errors import UserError
from upweight.rewards.call import CannotScore
from upweight.rewards.mathematics import reward
from upweight.rewards.mathematics.reward import math

pytest.importorskip("math_verify")

PAGE = Path(__file__).parents[2] / "docs" / "mathematics.md"
GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k" / "test.jsonl"

# (gold answer, a completion that tries to earn it)
ATTACKS_MATH = {
    "two answers": ("4", "4 or 5"),
    "two answers in a box": ("4", r"\boxed{4, 5}"),
    "two boxes": ("5", r"\boxed{4} or $\boxed{5}$"),
    "two answers with a name": ("4", r"The answer is x = 4 or 5."),
    "two answers in prose": ("5", "It is 4 apples or maybe 5 apples."),
    "two spans": ("5", "So $x = 4$ or $x = 5$"),
    "two after ####": ("4", "#### 4 or 5"),
    "every digit": ("7", r"\boxed{0,1,2,3,4,5,6,7,8,9}"),
    "a range": ("7", "The answer is 1 to 9"),
    "plus-minus": ("2", r"\boxed{\pm 2}"),
    "an interval that contains it": ("4", r"\boxed{(3, 5)}"),
    "a degenerate interval": ("4", r"\boxed{[4, 4]}"),
    "an inequality": ("4", r"\boxed{x \ge 4}"),
    "the reals": ("4", r"\boxed{\mathbb{R}}"),
    "everything": (r"\{1,2\}", r"\boxed{\{0,1,2,3\}}"),
    "a set and its parts": (r"(1,2]", r"\boxed{[1,2], (1,2), (1,2]}"),
    "the calculation echoed": ("408", r"\boxed{12 \times 34}"),
    "the quotient echoed": ("3", r"\boxed{12/4}"),
    "the root echoed": ("4", r"\boxed{\sqrt{16}}"),
    "the factorial echoed": ("120", r"\boxed{5!}"),
    "the sine echoed": (r"\frac{\sqrt{3}}{2}", r"\boxed{\sin(60 \cdot \frac{\pi}{180})}"),
    "the equation echoed": ("4", r"\boxed{2+2=4}"),
    "a chain": ("4", r"\boxed{1=2=3=4}"),
    "an identity": ("4", r"\boxed{4=4}"),
    "a tautology": ("x=4", r"\boxed{x=x}"),
    "true": ("4", r"\boxed{True}"),
    "rounded": ("1/3", r"\boxed{0.333333333333333333}"),
    "rounded pi": (r"\pi", r"\boxed{3.14159265358979324}"),
    "approximately": ("4", r"\boxed{\approx 4}"),
    "fullwidth digits": ("4", "\\boxed{\N{FULLWIDTH DIGIT FOUR}}"),
    "Arabic-Indic digits": ("4", "The answer is \N{ARABIC-INDIC DIGIT FOUR}"),
    "Cyrillic letters": ("x+1", "\\boxed{\N{CYRILLIC SMALL LETTER HA}+1}"),
    "superscript": ("4", "\\boxed{\N{SUPERSCRIPT FOUR}}"),
    "invisible characters": ("45", "\\boxed{4\N{ZERO WIDTH SPACE}5}"),
    "control characters": ("4", "\\boxed{4\x024\x03}"),
    "capitals": (r"\pi(R^2-r^2)", r"\boxed{0}"),
    "a tower": ("4", r"\boxed{9^{9^{9^{9}}}}"),
    "a tower for a power": ("2^{10}", r"\boxed{9^{9^{9^{9}}}}"),
    "a large exponent": ("2^{10}", r"\boxed{10^{100000}}"),
    "a product of exponents": ("2^{10}", r"\boxed{((((9^{99})^{99})^{99})^{99})^{99}}"),
    "an enormous exponent": ("x", r"\boxed{x^{999999999999}}"),
    "e to the e": ("e^{2}", r"\boxed{e^{e^{e^{e^{e}}}}}"),
    "a large argument": (r"\sin(1)", r"\boxed{\sin(999999999999999999^{999})}"),
    "a hundred thousand digits": ("4", "\\boxed{" + "4" * 100_000 + "}"),
    "a hundred thousand digits in prose": ("4", "The answer is " + "4" * 100_000),
    "a large factorial": ("120", r"\boxed{99999!!}"),
    "a factorial for a factorial": ("5!", r"\boxed{99999!}"),
    "iterated factorials": ("5!", r"\boxed{((5!)!)!}"),
    "a large binomial": (r"\binom{5}{2}", r"\boxed{\binom{99999}{49999}}"),
    "nested fractions": ("4", "\\boxed{" + r"\frac{1}{" * 500 + "4" + "}" * 500 + "}"),
    "nested roots": ("x", "\\boxed{" + r"\sqrt{x+" * 11 + "x" + "}" * 11 + "}"),
    "open braces": ("4", "{" * 10_000 + r"\boxed{4" + "{" * 10_000),
    "open boxes": ("4", r"\boxed{" * 10_000 + "4"),
    "thirty thousand boxes": ("4", r"\boxed{4}, " * 30_000 + r"\boxed{5}"),
    "closed boxes in boxes": ("4", r"\boxed{" * 10_000 + "4" + "}" * 10_000),
    "white space between boxes": ("4", r"\boxed{4}" + " " * 100_000 + "but " + r"\boxed{5}"),
    "white space in a box": ("4", r"\boxed{4" + " " * 250 + "or" + " " * 20 + "5}"),
    "white space after a phrase": ("4", ("answer" + " " * 500) * 200 + "or 5"),
    "dollars": ("4", "$" * 100_000),
    "closed parentheses": ("4", r"\boxed{" + "(" * 140 + "4" + ")" * 140 + "}"),
    "a vanishing power": ("2^{-1000}", r"\boxed{((2^{-1999})^{1999})^{1999}}"),
    "a hair's breadth": (r"\sqrt{2}", r"\boxed{\sqrt{2}+10^{-30}}"),
    "an afterthought": ("4", "The answer is 4 apples or perhaps 5."),
    "open parentheses": ("4", r"\boxed{" + "(" * 290 + "4}"),
    "an unclosed box after a closed one": ("4", r"\boxed{4} so \boxed{4"),
    "an empty box": ("4", r"4 \boxed{}"),
    "a box in a box": ("4", r"\boxed{5 \boxed{4}}"),
    "infinity": ("4", r"\boxed{oo}"),
    "not a number": ("4", r"\boxed{nan}"),
    "code": ("4", r"\boxed{__import__('os').getpid() or 4}"),
    "lambda": ("4", r"\boxed{(lambda: 4)()}"),
    "division by zero": ("x", r"\boxed{\frac{x}{0}}"),
    "zero times infinity": ("0", r"\boxed{0 \cdot \infty}"),
    "juxtaposed numbers": ("9", r"\boxed{4 5}"),
    "an ordinary product read as a mixed number": ("5", r"\boxed{2(3)}"),
    "a larger number": ("4", "The answer is 4 million."),
    "a coefficient": ("4", "It comes to 4x"),
    "a product echoed in prose": ("4", "That is 3 x 4"),
    "part of a date": ("4", "It was on 2020-01-4"),
    "a number in a unit": ("4", r"\boxed{4 \text{ apples 5 pears}}"),
    "a list of units": ("4", r"\boxed{4 \text{ or 5 or 6}}"),
    "another base": ("3", r"\boxed{11_2}"),
    "a percentage": ("0.5", r"\boxed{50\%}"),
    "another unit": (r"5\text{ cm}", r"\boxed{5\text{ m}}"),
    "decimal comma": ("4.5", r"\boxed{4,5}"),
    "words": ("4", "four"),
    "nothing": ("4", ""),
    "prompt echoed": ("4", "What is the smallest number above 3? Options: 3, 4, 5"),
}


@pytest.mark.parametrize("name", ATTACKS_MATH)
def test_attacks_earn_nothing_and_do_not_stall(name):
    gold, completion = ATTACKS_MATH[name]
    assert math(f"\\boxed{{{gold}}}", gold) == 1  # the gold answer is one that can be earned; and all is imported
    start = time.process_time()
    assert math(completion, gold) == 0
    assert time.process_time() - start < 0.5


def test_pairs_are_judged_as_they_were_made():
    judged = [(pair, math(pair.completion, pair.gold) == 1) for pair in pairs(17 * len(CATEGORIES), seed=7)]
    accepted = Counter(pair.category for pair, earned in judged if earned and not pair.right)
    rejected = Counter(pair.category for pair, earned in judged if pair.right and not earned)
    assert not accepted
    assert sum(rejected.values()) <= 0.03 * len(judged)
    assert all(count <= 3 for count in rejected.values()), rejected
    for category in CATEGORIES:
        truths = Counter(pair.right for pair, _ in judged if pair.category == category)
        assert sum(truths.values()) == 17
        assert min(truths[True], truths[False]) >= 2


def test_only_the_text_in_the_tag_counts():
    outside = r"<think>\boxed{4}</think><answer>5</answer>"
    assert math(outside, "4", tag="answer") == 0
    assert math(outside, "5", tag="answer") == 1
    assert math(r"\boxed{4}", "4", tag="answer") == 0
    assert math("<answer>4 or 5</answer>", "4", tag="answer") == 0
    assert math("<answer>3/4</answer>", r"\frac34", tag="answer") == 1
    assert math("<answer>(2, x+1)</answer>", "(2,1+x)", tag="answer") == 1


@pytest.mark.parametrize(
    ("completion", "earns"),
    [
        (r"It is \boxed{5}. No: \boxed{4}", 1),
        ("#### 5\n#### 4", 1),
        ("#### The end\nSo it is 4", 1),
        ("The answer is 5. Wait, the answer is 4, as 5 is odd.", 1),
        (r"\boxed{4} is the answer, not 5", 1),
        ("#### 4\n\n5 more questions", 1),
        ("12 - 8 = 4", 1),
        ("The answer is:\n\n4", 1),
        ("They have $4.", 1),
        ("He is 4th", 1),
        ("4", 1),
        ("-4", 0),
        ("3 - 4", 0),
        ("between 3 and 4", 0),
        ("1.4", 0),
        ("14", 0),
        ("4/3", 0),
        ("x = 4 + y", 0),
    ],
)
def test_where_the_final_answer_stands(completion, earns):
    assert math(completion, "4") == earns


@pytest.mark.parametrize(
    ("gold", "same", "different"),
    [
        ("1,2", "2, 1", "1, 3"),
        ("x=1, y=2", "y=2, x=1", "1, 2"),
        (r"\frac{x}{2}", "x/2", "2/x"),
        (r"\frac{1}{2x}", "1/(2x)", "1/2x"),
        (r"\sqrt[3]{x}", "x^{1/3}", "x^{1/2}"),
        (r"\frac83", r"2\frac23", r"1\frac53"),
        (r"\sqrt[3]{-8}", "-2", "2"),
        (r"x_1+x_2", "x_{2}+x_1", "x_1+x_3"),
        (r"\sqrt{x^2}", r"\sqrt{x \cdot x}", "x"),
        (r"1\frac12", "1.5", r"\frac12"),
        (r"2\frac{x}{3}", r"\frac{2x}{3}", r"2+\frac{x}{3}"),
        (r"-2^2", "-4", "4"),
        (r"\log_2 x", r"\log_{2}(x)", r"\log x"),
        (r"(1,234)", "(1, 234)", "(1234, 1)"),
        (r"x \in [1,2)", r"1 \le x < 2", r"1 \le x \le 2"),
        (r"f(x)=x^2", "x^2", "g(x)=x^2"),
        (r"\text{(B)}", "B", "C"),
        (r"11_2", "11_{2}", "11_{3}"),
        (r"\text{June 20}", r"\text{June 20}", "20"),
        (r"\mathbb{R}", r"(-\infty, \infty)", r"[0, \infty)"),
        ("e^{-x^2/2}", r"\frac{1}{e^{x^2/2}}", "e^{x^2/2}"),
        (r"i^2", "-1", "1"),
        ("2^{-400}", r"\frac{2}{2^{401}}", "2^{-401}"),
    ],
)
def test_what_is_equal(gold, same, different):
    assert math(f"\\boxed{{{same}}}", gold) == 1
    assert math(f"\\boxed{{{different}}}", gold) == 0


def test_the_examples_in_the_docs_are_true():
    section = PAGE.read_text(encoding="utf-8").partition("## What is equal")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 15
    for row in rows:
        golds, same, different = (re.findall(r"`([^`]+)`", cell) for cell in row)
        for gold in golds:
            assert [shown for shown in same if math(f"\\boxed{{{shown}}}", gold) != 1] == []
            assert [shown for shown in different if math(f"\\boxed{{{shown}}}", gold) != 0] == []


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "see the figure: 3",
        "June 20",
        "see figure 3",
        r"\frac{1}{0}",
        r"9^{9^{9^{9}}}",
        "|x|",
        "4" * 400,
        r"\int x dx",
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_a_refusal(gold):
    with pytest.raises(CannotScore, match="the answer"):
        math(r"\boxed{4}", gold)


def test_a_gold_answer_may_be_a_whole_solution():
    assert math("4", "2 + 2 = <<2+2=4>>4\n#### 4") == 1
    assert math("4", r"So it is $\boxed{4}$.") == 1


def test_a_missing_package_is_named(monkeypatch):
    imported = builtins.__import__

    def without(name, *rest):
        if name.startswith("math_verify"):
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    reward._gold.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'upweight\[math\]'"):
        math("4", "4")


@pytest.mark.skipif(not GSM8K.is_file(), reason="the gsm8k data set is not beside the repository")
def test_gsm8k_references_earn_one_and_a_wrong_number_zero():
    for line in GSM8K.read_text(encoding="utf-8").splitlines()[::5]:
        solution = json.loads(line)["answer"]
        answer = solution.rpartition("####")[2].strip()
        assert math(solution, answer) == math(f"\\boxed{{{answer}}}", answer) == math(f"It is ${answer}.", answer) == 1
        assert math(f"{solution}1", answer) == 0


PIECES = list(
    "0123456789xyei()[]{}^_+-*/=<>,;.!$%&|'\" \n\x02\x05\N{DEGREE SIGN}\N{SQUARE ROOT}\N{FULLWIDTH DIGIT ONE}"
)
COMMANDS = r"\frac{ \sqrt \boxed{ \{ \} \cup \in \le \pm \text{ cm \% \$ #### \( \) \[ \] \\ \left \right \circ"
PIECES += COMMANDS.split()
PIECES += [
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    "answer is ",
    " or ",
    " and ",
    r"\sin",
    r"\log_",
    r"\binom",
    r"\overline{",
]


@settings(max_examples=300, deadline=2000)
@given(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.sampled_from(["7919", r"7\sqrt{13}", "(-8,7919]", "x^{13}-y"]),
)
def test_no_text_raises_or_stalls(text, gold):
    for completion in (text, f"\\boxed{{{text}}}"):
        assert math(completion, gold) == 0
