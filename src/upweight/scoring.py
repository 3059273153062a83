"""Completions of a file are scored offline: what a reward makes of each, and where it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from upweight.config import RewardsConfig
from upweight.configfile import apply_overrides, make_config, read_toml
from upweight.errors import UserError
from upweight.rewards.call import Failed
from upweight.rewards.make import make_rewards
from upweight.tasks.bad_rows import BadRow
from upweight.tasks.files import read_rows
from upweight.tasks.parse import parse_answered
from upweight.types import Prompt


@dataclass(frozen=True)
class ScoredRow:
    """One completion: `outcome` is "value", or the kind of failure, which then has a `message` and no reward."""

    reward: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    outcome: str = "value"
    message: str = ""


def score(
    file: str | Path, *overrides: str, reward: Sequence[str] = (), config: str | Path | None = None
) -> list[ScoredRow]:
    """What rewards make of the rows of a file, in their order.

    A row has `completion`, `prompt` or `messages`, and what the reward reads: `answer`, other columns. A completion
    that was cut off says so with `finish_reason` = "length". The rewards are those of a run's config, or each of
    `reward`, `function` or `name=function`; `overrides` are `key=value`, such as rewards.parts.correct.weight=2.
    Raises UserError when a row or a reward is not what it must be.
    """
    rewards = make_rewards(_rewards_config(str(file), overrides, reward, config))
    try:
        pending = [
            rewards.submit(prompt, completion, "length" if prompt.fields.get("finish_reason") == "length" else "stop")
            for prompt, completion in _answered(str(file))
        ]
        return [_scored(one.result()) for one in pending]
    finally:
        rewards.close()


def _scored(outcome: Any) -> ScoredRow:
    if isinstance(outcome, Failed):
        return ScoredRow(None, {}, outcome.kind, f"{outcome.part}: {outcome.message}")
    return ScoredRow(outcome.reward, outcome.parts)


def _rewards_config(
    file: str, overrides: Sequence[str], reward: Sequence[str], config: str | Path | None
) -> RewardsConfig:
    if not reward and config is None:
        raise UserError("say what is right: --reward number, --reward file.py:name, or --config FILE")
    tables = dict(read_toml(Path(config)).get("rewards", {})) if config is not None else {}
    if reward:
        named = (one.rpartition("=") for one in reward)
        tables["parts"] = {name or function.rpartition(":")[2]: {"function": function} for name, _, function in named}
    whole = {"steps": 1, "algorithm": "reinforce", "model": {"path": "-"}, "data": {"path": file}, "rewards": tables}
    return make_config(apply_overrides(whole, overrides), "score").rewards


def _answered(file: str) -> list[tuple[Prompt, str]]:
    rows, bad = read_rows(file, "train", "error")
    found = []
    for number, row in rows:
        try:
            problem, completion = parse_answered(row, f"{Path(file).stem}:{number}")
        except BadRow as error:
            bad.add(number, str(error))
            continue
        found.append((Prompt(problem.id, problem.messages, (), problem.answer, problem.fields), completion))
    bad.finish(len(rows))
    return found


def summary(rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """Means of the reward and of each part over the rows that have them, and failures by kind."""
    good = [row for row in rows if row.reward is not None]
    names = list(good[0].parts) if good else []
    return {
        "rows": len(rows),
        "reward": fmean(row.reward for row in good if row.reward is not None) if good else None,
        "parts": {name: fmean(row.parts[name] for row in good) for name in names},
        "failed": dict(Counter(row.outcome for row in rows if row.reward is None)),
    }
