"""One measurement: an arm, on a workload, at a size and a number type, in a process of its own.

Plain data and the standard library only: an opponent's environment reads a job and writes a result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.workloads import Workload

Task = Literal["step", "generate", "score", "learn"]

# The environment that an arm runs in.
ENVIRONMENT_OF = {"ours": "own", "transformers": "own", "trl": "trl", "vllm": "vllm"}


@dataclass(frozen=True)
class Job:
    """`variant` tells settings of the same arm apart ("defaults", "micro 16"); `options` are what it means.

    `warmup` steps come before the `measured` ones and count for nothing.
    """

    task: Task
    arm: str
    size: str
    workload: str
    shape: Workload
    dtype: str
    variant: str = ""
    repeat: int = 0
    warmup: int = 3
    measured: int = 10
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names the job's files."""
        parts = (self.task, self.workload, self.size, self.arm, self.dtype, self.variant, str(self.repeat))
        return "_".join(part.replace(" ", "-") for part in parts if part)

    @property
    def module(self) -> str:
        """The module whose `run` makes the measurement."""
        return f"bench.arms.{self.arm}_{self.task}"

    @property
    def steps(self) -> int:
        """Steps with those of the warm-up."""
        return self.warmup + self.measured

    def to_json(self) -> str:
        """What `job_from` reads."""
        return json.dumps(asdict(self))


def job_from(data: Mapping[str, Any]) -> Job:
    """A job from its JSON object."""
    return Job(**{**data, "shape": Workload(**data["shape"])})


@dataclass(frozen=True)
class Place:
    """Where an arm finds its model and may write."""

    model: Path
    scratch: Path


@dataclass(frozen=True)
class Measured:
    """What an arm found, warm-up included: seconds and completion tokens (up to and with EOS) of each step.

    `parts` are seconds of each step by part; `notes` whatever else is worth keeping.
    """

    seconds: list[float]
    tokens: list[int]
    parts: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def record_of(job: Job, measured: Measured, peak_memory_bytes: int, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The result file of a job, without its warm-up.

    Raises ValueError when there are too few steps, or when a forced workload has another number of tokens.
    """
    if len(measured.seconds) < job.steps or len(measured.tokens) < job.steps:
        raise ValueError(f"{job.name}: {len(measured.seconds)} steps were measured, not {job.steps}")
    kept = slice(job.warmup, job.steps)
    expected = job.shape.rows * job.shape.completion_tokens
    if job.shape.forced and set(measured.tokens[kept]) != {expected}:
        raise ValueError(f"{job.name}: steps have {sorted(set(measured.tokens[kept]))} tokens, not {expected}")
    return {
        "job": asdict(job),
        "seconds": measured.seconds[kept],
        "tokens": measured.tokens[kept],
        "parts": {name: seconds[kept] for name, seconds in measured.parts.items()},
        "warmup_seconds": measured.seconds[: job.warmup],
        "peak_memory_bytes": peak_memory_bytes,
        "notes": measured.notes,
        "machine": dict(machine),
    }
