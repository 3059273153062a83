"""`upweight score`: completions of a file, scored without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import upweight
from tests.e2e.commands import call, read

ROWS = [
    {"prompt": "2+2=", "completion": "it is 4", "answer": "4"},
    {"prompt": "2+2=", "completion": "", "answer": 4},
    {"messages": [{"role": "user", "content": "2+2="}], "completion": "5", "answer": "4", "level": "easy"},
    {"prompt": "capital of France?", "completion": "Paris", "answer": "Paris"},
]
MINE = """
def strict(completion, finish_reason, level="none"):
    if completion == "5":
        raise ValueError(f"five at {level}")
    return float(finish_reason == "stop")
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "mine.py").write_text(MINE)
    return file


def test_one_object_a_row_in_order(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [json.loads(line) for line in read(capsys, "score", rows, "--reward", "number", "--json").splitlines()]
    assert [(row["reward"], row["outcome"]) for row in found] == [
        (1.0, "value"),
        (0.0, "value"),
        (0.0, "value"),
        (None, "refusal"),
    ]
    assert found[0]["parts"] == {"number": 1.0}
    assert found[3]["message"] == "number: the answer 'Paris' is not a number"


def test_parts_and_failures_in_a_table(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = f"style={rows.parent}/mine.py:strict"
    options = ("--reward", "right=exact", "--reward", mine, "rewards.parts.style.weight=0.5")
    shown = read(capsys, "score", rows, *options)
    for words in ("4 completions", "part right", "0.3333", "part style", "1.0000", "0.8333", "failed: error"):
        assert words in shown


def test_from_python_and_from_a_runs_config(rows: Path) -> None:
    config = rows.parent / "run.toml"
    config.write_text('[rewards.parts]\nright = "exact"\n')
    (first, *_, last) = upweight.score(rows, config=config)
    assert (first.reward, last.reward, last.parts) == (0.0, 1.0, {"right": 1.0})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "say what is right"),
        (["--reward", "nmber"], "unknown reward 'nmber' (did you mean 'number'?)"),
        (["--reward", "number", "rewards.deadline=0"], "rewards.deadline"),
    ],
)
def test_a_reward_that_cannot_be_had_is_told_in_one_line(
    rows: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert call("score", rows, *options) == 2
    assert words in capsys.readouterr().err


def test_rows_that_cannot_be_scored_are_told_in_one_line(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("score", "absent.jsonl", "--reward", "number") == 2
    assert "no such file" in capsys.readouterr().err
    rows.write_text('{"prompt": "2+2="}\n')
    assert call("score", rows, "--reward", "number") == 2
    assert "line 1: has no `completion`" in capsys.readouterr().err
