"""GSM8K (2110.14168): grade-school word problems whose reference ends in `#### ANSWER`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upweight.config import Gsm8kTask
from upweight.errors import UserError
from upweight.tasks.bad_rows import BadRow, BadRows, OnBadRow
from upweight.tasks.data import Need, TaskData
from upweight.tasks.files import Row, is_local, read_file, read_hub
from upweight.types import Demonstration, Message, Problem

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


def load(config: Gsm8kTask, seed: int, need: Need, on_bad_row: OnBadRow) -> TaskData:
    """The published train split as problems and demonstrations, the test split held out.

    Raises UserError when a file is missing or empty, or a row is bad and may not be skipped.
    """
    train, skipped_train = _split(config.path, "train", on_bad_row)
    test, skipped_test = _split(config.path, "test", on_bad_row)
    return TaskData(
        name="gsm8k",
        weight=config.weight,
        problems=[_problem(row, f"gsm8k/train:{line}") for line, row in train],
        heldout=[_problem(row, f"gsm8k/test:{line}") for line, row in test],
        demonstrations=[_demonstration(row, f"gsm8k/train:{line}") for line, row in train],
        skipped=skipped_train + skipped_test,
    )


def _split(path: str, split: str, on_bad_row: OnBadRow) -> tuple[list[Row], int]:
    rows, bad = _read(path, split, on_bad_row)
    total = len(rows) + len(bad)
    good = [(line, row) for line, row in rows if _is_good(line, row, bad)]
    skipped = bad.finish(total)
    if not good:
        raise UserError(f"{path}: the {split} split of gsm8k has no rows")
    return good, skipped


def _read(path: str, split: str, on_bad_row: OnBadRow) -> tuple[list[Row], BadRows]:
    folder = Path(path).expanduser()
    if not folder.exists() and not is_local(path):
        return read_hub(path, "main", split, on_bad_row)
    if not (folder / f"{split}.jsonl").is_file():
        raise UserError(f"{path}: no {split}.jsonl there; gsm8k is a folder with train.jsonl and test.jsonl")
    return read_file(folder / f"{split}.jsonl", on_bad_row)


def _is_good(line: int, row: Mapping[str, Any], bad: BadRows) -> bool:
    try:
        _check(row)
    except BadRow as error:
        bad.add(line, str(error))
        return False
    return True


def _check(row: Mapping[str, Any]) -> None:
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise BadRow(f"`{key}` must be text" if key in row else f"has no `{key}`")
    if not row["answer"].rpartition("####")[1] or not _answer(row):
        raise BadRow("`answer` does not end in `#### ANSWER`")


def _answer(row: Mapping[str, Any]) -> str:
    return row["answer"].rpartition("####")[2].strip()


def _ask(row: Mapping[str, Any]) -> Message:
    return {"role": "user", "content": row["question"]}


def _problem(row: Mapping[str, Any], id: str) -> Problem:
    return Problem(id, (_ask(row),), _answer(row), {"solution": row["answer"]})


def _demonstration(row: Mapping[str, Any], id: str) -> Demonstration:
    """The reference without its `<<48/2=24>>` marks.

    They call a calculator that fills in what follows; a model that samples alone would only learn to write every
    sum twice, and to spend its tokens on it.
    """
    solution = _CALCULATOR_MARK.sub("", row["answer"])
    return Demonstration(id, (_ask(row), {"role": "assistant", "content": solution}))
