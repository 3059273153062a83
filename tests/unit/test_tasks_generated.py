"""Arithmetic and countdown: right answers, checkable demonstrations, and a split that nothing can leak through."""

from __future__ import annotations

import re

import pytest

from upweight.config import ArithmeticTask, CountdownTask, DataConfig
from upweight.errors import UserError
from upweight.rewards.builtin import countdown as countdown_reward
from upweight.rewards.builtin import number
from upweight.rewards.expressions import evaluate
from upweight.tasks import arithmetic, countdown
from upweight.tasks.data import TaskData
from upweight.tasks.load import load_data
from upweight.tasks.sums import Question, work


def make_arithmetic(seed: int = 0, **options: object) -> TaskData:
    config = ArithmeticTask.model_validate({"task": "arithmetic", "problems": 300, "demonstrations": 50} | options)
    return arithmetic.load(config, seed, "demonstrations", "error")


def make_countdown(seed: int = 0, **options: object) -> TaskData:
    config = CountdownTask.model_validate({"task": "countdown", "problems": 300, "demonstrations": 50} | options)
    return countdown.load(config, seed, "demonstrations", "error")


def asked(problem) -> str:
    return problem.messages[-1]["content"]


@pytest.mark.parametrize("digits", [1, 2, 4, 9])
def test_answers_are_right_and_problems_distinct(digits):
    data = make_arithmetic(operators=("+", "-", "*"), digits=digits)
    texts = [asked(problem) for problem in (*data.problems, *data.heldout)]
    assert len(set(texts)) == len(texts)
    for problem in data.problems:
        left, operator, right = re.fullmatch(r"(\d+)([-+*])(\d+)=", asked(problem)).groups()
        assert max(len(left), len(right)) <= digits
        results = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
        assert problem.answer == str(results[operator])


def test_commuted_sums_are_on_the_same_side_whatever_the_seed_and_digits():
    heldout = {frozenset(asked(p).rstrip("=").split("+")) for p in make_arithmetic(digits=2).heldout}
    for seed, digits in [(0, 2), (7, 2), (3, 1)]:
        data = make_arithmetic(seed, digits=digits, problems=10000)
        rows = (*data.problems, *data.demonstrations)
        train = {frozenset(row.messages[0]["content"].rstrip("=").split("+")) for row in rows}
        assert not heldout & train
    assert frozenset({"3", "4"}) == frozenset(("4", "3"))
    assert Question(3, "+", 4).key == Question(4, "+", 3).key
    assert Question(3, "-", 4).key != Question(4, "-", 3).key


def test_the_whole_small_space_is_split_about_one_in_eight():
    data = make_arithmetic(digits=2, problems=10000)
    assert len(data.problems) + len(data.heldout) == 10**4
    assert 1024 <= len(data.heldout) <= 1450


def test_seed_orders_training_and_leaves_the_heldout_set_alone():
    first, again, other = make_arithmetic(1), make_arithmetic(1), make_arithmetic(2)
    assert first == again
    assert [p.id for p in first.problems] != [p.id for p in other.problems]
    assert first.heldout == other.heldout


def test_demonstrations_are_the_first_training_problems():
    data = make_arithmetic()
    assert [d.id for d in data.demonstrations] == [p.id for p in data.problems[:50]]


@pytest.mark.parametrize(
    ("question", "steps"),
    [
        (Question(47, "+", 38), "7+8=15,4+3+1=8"),
        (Question(99, "+", 1), "9+1=10,9+0+1=10"),
        (Question(52, "-", 38), "12-8=4,5-3-1=1"),
        (Question(100, "-", 1), "10-1=9,10-0-1=9,1-0-1=0"),
        (Question(12, "-", 38), "-(38-12):8-2=6,3-1=2"),
        (Question(47, "*", 38), "47*8=376,47*30=1410,376+1410=1786"),
        (Question(47, "*", 30), "47*30=1410"),
        (Question(47, "*", 0), "47*0=0"),
    ],
)
def test_worked_steps(question, steps):
    assert work(question).steps == steps
    assert work(question).value == question.value


