"""Intervals and pass@k: vectors, limits, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from upweight.evaluate import pass_at_k, sampled_metrics, wilson_interval


@pytest.mark.parametrize(
    ("n", "correct", "k", "expected"),
    [(10, 3, 1, 0.3), (10, 3, 5, 0.916667), (10, 0, 5, 0.0), (10, 6, 5, 1.0), (16, 1, 8, 0.5), (5, 2, 2, 0.7)],
)
def test_pass_at_k_vectors(n: int, correct: int, k: int, expected: float) -> None:
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-6)


def test_pass_at_k_identities() -> None:
    for correct in range(11):
        values = [pass_at_k(10, correct, k) for k in range(1, 11)]
        assert values[0] == pytest.approx(correct / 10)
        assert values == sorted(values)
        assert values[-1] == float(correct > 0)
    with pytest.raises(ValueError, match="at least 11"):
        pass_at_k(10, 3, 11)


def test_wilson_interval_covers() -> None:
    """Of 4,000 simulated accuracies at 60 problems, close to 95% have the truth in their interval (seed 0)."""
    rng = np.random.default_rng(0)
    for truth in (0.05, 0.5, 0.9):
        found = [wilson_interval(hits / 60, 60) for hits in rng.binomial(60, truth, 4000)]
        covered = np.mean([low <= truth <= high for low, high in found])
        assert 0.92 < covered < 0.98
    assert wilson_interval(0.0, 60)[0] == 0.0
    assert wilson_interval(1.0, 60)[1] == 1.0


def test_the_interval_of_sampled_accuracy_is_over_problems() -> None:
    found = sampled_metrics([4, 0, 4, 0], 4)
    assert found["eval/sampled"] == 0.5
    half = 1.959964 * np.std([1, 0, 1, 0], ddof=1) / 2
    assert found["eval/sampled_high"] == pytest.approx(min(1.0, 0.5 + half))
