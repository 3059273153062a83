"""No completion of the table earns what it should not, and none stalls."""

from __future__ import annotations

import time

import pytest

from tests.unit.text_attacks import ATTACKS
from upweight.rewards.call import Stepwise
from upweight.rewards.load import BUILTIN

SECONDS = 2.0  # on a busy machine; by itself the slowest takes a quarter of a second


@pytest.mark.parametrize("attack", [pytest.param(attack, id=f"{attack.function}: {attack.name}") for attack in ATTACKS])
def test_attacks_earn_nothing_and_do_not_stall(attack) -> None:
    started = time.perf_counter()
    value = BUILTIN[attack.function](completion=attack.completion, **attack.row, **attack.options)
    took = time.perf_counter() - started
    assert (value.value if isinstance(value, Stepwise) else value) <= attack.at_most
    assert took < SECONDS


def test_the_table_has_no_attack_twice() -> None:
    names = [(attack.function, attack.name) for attack in ATTACKS]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize(
    ("function", "arguments", "value"),
    [
        ("number", {"completion": "85", "answer": "85"}, 1),
        ("exact", {"completion": "Paris", "answer": "Paris"}, 1),
        ("countdown", {"completion": "<answer>12+3</answer>", "numbers": [3, 7, 12], "target": 15}, 1),
        ("format", {"completion": "<think>7+8=15</think><answer>85</answer>"}, 1),
        ("three_tier", {"completion": "85", "answer": "85"}, 1),
    ],
)
def test_the_honest_answer_is_paid(function, arguments, value) -> None:
    assert BUILTIN[function](**arguments) == value
