"""How rows are stored, moved and taken from the queue."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upweight.models.layout import bucket
from upweight.samplers.cache import KeyValueCache, width_for
from upweight.samplers.decoder import without
from upweight.samplers.fused import PREFILL_TOKENS, passes_of
from upweight.samplers.native import groups_of, take
from upweight.types import Request, SampleKey, SamplingParams


@given(st.integers(1, 40), st.data())
def test_rows_that_leave_are_replaced_from_the_end(rows: int, data: st.DataObject) -> None:
    leaving = data.draw(st.lists(st.integers(0, rows - 1), unique=True))
    compaction = without(rows, leaving)
    table = torch.arange(rows)
    compaction.apply(table)
    remaining = table[: compaction.count].tolist()
    assert remaining == compaction.index()
    assert sorted(remaining) == sorted(set(range(rows)) - set(leaving))
    assert len(compaction.to) <= len(leaving)


@given(st.integers(1, 5000))
def test_buckets_hold_what_they_are_for_and_little_more(size: int) -> None:
    assert size <= bucket(size) <= size * 17 / 16
    assert bucket(bucket(size)) == bucket(size)
    assert size <= width_for(size) < size + max(32, size / 8 + 1)
    assert width_for(size) % 32 == 0


def test_a_cache_keeps_its_rows_as_it_is_laid_out_anew() -> None:
    cache = KeyValueCache(2, 2, 4, torch.float64, torch.device("cpu"))
    cache.fit(20, 5, 0)
    keys, values = torch.randn(2, 3, 20, 2, 4, dtype=torch.float64)
    for layer in (0, 1):
        cache.fill(layer, 1, keys + layer, values + layer)
    rows = {1: 0, 2: 1, 3: 2}

    def check(columns: int) -> None:
        for layer, held in enumerate(cache.layers):
            by_row = held.view(2, cache.slots, 2, cache.width, 4).transpose(2, 3)
            for row, member in rows.items():
                assert torch.equal(by_row[0, row, :columns], keys[member, :columns] + layer)
                assert torch.equal(by_row[1, row, :columns], values[member, :columns] + layer)

    for columns in (33, 100, 97, 260, 20):  # wider, and at last narrower
        cache.fit(columns, 5, 4)
        assert cache.width >= columns
        check(20)
    assert cache.width == 32
    cache.fit(20, 40, 4)  # room for further rows
    assert cache.slots >= 40
    check(20)
    compaction = without(4, [0, 2])  # row 3 moves to place 0, row 1 stays
    cache.keep(compaction)
    rows.clear()
    rows |= {0: 2, 1: 0}
    check(20)


@pytest.mark.parametrize("leftover", [torch.nan, torch.inf])
def test_columns_without_keys_are_numbers_whatever_was_there(leftover: float) -> None:
    """A masked column weighs 0, but 0 times NaN would be NaN in every later row."""
    cache = KeyValueCache(1, 1, 2, torch.float32, torch.device("cpu"))
    for buffer in cache._buffers:
        buffer.resize_(10**4).fill_(leftover)
    cache.fit(3, 2, 0)
    cache.fill(0, 0, torch.ones(2, 3, 1, 2), torch.ones(2, 3, 1, 2))
    assert cache.layers[0].isfinite().all()
    cache.fit(50, 2, 2)
    assert cache.layers[0].isfinite().all()


def asked(*prefixes: int) -> list[Request]:
    return [Request((p,), SampleKey(0, 0, p, i), SamplingParams()) for i, p in enumerate(prefixes)]


def taken_prefixes(waiting: deque[list[Request]], free: int, whole: bool) -> list[int]:
    return [request.prefix_ids[0] for request in take(waiting, free, whole)]


def test_groups_are_taken_whole_where_they_fit() -> None:
    waiting = groups_of(asked(1, 2, 1, 3, 2, 1, 3))
    assert [len(group) for group in waiting] == [3, 2, 2]
    assert taken_prefixes(waiting, 4, True) == [1, 1, 1]  # 2 would be torn apart
    assert taken_prefixes(waiting, 1, True) == []
    assert taken_prefixes(waiting, 1, False) == [2]  # nothing else runs
    assert taken_prefixes(waiting, 9, True) == [2, 3, 3]
    assert not waiting


def test_a_prefill_pass_has_a_bounded_number_of_tokens() -> None:
    half, whole = (0,) * (PREFILL_TOKENS // 2), (0,) * (PREFILL_TOKENS + 1)
    prefixes = [(half, 1), (half, 2), (half, 3), (whole, 4), (half, 5)]
    passes = passes_of(prefixes)
    assert [[copies for _, copies in part] for part in passes] == [[1, 2], [3], [4], [5]]
