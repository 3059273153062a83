"""Steps: where they end, what they earn, and that more of them do not pay."""

from __future__ import annotations

import sys
from fractions import Fraction
from random import Random

import pytest

from upweight.errors import UserError
from upweight.rewards.call import Stepwise
from upweight.rewards.equations import equations
from upweight.rewards.expressions import worked
from upweight.rewards.steps import check, steps
from upweight.tasks.sums import Question, Slip, mistaken, slips, work


def rewards(text: str, prompt: str = "47+38=", **options: object) -> tuple[float, ...]:
    return steps(text, prompt, "85", **{"separator": ",", "most": 2, **options}).rewards


def test_a_step_ends_where_its_text_does():
    text = "<think> 7+8=15 ,\n,4+3+1=9,</think><answer>85</answer>"
    found = steps(text, "47+38=", "85", tag="think", separator=",", wrong=-0.5)
    assert [text[:end] for end in found.ends] == ["<think> 7+8=15", "<think> 7+8=15 ,\n,4+3+1=9"]
    assert found == Stepwise(0.125, (14, 25), (0.25, -0.125))


@pytest.mark.parametrize("text", ["", "7+8=15", "<think>7+8=15", "</think>7+8=15<think>", "<think>\n \n</think>"])
def test_no_tag_or_nothing_in_it_is_no_step(text):
    assert steps(text, "47+38=", "85", tag="think") == Stepwise(0.0, (), ())


def questions(count: int) -> list[Question]:
    random = Random(5)
    return [
        Question(random.randrange(10 ** random.randint(1, 4)), operator, random.randrange(10 ** random.randint(1, 4)))
        for _ in range(count)
        for operator in "+-*"
    ]


@pytest.mark.parametrize("question", questions(1))
def test_one_step_of_each_operator(question):
    assert steps(work(question).steps, f"{question.text}=", "", separator=",").value > 0


def test_worked_sums_score_in_full():
    for question in [*questions(400), Question(22, "+", 22), Question(40, "+", 5), Question(47, "*", 1)]:
        done = work(question)
        text = f"<think>{done.steps}</think><answer>{done.value}</answer>"
        found = steps(text, f"{question.text}=", str(question.value), tag="think", separator=",", most=8)
        assert found.rewards == (1 / 8,) * len(done.results), question.text


def test_a_false_step_earns_nothing_and_costs_what_is_asked():
    for question in questions(50):
        whole = steps(work(question).steps, f"{question.text}=", "", separator=",", most=8)
        for slip in slips(question):
            if slip.off:
                done = work(question, slip)
                found = steps(done.steps, f"{question.text}=", "", separator=",", most=8, wrong=-1.0)
                assert found.rewards[slip.step] == -1 / 8, done.steps
                assert found.value < whole.value


def test_mistaken_sums_never_score_more():
    random = Random(6)
    for question in questions(200):
        done, right = mistaken(question, random), work(question)
        prompt = f"{question.text}="
        value, full = (steps(text, prompt, "", separator=",", most=8).value for text in (done.steps, right.steps))
        assert value <= full
        if done.results != right.results and not _forgets(question, done.results):
            assert value < full, done.steps


def _forgets(question: Question, results: tuple[int, ...]) -> bool:
    """A forgotten carry leaves every equation true: what is missing is not to be seen in a step."""
    return any(work(question, Slip(place, 0)).results == results for place in range(len(results)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7+8=15,4+3+1=8", (0.5, 0.5)),
        ("8+7=15", (0.5,)),
        ("15=7+8", (0.5,)),
        ("7+8=15=15", (0.5,)),
        ("7+8=10+5=15", (0.5,)),
        ("first 7 + 8 = 15.", (0.5,)),
        ("7+8=15 and 15=15", (0.5,)),
        ("7+8=15 and 4+3=8", (0,)),
        ("7+8=15,7+8=15", (0.5, 0)),
        ("7+8=15,8+7=15", (0.5, 0)),
        ("7+8=15,7+8=15.0", (0.5, 0)),
        ("7+8=15, 7 + 8 = 15", (0.5, 0)),
        ("47+38=85,85-38=47", (0.5, 0.5)),
        ("47+38=85,47+38=85", (0.5, 0)),
        ("47+38=85,38+47=85,85-85=0", (0.5, 0, 0.5)),
        ("7+8=15,4+3+1=8,15+8=23", (0.5, 0.5, 0)),
        ("47-47=0,38+0=38,47/47=1,38*1=38", (0.5, 0, 0, 0)),
        ("7+8+1=16", (0.5,)),
        ("7+8+1+1=17", (0,)),
        ("15=15", (0,)),
        ("0+0=0,1*1=1,1+1=2", (0, 0, 0)),
        ("47+0=47,47*1=47,47/1=47,47-0=47", (0, 0, 0, 0)),
        ("2+3=5,100*2=200", (0, 0)),
        ("3+8=11,11+4=15", (0.5, 0.5)),
        ("11+4=15", (0,)),
        ("7+9=16,16+4=20", (0, 0)),
        ("words,4,=,85=,=85,+", (0, 0, 0, 0, 0, 0)),
    ],
)
def test_what_steps_earn(text, expected):
    assert rewards(text) == expected


def test_a_number_of_one_digit_is_calculated_with_once():
    assert rewards("7+8=15,8+7=15,7*8=56", "7+8=") == (0.5, 0, 0)
    assert rewards("8*7=56,8*40=320,56+320=376", "8*47=", most=4) == (0.25,) * 3


