"""Encoded units as the rows of a step, and the rows of two streams side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upweight.encode import EncodedRow, Unit
from upweight.types import Batch


def batch_of_units(units: Sequence[Unit]) -> Batch:
    """Units of a dataset as rows of one step; each unit is its own group."""
    rows: list[EncodedRow] = [row for unit in units for row in unit.rows]
    unit_ids = torch.tensor([i for i, unit in enumerate(units) for _ in unit.rows])
    columns = {name: torch.tensor([value for u in units for value in u.columns[name]]) for name in units[0].columns}
    tokens = {
        name: [torch.tensor(values).double() for unit in units for values in unit.token_columns[name]]
        for name in units[0].token_columns
    }
    return Batch(
        ids=[row.id for row in rows],
        prompt_ids=[torch.tensor(row.prompt_ids) for row in rows],
        token_ids=[torch.tensor(row.token_ids) for row in rows],
        loss_mask=[torch.tensor(row.loss_mask) for row in rows],
        group_ids=unit_ids,
        unit_ids=unit_ids,
        streams=["main"] * len(rows),
        token_columns=tokens,
        row_columns={name: _at_least_double(column) for name, column in columns.items()},
    )


def join(batch: Batch, other: Batch, stream: str) -> Batch:
    """`batch` and after it the rows of `other` as another stream, whose missing columns are zero."""
    tokens = {
        name: [*column, *(torch.zeros(length, dtype=column[0].dtype) for length in other.lengths())]
        for name, column in batch.token_columns.items()
    }
    rows = {name: torch.cat([value, value.new_zeros(len(other))]) for name, value in batch.row_columns.items()}
    return replace(
        batch,
        ids=[*batch.ids, *other.ids],
        prompt_ids=[*batch.prompt_ids, *other.prompt_ids],
        token_ids=[*batch.token_ids, *other.token_ids],
        loss_mask=[*batch.loss_mask, *other.loss_mask],
        group_ids=torch.cat([batch.group_ids, other.group_ids + int(batch.group_ids.max()) + 1]),
        unit_ids=torch.cat([batch.unit_ids, other.unit_ids + int(batch.unit_ids.max()) + 1]),
        streams=[*batch.streams, *[stream] * len(other)],
        token_columns=tokens,
        row_columns=rows,
    )


def _at_least_double(column: Tensor) -> Tensor:
    return column.double() if column.is_floating_point() else column
