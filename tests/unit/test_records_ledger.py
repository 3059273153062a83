"""The token ledger: every token comes back as it was, and equal batches give equal files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from upweight.errors import UserError
from upweight.records.ledger import cut_ledger, read_ledger, write_ledger
from upweight.types import Annotated, Batch, annotated


def make_batch() -> Annotated:
    """Three rows, one of them without a completion token."""
    batch = Batch(
        ids=["a", "b", "c"],
        prompt_ids=[torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([70_000])],
        token_ids=[torch.tensor([5, 6, 7]), torch.tensor([], dtype=torch.long), torch.tensor([8])],
        loss_mask=[torch.tensor([True, False, True]), torch.tensor([], dtype=torch.bool), torch.tensor([True])],
        group_ids=torch.tensor([4, 4, 9]),
        unit_ids=torch.tensor([0, 1, 2]),
        streams=["main"] * 3,
        token_columns={"behavior_logprobs": [torch.tensor([-0.1, 0.0, -0.3]), torch.zeros(0), torch.tensor([-2.5])]},
        row_columns={
            "rewards": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
            "truncated": torch.tensor([False, True, False]),
            "part/correct": torch.tensor([0.0, 1.0, 0.0]),
        },
    )
    double = torch.tensor([0.25, 0.0, -1.5], dtype=torch.float64)
    pushes = [double.clone().requires_grad_(), torch.zeros(0).double(), torch.tensor([float("nan")]).double()]
    return annotated(batch, {"pushes": pushes, "advantages": [double, torch.zeros(0), torch.ones(1)]})


def test_everything_comes_back(tmp_path: Path) -> None:
    assert write_ledger(tmp_path / "ledger", 12, make_batch()) == tmp_path / "ledger" / "step-00000012.parquet"
    table = read_ledger(tmp_path / "ledger", 12)
    floats = pa.list_(pa.field("element", pa.float32()))
    assert {name: table.schema.field(name).type for name in table.column_names} == {
        "step": pa.int64(),
        "id": pa.string(),
        "group": pa.int64(),
        "prompt_ids": pa.list_(pa.field("element", pa.int32())),
        "token_ids": pa.list_(pa.field("element", pa.int32())),
        "loss_mask": pa.list_(pa.field("element", pa.bool_())),
        "advantages": floats,
        "behavior_logprobs": floats,
        "pushes": floats,
        "part/correct": pa.float64(),
        "rewards": pa.float64(),
        "truncated": pa.bool_(),
    }
    rows = table.to_pylist()
    assert [row["step"] for row in rows] == [12, 12, 12]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert [row["group"] for row in rows] == [4, 4, 9]
    assert [row["prompt_ids"] for row in rows] == [[1, 2], [3], [70_000]]
    assert [row["token_ids"] for row in rows] == [[5, 6, 7], [], [8]]
    assert [row["loss_mask"] for row in rows] == [[True, False, True], [], [True]]
    assert [row["rewards"] for row in rows] == [0.1, 0.2, 0.3]
    assert [row["truncated"] for row in rows] == [False, True, False]
    assert [row["part/correct"] for row in rows] == [0.0, 1.0, 0.0]
    assert [row["advantages"] for row in rows] == [[0.25, 0.0, -1.5], [], [1.0]]
    assert rows[0]["behavior_logprobs"] == torch.tensor([-0.1, 0.0, -0.3]).tolist()
    assert rows[0]["pushes"] == [0.25, 0.0, -1.5]
    assert rows[2]["pushes"][0] != rows[2]["pushes"][0]


def test_an_empty_batch_is_an_empty_table(tmp_path: Path) -> None:
    batch = make_batch()
    empty = replace(batch.select([]), row_columns={"rewards": torch.zeros(0)})
    assert isinstance(empty, Annotated)
    write_ledger(tmp_path, 0, empty)
    assert read_ledger(tmp_path, 0).num_rows == 0


def test_equal_batches_give_equal_bytes(tmp_path: Path) -> None:
    first = write_ledger(tmp_path / "one", 3, make_batch()).read_bytes()
    time.sleep(0.01)
    assert write_ledger(tmp_path / "two", 3, make_batch()).read_bytes() == first
    reordered = make_batch()
    reordered = replace(reordered, token_columns=dict(reversed(list(reordered.token_columns.items()))))
    assert write_ledger(tmp_path / "three", 3, reordered).read_bytes() == first


def test_a_step_written_again_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_ledger(tmp_path, 3, make_batch())
    write_ledger(tmp_path, 3, make_batch().select([1]))  # type: ignore[arg-type]
    assert read_ledger(tmp_path, 3).num_rows == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003.parquet"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    batch = replace(make_batch(), row_columns={"pushes": torch.zeros(3)})
    with pytest.raises(ValueError, match="same name"):
        write_ledger(tmp_path, 0, batch)


def test_cut_removes_the_step_and_what_follows(tmp_path: Path) -> None:
    for step in (1, 2, 3, 100_000_000):
        write_ledger(tmp_path, step, make_batch())
    (tmp_path / "notes.parquet").write_text("mine")
    cut_ledger(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.parquet", "step-00000001.parquet"]
    cut_ledger(tmp_path / "missing", 0)


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file")
    with pytest.raises(UserError, match=r"could not be written.*--resume"):
        write_ledger(tmp_path / "ledger", 0, make_batch())


def test_no_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ledger(tmp_path, 5)
