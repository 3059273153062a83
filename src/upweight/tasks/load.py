"""The table of tasks, and the data of a mixture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from upweight.config import DataConfig
from upweight.errors import UserError
from upweight.tasks import arithmetic, countdown, gsm8k, gym, rows
from upweight.tasks.bad_rows import OnBadRow
from upweight.tasks.data import KEYS, Need, TaskData

Loader = Callable[[Any, int, Need, OnBadRow], TaskData]

TASKS: dict[str, Loader] = {
    "arithmetic": arithmetic.load,
    "countdown": countdown.load,
    "gsm8k": gsm8k.load,
    "reasoning_gym": gym.load,
    "rows": rows.load,
}


def load_data(config: DataConfig, seed: int, need: Need) -> tuple[TaskData, ...]:
    """The data of every task of the mixture, in its order, under names that differ (`rows`, `rows-2`).

    Raises UserError for data that is missing, bad or empty, or a task that has none of the needed kind.
    """
    loaded = [TASKS[task.task](task, seed, need, config.on_bad_row) for task in config.mixture]
    seen: Counter[str] = Counter()
    named: list[TaskData] = []
    for data in loaded:
        if not getattr(data, need):
            raise UserError(
                f"data: task {data.name!r} has no {need}, which this algorithm learns from: give data.path, a file of "
                f"rows with {KEYS[need]}"
            )
        seen[data.name] += 1
        named.append(replace(data, name=f"{data.name}-{seen[data.name]}") if seen[data.name] > 1 else data)
    return tuple(named)
