"""A run with a tool: what it said is in the ledger, untrained, and every kind of policy-gradient method takes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import upweight
from tests.e2e.commands import call, read
from upweight.presets import PRESETS
from upweight.records.ledger import read_ledger

MODEL = """
init = { width = 16, layers = 1, heads = 2, context = 64, tokens = ["<calc>", "</calc>", "<result>", "</result>"] }
"""
CONFIG = """
name = "turns"
steps = 2
algorithm = "grpo"
batch = { prompts = 3, group_size = 4 }
sampling.max_completion_tokens = 24
data = { task = "arithmetic", digits = 1, demonstrations = 20, calculator = 1.0 }
rewards.parts.correct = { function = "number", options = { tag = "answer" } }
rewards.parts.asked = { function = "asked.py:asked" }
rewards.workers = 1
records.tensorboard = false
turns = { tool = "calculator", limit = 3 }
evaluate = { every = 2, problems = 4 }
"""
ASKED = "def asked(completion, transcript): return float('<result>' in transcript and '<result>' not in completion)\n"
KINDS = ("grpo", "ppo", "gspo", "reinforce", "rft", "rloo", "dapo", "cispo", "gdpo", "grpo_process")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has been shown nothing but calls of the calculator, in the folder where it was trained."""
    folder = tmp_path_factory.mktemp("turns")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("asked.py").write_text(ASKED)
        Path("run.toml").write_text(CONFIG)
        Path("sft.toml").write_text(f"{CONFIG}\n[model]{MODEL}")
        lr = ("optimizer.lr=1e-2", "batch.rows=32", "evaluate.every=0")
        upweight.train("sft.toml", "name=start", "algorithm=sft", "steps=120", *lr)
    return folder


def ledgers(folder: Path, name: str) -> list[dict]:
    return [row for step in range(2) for row in read_ledger(folder / "runs" / name / "ledger", step).to_pylist()]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_method_learns_from_turns(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    filters = [key for key in ("dynamic_sampling", "overlong_filter") if PRESETS[name].options().get(key)]
    settings = [f"algorithm.{key}=false" for key in filters]  # few of these rollouts end, and none is right
    settings += ["model.path=runs/start/final", f"name={name}", f"algorithm.name={name}", "batch.prompts=4"]
    run = upweight.train("run.toml", *settings)
    assert sum(line.get("reward/part/asked", 0) for line in run.metrics()) > 0
    rows = ledgers(folder, name)
    assert np.isnan([log for row in rows for log in row["behavior_logprobs"]]).any()
    for row in rows:
        mask = np.array(row["loss_mask"])
        told = np.isnan(np.array(row["behavior_logprobs"], dtype=float))
        assert (told == ~mask).all()
        for column in (key for key in row if key.endswith("logprobs")):
            values = np.array(row[column], dtype=float)
            assert np.isnan(values[told]).all(), column
        assert not np.array(row["push/policy"])[~mask].any()
        assert not np.array(row["advantages"])[~mask].any()
    mismatch = [line["train/sampler_mismatch_max"] for line in run.metrics() if "train/sampler_mismatch_max" in line]
    assert mismatch
    assert max(mismatch) < 1e-3


def test_the_same_command_writes_the_same_ledger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("one", "other"):
        upweight.train("run.toml", "model.path=runs/start/final", f"name={name}")
    assert repr(ledgers(folder, "one")) == repr(ledgers(folder, "other"))  # nan is not equal to itself


def test_a_finished_model_is_asked_with_its_tool(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    shown = json.loads(read(capsys, "eval", "runs/start/final", "--problems", 16, "--json"))
    assert shown["part/asked"] > 0.5


def test_rows_of_several_turns_are_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert call("rollout", "runs/start/final", "--out", "rows.jsonl") == 2
    assert "turns" in capsys.readouterr().err


def test_a_tool_that_does_not_exist_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert call("train", "run.toml", "model.path=runs/start/final", "name=no", "turns.tool=calculater") == 2
    assert "calculater" in capsys.readouterr().err
