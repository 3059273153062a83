"""Rows from files and from the Hub, numbered from 1 as the user sees them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from upweight.errors import UserError
from upweight.tasks.bad_rows import BadRow, BadRows, OnBadRow

Row = tuple[int, Mapping[str, Any]]
_SUFFIXES = (".jsonl", ".json", ".parquet")


def read_rows(path: str, split: str, on_bad_row: OnBadRow) -> tuple[list[Row], BadRows]:
    """The rows of a JSONL, JSON or Parquet file that exists, or else of a split of a Hub dataset.

    What is no table of keys and values is in the returned `BadRows` instead. Raises UserError when the file is
    missing or cannot be read, or the Hub has no such dataset.
    """
    file = Path(path).expanduser()
    if file.exists():
        return read_file(file, on_bad_row)
    if is_local(path):
        raise UserError(f"{path}: no such file")
    return read_hub(path, None, split, on_bad_row)


def read_file(file: Path, on_bad_row: OnBadRow) -> tuple[list[Row], BadRows]:
    """The rows of an existing file, by its suffix. Raises UserError when it cannot be read."""
    if file.suffix not in _SUFFIXES or not file.is_file():
        raise UserError(f"{file}: rows are read from a file that ends in {', '.join(_SUFFIXES)}")
    if file.suffix == ".parquet":
        bad = BadRows(on_bad_row, str(file), "row")
        return _tables(enumerate(_read_parquet(file), 1), bad), bad
    try:
        text = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if file.suffix == ".json" and text.lstrip().startswith(b"["):
        bad = BadRows(on_bad_row, str(file), "row")
        return _tables(enumerate(_parse_array(file, text), 1), bad), bad
    bad = BadRows(on_bad_row, str(file))
    return _tables(_parse_lines(text, bad), bad), bad


def is_local(path: str) -> bool:
    """Whether a path that does not exist was meant as a file: Hub ids neither start nor end like this."""
    return path.startswith((".", "/", "~")) or Path(path).suffix in _SUFFIXES


def read_hub(path: str, name: str | None, split: str, on_bad_row: OnBadRow) -> tuple[list[Row], BadRows]:
    """The rows of one split of a Hub dataset. Raises UserError when it cannot be had."""
    from datasets import load_dataset  # slow to import, and needed by Hub data alone

    try:
        rows = load_dataset(path, name, split=split)
    except (OSError, ValueError) as error:  # no such dataset, split or config; no connection
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no such local file, and the Hub does not give split {split!r}: {reason}") from None
    bad = BadRows(on_bad_row, path, "row")
    return _tables(enumerate(rows, 1), bad), bad


def _tables(rows: Iterable[tuple[int, Any]], bad: BadRows) -> list[Row]:
    good: list[Row] = []
    for line, row in rows:
        if isinstance(row, Mapping):
            good.append((line, row))
        else:
            bad.add(line, f"a row is an object with keys, not {type(row).__name__}")
    return good


def _parse_lines(text: bytes, bad: BadRows) -> Iterable[tuple[int, Any]]:
    """The values of non-blank lines."""
    for line, source in enumerate(text.split(b"\n"), 1):
        if source.strip():
            try:
                yield line, _parse(source)
            except BadRow as error:
                bad.add(line, str(error))


def _parse(source: bytes) -> Any:
    try:
        return json.loads(source.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRow("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON ({error})") from None


def _parse_array(file: Path, text: bytes) -> list[Any]:
    try:
        return list(_parse(text))
    except BadRow as error:
        raise UserError(f"{file}: {error}") from None


def _read_parquet(file: Path) -> list[Any]:
    from pyarrow import ArrowInvalid, parquet

    try:
        return parquet.read_table(file).to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a Parquet file: {' '.join(str(error).split())[:200]}") from None
