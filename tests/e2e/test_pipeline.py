"""Stages in order, each from an earlier one's model; what is finished is not run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from upweight import api
from upweight.errors import UserError
from upweight.pipeline import load_pipeline, stage_config


def write(folder: Path, **changes: Any) -> Path:
    tables: dict[str, Any] = {
        "name": "line",
        "runs_dir": str(folder / "runs"),
        "seed": 3,
        "model": {"init": {"width": 16, "layers": 1, "heads": 2, "context": 32}},
        "data": {"task": "arithmetic", "digits": 1, "demonstrations": 20},
        "rewards": {"parts": {"correct": {"function": "number", "options": {"tag": "answer"}}}},
        "sampling": {"max_completion_tokens": 6},
        "batch": {"rows": 8, "prompts": 2, "group_size": 2},
        "evaluate": {"every": 2, "problems": 4, "samples": 2},
        "records": {"tensorboard": False, "kl_every": 2},
        "measure": {"problems": 6, "samples": 2},
        "stages": [
            {"name": "sft", "algorithm": "sft", "steps": 3},
            {"name": "grpo", "algorithm": {"name": "grpo", "kl_coef": 0.1}, "steps": 2},
            {"name": "more", "algorithm": "sft", "steps": 9999, "from": "sft", "seconds_of": "grpo", "control": True},
        ],
        **changes,
    }
    path = folder / "line.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def test_a_pipeline_runs_measures_and_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path)
    summary = api.pipeline(path)
    assert set(summary["accuracy"]) == {"base", "sft", "grpo", "more"}
    assert all({"greedy", "sampled", "greedy_low"} <= set(found) for found in summary["accuracy"].values())
    seconds = summary["seconds"]
    assert seconds["total"] == pytest.approx(seconds["sft"] + seconds["grpo"])
    assert seconds["more"] >= seconds["grpo"]
    assert summary["seed"] == 3
    folder = tmp_path / "runs" / "line"
    assert json.loads((folder / "summary.json").read_text()) == summary
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*/metrics.jsonl")}
    assert api.pipeline(path) == summary
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*/metrics.jsonl")} == before
    (folder / "grpo" / "summary.json").unlink()
    assert set(api.pipeline(path)["accuracy"]) == set(summary["accuracy"])


def test_each_stage_starts_where_it_says(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path), ["optimizer.lr=0.5", "grpo.optimizer.lr=0.25", "grpo.steps=7"])
    sft, grpo, more = (stage_config(pipeline, stage) for stage in pipeline.stages)
    assert sft.model.init is not None
    assert grpo.model.path == str(tmp_path / "runs" / "line" / "sft" / "final") == more.model.path
    assert (sft.optimizer.lr, grpo.optimizer.lr, more.optimizer.lr) == (0.5, 0.25, 0.5)
    assert (grpo.steps, grpo.seed, grpo.name) == (7, 3, "line/grpo")


def test_another_pipeline_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    api.pipeline(path, "sft.steps=1", "grpo.steps=1")
    with pytest.raises(UserError, match="holds another pipeline"):
        api.pipeline(path)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([], "needs [[stages]]"),
        ("sft", "must be a list of tables"),
        ([{"name": "a", "algorithm": "sft", "steps": 1}] * 2, "a name of its own"),
        ([{"name": "a", "algorithm": "sft", "steps": 1, "from": "b"}], "not a stage before it"),
        ([{"name": "a", "algorithm": "sft", "stepz": 1}], "stage a: unknown key stepz"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(tmp_path: Path, stages: list[Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        load_pipeline(write(tmp_path, stages=stages))
    assert says in str(error.value)
    assert not (tmp_path / "runs").exists()
