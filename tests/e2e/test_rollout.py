"""`upweight rollout`: a model's scored answers as files of rows, and that the files train as they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

import upweight
from tests.e2e.commands import call
from upweight.chat import encode_demonstration, encode_prompt, stop_ids
from upweight.compose import make_sampler
from upweight.config import InitConfig, ModelConfig
from upweight.models.load import load_model, save_model
from upweight.rewards.builtin import number
from upweight.rollout_data import ROLLOUT_STEP
from upweight.tasks.split import is_heldout
from upweight.tasks.sums import Question
from upweight.types import Request, SampleKey, SamplingParams

TINY = """
name = "tiny"
runs_dir = "{folder}/runs"
steps = 100
threads = 1
algorithm = "sft"
model.init = {{ width = 32, layers = 1, heads = 2, context = 48, tokens = ["<answer>", "</answer>"] }}
data = {{ task = "arithmetic", digits = 1, demonstrations = 80 }}
rewards.parts.correct = {{ function = "number", options = {{ tag = "answer" }} }}
batch.rows = 32
optimizer.lr = 5e-3
sampling.max_completion_tokens = 6
records = {{ tensorboard = false, ledger_every = 0 }}
"""
REWARDS = """
def right(completion): return 1.0
def stops(completion): __import__("os").kill(__import__("os").getppid(), 2)
def fails(completion): raise KeyError("no such thing")
def even(completion): return len(completion) % 2 == 0
def fussy(completion, answer): return answer in completion if "1" in completion else float("nan")
"""
TURNS = [
    {"messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": f"{n}+1="}], "answer": n + 1}
    for n in range(6)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is right now and then, an untrained model of word pieces, rows, and functions."""
    folder = tmp_path_factory.mktemp("rollout")
    (folder / "tiny.toml").write_text(TINY.format(folder=folder))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "turns.jsonl").write_text("\n".join(map(json.dumps, TURNS)))
    assert call("train", folder / "tiny.toml") == 0
    pieces = InitConfig(width=16, layers=1, heads=2, context=48, tokenizer="bpe", vocabulary_size=300)
    texts = [row["messages"][1]["content"] + " one and one and two" for row in TURNS]
    save_model(*load_model(ModelConfig(init=pieces), texts), folder / "pieces")
    return folder


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def answers(folder: Path, out: Path, *options: str, **chosen: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and rows of a rollout of the trained model; 40 problems with 6 completions each unless `chosen`."""
    settings = {"n": 6, "problems": 40, **chosen}
    summary = upweight.rollout(folder / "runs/tiny/final", out, None, *options, **settings)
    rows = read(out)
    assert summary["rows"] == len(rows)
    return summary, rows


def question(prompt: str) -> Question:
    left, right = prompt.removesuffix("=").split("+")
    return Question(int(left), "+", int(right))


def is_right(row: dict[str, Any]) -> bool:
    asked = question(row["prompt"])
    return number(row["completion"], str(asked.left + asked.right), tag="answer") == 1


def test_correct_answers_to_training_problems(folder: Path, tmp_path: Path) -> None:
    summary, rows = answers(folder, tmp_path / "rows.jsonl")
    assert 0 < summary["correct"] < summary["sampled"] == 6 * 40
    assert summary["accuracy"] == summary["correct"] / summary["sampled"]
    assert all(is_right(row) and row["reward"] == row["parts"]["correct"] == 1 for row in rows)
    asked = {row["prompt"] for row in rows}
    assert len(asked) == summary["problems"] - summary["unsolved"]
    assert not any(is_heldout(question(prompt).key) for prompt in asked)
    assert len({row["id"] for row in rows}) == len(rows)


def test_keep_parts_the_completions(folder: Path, tmp_path: Path) -> None:
    kept = {keep: answers(folder, tmp_path / f"{keep}.jsonl", keep=keep)[1] for keep in ("all", "correct", "wrong")}
    assert kept["correct"]
    assert kept["wrong"]
    assert not any(is_right(row) for row in kept["wrong"])
    ids = {keep: [row["id"] for row in rows] for keep, rows in kept.items()}
    assert sorted(ids["all"]) == sorted(ids["correct"] + ids["wrong"])


def test_dedupe_and_the_most_of_a_problem(folder: Path, tmp_path: Path) -> None:
    _, every = answers(folder, tmp_path / "every.jsonl")
    summary, rows = answers(folder, tmp_path / "distinct.jsonl", dedupe=True)
    first = {(row["prompt"], row["completion"]): row["id"] for row in reversed(every)}
    assert sorted(first.values()) == sorted(row["id"] for row in rows)
    assert summary["duplicates"] == len(every) - len(rows) > 0
    _, two = answers(folder, tmp_path / "two.jsonl", max_per_problem=2)
    by_problem: dict[str, list[str]] = {}
    for row in every:
        by_problem.setdefault(row["prompt"], []).append(row["id"])
    assert [row["id"] for row in two] == [id for ids in by_problem.values() for id in ids[:2]]


def test_pairs_are_a_right_and_a_wrong_answer_to_one_problem(folder: Path, tmp_path: Path) -> None:
    summary, rows = answers(folder, tmp_path / "pairs.jsonl", pairs=True)
    for row in rows:
        assert is_right(row | {"completion": row["chosen"]})
        assert not is_right(row | {"completion": row["rejected"]})
        assert (row["chosen_reward"], row["rejected_reward"]) == (1, 0)
    assert len({row["prompt"] for row in rows}) == len(rows) == summary["problems"] - summary["without_pair"]
    assert summary["without_pair"] >= summary["unsolved"]
    _, more = answers(folder, tmp_path / "more.jsonl", pairs=True, dedupe=True, max_per_problem=3)
    counts = Counter(row["prompt"] for row in more)
    assert 1 < max(counts.values()) <= 3
    assert counts.keys() == {row["prompt"] for row in rows}
    assert len({(row["prompt"], row["chosen"], row["rejected"]) for row in more}) == len(more)


def test_labels_say_which_are_right(folder: Path, tmp_path: Path) -> None:
    summary, rows = answers(folder, tmp_path / "labels.jsonl", labels=True)
    assert len(rows) == summary["sampled"] - summary["cut_off"] - summary["unusable"]
    assert all(row["label"] is is_right(row) for row in rows)
    assert {row["label"] for row in rows} == {True, False}


def test_parquet_has_the_same_rows(folder: Path, tmp_path: Path) -> None:
    _, rows = answers(folder, tmp_path / "rows.jsonl", n=2)
    upweight.rollout(folder / "runs/tiny/final", tmp_path / "rows.parquet", n=2, problems=40)
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows


def test_the_seed_decides_everything(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        answers(folder, tmp_path / f"{name}.jsonl", seed=seed, n=2)
    a, b, c = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    cold = answers(folder, tmp_path / "cold.jsonl", temperature=0, n=1, keep="all")[1]
    assert cold == answers(folder, tmp_path / "one.jsonl", top_k=1, n=1, keep="all")[1]


@pytest.mark.parametrize("warm", [1.0, 0.5])
def test_completions_are_those_of_their_sample_keys(warm: float, folder: Path, tmp_path: Path) -> None:
    _, rows = answers(
        folder, tmp_path / "rows.jsonl", keep="all", seed=3, n=2, temperature=warm, max_completion_tokens=30
    )
    model, tokenizer = load_model(ModelConfig(path=str(folder / "runs/tiny/final")))
    stops = stop_ids(tokenizer)
    asked = list(dict.fromkeys(row["prompt"] for row in rows))
    prefixes = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in asked]
    params = SamplingParams(warm, max_completion_tokens=30)
    requests = [
        Request(prefix, SampleKey(3, ROLLOUT_STEP, draw, member), params)
        for draw, prefix in enumerate(prefixes)
        for member in range(2)
    ]
    found = {
        f"arithmetic/{asked[one.key.draw].removesuffix('=')}#{one.key.member}": tokenizer.decode(one.token_ids[:-1])
        for one in make_sampler(model, tokenizer, stops).sample(requests)
        if one.finish_reason == "stop"
    }
    assert found == {row["id"]: row["completion"] for row in rows}


@pytest.mark.parametrize("policy", ["drop", "zero"])
def test_a_reward_that_fails_now_and_then(policy: str, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text(
        f"rewards = {{ on_failure = '{policy}', max_failed_share = 1.0, parts.fussy = '{folder}/rewards.py:fussy' }}\n"
        "data = { task = 'arithmetic', digits = 1 }\nsampling.max_completion_tokens = 6\n"
    )
    summary, rows = answers(folder, tmp_path / "rows.jsonl", config=config, keep="all")
    assert summary["failed_rewards"] > 0
    failed = [row for row in rows if "1" not in row["completion"]]
    assert bool(failed) is (policy == "zero")
    assert all(row["reward"] == 0 for row in failed)
    assert (summary["sampled"] == 240) is (policy == "zero")


def test_what_was_cut_off_is_in_no_row(folder: Path, tmp_path: Path) -> None:
    everything = {"reward": f"{folder}/rewards.py:right", "keep": "all"}
    summary, rows = answers(folder, tmp_path / "short.jsonl", max_completion_tokens=4, **everything)
    assert summary["correct"] == summary["sampled"]
    assert summary["cut_off"] > 0
    assert len(rows) == summary["sampled"] - summary["cut_off"] - summary["unusable"]
    _, longer = answers(folder, tmp_path / "long.jsonl", max_completion_tokens=6, **everything)
    whole = {row["id"]: row["completion"] for row in longer}
    assert all(whole[row["id"]] == row["completion"] for row in rows)
    assert len(longer) > len(rows) > 0
    for kind in ("pairs", "labels"):
        tokenizer = AutoTokenizer.from_pretrained(folder / "runs/tiny/final")
        _, rows = answers(folder, tmp_path / f"{kind}.jsonl", max_completion_tokens=4, **{kind: True})
        texts = [row[key] for row in rows for key in ("completion", "chosen", "rejected") if key in row]
        assert all(len(tokenizer(text, add_special_tokens=False)["input_ids"]) < 4 for text in texts)


def test_rows_are_trained_on_up_to_the_stop_token(folder: Path, tmp_path: Path) -> None:
    summary, rows = answers(folder, tmp_path / "rows.jsonl", keep="all")
    assert summary["retokenised"] == 0
    tokenizer = AutoTokenizer.from_pretrained(folder / "runs/tiny/final")
    for row in rows:
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        _, ids, mask = encode_demonstration(tokenizer, turns, stop_ids(tokenizer))
        assert ids[-1] == tokenizer.eos_token_id
        assert all(mask)


def test_a_teacher_without_a_run_and_prompts_of_turns(folder: Path, tmp_path: Path) -> None:
    teacher = {"task": str(folder / "turns.jsonl"), "reward": f"{folder}/rewards.py:right", "max_completion_tokens": 30}
    summary = upweight.rollout(folder / "pieces", tmp_path / "rows.jsonl", n=64, **teacher)
    rows = read(tmp_path / "rows.jsonl")
    assert summary["problems"] == 6
    assert {row["prompt"][1]["content"] for row in rows} == {row["messages"][1]["content"] for row in TURNS}
    assert all(row["prompt"][0] == {"role": "system", "content": "Add."} for row in rows)
    # An untrained model spells as nobody does, and now and then says nothing.
    assert 0 < summary["retokenised"] <= len(rows)
    assert len(rows) == summary["sampled"] - summary["cut_off"] - summary["unusable"]
    assert summary["unusable"] > 0
    assert all(row["completion"].strip() for row in rows)
    paired = teacher | {"reward": f"{folder}/rewards.py:even", "pairs": True}
    summary = upweight.rollout(folder / "pieces", tmp_path / "pairs.jsonl", n=64, **paired)
    assert summary["rows"] > 0
    assert 0 < summary["retokenised"] <= 2 * summary["rows"]


METHODS = {"sft": {}, "dpo": {"pairs": True}, "kto": {"labels": True}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_file_trains_as_it_is(method: str, suffix: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / f"rows{suffix}"
    upweight.rollout(folder / "runs/tiny/final", out, n=6, problems=40, **METHODS[method])
    config = {
        "name": method,
        "runs_dir": str(tmp_path),
        "steps": 2,
        "threads": 1,
        "algorithm": method,
        "model": {"path": str(folder / "runs/tiny/final")},
        "data": {"path": str(out), "heldout": 4},
        "rewards": {"parts": {"correct": {"function": "number", "options": {"tag": "answer"}}}},
        "batch": {"rows": 8},
        "sampling": {"max_completion_tokens": 6},
        "evaluate": {"every": 2, "problems": 4},
        "records": {"tensorboard": False},
    }
    run = upweight.train(config)
    losses = [line["train/loss"] for line in run.metrics() if "train/loss" in line]
    assert len(losses) == 2
    assert run.summary["eval"]["greedy"] >= 0


def test_the_command_prints_what_it_did(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("rollout", folder / "runs/tiny/final", "--problems", 20, "-n", 3, "--out", "new/rows.jsonl")
    assert call(*arguments, "--json") == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["problems"], summary["sampled"], summary["kind"]) == (20, 60, "demonstrations")
    assert summary["rows"] == len(read(tmp_path / summary["file"])) > 0
    assert "left" in err.splitlines()[-1]
    before = Path("new/rows.jsonl").read_bytes()
    assert call(*arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert call(*arguments, "--force", "--dedupe") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("new/rows.jsonl: ")
    assert f"60 completions, {summary['tokens']} tokens, {summary['accuracy']:.1%} correct" in lines
    assert len(Path("new/rows.jsonl").read_bytes()) < len(before)
    assert [file.name for file in Path("new").iterdir()] == ["rows.jsonl"]


def test_an_interrupted_rollout_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    stops = ("--reward", f"{folder}/rewards.py:stops", "--out", out, "-n", 1, "--problems", 1)
    assert call("rollout", folder / "runs/tiny/final", *stops) == 130
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == f"upweight: interrupted; {out} was not written"
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "no such model": (["nothing/final", "--task", "arithmetic"], "cannot load"),
    "unknown task": (["RUN", "--task", "arithmetik"], "did you mean 'arithmetic'"),
    "nothing to ask": (["pieces"], "--task"),
    "unknown option": (["RUN", "--task", "arithmetic", "digit=1"], "did you mean 'digits'"),
    "what to keep": (["RUN", "--keep", "corect"], "did you mean 'correct'"),
    "one cannot be a pair": (["RUN", "--pairs", "-n", "1"], "-n of at least 2"),
    "pairs have both": (["RUN", "--pairs", "--keep", "correct"], "--keep"),
    "two kinds": (["RUN", "--pairs", "--labels"], "not both"),
    "greedy answers are equal": (["RUN", "--temperature", "0"], "-n 1"),
    "top-p of nothing": (["RUN", "--top-p", "0"], "--top-p"),
    "neither jsonl nor parquet": (["RUN", "--out", "rows.csv"], ".jsonl or .parquet"),
    "a folder": (["RUN", "--out", "taken.jsonl"], "is a folder"),
    "a file above": (["RUN", "--out", "turns.jsonl/rows.jsonl"], "cannot be written to"),
    "a reward that fails": (["RUN", "--reward", "rewards.py:fails"], "no such thing"),
    "nothing is right": (["RUN", "--max-completion-tokens", "1"], "0 are correct"),
    "nothing is wrong": (["RUN", "--reward", "rewards.py:right", "--keep", "wrong"], "0 wrong"),
    "no pair": (["RUN", "--reward", "rewards.py:right", "--pairs"], "both a correct and a wrong"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    mistake: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "taken.jsonl").mkdir(exist_ok=True)
    before = sorted(folder.rglob("*"))
    arguments, said = MISTAKES[mistake]
    chosen = ["runs/tiny/final" if argument == "RUN" else argument for argument in arguments]
    assert call("rollout", "--out", "rows.jsonl", "--problems", 8, *chosen) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("upweight: ")
    assert "Traceback" not in err
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]
