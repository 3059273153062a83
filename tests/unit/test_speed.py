"""Speeds of a step and of a run, with times and floors that the test sets."""

from __future__ import annotations

import pytest

from upweight.ceilings import Ceilings, Machine, Shape
from upweight.floors import Floors
from upweight.phases import Clock, count, decode_step, phase
from upweight.records.glossary import describe
from upweight.sizes import ModelSize
from upweight.speed import run_speed, speed_metrics

# A token read takes a second, one trained three.
SIZE = ModelSize(1, 1, 10, 1, 1, 1, 1, 1, 1, 1, 1, 4)
CEILINGS = Ceilings(Machine("it", "2", 2, "cpu"), Shape(1, 1, 1, 1), {"float32": 20.0}, {"float32": 20.0}, 1e9)
FLOORS = Floors(CEILINGS, SIZE, "float32", "float32")


def step(prefill: float, trained: float) -> dict[str, float]:
    now = 0.0
    with Clock(lambda: now) as clock:
        with phase("prefill"):
            now += prefill
            count("prefill", processed=8, useful=4)
        with phase("reward"):
            now += 1
        with phase("forward_backward"):
            now += trained
            count("forward_backward", processed=6, useful=6)
    return speed_metrics(clock, FLOORS) | {"time/step_seconds": now}


def test_metrics_of_a_step() -> None:
    found = step(prefill=16, trained=20)
    assert found == {
        "time/prefill_seconds": 16,
        "speed/prefill_floor_share": pytest.approx(4 / 16),
        "speed/prefill_tokens": 8,
        "speed/prefill_useful_share": 0.5,
        "time/reward_seconds": 1,
        "time/forward_backward_seconds": 20,
        "speed/forward_backward_floor_share": pytest.approx(18 / 20),
        "speed/forward_backward_tokens": 6,
        "speed/forward_backward_useful_share": 1,
        "time/other_seconds": 0,
        "time/step_seconds": 37,
    }
    for key in found:
        assert describe(key)


def test_a_clock_that_stood_still_divides_by_nothing() -> None:
    found = step(prefill=0, trained=0)
    assert "speed/prefill_floor_share" not in found
    assert "floor_share" not in run_speed([step(prefill=0, trained=1)])["prefill"]


def test_rows_that_only_wait_are_no_useful_tokens() -> None:
    with Clock() as clock, phase("decode"):
        decode_step(4, 4, 0)
        decode_step(4, 0, 0)
    assert speed_metrics(clock, FLOORS)["speed/decode_useful_share"] == 0.5


def test_a_run_weighs_its_steps_by_time_and_by_tokens() -> None:
    records = [step(prefill=4, trained=20), {"step": 0, "eval/greedy": 1.0}, step(prefill=16, trained=18)]
    found = run_speed(records)
    assert list(found) == ["prefill", "reward", "forward_backward", "other"]
    whole = (4 + 1 + 20) + (16 + 1 + 18)
    assert found["prefill"] == {
        "seconds": 20,
        "share": pytest.approx(20 / whole),
        "floor_share": pytest.approx(8 / 20),
        "useful_share": 0.5,
    }
    assert found["reward"] == {"seconds": 2, "share": pytest.approx(2 / whole)}
    assert sum(phase["share"] for phase in found.values()) == pytest.approx(1)


def test_a_run_without_steps_has_no_speed() -> None:
    assert run_speed([]) == run_speed([{"step": 0, "eval/greedy": 1.0}]) == {}
