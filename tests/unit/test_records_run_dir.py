"""A run's folder: made once, entered again only with the same config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from upweight.config import Config
from upweight.configfile import make_config, merge, read_toml
from upweight.errors import UserError
from upweight.records.run_dir import MAY_DIFFER, RunDir, config_toml, open_run, write_summary


def config(tmp_path: Path, **tables: Any) -> Config:
    base: dict[str, Any] = {
        "name": "a/b",
        "runs_dir": str(tmp_path / "runs"),
        "steps": 5,
        "algorithm": "sft",
        "model": {"init": {"tokens": ["<answer>", 'a "quoted"\n\\one']}},
        "data": {"task": "arithmetic", "operators": ["+", "-"]},
    }
    return make_config(merge(base, tables))


GRPO: dict[str, Any] = {
    "algorithm": {"name": "grpo", "clip_high": 0.28, "kl_coef": 1e-3, "reduction": "token_mean"},
    "rewards": {"parts": {"correct": {"function": "number", "options": {"tolerance": 1e-12, "list": ["x", 1]}}}},
    "optimizer": {"lr": 1 / 3, "betas": [0.9, 0.999]},
    "max_seconds": 10,
}
MIXTURE: dict[str, Any] = {
    "mixture": [{"task": "gsm8k"}, {"path": "mine.jsonl", "weight": 2.5}],
    "on_bad_row": "skip",
}


@pytest.mark.parametrize("tables", [{}, GRPO])
def test_a_written_config_loads_equal(tmp_path: Path, tables: dict[str, Any]) -> None:
    made = config(tmp_path, **tables)
    run = open_run(made, resume=False)
    assert make_config(read_toml(run.config_path)) == made


def test_a_written_mixture_loads_equal(tmp_path: Path) -> None:
    tables = {"steps": 5, "algorithm": "sft", "model": {"path": "m"}, "data": MIXTURE}
    made = make_config(tables)
    (tmp_path / "config.toml").write_text(config_toml(made))
    assert make_config(read_toml(tmp_path / "config.toml")) == made


def test_the_folders_lie_in_the_run(tmp_path: Path) -> None:
    run = open_run(config(tmp_path), resume=False)
    assert run == RunDir(tmp_path / "runs" / "a" / "b")
    parts = [run.config_path, run.metrics_path, run.ledger_dir, run.checkpoint_dir, run.final_dir]
    parts += [run.tensorboard_dir, run.summary_path]
    names = ["config.toml", "metrics.jsonl", "ledger", "checkpoints", "final", "tensorboard", "summary.json"]
    assert [part.relative_to(run.path).as_posix() for part in parts] == names
    assert [path.name for path in run.path.iterdir()] == ["config.toml"]


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run = open_run(config(tmp_path), resume=False)
    before = run.config_path.read_bytes()
    with pytest.raises(UserError, match=r"--resume.*name="):
        open_run(config(tmp_path, seed=1), resume=False)
    assert run.config_path.read_bytes() == before


def test_resume_enters_the_same_run_or_makes_it(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert open_run(made, resume=True) == open_run(made, resume=True)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"steps": 6}, "steps was 5 and is 6"),
        ({"optimizer": {"lr": 2e-5}}, "optimizer.lr was 1e-05 and is 2e-05"),
        ({"data": {"operators": ["+"]}}, "data.mixture.0.operators was ('+', '-') and is ('+',)"),
        ({"data": {"digits": 3}}, "data.mixture.0.digits was 2 and is 3"),
        ({"algorithm": {"name": "sft", "reduction": "seq_mean_token_sum"}}, "algorithm.reduction was None and is"),
        ({"rewards": {"parts": {"x": "exact"}}}, "rewards.parts.x.function was None and is 'exact'"),
        ({"seed": 1, "steps": 6}, "seed was 0 and is 1; steps was 5 and is 6"),
    ],
)
def test_resume_with_another_config_names_what_differs(tmp_path: Path, tables: dict[str, Any], words: str) -> None:
    run = open_run(config(tmp_path), resume=False)
    before = run.config_path.read_bytes()
    with pytest.raises(UserError) as caught:
        open_run(config(tmp_path, **tables), resume=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run.config_path.read_bytes() == before


def test_what_may_differ_does_and_is_written_down(tmp_path: Path) -> None:
    open_run(config(tmp_path), resume=False)
    (tmp_path / "runs").rename(tmp_path / "moved")
    other = config(
        tmp_path,
        runs_dir=str(tmp_path / "moved"),
        threads=1,
        max_seconds=60.0,
        learner={"tokens_per_microbatch": 512},
        checkpoint={"every": 1, "keep": 9},
        records={"tensorboard": False},
    )
    run = open_run(other, resume=True)
    assert make_config(read_toml(run.config_path)) == other


def test_what_may_differ_exists(tmp_path: Path) -> None:
    dump = config(tmp_path).model_dump()
    for key in MAY_DIFFER:
        value: Any = dump
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_a_folder_of_something_else_is_not_entered(tmp_path: Path) -> None:
    made = config(tmp_path)
    made.run_dir.mkdir(parents=True)
    (made.run_dir / "photos").mkdir()
    for resume in (False, True):
        with pytest.raises(UserError, match="not the folder of a run"):
            open_run(made, resume)
    assert [path.name for path in made.run_dir.iterdir()] == ["photos"]


def test_a_folder_left_by_a_run_killed_at_its_start_is_used(tmp_path: Path) -> None:
    made = config(tmp_path)
    made.run_dir.mkdir(parents=True)
    (made.run_dir / ".config.toml.tmp").write_text("half")
    assert [path.name for path in open_run(made, resume=False).path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("place", ["runs", "runs/a/b"])
def test_a_file_in_the_way_is_a_user_error(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("a file")
    with pytest.raises(UserError):
        open_run(config(tmp_path), resume=False)


def test_a_damaged_config_is_a_user_error(tmp_path: Path) -> None:
    run = open_run(config(tmp_path), resume=False)
    run.config_path.write_text("steps = ")
    with pytest.raises(UserError, match=r"config\.toml: not a TOML file"):
        open_run(config(tmp_path), resume=True)


def test_the_summary_is_sorted_json(tmp_path: Path) -> None:
    run = open_run(config(tmp_path), resume=False)
    write_summary(run, {"b": 1, "a": {"d": float("nan"), "c": [0.5]}})
    text = run.summary_path.read_text()
    assert json.loads(text) == {"a": {"c": [0.5], "d": None}, "b": 1}
    assert text.startswith('{\n  "a": {\n    "c"')
    write_summary(run, {})
    assert run.summary_path.read_text() == "{}\n"
