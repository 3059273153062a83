"""The token ledger: what happened to every token of every rollout, one Parquet file a step.

    ledger/step-00000012.parquet

One row a rollout, in the order of the batch: `step`, `id`, `group`, `prompt_ids`, `token_ids`, `loss_mask`, then the
token columns of the batch (a float32 list each, aligned with `token_ids`) and its row columns, under their own names.
What a tool said was not sampled: no column has a log-prob of it, nan stands there.
`push/TERM` is what that term of the loss multiplied grad log pi of the token with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from upweight.records.files import replace_file
from upweight.types import Annotated

_NAME = re.compile(r"step-(\d{8,})\.parquet")


def ledger_path(folder: Path, step: int) -> Path:
    """Where the ledger of a step lies."""
    return folder / f"step-{step:08d}.parquet"


def write_ledger(folder: Path, step: int, batch: Annotated) -> Path:
    """Writes the ledger of a step and returns its path; equal batches give equal bytes.

    Raises ValueError when two columns would have the same name, and UserError when the file cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(ledger_table(step, batch), sink, compression="zstd")
    path = ledger_path(folder, step)
    replace_file(path, sink.getvalue().to_pybytes())
    return path


def ledger_table(step: int, batch: Annotated) -> pa.Table:
    """A batch as a table, one row a rollout. Raises ValueError when two columns would have the same name."""
    columns = [
        ("step", pa.array([step] * len(batch), pa.int64())),
        ("id", pa.array(list(batch.ids), pa.string())),
        ("group", _row_column(batch.group_ids)),
        ("prompt_ids", _token_column(batch.prompt_ids, torch.int32)),
        ("token_ids", _token_column(batch.token_ids, torch.int32)),
        ("loss_mask", _token_column(batch.loss_mask, torch.bool)),
    ]
    columns += [(name, _token_column(rows, torch.float32)) for name, rows in sorted(_sampled_only(batch).items())]
    columns += [(name, _row_column(values)) for name, values in sorted(batch.row_columns.items())]
    names = [name for name, _ in columns]
    if len(set(names)) != len(names):
        raise ValueError(f"two columns of the ledger have the same name: {', '.join(names)}")
    return pa.table([array for _, array in columns], names=names)


def read_ledger(folder: Path, step: int) -> pa.Table:
    """The ledger of a step. Raises FileNotFoundError when none was written."""
    return pq.read_table(ledger_path(folder, step))


def cut_ledger(folder: Path, step: int) -> None:
    """Removes the ledgers of `step` and of all later ones."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) >= step:
            path.unlink()


def _sampled_only(batch: Annotated) -> dict[str, Sequence[Tensor]]:
    """The token columns, with log-probs of none but sampled tokens, which are those that the sampler gave one."""
    tokens = dict(batch.token_columns)
    if "behavior_logprobs" not in tokens:
        return tokens
    told = [row.isnan() for row in tokens["behavior_logprobs"]]
    for name in (name for name in tokens if name.endswith("logprobs")):
        tokens[name] = [row.masked_fill(gone, torch.nan) for row, gone in zip(tokens[name], told, strict=True)]
    return tokens


def _token_column(rows: Sequence[Tensor], dtype: torch.dtype) -> pa.ListArray:
    """Ragged rows as one list column; built from offsets, since a Python list of each token would be slow."""
    offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int32)
    values = torch.cat([torch.zeros(0, dtype=dtype), *(row.detach().cpu().to(dtype) for row in rows)])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.numpy()))


def _row_column(values: Tensor) -> pa.Array:
    """One value a row: bool and int64 as they are, every float as float64."""
    return pa.array((values.double() if values.is_floating_point() else values).detach().cpu().numpy())
