"""One config on one process and on two, and a mixture of tasks: the loop does not know the difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from upweight import api


def tables(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "runs_dir": str(folder),
        "steps": 3,
        "algorithm": "sft",
        "model": {"init": {"width": 16, "layers": 1, "heads": 2, "context": 48}},
        "data": {"task": "arithmetic", "digits": 1, "demonstrations": 20},
        "batch": {"rows": 8},
        "optimizer": {"lr": 1e-2},
        "records": {"tensorboard": False, "kl_every": 2},
        **changes,
    }


def test_two_ranks_train_what_one_trains(tmp_path: Path) -> None:
    alone = api.train(tables(tmp_path, "alone"))
    pair = api.train(tables(tmp_path, "pair", learner={"ranks": 2}))
    mine, theirs = (load_file(run.model_dir / "model.safetensors") for run in (alone, pair))
    for name, weight in mine.items():
        assert (weight - theirs[name]).abs().max() < 1e-5
    for one, other in zip(alone.metrics(), pair.metrics(), strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], abs=1e-5)
        assert one.keys() == other.keys()


def test_a_mixture_draws_by_weight(tmp_path: Path) -> None:
    rows = [{"prompt": f"say {i}", "completion": f"{i}"} for i in range(5)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixture = [
        {"task": "arithmetic", "digits": 1, "demonstrations": 10, "weight": 1.0},
        {"path": str(tmp_path / "mine.jsonl"), "weight": 3.0},
    ]
    run = api.train(tables(tmp_path, "mixed", data={"mixture": mixture}))
    ids = [name for step in range(3) for name in run.ledger(step)["id"].to_pylist()]
    assert len(ids) == 24
    assert sum("mine" in name for name in ids) == 18
