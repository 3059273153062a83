"""How a run shows that it is alive: a bar on a terminal, a plain line now and then elsewhere; always on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

SHOWN = {
    "reward/mean": "reward {:.3f}",
    "rollout/accuracy": "accuracy {:.1%}",
    "train/loss": "loss {:.4f}",
    "time/tokens_per_second": "{:,.0f} tokens/s",
}


class Progress(Protocol):
    """Shows a run's progress while it is entered."""

    def __enter__(self) -> Progress:
        """Begins to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops, whether the run ended well or not."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step`, counted from 0, is finished and has these metrics."""

    def note(self, line: str) -> None:
        """Shows a line that stays: an alarm, an evaluation."""


def open_progress(
    label: str, steps: int, start: int = 0, stream: TextIO | None = None, limit: float | None = None
) -> Progress:
    """The progress that suits `stream` (stderr unless given) for a run of `steps` steps that begins at `start`.

    A run that stops after `limit` seconds, whatever its steps, has no more time left than that.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        return BarProgress(label, steps, start, stream)
    return PlainProgress(label, steps, start, stream, limit=limit)


class BarProgress:
    """A bar that redraws itself, for a terminal."""

    def __init__(self, label: str, steps: int, start: int, stream: TextIO) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
            console=Console(file=stream),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(label, total=steps, completed=start, numbers="")

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is finished and has these metrics."""
        self._bar.update(self._task, completed=step + 1, numbers=numbers(metrics))

    def note(self, line: str) -> None:
        """A line above the bar; what looks like markup in it is shown as it is."""
        self._bar.console.print(Text(line))


class PlainProgress:
    """A line at the first step, at the last, and every `seconds` between, for logs and pipes."""

    def __init__(
        self,
        label: str,
        steps: int,
        start: int,
        stream: TextIO,
        seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        limit: float | None = None,
    ) -> None:
        self._limit = math.inf if limit is None else limit
        self._label, self._steps, self._start = label, steps, start
        self._stream, self._seconds, self._clock = stream, seconds, clock
        self._began = clock()
        self._shown: float | None = None

    def __enter__(self) -> PlainProgress:
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is finished and has these metrics."""
        now, done = self._clock(), step + 1
        if self._shown is not None and now - self._shown < self._seconds and done < self._steps:
            return
        self._shown = now
        spent = now - self._began
        left = max(0.0, min((self._steps - done) * spent / max(done - self._start, 1), self._limit - spent))
        parts = [f"{self._label} step {done}/{self._steps}", numbers(metrics), f"{duration(left)} left"]
        self.note("  ".join(part for part in parts if part))

    def note(self, line: str) -> None:
        """A line of its own."""
        print(line, file=self._stream, flush=True)


def numbers(metrics: Mapping[str, float]) -> str:
    """The few metrics that are worth watching, in words; the loss only where there is no reward to watch."""
    shown = [key for key in SHOWN if key in metrics and (key != "train/loss" or "reward/mean" not in metrics)]
    return "  ".join(SHOWN[key].format(metrics[key]) for key in shown)


def duration(seconds: float) -> str:
    """Seconds as `45 s`, `3 min 20 s` or `2 h 5 min`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"
