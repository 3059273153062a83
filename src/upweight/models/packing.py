"""Which rows share one padded sequence. Pure arithmetic on lengths."""

from __future__ import annotations

from collections.abc import Sequence


def first_fit_decreasing(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of each bin, so that no bin holds more than `width` tokens: longest first, each into the first with room.

    At most 11/9 of the fewest possible bins, and one. Raises ValueError for a row that is longer than `width`.
    """
    if max(lengths, default=0) > width:
        raise ValueError(f"a row of {max(lengths)} tokens does not fit a bin of {width}")
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = next((i for i, free in enumerate(room) if free >= lengths[row]), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(width)
        bins[place].append(row)
        room[place] -= lengths[row]
    return bins
