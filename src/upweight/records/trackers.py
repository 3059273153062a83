"""Where metrics go: `metrics.jsonl`, always, and the trackers that are asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from upweight.errors import UserError
from upweight.records.files import could_not_write, replace_file, to_json


class MetricsLog:
    """Appends one JSON object a line to `metrics.jsonl`; NaN and infinities are written as null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise could_not_write(path, error) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a record, which must have a `step`, unbuffered: a killed process loses none.

        Raises ValueError without a step, and UserError when the line cannot be written.
        """
        if "step" not in record:
            raise ValueError("a record of metrics.jsonl needs its step, or a resumed run could not cut it off")
        rest = (to_json(record) + "\n").encode()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise could_not_write(self.path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, a torn last line left out. Raises UserError when another line is no JSON."""
    return [record for _, record in _whole_lines(path)]


def cut_metrics(path: Path, step: int) -> None:
    """Keeps the records of the steps before `step` as they were written, byte for byte. No file, nothing to do."""
    if path.exists():
        kept = [line for line, record in _whole_lines(path) if record["step"] < step]
        replace_file(path, b"".join(kept))


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line with its record. A last line without its newline was torn by a kill, and is not there."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue
        try:
            record = json.loads(line)
        except ValueError:
            raise UserError(f"{path}: line {number} is not JSON: mend or remove that line") from None
        if not isinstance(record, dict) or "step" not in record:
            raise UserError(f"{path}: line {number} is no record of a step: mend or remove that line")
        found.append((line, record))
    return found


class Tracker(Protocol):
    """A place where metrics are looked at, beside `metrics.jsonl`."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step."""

    def close(self) -> None:
        """Writes what is still held back."""


class TensorBoardTracker:
    """Scalars for TensorBoard; events of `purge_step` and later, left by a killed run, are not shown."""

    def __init__(self, folder: Path, purge_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every run wants it

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the finite metrics of a step."""
        for name, value in metrics.items():
            if name != "step" and math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still held back."""
        self._writer.close()


class WandbTracker:
    """Weights & Biases; a run killed in the same `folder` is continued. Raises UserError when it is not installed."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                'records.wandb is on but wandb is not installed: pip install "upweight[wandb]", or set '
                "records.wandb = false"
            ) from None
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=project, name=name, config=dict(config), dir=str(folder), resume="auto")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Writes what is still held back."""
        self._run.finish()
