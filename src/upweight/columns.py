"""From ragged rows to the tensors that a function of `objectives/` reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from upweight.objectives.tokens import pad
from upweight.types import Batch


def padded_columns(rows: Batch) -> dict[str, Tensor]:
    """Every column of the rows by its name: token columns and `loss_mask` [N, T], filled with 0, the others [N].

    `parts` and `part_weights`, [N, parts], are the columns `part/NAME` and `part_weight/NAME` side by side.
    """
    return {
        **_side_by_side(rows.row_columns),
        **{name: pad(column) for name, column in rows.token_columns.items()},
        **rows.row_columns,
        "loss_mask": pad(rows.loss_mask).bool(),
        "group_ids": rows.group_ids,
        "unit_ids": rows.unit_ids,
    }


def _side_by_side(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = [name.removeprefix("part_weight/") for name in columns if name.startswith("part_weight/")]
    if not names:
        return {}
    return {
        "parts": torch.stack([columns[f"part/{name}"] for name in names], dim=1),
        "part_weights": torch.stack([columns[f"part_weight/{name}"] for name in names], dim=1),
    }


def with_pairs(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The columns and, of pairs, each column of the chosen and of the rejected rows, [pairs, ...].

    The two rows of a pair stand next to each other; pairs keep their order.
    """
    if "chosen" not in columns:
        return columns
    chosen = columns["chosen"]
    return {
        **columns,
        **{f"chosen_{name}": column[chosen] for name, column in columns.items()},
        **{f"rejected_{name}": column[~chosen] for name, column in columns.items()},
    }


def ragged(padded: Tensor, lengths: list[int]) -> list[Tensor]:
    """[N, T] as one [T_i] tensor a row."""
    return [padded[i, :length] for i, length in enumerate(lengths)]


def first_of_units(unit_ids: Tensor) -> Tensor:
    """The index of the first row of each unit, in order."""
    seen: dict[int, int] = {}
    for row, unit in enumerate(unit_ids.tolist()):
        seen.setdefault(unit, row)
    return torch.tensor(list(seen.values()), dtype=torch.long)
