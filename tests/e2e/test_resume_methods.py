"""Runs whose checkpoints hold more than a policy are killed and go on bit-identically.

DAPO on a task of which less than a tenth is answered, killed while it refills its batch; PPO with a critic, an adaptive
KL coefficient, a moving reference and a second stream.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.test_resume import _processes, fingerprint
from upweight.compose import build_session
from upweight.configfile import make_config
from upweight.learners.local import LocalLearner
from upweight.records.trackers import read_metrics
from upweight.sources import RolloutSource
from upweight.train import train

RARELY = """
def rarely(completion: str, answer: str) -> float:
    return float(sum(map(ord, completion)) % 17 == 0)
"""
DATA = {"task": "arithmetic", "digits": 1, "problems": 50, "demonstrations": 20}
METHODS: dict[str, Any] = {
    "dapo": {"name": "dapo", "minibatches": 2, "overlong_filter": False},
    "ppo": {"name": "ppo", "kl_target": 6.0, "kl_horizon": 100.0, "reference_every": 2, "pretrain_coef": 0.1},
    "reinforce_baseline": {"name": "reinforce_baseline", "baseline": "running"},
}


def settings(folder: Path, method: str) -> dict[str, Any]:
    (folder / "reward.py").write_text(RARELY)
    return {
        "name": method,
        "runs_dir": str(folder),
        "steps": 6,
        "threads": 1,
        "algorithm": METHODS[method],
        "model": {"init": {"width": 32, "layers": 1, "heads": 2, "context": 32}},
        "data": DATA,
        "pretrain": DATA,
        "rewards": {"parts": {"correct": f"{folder / 'reward.py'}:rarely"}},
        "batch": {"prompts": 4, "group_size": 4, "pretrain_rows": 4, "refill_limit": 100},
        "sampling": {"max_completion_tokens": 8},
        "optimizer": {"lr": 1e-3},
        "checkpoint": {"every": 2},
        "records": {"kl_every": 3, "tensorboard": False},
    }


def child(tables: dict[str, Any], die_at: int | None) -> None:
    """Trains, resuming what is there; dies at the given refill of a batch, or at that backward pass without refills."""
    moments = iter(range(10**9))

    def perhaps_die() -> None:
        if next(moments) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    chunk, backward = RolloutSource._chunk, LocalLearner.backward

    def refilling(self: Any, groups: int, drawn: int) -> int:
        if drawn:
            perhaps_die()
        return chunk(self, groups, drawn)

    def training(self: Any, *arguments: Any) -> Any:
        perhaps_die()
        return backward(self, *arguments)

    if tables["name"] == "dapo":
        RolloutSource._chunk = refilling  # type: ignore[method-assign]
    else:
        LocalLearner.backward = training  # type: ignore[method-assign]
    with (Path(tables["runs_dir"]) / "stderr.txt").open("a") as sys.stderr:
        train(build_session(make_config(tables), resume=True))


def exit_code(tables: dict[str, Any], die_at: int | None = None) -> int | None:
    process = _processes.Process(target=child, args=(tables, die_at))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize(("method", "die_at"), [("dapo", 18), ("ppo", 15), ("reinforce_baseline", 4)])
def test_killed_and_resumed(method: str, die_at: int, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert exit_code(settings(whole, method)) == 0
    assert exit_code(settings(killed, method), die_at) == -signal.SIGKILL
    assert (killed / method / "checkpoints" / "step-00000002").is_dir()
    assert exit_code(settings(killed, method)) == 0
    assert fingerprint(killed / method) == fingerprint(whole / method)
    if method == "dapo":
        batches_are_full_and_mixed(whole / method)
    else:
        lines = read_metrics(whole / method / "metrics.jsonl")
        carried = {value for line in lines for key, value in line.items() if "carried" in key}
        assert len(carried) > 3  # the option did move


def batches_are_full_and_mixed(run: Path) -> None:
    """Every batch has its four groups, each with right and wrong answers, though hardly any answer is right."""
    metrics = read_metrics(run / "metrics.jsonl")
    for step, line in enumerate(metrics):
        table = pq.read_table(run / "ledger" / f"step-{step:08d}.parquet").to_pydict()
        right: dict[int, list[bool]] = {}
        for group, correct in zip(table["group"], table["correct"], strict=True):
            right.setdefault(group, []).append(correct)
        assert len(right) == 4
        assert all(len(group) == 4 and 0 < sum(group) < 4 for group in right.values())
        sampled = len(table["group"]) / (1 - line["rollout/wasted_share"])
        assert line["rollout/dropped"] == pytest.approx(sampled - len(table["group"]))
    assert min(line["rollout/wasted_share"] for line in metrics) > 0.4
    rate = [line["rollout/accuracy"] * (1 - line["rollout/wasted_share"]) for line in metrics]
    assert sum(rate) / len(rate) < 0.1