def test_only_the_first_that_earn_count():
    padded = "\n".join(f"{n}+{n}={2 * n}" for n in range(2, 100))
    found = steps(padded, "", "", grounded=False, most=3)
    assert found.value == 1
    assert found.rewards == (1 / 3,) * 3 + (0.0,) * 95


def test_no_prompt_grounds_but_may_be_left_out():
    assert rewards("20/2=10,10+20=30,30+20=50", "half of twenty", grounded=False, most=4) == (0.25,) * 3
    assert rewards("20/2=10", "half of twenty") == (0,)
    assert rewards("20*1=20,30+0=30,1+1=2,20+1=21", "", grounded=False) == (0, 0, 0, 0)
    assert rewards("20/2=10,20/2=10,2*10=20", "", grounded=False, most=4) == (0.25, 0, 0.25)


def test_wrong_steps_are_bounded():
    found = steps("7+8=16\n" * 50, "47+38=", "85", wrong=-1.0)
    assert found.value == -1
    assert found.rewards == (-0.25,) * 50
    assert steps("7+8=16", "47+38=", "85", wrong=-9.0).rewards == (-0.25,)


def test_a_long_step_and_late_steps_are_not_looked_at():
    assert rewards("7+8=15" + " " * 100 + "x" * 500) == (0,)
    assert len(rewards("a," * 1000 + "7+8=15")) == 256


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("1. 12+30=42 apples", True), ("1) 12+30=42", True), ("(12+30=42)", True), ("**12+30=42**", True),
        ("48/2 = <<48/2=24>>24", True), ("$5 * 3 = $15.", True), (r"\(47 \times 8 = 376\)", True),
        (r"\[47 \cdot 8 = 376\]", True), ("3 x 4 = 12", True), ("6 \N{DIVISION SIGN} 4 = 1.5", True),
        ("1,000+2=1,002", True), ("so: -3+5=2", True), ("x = 12+30 = 42", True), ("2*(3+4)=14", True),
        ("2+3*4=14", True), ("8-3-2=3", True), ("1/3+1/3=2/3", True), ("5-(-3)=8", True), ("0.1+0.2=0.3", True),
        ("12+30=43", False), ("10/3=3.33", False), ("5+3=8+2=10", False), ("2+3*4=20", False), ("8-3-2=7", False),
        ("0.1+0.2=0.30000000000000004", False), ("12-38=26", False),
        ("5=5", None), ("5=6", None), ("x+3=5", None), ("2^3+1=9", None), ("2**3=9", None), ("3+4=7!", None),
        ("3+4=8%", None), ("3+4=8 %", None), ("3+4=2x", None), ("1/0=1", None), ("3+4", None), ("3+4==8", None),
        ("\N{FULLWIDTH DIGIT THREE}+4=8", None), ("3+4\N{ALMOST EQUAL TO}8", None), ("3 4=5+6", None),
        ("1+" * 200 + "1=7", None), ("(" * 20 + "1+1" + ")" * 20 + "=3", None), ("50% of 12 = 6", None),
    ],
)  # fmt: skip
def test_equations_are_found_and_compared(text, holds):
    found = [equation.holds for equation in equations(text)]
    assert found == ([] if holds is None else [holds])


def test_worked_reads_signs_and_decimals():
    assert worked("2*(-3+.5)") == (Fraction(-5), (2, 3, Fraction(1, 2)))
    assert worked("-1,080*2") == (Fraction(-2160), (1080, 2))
    for text in ("+1", "1+-1", "--1", "-", "", "()", "1 1", "1/(2-2)", "1,08", "1." + "1" * 300):
        assert worked(text) is None, text


JUDGE = """
def last(step, before, prompt, answer):
    return float(answer in step and len(before) == 2 and prompt == "Why?")
def many(step):
    return 0.5 if "good" in step else -3
def same(step, answer):
    return step == answer
def broken(step):
    return None
NOTHING = 3
"""


@pytest.fixture
def judges(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "judges.py").write_text(JUDGE)
    return f"{tmp_path / 'judges.py'}:"


def test_a_users_function_may_judge(judges):
    text = "a yes\nb\nyes"
    assert steps(text, "Why?", "yes", judge=f"{judges}last", most=1) == Stepwise(1.0, (5, 7, 11), (0, 0, 1))
    assert steps(" \t yes \r\n", "", "yes", judge=f"{judges}same", most=1) == Stepwise(1.0, (6,), (1,))
    found = steps("good\nGOOD \ngood 2\nbad\nbad\ngood 3", "", "", judge=f"{judges}many", most=2)
    assert found.rewards == (0.25, 0, 0.25, -0.5, 0, 0)
    assert found.value == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"judge": "broken"}, ValueError, "returned no finite number"),
        ({"judge": "NOTHING"}, UserError, "is a int, not a function"),
        ({"judge": "lost"}, UserError, r"has no 'lost' \(did you mean 'last'\?\)"),
        ({"separator": ""}, UserError, "needs a separator"),
        ({"most": 0}, UserError, "most = 0"),
        ({"most": 1.5}, UserError, r"most = 1\.5"),
        ({"wrong": 0.1}, UserError, r"wrong = 0\.1 must be 0 or less"),
    ],
)
def test_options_that_cannot_be(judges, options, error, message):
    if "judge" in options:
        options = {"judge": judges + options["judge"]}
    with pytest.raises(error, match=message):
        steps("a", "", "", **options)
    if error is UserError:
        with pytest.raises(error, match=message):
            check(**options)
    with pytest.raises(UserError, match="written file"):
        steps("a", "", "", judge="arithmetics")
