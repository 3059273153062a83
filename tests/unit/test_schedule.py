"""The learning rate at its corners."""

from __future__ import annotations

from itertools import pairwise

import pytest

from upweight.config import OptimizerConfig
from upweight.learners.schedule import learning_rate


def rates(total: int, **settings: object) -> list[float]:
    config = OptimizerConfig(lr=1.0, **settings)
    return [learning_rate(step, total, config) for step in range(total)]


def test_warm_up_is_linear_and_reaches_the_rate() -> None:
    assert rates(6, warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_linear_decay_ends_at_its_share() -> None:
    config = OptimizerConfig(lr=2.0, schedule="linear", final_lr_share=0.1, warmup_steps=2)
    assert learning_rate(2, 12, config) == 2.0
    assert learning_rate(7, 12, config) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(12, 12, config) == pytest.approx(0.2)
    assert learning_rate(99, 12, config) == pytest.approx(0.2)


def test_cosine_is_half_way_at_half_time() -> None:
    found = rates(10, schedule="cosine")
    assert found[0] == 1.0
    assert found[5] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(found))
