"""Alarms: when they ring, what they say, and that a resumed run hears the same ones."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from upweight.records.alarms import Alarms, alarms

TRUNCATED = {"rollout/truncated_share": 0.97}


@pytest.mark.parametrize(
    ("key", "quiet", "loud", "advice"),
    [
        ("rollout/truncated_share", 0.9, 0.97, "sampling.max_completion_tokens"),
        ("rollout/constant_group_share", 0.95, 0.99, "batch.group_size"),
        ("rollout/zero_reward_share", 0.999, 1.0, "check the reward"),
        ("train/sampler_mismatch_mean", 0.1, 0.25, "stale weights"),
    ],
)
def test_each_alarm_rings_above_its_bound_only(key: str, quiet: float, loud: float, advice: str) -> None:
    assert alarms({key: quiet}) == []
    assert alarms({key: float("nan")}) == []
    (line,) = alarms({key: loud})
    assert advice in line
    assert "\n" not in line
    assert (f"{loud:.0%}" in line or f"{loud:.2f}" in line) or key == "rollout/zero_reward_share"


def test_a_healthy_step_and_an_empty_one_ring_nothing() -> None:
    assert alarms({}) == []
    assert alarms({"rollout/truncated_share": 0.1, "rollout/zero_reward_share": 0.4, "reward/mean": 0.0}) == []


def test_several_ring_at_once() -> None:
    assert len(alarms({**TRUNCATED, "rollout/zero_reward_share": 1.0})) == 2


def test_patience_and_quiet() -> None:
    bell = Alarms(patience=3, quiet=50)
    rung = [step for step in range(200) if bell.check(step, TRUNCATED)]
    assert rung == [2, 52, 102, 152]


def test_an_interrupted_streak_starts_anew() -> None:
    bell = Alarms(patience=3, quiet=50)
    bad = [1, 1, 0, 1, 1, 1, 1]
    assert [bool(bell.check(i, TRUNCATED if b else {})) for i, b in enumerate(bad)] == [*[False] * 5, True, False]


def test_alarms_are_patient_each_for_itself() -> None:
    bell = Alarms(patience=2, quiet=50)
    steps = [TRUNCATED, {**TRUNCATED, "rollout/zero_reward_share": 1.0}, {"rollout/zero_reward_share": 1.0}]
    assert [len(bell.check(step, metrics)) for step, metrics in enumerate(steps)] == [0, 1, 1]


@pytest.mark.parametrize("stop", range(1, 70, 4))
def test_a_resumed_run_hears_the_same_alarms(stop: int) -> None:
    steps = [TRUNCATED if step % 7 else {} for step in range(70)]
    bell = Alarms()
    whole = [bell.check(step, metrics) for step, metrics in enumerate(steps)]
    first, second = Alarms(), Alarms()
    heard = [first.check(step, metrics) for step, metrics in enumerate(steps[:stop])]
    second.load(json.loads(json.dumps(first.state())))
    heard += [second.check(step, metrics) for step, metrics in enumerate(steps[stop:], start=stop)]
    assert heard == whole
    rung = [step for step, lines in enumerate(whole) if lines]
    assert len(rung) == 2
    assert all(later - earlier >= 50 for earlier, later in pairwise(rung))


def test_a_state_is_a_copy() -> None:
    bell = Alarms()
    state = bell.state()
    for step in range(3):
        bell.check(step, TRUNCATED)
    assert state == Alarms().state()
