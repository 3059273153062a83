"""The phases of a real run: all of its time, tokens that the batch has, ceilings that are measured once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import call, read
from upweight import api, ceilings
from upweight.cli import speed_table
from upweight.phases import PHASES

CONFIG: dict[str, Any] = {
    "name": "run",
    "steps": 3,
    "threads": 1,
    "algorithm": {"name": "grpo", "kl_coef": 0.1, "minibatches": 2},
    "model": {"init": {"width": 16, "layers": 1, "heads": 2, "context": 64}},
    "data": {"task": "arithmetic", "digits": 1, "tags": False},
    "rewards": {"parts": {"correct": "number"}},
    "sampling": {"max_completion_tokens": 6},
    "batch": {"prompts": 4, "group_size": 4},
    "learner": {"skip_inert": False},
    "records": {"tensorboard": False, "ledger_every": 0},
    "checkpoint": {"every": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.FinishedRun:
    return api.train({**CONFIG, "runs_dir": str(tmp_path_factory.mktemp("speed"))})


def test_phases_are_all_of_a_step(run: api.FinishedRun) -> None:
    for line in run.metrics():
        phases = [f"time/{name}_seconds" for name in PHASES if f"time/{name}_seconds" in line]
        assert len(phases) == len(PHASES) - 1  # no critic
        assert sum(line[name] for name in phases) == pytest.approx(line["time/step_seconds"], rel=0.02, abs=1e-3)
        coarse = (line[f"time/{name}_seconds"] for name in ("rollout", "update", "sync"))
        assert sum(coarse) == pytest.approx(line["time/step_seconds"])


def test_phases_with_matmuls_have_a_floor_and_tokens(run: api.FinishedRun) -> None:
    for line in run.metrics():
        for name in ("prefill", "decode", "old_pass", "ref_pass", "forward_backward"):
            assert line[f"speed/{name}_floor_share"] > 0
            assert line[f"speed/{name}_tokens"] > 0
            assert 0 < line[f"speed/{name}_useful_share"] <= 1
        assert line["speed/optimizer_floor_share"] > 0
        assert not [key for key in line if key.startswith(("speed/reward", "speed/sync", "speed/other"))]


def test_useful_tokens_are_those_of_the_batch(run: api.FinishedRun) -> None:
    for line in run.metrics():
        completions = line["rollout/completion_tokens"] * 16
        useful = {
            name: line[f"speed/{name}_tokens"] * line[f"speed/{name}_useful_share"]
            for name in ("prefill", "old_pass", "ref_pass", "forward_backward")
        }
        # Four prompts at most four tokens long, each once; the last token of a completion may go unread.
        assert 4 <= useful["prefill"] <= 4 * 16
        for name in ("ref_pass", "forward_backward"):
            assert completions - 16 <= useful[name] - useful["prefill"] <= completions
        assert 0 < useful["old_pass"] < useful["ref_pass"]  # the first minibatch needs none


def test_the_summary_has_them_in_all(run: api.FinishedRun) -> None:
    found = run.summary["speed"]
    assert sum(phase["share"] for phase in found.values()) == pytest.approx(1, rel=0.02)
    decoded = sum(line["time/decode_seconds"] for line in run.metrics())
    assert found["decode"]["seconds"] == pytest.approx(decoded)
    assert json.loads((run.dir / "summary.json").read_text())["speed"] == found
    assert run.summary["peak_memory_bytes"] > 50e6


def test_the_command_shows_a_run(run: api.FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(read(capsys, "speed", run.dir, "--json")) == run.summary["speed"]
    text = read(capsys, "speed", run.dir)
    assert "floor / measured" in text
    assert "forward backward" in text
    assert len(speed_table(run.summary["speed"]).rows) == len(run.summary["speed"])


def test_a_folder_without_steps_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("speed", tmp_path) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_ceilings_are_frozen_in_the_run(run: api.FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = (run.dir / "ceilings.json").read_text()

    def measure(*_: object) -> None:
        raise AssertionError("a resumed run measures nothing")

    monkeypatch.setenv("UPWEIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(ceilings, "measure", measure)
    again = api.train({**CONFIG, "runs_dir": str(run.dir.parent)}, resume=True)
    assert again.summary["steps"] == 3
    assert (run.dir / "ceilings.json").read_text() == frozen
