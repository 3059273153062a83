"""The demo task, trained until held-out accuracy reaches a goal: what ours and TRL's arm have in common.

Both start from the same imitated model, with the demo's learning rate, schedule and samples a batch, and are judged by
the same greedy answers to the same held-out problems. Judging takes no training time.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench.arms.ours_setup import ALGORITHM, compute
from bench.jobs import Job, Measured, Place

from upweight.config import Config
from upweight.configfile import make_config, merge
from upweight.pipeline import load_pipeline, stage_config

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.toml"
EVERY = 10  # batches between judgements
PROBLEMS = 512


def demo_config(job: Job, place: Place) -> Config:
    """The demo's GRPO stage from a given model, its schedule stretched to `job.options["cap"]` batches."""
    pipeline = load_pipeline(DEMO, [f"seed={job.repeat}"])
    (stage,) = (stage for stage in pipeline.stages if stage.name == "grpo")
    tables = stage_config(pipeline, stage).model_dump(exclude_none=True)
    own = {
        "name": job.name,
        "runs_dir": str(place.scratch / "runs"),
        "steps": job.options["cap"],
        "model": {"path": str(place.model), "device": "cpu"},
        "algorithm": {**ALGORITHM, "minibatches": 2},
        "evaluate": {"every": EVERY, "problems": PROBLEMS, "samples": 0},
        "checkpoint": {"every": 0},
        "records": {"ledger_every": 0, "kl_every": 0, "tensorboard": False},
        **compute(job),
    }
    config = make_config(merge(tables, own), job.name)
    shutil.rmtree(config.run_dir, ignore_errors=True)
    return config


class Course:
    """Held-out accuracy against seconds of training, judgements left out."""

    def __init__(self, job: Job) -> None:
        self.goal = job.options["goal"]
        self.limit = job.options.get("seconds", math.inf)  # of training, after which the goal counts as missed
        self.samples = job.shape.rows
        self.began = time.perf_counter()
        self.judged = 0.0
        self.points: list[dict[str, float]] = []

    def begin(self) -> None:
        """Training begins now."""
        self.began, self.judged = time.perf_counter(), 0.0

    def reached(self, batches: int, accuracy: Callable[[], float]) -> bool:
        """Judges after so many batches, and says whether the goal is reached."""
        start = time.perf_counter()
        found = accuracy()
        self.points.append(
            {
                "batches": batches,
                "samples": batches * self.samples,
                "seconds": start - self.began - self.judged,
                "accuracy": found,
            }
        )
        self.judged += time.perf_counter() - start
        return found >= self.goal or self.points[-1]["seconds"] >= self.limit

    def measured(self, tokens: int) -> Measured:
        """Seconds and samples until the last judgement, which reached the goal or was the last that there was."""
        last = self.points[-1]
        notes = {"reached": last["accuracy"] >= self.goal, "samples": last["samples"], "course": self.points}
        return Measured([last["seconds"]], [tokens], {}, notes)
