"""GSM8K: the whole data set loads, its references score 1 and each other's score 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from upweight.config import Gsm8kTask
from upweight.errors import UserError
from upweight.rewards.builtin import number
from upweight.rewards.numbers import read_number
from upweight.tasks import gsm8k
from upweight.tasks.data import TaskData

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason="the gsm8k data set is not beside the repository")


@pytest.fixture(scope="module")
def data() -> TaskData:
    return gsm8k.load(Gsm8kTask(task="gsm8k", path=str(FOLDER)), 0, "problems", "error")


@needs_data
def test_every_row_loads(data):
    assert (len(data.problems), len(data.heldout), len(data.demonstrations), data.skipped) == (7473, 1319, 7473, 0)
    asked, heldout = ({p.messages[0]["content"] for p in rows} for rows in (data.problems, data.heldout))
    assert not asked & heldout


@needs_data
def test_references_score_one_and_others_zero(data):
    for problems in (data.problems, data.heldout):
        values = [read_number(problem.answer) for problem in problems]
        for place, problem in enumerate(problems):
            assert number(problem.fields["solution"], problem.answer) == 1
            other = place - 1
            expected = float(values[other] == values[place])
            assert number(problems[other].fields["solution"], problem.answer) == expected


@needs_data
def test_demonstrations_keep_the_reference_but_for_calculator_marks(data):
    for demonstration, problem in zip(data.demonstrations, data.problems, strict=True):
        text = demonstration.messages[-1]["content"]
        assert "<<" not in text
        assert ">>" not in text
        assert number(text, problem.answer) == 1
    assert data.demonstrations[0].messages[-1]["content"].startswith("Natalia sold 48/2 = 24 clips in May.\n")


def test_bad_rows_and_missing_files(tmp_path):
    good = {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"}
    table = [good, {"question": "2+2?", "answer": "4"}, {"answer": "#### 4"}, {"question": "q", "answer": "####"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, table)))
    config = Gsm8kTask(task="gsm8k", path=str(tmp_path))
    with pytest.raises(UserError, match=r"3 of 4 rows cannot be used: line 2: .*line 3: has no `question`; line 4: "):
        gsm8k.load(config, 0, "problems", "error")
    with pytest.raises(UserError, match=r"no test\.jsonl there"):
        gsm8k.load(config, 0, "problems", "skip")
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(UserError, match="test split of gsm8k has no rows"):
        gsm8k.load(config, 0, "problems", "skip")
    (tmp_path / "test.jsonl").write_text(json.dumps(good))
    data = gsm8k.load(config, 0, "problems", "skip")
    assert (len(data.problems), data.heldout[0].answer, data.skipped) == (1, "4", 3)
    assert data.demonstrations[0].messages[-1]["content"] == "2+2=4\n#### 4"
    assert data.problems[0].fields == {"solution": good["answer"]}
    with pytest.raises(UserError, match=r"no train\.jsonl there"):
        gsm8k.load(Gsm8kTask(task="gsm8k", path="./nowhere"), 0, "problems", "error")
