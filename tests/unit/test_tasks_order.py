"""The order of draws: proportional at every moment, complete in every epoch, and a function of the position alone."""

from __future__ import annotations

import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upweight.tasks.order import DrawOrder


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.integers(1, 40).map(lambda tenths: tenths / 10), min_size=1, max_size=7),
    seed=st.integers(0, 5),
)
def test_each_stream_is_always_within_one_of_its_share(weights, seed):
    order = DrawOrder([5] * len(weights), weights, seed)
    exact = [Fraction(str(weight)) for weight in weights]
    drawn = [0] * len(weights)
    for position in range(400):
        drawn[order.at(position)[0]] += 1
        for count, weight in zip(drawn, exact, strict=True):
            assert abs(count - (position + 1) * weight / sum(exact)) < 1


@pytest.mark.parametrize("weights", [[1.0], [3.0, 1.0], [0.7, 0.2, 0.1]])
def test_every_epoch_of_a_stream_holds_each_row_once_in_a_new_order(weights):
    sizes = [7, 5, 3][: len(weights)]
    order = DrawOrder(sizes, weights, seed=3)
    rows: dict[int, list[int]] = {}
    for position in range(1000):
        stream, row = order.at(position)
        rows.setdefault(stream, []).append(row)
    for stream, drawn in rows.items():
        size = sizes[stream]
        epochs = [tuple(drawn[start : start + size]) for start in range(0, len(drawn) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) > 3


def test_the_order_depends_on_nothing_but_the_position():
    sizes, weights = [11, 4], [0.6, 0.4]
    forward = DrawOrder(sizes, weights, 1)
    expected = [forward.at(position) for position in range(300)]
    backward = DrawOrder(sizes, weights, 1)
    assert [backward.at(position) for position in reversed(range(300))] == expected[::-1]
    other_seed = DrawOrder(sizes, weights, 2)
    assert [other_seed.at(position) for position in range(300)] != expected


def test_a_far_position_is_reached_at_once():
    order = DrawOrder([1000, 1000, 77], [0.123, 0.377, 0.5], 0)
    started = time.perf_counter()
    order.at(10_000_000)
    assert time.perf_counter() - started < 0.1


def test_weights_without_a_short_period_are_rounded_and_every_stream_is_drawn():
    order = DrawOrder([3, 3, 3], [0.123456789, 1.0, 1e-9], 0)
    counts = Counter(order.at(position)[0] for position in range(20000))
    assert counts[0] / 20000 == pytest.approx(0.123456789 / 1.123456789, abs=2e-4)
    assert counts[2] >= 1


@pytest.mark.parametrize(("sizes", "weights"), [([], []), ([1], [1.0, 2.0]), ([0], [1.0]), ([1], [0.0])])
def test_impossible_streams_are_refused(sizes, weights):
    with pytest.raises(ValueError, match="at least one row and a positive weight"):
        DrawOrder(sizes, weights, 0)


def test_a_negative_position_is_refused():
    with pytest.raises(ValueError, match="position"):
        DrawOrder([1], [1.0], 0).at(-1)
