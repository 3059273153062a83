"""Which rows share a forward pass, and which process takes which rows. Pure arithmetic on lengths."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from upweight.models.trunk import LayoutKind
from upweight.types import Batch


def cut_rows(rows: Batch, units: list[list[int]], layout: LayoutKind, token_budget: int) -> list[list[int]]:
    """Rows of each micro-batch, cut as suits the layout that they will be computed in."""
    prompts, completions = [len(prompt) for prompt in rows.prompt_ids], rows.lengths()
    lengths = [p + t for p, t in zip(prompts, completions, strict=True)]
    if layout == "padded":
        return microbatches(units, lengths, token_budget)
    if layout == "packed":
        return packed_microbatches(units, lengths, token_budget)
    keys = [tuple(prompt.tolist()) for prompt in rows.prompt_ids]
    return shared_microbatches(units, keys, prompts, completions, token_budget)


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


def shared_microbatches(
    units: Iterable[Sequence[int]],
    prompts: Sequence[Hashable],
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[int],
    token_budget: int,
) -> list[list[int]]:
    """Rows of each micro-batch where rows with the same prompt share it: whole units, those of a prompt together.

    A prompt counts once a micro-batch. A group may be split; its prompt is then computed again.
    """
    together: dict[Hashable, list[Sequence[int]]] = {}
    for unit in units:
        together.setdefault(prompts[unit[0]], []).append(unit)
    pieces: list[list[int]] = []
    seen: set[Hashable] = set()
    filled = 0
    for unit in (unit for units_of_prompt in together.values() for unit in units_of_prompt):
        new = {prompts[row]: prompt_lengths[row] for row in unit}
        own = sum(completion_lengths[row] for row in unit)
        tokens = own + sum(length for prompt, length in new.items() if prompt not in seen)
        if not pieces or filled + tokens > token_budget:
            pieces.append([])
            seen, filled, tokens = set(), 0, own + sum(new.values())
        pieces[-1].extend(unit)
        seen |= new.keys()
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
