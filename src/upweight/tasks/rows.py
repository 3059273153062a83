"""The user's own rows: JSONL, JSON, Parquet or a Hub dataset."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from upweight.config import RowsTask
from upweight.errors import UserError
from upweight.tasks.bad_rows import BadRow, BadRows, OnBadRow
from upweight.tasks.data import Need, TaskData
from upweight.tasks.files import Row, read_rows
from upweight.tasks.parse import parse_demonstration, parse_problem
from upweight.tasks.split import content_hash
from upweight.types import Demonstration, Problem


class _Parsed(NamedTuple):
    row: Row
    item: Problem | Demonstration
    key: str


class _Apart(NamedTuple):
    """What is held out: its problems, the keys that may not train, and the source's rows that were bad."""

    problems: list[Problem]
    keys: frozenset[str]
    skipped: int = 0


def load(config: RowsTask, seed: int, need: Need, on_bad_row: OnBadRow) -> TaskData:
    """Problems or demonstrations, whichever is needed, and problems held out.

    Held-out rows come from `heldout_path`, or are the `heldout` distinct questions with the smallest hashes, which
    no seed and no order of the file changes; a row that asks a held-out question never trains, whatever its answer.
    Since held-out rows are scored they need an `answer`, also when the others are demonstrations.
    Raises UserError when a source has no rows, none is left to train on, or a row is bad and may not be skipped.
    """
    if config.heldout_path is not None and config.heldout:
        raise UserError("give either data.heldout_path or data.heldout, not both")
    rows, bad = read_rows(config.path, config.split, on_bad_row)
    total = len(rows) + len(bad)
    parsed = _parse(rows, config.path, need, bad)
    if config.heldout_path is not None:
        apart = _read_apart(config.heldout_path, config.split, on_bad_row)
    else:
        apart = _set_apart(parsed, config, bad)
    skipped = bad.finish(total) + apart.skipped
    train = [one.item for one in parsed if one.key not in apart.keys]
    if not train:
        beside = f" beside the {len(apart.keys)} held-out questions" if apart.keys else ""
        raise UserError(f"{config.path}: there are no rows to train on{beside}")
    repeats = len(parsed) - len(train) - (len(apart.keys) if config.heldout_path is None else 0)
    if repeats:
        print(f"warning: {config.path}: {repeats} rows repeat a held-out question; left out", file=sys.stderr)
    return TaskData(
        name=Path(config.path).stem,
        weight=config.weight,
        problems=[item for item in train if isinstance(item, Problem)],
        heldout=apart.problems,
        demonstrations=[item for item in train if isinstance(item, Demonstration)],
        skipped=skipped + repeats,
    )


def _parse(rows: list[Row], path: str, need: Need, bad: BadRows) -> list[_Parsed]:
    parsed: list[_Parsed] = []
    for line, row in rows:
        try:
            id = f"{path}:{line}"
            item = parse_problem(row, id) if need == "problems" else parse_demonstration(row, id)
        except BadRow as error:
            bad.add(line, str(error))
        else:
            parsed.append(_Parsed((line, row), item, _question_key(item)))
    return parsed


def _question_key(item: Problem | Demonstration) -> str:
    """What is asked, without the last answer: the whole conversation where nothing is asked before that."""
    messages = item.messages
    if messages[-1]["role"] == "assistant" and any(message["role"] == "user" for message in messages):
        messages = messages[:-1]
    return json.dumps([dict(message) for message in messages], sort_keys=True)


def _set_apart(parsed: list[_Parsed], config: RowsTask, bad: BadRows) -> _Apart:
    first = {one.key: one for one in reversed(parsed)}
    problems, keys = [], sorted(first, key=lambda key: (content_hash(key), key))[: config.heldout]
    for key in keys:
        (line, row), item, _ = first[key]
        try:
            problems.append(item if isinstance(item, Problem) else parse_problem(row, item.id))
        except BadRow as error:
            bad.add(line, f"held out for evaluation, but it {error}")
    return _Apart(problems, frozenset(keys))


def _read_apart(path: str, split: str, on_bad_row: OnBadRow) -> _Apart:
    rows, bad = read_rows(path, split, on_bad_row)
    total = len(rows) + len(bad)
    parsed = _parse(rows, path, "problems", bad)
    skipped = bad.finish(total)
    if not parsed:
        raise UserError(f"{path}: there are no rows to evaluate on")
    problems = [one.item for one in parsed if isinstance(one.item, Problem)]
    return _Apart(problems, frozenset(one.key for one in parsed), skipped)
