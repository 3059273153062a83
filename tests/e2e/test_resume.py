"""A run that is killed at any moment goes on and ends exactly as one that was never killed.

Each child process runs a small GRPO training (several inner epochs, minibatches, KL term, evaluation, checkpoints) and
kills itself with SIGKILL at the n-th call of a function that samples, updates or writes a checkpoint. What it left is
then resumed, and weights, metrics (times aside) and ledger are compared byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from upweight import checkpoint
from upweight.compose import build_session
from upweight.configfile import make_config
from upweight.learners.local import LocalLearner
from upweight.records import ledger, trackers
from upweight.samplers.native import NativeSampler
from upweight.speed import CLOCK_PREFIXES
from upweight.train import train

REWARD = """
def surprise(completion: str, answer: str) -> float:
    return (sum(map(ord, completion)) % 7) / 6
"""

# Where a child may die, and about how often a whole run comes by.
PLACES = {
    "sampling": (NativeSampler, "_advance", 90),
    "update": (LocalLearner, "backward", 30),
    "optimizer": (LocalLearner, "apply", 30),
    "checkpoint": (checkpoint, "_sync", 40),
    "manifest": (checkpoint, "_write_json", 6),
    "rename": (checkpoint, "_put_in_place", 3),
    "metrics": (trackers.MetricsLog, "append", 9),
    "ledger": (ledger, "ledger_table", 8),
}

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["upweight.compose", "upweight.train"])


def tables(folder: Path, name: str) -> dict[str, Any]:
    (folder / "reward.py").write_text(REWARD)
    return {
        "name": name,
        "runs_dir": str(folder),
        "steps": 8,
        "threads": 1,
        "algorithm": {"name": "grpo", "kl_coef": 0.1, "inner_epochs": 2, "minibatches": 2},
        "model": {"init": {"width": 32, "layers": 1, "heads": 2, "context": 32}},
        "data": {"task": "arithmetic", "digits": 1, "problems": 50},
        "rewards": {"parts": {"surprise": f"{folder / 'reward.py'}:surprise"}},
        "batch": {"prompts": 4, "group_size": 4},
        "sampling": {"max_completion_tokens": 8},
        "optimizer": {"lr": 1e-3, "warmup_steps": 3, "schedule": "cosine"},
        "evaluate": {"every": 4, "problems": 8, "samples": 2},
        "checkpoint": {"every": 3},
        "records": {"kl_every": 3, "tensorboard": False},
    }


def run_to_the_end(settings: dict[str, Any], place: str | None = None, call: int = 0) -> None:
    """In a child: trains (resuming what is there), and dies at the `call`-th call of a place if one is given."""
    if place is not None:
        owner, name, _ = PLACES[place]
        original = getattr(owner, name)
        calls = iter(range(10**9))

        def deadly(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, deadly)
    with (Path(settings["runs_dir"]) / "stderr.txt").open("a") as sys.stderr:
        train(build_session(make_config(settings), resume=True))


def in_a_child(*arguments: Any) -> int:
    child = _processes.Process(target=run_to_the_end, args=arguments)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def fingerprint(run: Path) -> dict[str, Any]:
    """What must be the same: weights, ledger, and metrics without the clock."""
    files = [run / "final" / "model.safetensors", *sorted((run / "ledger").iterdir())]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if not key.startswith(CLOCK_PREFIXES)} for line in lines]
    return {"metrics": metrics, **{file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert in_a_child(tables(folder, "whole")) == 0
    found = fingerprint(folder / "whole")
    assert len(found["metrics"]) == 8 + 2
    assert len({line["train/loss"] for line in found["metrics"] if "train/loss" in line}) == 8
    return found


def killed_and_resumed(folder: Path, place: str, call: int) -> tuple[int, dict[str, Any]]:
    settings = tables(folder, "killed")
    died = in_a_child(settings, place, call)
    assert in_a_child(settings) == 0
    return died, fingerprint(folder / "killed")


@pytest.mark.parametrize("place", ["sampling", "update", "checkpoint", "rename"])
def test_killed_once(place: str, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    died, resumed = killed_and_resumed(tmp_path, place, PLACES[place][2] // 2)
    assert died == -signal.SIGKILL
    assert resumed == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_twenty_random_moments(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    draw = random.Random(0)
    deaths = 0
    for attempt in range(20):
        place = list(PLACES)[attempt % len(PLACES)]
        folder = tmp_path / str(attempt)
        folder.mkdir()
        died, resumed = killed_and_resumed(folder, place, draw.randrange(PLACES[place][2]))
        deaths += died == -signal.SIGKILL
        assert resumed == uninterrupted, f"{place} in attempt {attempt}"
    assert deaths >= 15


@pytest.mark.parametrize("damage", ["truncate", "flip", "half"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    settings = tables(tmp_path, "killed")
    assert in_a_child(settings, "metrics", 7) == -signal.SIGKILL
    newest = sorted((tmp_path / "killed" / "checkpoints").glob("step-*"))[-1]
    weights = newest / "policy" / "model.safetensors"
    content = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        middle = len(content) // 2
        weights.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        (newest / "manifest.json").unlink()
    assert in_a_child(settings) == 0
    assert f"checkpoint {newest.name} is damaged" in (tmp_path / "stderr.txt").read_text()
    assert fingerprint(tmp_path / "killed") == uninterrupted
