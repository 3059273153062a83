"""Pairs, labelled completions, judged steps: each form of a row, each bad one, what is held out, what is generated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upweight.config import ArithmeticTask, DataConfig, RowsTask
from upweight.errors import UserError
from upweight.rewards.builtin import number, tags
from upweight.tasks import arithmetic, rows
from upweight.tasks.data import Need, TaskData
from upweight.tasks.load import load_data
from upweight.tasks.sums import Question, Slip, mistaken, slips, work
from upweight.types import JudgedSteps, LabelledCompletion, PreferencePair

SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "2+2="}
RIGHT = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
PAIR = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
LABELLED = {"prompt": "2+2=", "completion": "4", "label": True}
JUDGED = {"prompt": "2+2=", "completions": ["2 and 2", "so 5"], "labels": [True, False]}


def write(folder: Path, table: list, name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in table))
    return str(path)


def read(path: str, need: Need = "pairs", policy: str = "error", seed: int = 0, **options) -> TaskData:
    return rows.load(RowsTask(path=path, **options), seed, need, policy)


def generate(need: Need, seed: int = 0, **options: object) -> TaskData:
    config = ArithmeticTask.model_validate({"task": "arithmetic", "problems": 300, "demonstrations": 200} | options)
    return arithmetic.load(config, seed, need, "error")


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (PAIR, (USER,)),
        (PAIR | {"prompt": [SYSTEM, USER]}, (SYSTEM, USER)),
        (PAIR | {"prompt": None, "messages": [SYSTEM, USER]}, (SYSTEM, USER)),
        (PAIR | {"messages": [USER, WRONG, USER, RIGHT]}, (USER, WRONG, USER)),
        ({"prompt": [USER], "chosen": [RIGHT], "rejected": [WRONG]}, (USER,)),
        ({"prompt": "2+2=", "chosen": [USER, RIGHT], "rejected": [USER, WRONG]}, (USER,)),
        ({"prompt": "2+2=", "chosen": [SYSTEM, USER, RIGHT], "rejected": [SYSTEM, USER, WRONG]}, (SYSTEM, USER)),
        ({"chosen": [SYSTEM, USER, RIGHT], "rejected": [SYSTEM, USER, WRONG]}, (SYSTEM, USER)),
        ({"chosen": [USER, WRONG, USER, RIGHT], "rejected": [USER, WRONG, USER, WRONG]}, (USER, WRONG, USER)),
    ],
)
def test_forms_of_a_pair(tmp_path, row, messages):
    path = write(tmp_path, [row])
    data = read(path)
    assert data.pairs == [PreferencePair(f"{path}:1", messages, "4", "5", 0.0)]
    assert (data.problems, data.demonstrations, data.labels, data.heldout, data.heldout_pairs) == ([], [], [], [], [])


def test_a_margin_is_a_number(tmp_path):
    path = write(tmp_path, [PAIR | {"margin": 2}, PAIR | {"margin": -0.5}, PAIR | {"margin": None}])
    assert [pair.margin for pair in read(path).pairs] == [2.0, -0.5, 0.0]


def test_pairs_from_parquet(tmp_path):
    table = [{"chosen": [USER, RIGHT], "rejected": [USER, WRONG]}, {"chosen": [USER, RIGHT], "rejected": None}]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "data.parquet")
    data = read(str(tmp_path / "data.parquet"), policy="skip")
    assert [(pair.messages, pair.chosen, pair.rejected) for pair in data.pairs] == [((USER,), "4", "5")]
    assert data.skipped == 1


@pytest.mark.parametrize(
    ("row", "messages", "label"),
    [
        (LABELLED, (USER,), True),
        (LABELLED | {"label": False}, (USER,), False),
        (LABELLED | {"label": 0}, (USER,), False),
        (LABELLED | {"label": 1.0}, (USER,), True),
        ({"prompt": [SYSTEM, USER], "completion": [RIGHT], "label": 1}, (SYSTEM, USER), True),
        ({"messages": [USER, WRONG, USER], "completion": "4", "label": True}, (USER, WRONG, USER), True),
    ],
)
def test_forms_of_a_labelled_completion(tmp_path, row, messages, label):
    path = write(tmp_path, [row])
    data = read(path, "labels")
    assert data.labels == [LabelledCompletion(f"{path}:1", messages, "4", label)]
    assert data.labels[0].label is label
    assert data.pairs == []


@pytest.mark.parametrize(
    ("need", "row", "reason"),
    [
        ("pairs", {"prompt": "q", "rejected": "5"}, "has no `chosen`"),
        ("pairs", {"prompt": "q", "chosen": "4"}, "has no `rejected`"),
        ("pairs", {"chosen": "4", "rejected": "5"}, "has neither `prompt` nor `messages`"),
        ("pairs", PAIR | {"chosen": " "}, "`chosen` is empty"),
        ("pairs", PAIR | {"rejected": ""}, "`rejected` is empty"),
        ("pairs", PAIR | {"chosen": 4}, "`chosen` must be text, not int"),
        ("pairs", PAIR | {"chosen": []}, "`chosen` must be a list of turns, not empty"),
        ("pairs", PAIR | {"chosen": ["4"]}, "`chosen`: message 1 must be an object"),
        ("pairs", PAIR | {"rejected": "4"}, "`chosen` and `rejected` are the same"),
        ("pairs", PAIR | {"rejected": [RIGHT]}, "`chosen` and `rejected` are the same"),
        ("pairs", PAIR | {"chosen": [USER]}, "`chosen` does not end with an assistant turn"),
        ("pairs", PAIR | {"chosen": [RIGHT | {"thought": "2 and 2"}]}, "has more than text: thought"),
        ("pairs", {"chosen": [USER, RIGHT], "rejected": [SYSTEM, USER, WRONG]}, "differ before their last turns"),
        ("pairs", PAIR | {"chosen": [USER, RIGHT]}, "differ before their last turns"),
        ("pairs", {"chosen": [SYSTEM, RIGHT], "rejected": [SYSTEM, WRONG]}, "have no user turn before their last"),
        ("pairs", {"prompt": "q", "chosen": [USER, RIGHT], "rejected": [USER, WRONG]}, "not about the row's prompt"),
        ("pairs", PAIR | {"prompt": [USER, RIGHT]}, "`prompt` does not end with a user turn"),
        ("pairs", PAIR | {"margin": "0.5"}, "`margin` must be a finite number, not '0.5'"),
        ("pairs", PAIR | {"margin": True}, "`margin` must be a finite number, not 'True'"),
        ("pairs", json.dumps(PAIR | {"margin": float("inf")}), "`margin` must be a finite number, not 'inf'"),
        ("labels", {"prompt": "q", "completion": "4"}, "has no `label`"),
        ("labels", LABELLED | {"label": "true"}, "`label` must be true or false, not 'true'"),
        ("labels", LABELLED | {"label": 2}, "`label` must be true or false, not '2'"),
        ("labels", LABELLED | {"completion": None}, "has no `completion`"),
        ("labels", LABELLED | {"completion": [USER, RIGHT]}, "`completion` has turns before the assistant's"),
        ("labels", {"completion": "4", "label": True}, "has neither `prompt` nor `messages`"),
        ("steps", {"prompt": "q", "labels": [1]}, "has no `completions`"),
        ("steps", {"prompt": "q", "completions": ["4"]}, "has no `labels`"),
        ("steps", {"completions": ["4"], "labels": [1]}, "has neither `prompt` nor `messages`"),
        ("steps", JUDGED | {"completions": []}, "`completions` must be a list, not empty"),
        ("steps", JUDGED | {"completions": "2 and 2"}, "`completions` must be a list, not str"),
        ("steps", JUDGED | {"labels": [True]}, "has 2 `completions` and 1 `labels`"),
        ("steps", JUDGED | {"completions": ["2 and 2", " "]}, "step 2 of `completions` must be text, not ' '"),
        ("steps", JUDGED | {"completions": ["2 and 2", 5]}, "step 2 of `completions` must be text, not '5'"),
        ("steps", JUDGED | {"labels": [True, 2]}, "label 2 must be true or false, or from 0 to 1, not '2'"),
        ("steps", JUDGED | {"labels": [True, None]}, "label 2 must be true or false, or from 0 to 1, not 'None'"),
        ("steps", json.dumps(JUDGED | {"labels": [1, float("nan")]}), "from 0 to 1, not 'nan'"),
        ("steps", JUDGED | {"separator": "and"}, "step 1 has the separator 'and' in it"),
        ("steps", JUDGED | {"separator": ""}, "`separator` must be text, not ''"),
    ],
)
def test_a_bad_row_is_named_with_line_and_reason(tmp_path, capsys, need, row, reason):
    path = write(tmp_path, [PAIR | LABELLED | JUDGED | {"prompt": "3+1="}, row])
    with pytest.raises(UserError) as raised:
        read(path, need)
    assert f"{path}: 1 of 2 rows cannot be used: line 2: " in str(raised.value)
    assert reason in str(raised.value)
    data = read(path, need, "skip")
    assert (len(data.pairs) + len(data.labels) + len(data.steps), data.skipped) == (1, 1)
    assert reason in capsys.readouterr().err


def test_all_pairs_about_a_heldout_question_are_held_out(tmp_path, capsys):
    table = [PAIR | {"prompt": f"question {i % 10}", "rejected": f"{i}!"} for i in range(30)]
    data = read(write(tmp_path, table), heldout=3)
    assert (len(data.pairs), len(data.heldout_pairs), data.skipped) == (21, 9, 0)
    apart = {json.dumps(p.messages) for p in data.heldout_pairs}
    assert len(apart) == 3
    assert not apart & {json.dumps(p.messages) for p in data.pairs}
    assert data.heldout == []
    turned = read(write(tmp_path, table[::-1], "turned.jsonl"), seed=9, heldout=3)
    assert {json.dumps(p.messages) for p in turned.heldout_pairs} == apart
    assert capsys.readouterr().err == ""


def test_pairs_hold_out_the_questions_that_demonstrations_do(tmp_path):
    table = [PAIR | {"prompt": f"question {i}", "completion": "4", "answer": 4} for i in range(20)]
    path = write(tmp_path, table)
    kinds = [read(path, need, heldout=4) for need in ("demonstrations", "problems", "pairs")]
    assert len({json.dumps([p.messages for p in data.heldout]) for data in kinds}) == 1


def test_a_heldout_question_with_an_answer_is_one_problem(tmp_path):
    pair = {"chosen": [USER, RIGHT], "rejected": [USER, WRONG]}
    table = [pair, pair | {"answer": 4, "rejected": [USER, RIGHT | {"content": "3"}]}, pair | {"answer": 4}]
    held = write(tmp_path, table, "held.jsonl")
    data = read(write(tmp_path, [*table, PAIR | {"prompt": "other"}]), heldout_path=held)
    assert [(problem.messages, problem.answer) for problem in data.heldout] == [((USER,), "4")]
    assert len(data.heldout_pairs) == 3
    assert [p.messages[0]["content"] for p in data.pairs] == ["other"]
    assert data.skipped == 3


def test_a_heldout_file_may_have_problems_beside_pairs(tmp_path):
    train = write(tmp_path, [PAIR, PAIR | {"prompt": "a"}, PAIR | {"prompt": "b"}])
    held = write(tmp_path, [{"prompt": "a", "answer": 1}, PAIR | {"prompt": "c"}], "held.jsonl")
    data = read(train, heldout_path=held)
    assert [p.answer for p in data.heldout] == ["1"]
    assert [p.messages[0]["content"] for p in data.heldout_pairs] == ["c"]
    assert [p.messages[0]["content"] for p in data.pairs] == ["2+2=", "b"]
    with pytest.raises(UserError, match="no rows to evaluate on"):
        read(train, heldout_path=write(tmp_path, [], "empty.jsonl"))


def test_a_heldout_pair_with_a_bad_answer_is_bad(tmp_path):
    path = write(tmp_path, [PAIR | {"answer": [4]}, PAIR | {"prompt": "a"}])
    held = write(tmp_path, [PAIR | {"answer": [4]}, PAIR | {"prompt": "c"}], "held.jsonl")
    with pytest.raises(UserError, match="held out for evaluation, but it `answer` must be text or a number"):
        read(path, heldout_path=held)
    data = read(path, policy="skip", heldout_path=held)
    assert ([p.messages[0]["content"] for p in data.heldout_pairs], data.skipped) == (["c"], 2)


def test_heldout_labels_need_an_answer(tmp_path):
    table = [LABELLED | {"prompt": f"q{i}"} for i in range(4)]
    with pytest.raises(UserError, match="held out for evaluation, but it has no `answer`"):
        read(write(tmp_path, table), "labels", heldout=1)
    data = read(write(tmp_path, [row | {"answer": "4"} for row in table]), "labels", heldout=1)
    assert (len(data.heldout), len(data.labels), data.heldout_pairs) == (1, 3, [])


def test_a_task_without_pairs_says_what_a_pair_is(tmp_path):
    config = DataConfig.model_validate({"task": "countdown", "problems": 5, "demonstrations": 5})
    with pytest.raises(UserError, match=r"'countdown' has no pairs, .* rows with `prompt`, `chosen` and `rejected`"):
        load_data(config, 0, "pairs")
    with pytest.raises(UserError, match=r"has no labels, .* rows with `prompt`, `completion` and `label`"):
        load_data(config, 0, "labels")
    (data,) = load_data(DataConfig.model_validate({"path": write(tmp_path, [PAIR])}), 0, "pairs")
    assert len(data.pairs) == 1


def test_every_message_is_told_to_whoever_builds_a_tokenizer(tmp_path):
    table = [PAIR | {"prompt": str(i), "answer": i} for i in range(4)]
    told = set(map(str, read(write(tmp_path, table), heldout=2).conversations()))
    for i in range(4):
        for answer in (RIGHT, WRONG):
            assert str(({"role": "user", "content": str(i)}, answer)) in told
    (labelled,) = read(write(tmp_path, [LABELLED]), "labels").conversations()
    assert labelled == (USER, RIGHT)


@pytest.mark.parametrize(
    "options",
    [
        {"operators": ("+",), "digits": 1, "demonstrations": 60},
        {"operators": ("+", "-", "*"), "digits": 2, "steps": True},
        {"operators": ("-",), "digits": 4, "tags": False, "steps": True},
        {"operators": ("*",), "digits": 3, "tags": False},
    ],
)
def test_generated_pairs_are_right_and_wrong_in_one_form(options):
    data = generate("pairs", **options)
    assert len(data.pairs) == options.get("demonstrations", 200)
    assert data.labels == ()
    tag = "" if options.get("tags") is False else "answer"
    answers = {problem.id: problem.answer for problem in (*data.problems, *data.heldout)}
    shown = {d.id: d.messages[-1]["content"] for d in data.demonstrations}
    for pair in data.pairs:
        assert pair.chosen == shown[pair.id]
    for pair in (*data.pairs, *data.heldout_pairs):
        assert number(pair.chosen, answers[pair.id], tag=tag) == 1
        assert number(pair.rejected, answers[pair.id], tag=tag) == 0
        assert ("\n" in pair.rejected, "<think>" in pair.rejected) == ("\n" in pair.chosen, "<think>" in pair.chosen)
        if options["operators"] == ("+",):
            assert "-" not in pair.rejected  # a character that a model of sums has never seen
    assert not {p.id for p in data.pairs} & {p.id for p in data.heldout_pairs}
    assert [p.id for p in data.heldout_pairs] == [p.id for p in data.heldout]


def test_generated_pairs_are_a_function_of_the_seed():
    first, again, other = generate("pairs", 1), generate("pairs", 1), generate("pairs", 2, demonstrations=80)
    assert first == again
    assert first.heldout_pairs == other.heldout_pairs
    other_wrong = {pair.id: pair.rejected for pair in generate("pairs", 2).pairs}
    both = [(pair.rejected, other_wrong[pair.id]) for pair in first.pairs if pair.id in other_wrong]
    assert any(one != another for one, another in both)
    assert generate("pairs", 1, demonstrations=20).pairs == first.pairs[:20]
    assert generate("problems").pairs == generate("demonstrations").heldout_pairs == ()


def test_generated_labels_are_true_in_turn():
    data = generate("labels", operators=("+", "-"))
    answers = {problem.id: problem.answer for problem in data.problems}
    assert [row.label for row in data.labels] == [True, False] * 100
    assert [number(row.completion, answers[row.id], tag="answer") == 1 for row in data.labels] == [True, False] * 100
    assert all(tags(row.completion) == 1 for row in generate("labels", steps=True).labels)
    assert data.pairs == data.heldout_pairs == ()


def test_too_few_questions_for_pairs_are_refused():
    with pytest.raises(UserError, match=r"data\.demonstrations is 101, but .* only \d\d distinct"):
        generate("pairs", digits=1, demonstrations=101)


@pytest.mark.parametrize(
    ("question", "slip", "steps", "value"),
    [
        (Question(47, "+", 38), Slip(1, 0), "7+8=15,4+3=7", 75),
        (Question(47, "+", 38), Slip(0, -1), "7+8=14,4+3+1=8", 84),
        (Question(99, "+", 1), Slip(1, 1), "9+1=10,9+0+1=11", 110),
        (Question(52, "-", 38), Slip(1, 0), "12-8=4,5-3=2", 24),
        (Question(100, "-", 1), Slip(1, 0), "10-1=9,0-0=0,1-0=1", 109),
        (Question(12, "-", 38), Slip(0, 1), "-(38-12):8-2=7,3-1=2", -27),
        (Question(47, "*", 38), Slip(0, -10), "47*8=366,47*30=1410,366+1410=1776", 1776),
        (Question(47, "*", 38), Slip(2, 100), "47*8=376,47*30=1410,376+1410=1886", 1886),
    ],
)
def test_a_slip_is_worked_on_from(question, slip, steps, value):
    worked = work(question, slip)
    assert (worked.steps, worked.value) == (steps, value)
    assert slip in slips(question)


@pytest.mark.parametrize("operator", ["+", "-", "*"])
def test_every_slip_changes_the_value_and_one_step(operator):
    for left in range(0, 130, 7):
        for right in range(0, 130, 11):
            question = Question(left, operator, right)
            right_steps = work(question).steps.split(",")
            assert slips(question)
            for slip in slips(question):
                wrong = work(question, slip)
                assert wrong.value != question.value
                changed = wrong.steps.split(",")
                assert len(changed) == len(right_steps)
                assert changed[: slip.step] == right_steps[: slip.step]
                assert changed[slip.step] != right_steps[slip.step]
                assert min(wrong.results) >= 0
                assert operator != "-" or max(wrong.results) <= 9


def test_a_column_comes_to_nineteen_at_most():
    assert Slip(0, 1) in slips(Question(99, "+", 99))
    assert Slip(1, 1) not in slips(Question(99, "+", 99))


def test_mistakes_are_of_every_kind():
    question = Question(52, "-", 38)
    made = [mistaken(question, Random(seed)) for seed in range(200)]
    right = work(question)
    assert all(wrong.value != right.value for wrong in made)
    assert {wrong.value for wrong in made} == {-14, 13, 15, 4, 24}
    assert {wrong.steps == right.steps for wrong in made if wrong.value == 24} == {True, False}
    assert all(wrong.steps == right.steps for wrong in made if wrong.value == -14)


@pytest.mark.parametrize(
    ("row", "messages", "labels", "separator"),
    [
        (JUDGED, (USER,), (1.0, 0.0), "\n"),
        (JUDGED | {"labels": [1, 0.25], "separator": None}, (USER,), (1.0, 0.25), "\n"),
        (JUDGED | {"prompt": [SYSTEM, USER], "separator": ". "}, (SYSTEM, USER), (1.0, 0.0), ". "),
        ({**JUDGED, "prompt": None, "messages": [USER, WRONG, USER]}, (USER, WRONG, USER), (1.0, 0.0), "\n"),
    ],
)
def test_forms_of_judged_steps(tmp_path, row, messages, labels, separator):
    path = write(tmp_path, [row])
    data = read(path, "steps")
    assert data.steps == [JudgedSteps(f"{path}:1", messages, ("2 and 2", "so 5"), labels, separator)]
    assert data.steps[0].text == f"2 and 2{separator}so 5{separator}"
    assert (data.problems, data.pairs, data.labels, data.heldout, data.heldout_steps) == ([], [], [], [], [])


def test_judged_steps_are_held_out_as_they_are(tmp_path):
    table = [JUDGED | {"prompt": f"question {i % 5}", "labels": [1, i % 2]} for i in range(20)]
    data = read(write(tmp_path, table), "steps", heldout=2)
    assert (len(data.steps), len(data.heldout_steps), data.heldout, data.skipped) == (12, 8, [], 0)
    apart = {judged.messages[0]["content"] for judged in data.heldout_steps}
    assert not apart & {judged.messages[0]["content"] for judged in data.steps}
    told = list(data.conversations())
    assert len(told) == 20
    assert told[-1][-1]["content"] == "2 and 2\nso 5\n"


def test_judged_steps_and_problems_of_a_heldout_file(tmp_path):
    train = write(tmp_path, [JUDGED, JUDGED | {"prompt": "a"}, JUDGED | {"prompt": "b"}])
    held = write(tmp_path, [{"prompt": "a", "answer": 1}, JUDGED | {"prompt": "b", "answer": 2}], "held.jsonl")
    data = read(train, "steps", heldout_path=held)
    assert [problem.answer for problem in data.heldout] == ["1", "2"]
    assert [judged.messages[0]["content"] for judged in data.heldout_steps] == ["b"]
    assert [judged.messages[0]["content"] for judged in data.steps] == ["2+2="]


@pytest.mark.parametrize("options", [{}, {"tags": False}, {"operators": ("+", "-", "*"), "digits": 3}])
def test_generated_steps_are_right_until_the_first_mistake(options):
    """Each step is worked anew: it is true, asks what stands to be asked, and the answer follows from the steps."""
    data = generate("steps", steps=False, **options)
    assert len(data.steps) == 200
    assert data.heldout_steps
    for judged in data.steps:
        left, operator, right = re.fullmatch(r"(\d+)([-+*])(\d+)=", judged.messages[0]["content"]).groups()
        question = Question(int(left), operator, int(right))
        whole = judged.separator.join(judged.steps)
        value = re.search(r"(-?\d+)(</answer>)?$", whole)[1]
        worked = re.sub(r"</?think>|<answer>.*|\n.*", "", whole).split(",")
        true = work(question).steps.split(",")
        same = [mine == other for mine, other in zip(worked, true, strict=True)]
        same[-1] = same[-1] and int(value) == question.value
        first = same.index(False) if False in same else len(same)
        assert judged.labels == tuple(float(step < first) for step in range(len(same)))
    assert [all(judged.labels) for judged in data.steps] == [True, False] * 100
    wrong_at = {judged.labels.index(0.0) for judged in data.steps if 0.0 in judged.labels}
    assert wrong_at >= {0, 1}
    assert data.heldout_steps == generate("steps", seed=5, **options).heldout_steps
