"""Which rows share a forward pass, and which process takes which rows. Pure arithmetic on lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def units_of(unit_ids: Sequence[int]) -> list[list[int]]:
    """The rows of each unit, units in order of first appearance."""
    units: dict[int, list[int]] = {}
    for row, unit in enumerate(unit_ids):
        units.setdefault(unit, []).append(row)
    return list(units.values())


def microbatches(units: Iterable[Sequence[int]], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Rows of each micro-batch: whole units, longest first, `rows * longest row` within the token budget.

    A unit that is larger than the budget gets a micro-batch of its own. Sorting by length keeps padding small; the
    gradient does not depend on any of this, since every token brings its own weight.
    """
    pieces: list[list[int]] = []
    width = 0
    for unit in sorted(units, key=lambda unit: -max(lengths[row] for row in unit)):
        if not pieces or (len(pieces[-1]) + len(unit)) * width > token_budget:
            pieces.append([])
            width = max(lengths[row] for row in unit)
        pieces[-1].extend(unit)
    return pieces


def packed_microbatches(units: Iterable[Sequence[int]], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Rows of each micro-batch where rows share a sequence: whole units in their order, `sum of lengths` in the budget.

    Long and short rows stay together, so that the short ones fill up what the long ones leave.
    """
    pieces: list[list[int]] = []
    filled = 0
    for unit in units:
        tokens = sum(lengths[row] for row in unit)
        if not pieces or filled + tokens > token_budget:
            pieces.append([])
            filled = 0
        pieces[-1].extend(unit)
        filled += tokens
    return pieces


def shares(units: Iterable[Sequence[int]], lengths: Sequence[int], ranks: int) -> list[list[list[int]]]:
    """Units of each rank, so that the ranks have about equally many tokens: the longest goes to the least loaded."""
    taken: list[list[list[int]]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for unit in sorted(units, key=lambda unit: -sum(lengths[row] for row in unit)):
        rank = load.index(min(load))
        taken[rank].append(list(unit))
        load[rank] += sum(lengths[row] for row in unit)
    return taken
