"""The user's own rows: JSONL, JSON, Parquet or a Hub dataset."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from upweight.config import RowsTask
from upweight.errors import UserError
from upweight.tasks.bad_rows import BadRow, BadRows, OnBadRow
from upweight.tasks.data import Need, TaskData
from upweight.tasks.files import Row, read_rows
from upweight.tasks.parse import parse_demonstration, parse_label, parse_pair, parse_problem, parse_steps
from upweight.tasks.split import content_hash
from upweight.types import Demonstration, JudgedSteps, LabelledCompletion, PreferencePair, Problem

Item = Problem | Demonstration | PreferencePair | LabelledCompletion | JudgedSteps
Kind = TypeVar("Kind", Problem, Demonstration, PreferencePair, LabelledCompletion, JudgedSteps)
Parser = Callable[[Any, str], Item]

_PARSERS: dict[Need, Parser] = {
    "problems": parse_problem,
    "demonstrations": parse_demonstration,
    "pairs": parse_pair,
    "labels": parse_label,
    "steps": parse_steps,
}
# What is evaluated as it is, and not by answering it anew; of a held-out question all of them are kept.
_JUDGED = (PreferencePair, JudgedSteps)


class _Parsed(NamedTuple):
    row: Row
    item: Item
    key: str


class _Apart(NamedTuple):
    """What is held out, the keys that may not train, and how many rows of its source are held out or were bad."""

    problems: list[Problem]
    pairs: list[PreferencePair]
    steps: list[JudgedSteps]
    keys: frozenset[str]
    rows: int = 0
    skipped: int = 0


def load(config: RowsTask, seed: int, need: Need, on_bad_row: OnBadRow) -> TaskData:
    """Rows of the needed kind to train on, and problems and pairs held out.

    Held-out rows come from `heldout_path`, or are those of the `heldout` distinct questions with the smallest hashes,
    which no seed and no order of the file changes; a row that asks a held-out question never trains, whatever its
    answer. Held-out problems are there to be answered and scored, so they need an `answer`, also when the rows are
    demonstrations or labelled. Pairs and judged steps are held out as they are, all about a held-out question; its
    problem is there too where one of them has an `answer`.
    Raises UserError when a source has no rows, none is left to train on, or a row is bad and may not be skipped.
    """
    if config.heldout_path is not None and config.heldout:
        raise UserError("give either data.heldout_path or data.heldout, not both")
    rows, bad = read_rows(config.path, config.split, on_bad_row)
    total = len(rows) + len(bad)
    parsed = _parse(rows, config.path, _PARSERS[need], bad)
    if config.heldout_path is not None:
        apart = _read_apart(config.heldout_path, config.split, need, on_bad_row)
    else:
        apart = _set_apart(parsed, config.heldout, bad)
    skipped = bad.finish(total) + apart.skipped
    train = [one.item for one in parsed if one.key not in apart.keys]
    if not train:
        beside = f" beside the {len(apart.keys)} held-out questions" if apart.keys else ""
        raise UserError(f"{config.path}: there are no rows to train on{beside}")
    repeats = len(parsed) - len(train) - apart.rows
    if repeats:
        print(f"warning: {config.path}: {repeats} rows repeat a held-out question; left out", file=sys.stderr)
    return TaskData(
        name=Path(config.path).stem,
        weight=config.weight,
        problems=_only(Problem, train),
        heldout=apart.problems,
        demonstrations=_only(Demonstration, train),
        skipped=skipped + repeats,
        pairs=_only(PreferencePair, train),
        labels=_only(LabelledCompletion, train),
        heldout_pairs=apart.pairs,
        steps=_only(JudgedSteps, train),
        heldout_steps=apart.steps,
    )


def _only(kind: type[Kind], items: Sequence[Item]) -> list[Kind]:
    return [item for item in items if isinstance(item, kind)]


def _parse(rows: list[Row], path: str, parser: Parser, bad: BadRows) -> list[_Parsed]:
    parsed: list[_Parsed] = []
    for line, row in rows:
        try:
            item = parser(row, f"{path}:{line}")
        except BadRow as error:
            bad.add(line, str(error))
        else:
            parsed.append(_Parsed((line, row), item, _question_key(item)))
    return parsed


def _question_key(item: Item) -> str:
    """What is asked, without the last answer: the whole conversation where nothing is asked before that."""
    messages = item.messages
    if messages[-1]["role"] == "assistant" and any(message["role"] == "user" for message in messages):
        messages = messages[:-1]
    return json.dumps([dict(message) for message in messages], sort_keys=True)


def _set_apart(parsed: list[_Parsed], questions: int, bad: BadRows) -> _Apart:
    """One row of each held-out question, or all of them where they are judged."""
    asked: dict[str, list[_Parsed]] = {}
    for one in parsed:
        asked.setdefault(one.key, []).append(one)
    keys = sorted(asked, key=lambda key: (content_hash(key), key))[:questions]
    kept = [one for key in keys for one in asked[key] if one is asked[key][0] or isinstance(one.item, _JUDGED)]
    return _held_out(kept, bad)._replace(rows=len(kept))


def _read_apart(path: str, split: str, need: Need, on_bad_row: OnBadRow) -> _Apart:
    rows, bad = read_rows(path, split, on_bad_row)
    total = len(rows) + len(bad)
    parsed = _parse(rows, path, _APART_PARSERS.get(need, parse_problem), bad)
    apart = _held_out(parsed, bad)
    skipped = bad.finish(total)
    if not apart.problems and not apart.pairs and not apart.steps:
        raise UserError(f"{path}: there are no rows to evaluate on")
    return apart._replace(skipped=skipped)


def _pair_or_problem(row: Any, id: str) -> Item:
    """Pairs are evaluated as pairs, problems by answering them; a file may have either, or both."""
    is_pair = row.get("chosen") is not None or row.get("rejected") is not None
    return parse_pair(row, id) if is_pair else parse_problem(row, id)


def _steps_or_problem(row: Any, id: str) -> Item:
    """The same of judged steps."""
    return parse_steps(row, id) if row.get("completions") is not None else parse_problem(row, id)


_APART_PARSERS: dict[Need, Parser] = {"pairs": _pair_or_problem, "steps": _steps_or_problem}


def _held_out(kept: list[_Parsed], bad: BadRows) -> _Apart:
    problems: list[Problem] = []
    pairs: list[PreferencePair] = []
    steps: list[JudgedSteps] = []
    known: set[str] = set()  # several pairs are about one question, which is one problem
    for (line, row), item, key in kept:
        try:
            problem = _problem(row, item)
        except BadRow as error:
            bad.add(line, f"held out for evaluation, but it {error}")
            continue
        if isinstance(item, PreferencePair):
            pairs.append(item)
        if isinstance(item, JudgedSteps):
            steps.append(item)
        if problem is not None and not (isinstance(item, _JUDGED) and key in known):
            problems.append(problem)
            known.add(key)
    return _Apart(problems, pairs, steps, frozenset(one.key for one in kept))


def _problem(row: Any, item: Item) -> Problem | None:
    """A held-out row as a problem; None for a judged one without an answer, which is evaluated as it is alone."""
    if isinstance(item, Problem):
        return item
    if not isinstance(item, _JUDGED):
        return parse_problem(row, item.id)
    return None if row.get("answer") is None else parse_problem({**row, "messages": item.messages}, item.id)
