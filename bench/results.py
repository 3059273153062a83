"""Result files: one JSON a measurement, and what can be said of many of them together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Spread, rates, spread
from bench.jobs import Job, job_from

Record = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """All repeats of one arm and setting. `speed` is in completion tokens a second, which in A is steps times 4,096."""

    job: Job
    seconds: Spread
    speed: Spread
    parts: dict[str, Spread]
    peak_memory_bytes: int

    @property
    def bench(self) -> tuple[str, str, str]:
        """What it can be compared within: task, workload and size."""
        return self.job.task, self.job.workload, self.job.size

    @property
    def label(self) -> str:
        """The arm in words."""
        variant = f", {self.job.variant}" if self.job.variant else ""
        micro = self.job.options.get("micro")
        rows = f", {micro} rows a pass" if micro and "micro" not in variant else ""
        return f"{self.job.arm}, {self.job.dtype}{variant}{rows}"


def read_records(folder: Path, names: Iterable[str] | None = None) -> list[Record]:
    """The records of a folder, or those of some jobs that are there, in the order of their names."""
    files = sorted(folder.glob("*.json")) if names is None else [folder / f"{name}.json" for name in names]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def lines_of(records: Iterable[Record]) -> list[Line]:
    """One line for each arm and setting, its repeats taken together; in order of first appearance."""
    grouped: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        job = job_from(record["job"])
        grouped.setdefault((job.task, job.workload, job.size, job.arm, job.dtype, job.variant), []).append(record)
    return [_line(group) for group in grouped.values()]


def _line(group: Sequence[Record]) -> Line:
    seconds = [one for record in group for one in record["seconds"]]
    tokens = [one for record in group for one in record["tokens"]]
    names = [name for name in group[0]["parts"] if all(name in record["parts"] for record in group)]
    parts = {name: spread([one for record in group for one in record["parts"][name]]) for name in names}
    peak = max(record["peak_memory_bytes"] for record in group)
    return Line(job_from(group[0]["job"]), spread(seconds), spread(rates(tokens, seconds)), parts, peak)


def best(lines: Iterable[Line], arm: str, dtype: str | None = None) -> Line | None:
    """The fastest setting of an arm by median, of one number type or any; TRL's defaults are not in the race."""
    mine = [
        line
        for line in lines
        if line.job.arm == arm and line.job.variant != "defaults" and dtype in (None, line.job.dtype)
    ]
    return max(mine, key=lambda line: line.speed.median, default=None)


def ratio(lines: Iterable[Line], opponent: str, ours_dtype: str, their_dtype: str | None = None) -> float | None:
    """How many times the opponent's tokens a second ours are, by medians; None where either was not measured."""
    lines = list(lines)
    ours, theirs = best(lines, "ours", ours_dtype), best(lines, opponent, their_dtype)
    return ours.speed.median / theirs.speed.median if ours and theirs else None


def faster_micro(lines: Iterable[Line]) -> dict[tuple[str, str], int]:
    """Of TRL's micro-batches, the faster one at each size and number type."""
    found: dict[tuple[str, str], Line] = {}
    for line in lines:
        key = line.job.size, line.job.dtype
        if key not in found or line.seconds.median < found[key].seconds.median:
            found[key] = line
    return {key: line.job.options["micro"] for key, line in found.items()}
