"""Whole units, within the budget, nothing lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from upweight.learners.microbatches import microbatches, packed_microbatches, shares, units_of

unit_ids = st.lists(st.integers(0, 12), min_size=1, max_size=40)


@given(unit_ids, st.integers(1, 200), st.randoms(use_true_random=False))
def test_microbatches_keep_units_whole_and_the_budget(ids: list[int], budget: int, draw) -> None:
    lengths = [draw.randint(1, 50) for _ in ids]
    units = units_of(ids)
    pieces = microbatches(units, lengths, budget)
    assert sorted(row for piece in pieces for row in piece) == list(range(len(ids)))
    for unit in units:
        assert sum(set(unit) <= set(piece) for piece in pieces) == 1
    for piece in pieces:
        padded = len(piece) * max(lengths[row] for row in piece)
        assert padded <= budget or len({ids[row] for row in piece}) == 1


@given(unit_ids, st.integers(1, 200), st.randoms(use_true_random=False))
def test_packed_microbatches_keep_units_whole_and_in_order(ids: list[int], budget: int, draw) -> None:
    lengths = [draw.randint(1, 50) for _ in ids]
    units = units_of(ids)
    pieces = packed_microbatches(units, lengths, budget)
    assert [row for piece in pieces for row in piece] == [row for unit in units for row in unit]
    for unit in units:
        assert sum(set(unit) <= set(piece) for piece in pieces) == 1
    for piece in pieces:
        assert sum(lengths[row] for row in piece) <= budget or len({ids[row] for row in piece}) == 1
    for one, after in pairwise(pieces):
        first = next(unit for unit in units if after[0] in unit)
        assert sum(lengths[row] for row in (*one, *first)) > budget, "a unit that fits is not put off"


@given(unit_ids, st.integers(1, 4), st.randoms(use_true_random=False))
def test_ranks_share_whole_units_evenly(ids: list[int], ranks: int, draw) -> None:
    lengths = [draw.randint(1, 50) for _ in ids]
    taken = shares(units_of(ids), lengths, ranks)
    assert sorted(row for units in taken for unit in units for row in unit) == list(range(len(ids)))
    loads = [sum(lengths[row] for unit in units for row in unit) for units in taken]
    largest = max(sum(lengths[row] for row in unit) for unit in units_of(ids))
    assert max(loads) - min(loads) <= largest