@pytest.mark.parametrize("digits", [1, 3])
def test_every_worked_step_is_true_and_the_columns_spell_the_answer(digits):
    data = make_arithmetic(operators=("+", "-", "*"), digits=digits, steps=True, demonstrations=60)
    for demonstration, problem in zip(data.demonstrations, data.problems, strict=False):
        text = demonstration.messages[-1]["content"]
        steps, answer = re.fullmatch(r"<think>(.*)</think><answer>(.*)</answer>", text).groups()
        assert answer == problem.answer
        columns = [step.rpartition(":")[2].split("=") for step in steps.split(",")]
        for left, right in columns:
            assert evaluate(left, map(int, re.findall(r"\d+", left))) == int(right)
        if "*" not in asked(problem):
            spelled = columns[-1][1] + "".join(right[-1] for _, right in columns[-2::-1])
            assert int(spelled) == abs(int(answer))


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"tags": True}, r"<answer>\d+</answer>"),
        ({"tags": False}, r"\d+"),
        ({"tags": False, "steps": True}, r"[-+=,\d]+\n\d+"),
    ],
)
def test_forms_of_a_demonstration(options, form):
    data = make_arithmetic(**options)
    for demonstration, problem in zip(data.demonstrations, data.problems, strict=False):
        text = demonstration.messages[-1]["content"]
        assert re.fullmatch(form, text)
        assert number(text, problem.answer, tag="answer" if options["tags"] else "") == 1


def test_too_many_demonstrations_are_refused_only_where_they_are_needed():
    config = ArithmeticTask(task="arithmetic", digits=1, demonstrations=101)
    with pytest.raises(UserError, match=r"data\.demonstrations is 101, but .* only \d\d distinct"):
        arithmetic.load(config, 0, "demonstrations", "error")
    assert len(arithmetic.load(config, 0, "problems", "error").problems) > 70


def test_no_operator_is_an_error():
    with pytest.raises(UserError, match="operators is empty"):
        make_arithmetic(operators=())


def test_countdown_is_solved_by_its_own_demonstrations():
    data = make_countdown(numbers=4, largest=30, demonstrations=300)
    for problem, demonstration in zip(data.problems, data.demonstrations, strict=True):
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        assert asked(problem) == f"{' '.join(map(str, numbers))} -> {target}"
        assert problem.answer == str(target)
        assert target not in numbers
        assert 0 < target <= 300
        assert len(numbers) == 4
        assert max(numbers) <= 30
        assert countdown_reward(demonstration.messages[-1]["content"], numbers, target) == 1
        assert countdown_reward(demonstration.messages[-1]["content"], numbers, target + 1) == 0


def test_countdown_uses_every_operator_and_parentheses():
    data = make_countdown(numbers=4, demonstrations=300)
    text = "".join(
        d.messages[-1]["content"].removeprefix("<answer>").removesuffix("</answer>") for d in data.demonstrations
    )
    assert set("+-*/()") <= set(text)


def test_countdown_split_ignores_the_order_of_numbers_and_the_seed():
    def key(problem) -> tuple:
        return (*sorted(problem.fields["numbers"]), problem.fields["target"])

    first, other = make_countdown(0, problems=2000), make_countdown(5, problems=2000)
    heldout = {key(p) for p in first.heldout}
    assert heldout
    assert first.heldout == other.heldout
    assert first.problems != other.problems
    assert len({key(p) for p in first.problems}) == len(first.problems)
    assert not heldout & {key(p) for p in (*first.problems, *other.problems)}


def test_countdown_with_few_puzzles_ends():
    config = CountdownTask(task="countdown", numbers=2, largest=2, demonstrations=1)
    assert 1 <= len(countdown.load(config, 0, "demonstrations", "error").problems) < 10
    with pytest.raises(UserError, match="distinct training problems"):
        make_countdown(numbers=2, largest=2)


def test_a_mixture_keeps_order_and_weights_and_tells_names_apart():
    config = DataConfig.model_validate(
        {
            "mixture": (
                {"task": "arithmetic", "digits": 1, "weight": 2.0},
                {"task": "countdown", "problems": 10},
                {"task": "arithmetic", "digits": 2, "problems": 7},
            )
        }
    )
    data = load_data(config, 0, "problems")
    assert [(one.name, one.weight) for one in data] == [("arithmetic", 2.0), ("countdown", 1.0), ("arithmetic-2", 1.0)]
    assert len(data[2].problems) == 7
