"""Our GRPO step: the loop of `upweight.train`, timed from one step's beginning to the next one's."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from bench.arms.ours_setup import session_of
from bench.jobs import Job, Measured, Place

from upweight.learners.port import Learner
from upweight.records.trackers import read_metrics
from upweight.sources import Source
from upweight.train import train
from upweight.types import Batch
from upweight.update import Updater


class TimedSource:
    """A source that remembers when each step began, how long its rollouts took and how many tokens they have."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.began: list[float] = []
        self.rollout: list[float] = []
        self.tokens: list[int] = []

    def next(self, step: int) -> Batch:
        """The source's, timed."""
        self.began.append(time.perf_counter())
        batch = self.source.next(step)
        self.rollout.append(time.perf_counter() - self.began[-1])
        self.tokens.append(sum(batch.lengths()))
        return batch

    def sync(self, learner: Learner, version: int) -> None:
        """The source's."""
        self.source.sync(learner, version)


class TimedUpdater:
    """An updater that remembers how long each update took."""

    def __init__(self, updater: Updater) -> None:
        self.updater = updater
        self.seconds: list[float] = []

    def update(self, *arguments: Any) -> Any:
        """The updater's, timed."""
        start = time.perf_counter()
        found = self.updater.update(*arguments)
        self.seconds.append(time.perf_counter() - start)
        return found


def run(job: Job, place: Place) -> Measured:
    """Seconds a step, all of it: rollout, update, sync, record. One step more shows when the last one ended."""
    session = session_of(job, place, job.steps + 1)
    source, updater = TimedSource(session.source), TimedUpdater(session.updater)
    train(replace(session, source=source, updater=updater))  # type: ignore[arg-type]
    seconds = [end - start for start, end in zip(source.began, source.began[1:], strict=False)]
    rows = read_metrics(session.config.run_dir / "metrics.jsonl")[job.warmup : job.steps]
    clocks = {key: [row[key] for row in rows if key in row] for key in rows[0] if key.startswith(("time/", "speed/"))}
    parts = {"rollout": source.rollout, "update": updater.seconds}
    return Measured(seconds, source.tokens, parts, {"phases": clocks})
