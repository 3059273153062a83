"""Every preset trains from a config, twice the same; and nothing that is measured goes unexplained, or the reverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upweight import api
from upweight.compose import build_session
from upweight.configfile import make_config
from upweight.learners.local import LocalLearner
from upweight.presets import PRESETS
from upweight.records.glossary import METRICS, describe
from upweight.speed import CLOCK_PREFIXES

TINY: dict[str, Any] = {
    "model": {"init": {"width": 16, "layers": 1, "heads": 2, "context": 64}},
    "data": {"task": "arithmetic", "digits": 1, "demonstrations": 20, "tags": False},
    "rewards": {"parts": {"correct": "number"}},
    "sampling": {"max_completion_tokens": 6},
    "batch": {"rows": 8, "prompts": 4, "group_size": 4, "pretrain_rows": 4, "refill_limit": 1000},
    "optimizer": {"lr": 1e-3},
    "records": {"tensorboard": False, "kl_every": 2},
    "steps": 2,
}
# An untrained model is hardly ever right and hardly ever ends: no group would have mixed outcomes.
EASY = {
    "rewards": {"parts": {"correct": {"function": "pattern", "options": {"pattern": ".*[0-4].*"}}}},
    "sampling": {"max_completion_tokens": 20, "stop": [*"0123456789"]},
}
PRETRAIN = {"pretrain": TINY["data"]}


def run(folder: Path, algorithm: Any, **changes: Any) -> api.FinishedRun:
    return api.train({**TINY, "runs_dir": str(folder), "algorithm": algorithm, **changes})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_from_a_config(tmp_path: Path, name: str) -> None:
    one, other = (run(tmp_path / place, name, **EASY) for place in ("one", "other"))
    assert one.summary["steps"] == 2
    assert [_timeless(line) for line in one.metrics()] == [_timeless(line) for line in other.metrics()]
    pushed = one.ledger(1).column("push/policy").combine_chunks().flatten().to_pylist()
    assert any(push != 0 for push in pushed)


def test_every_metric_is_in_the_glossary(tmp_path: Path) -> None:
    """Nothing is written that is not explained, and nothing is explained that no method writes."""
    evaluated = {"evaluate": {"every": 2, "problems": 4, "samples": 2}}
    everything = {
        "name": "ppo",
        "pretrain_coef": 0.1,
        "kl_target": 6.0,
        "sampler_correction": "token_mask",
        "overlong_share": 0.5,
        "missing_eos_penalty": 0.5,
    }
    runs = [
        run(tmp_path / "ppo", everything, **PRETRAIN, **evaluated),
        run(tmp_path / "grpo", {"name": "grpo", "kl_reward_coef": 0.1}),
        run(tmp_path / "failing", "grpo", rewards={"parts": {"unfit": "countdown"}, "on_failure": "zero"}),
        run(tmp_path / "reward_model", "reward_model", evaluate={"every": 2, "problems": 4}),
        run(tmp_path / "process_reward_model", "process_reward_model", evaluate={"every": 2, "problems": 4}),
        run(tmp_path / "kto", "kto"),
    ]
    written = {key for done in runs for line in done.metrics() for key in line}
    explained = {id(describe(key)) for key in written}
    assert [key for key, metric in METRICS.items() if id(metric) not in explained] == []


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if not key.startswith(CLOCK_PREFIXES)}


def test_a_critic_has_a_rate_of_its_own(tmp_path: Path) -> None:
    """Its schedule too; what it does not say is the policy's."""
    tables = {**TINY, "runs_dir": str(tmp_path), "algorithm": "ppo", "optimizer": {"lr": 1e-3, "schedule": "cosine"}}
    for critic, expected in (
        ({}, (1e-3, "cosine")),
        ({"lr": 5e-3, "schedule": "constant"}, (5e-3, "constant")),
    ):
        name = "own" if critic else "shared"
        learner = build_session(make_config({**tables, "name": name, "critic": critic})).learner
        assert isinstance(learner, LocalLearner)
        assert (learner.settings["critic"].lr, learner.settings["critic"].schedule) == expected
        assert (learner.settings["policy"].lr, learner.settings["policy"].schedule) == (1e-3, "cosine")
