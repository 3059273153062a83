"""`upweight score`: completions of a file, scored without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import upweight
from tests.e2e.commands import call, read
from tests.unit.sandboxed import needs_sandbox
from upweight import sandbox
from upweight.rewards.describe import LEARNED
from upweight.rewards.load import BUILTIN

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


@needs_sandbox
def test_programs_are_run_in_the_sandbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tests = [{"input": "2 3\n", "output": "5\n"}, {"input": "4 5\n", "output": "9\n"}]
    programs = ["print(sum(map(int, input().split())))", "print(5)", "while True: pass", "import os; os._exit(0)"]
    rows = [{"prompt": "add", "completion": program, "tests": tests} for program in programs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("rewards.parts.code.options.seconds=2.0", "--json")
    found = read(capsys, "score", tmp_path / "rows.jsonl", "--reward", "code", *options).splitlines()
    assert [json.loads(line)["reward"] for line in found] == [1.0, 0.0, 0.0, 0.0]


def test_mathematics_is_scored_in_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("math_verify")
    completions = ["\\boxed{\\frac{2}{4}}", "so the answer is 0.5.", "\\boxed{0.25}", "9^{9^{9^9}}"]
    rows = [{"prompt": "?", "completion": text, "answer": "1/2"} for text in completions]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(capsys, "score", tmp_path / "rows.jsonl", "--reward", "math", "--json").splitlines()
    assert [json.loads(line)["reward"] for line in found] == [1.0, 1.0, 0.0, 0.0]


def test_without_a_sandbox_programs_are_refused_in_one_line(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(rows.parent))
    assert call("score", rows, "--reward", "code") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sandbox" in line
    assert sandbox.OPTION in line


def test_rewards_are_listed_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(read(capsys, "rewards", "--json"))
    assert {one["name"] for one in listed} == {*BUILTIN, *LEARNED}
    shown = read(capsys, "rewards")
    assert all(name in shown for name in BUILTIN)
    told = read(capsys, "rewards", "steps")
    assert "separator = '\\n'" in told
    assert "what scores what:" in told
    assert json.loads(read(capsys, "rewards", "number", "--json"))["reads"] == ["completion", "answer"]
    assert call("rewards", "stepz") == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
