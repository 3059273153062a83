"""A run's memory: metrics, ledger, checkpoints and summary on disk, progress and alarms on screen."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Protocol

import torch

from upweight import checkpoint
from upweight.config import Config
from upweight.errors import UserError
from upweight.floors import Floors
from upweight.learners.port import Learner
from upweight.memory import peak_memory
from upweight.phases import Clock
from upweight.records.alarms import Alarms
from upweight.records.files import could_not_write
from upweight.records.ledger import cut_ledger, write_ledger
from upweight.records.progress import open_progress
from upweight.records.run_dir import RunDir, write_summary
from upweight.records.trackers import MetricsLog, TensorBoardTracker, Tracker, WandbTracker, cut_metrics, read_metrics
from upweight.speed import run_speed, speed_metrics
from upweight.sync import check_mismatch
from upweight.types import Annotated

FAILURES_KEPT = 20  # of a run: more of them would say the same

# Held-out accuracies by the words that show them; the first that is measured says which checkpoint is the best.
ACCURACIES = {
    "eval/greedy": "greedy",
    "eval/pair_accuracy": "pairs",
    "eval/step_accuracy": "steps",
    "eval/sampled": "sampled",
}


class Remembers(Protocol):
    """A part of a run that a checkpoint must hold: where a source is, an updater's moving options."""

    def state(self) -> dict[str, Any]:
        """What to keep, JSON-able."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what was kept."""


class Run:
    """Enters the folder of a run at its latest intact checkpoint, or at step 0.

    What a killed run wrote after that checkpoint is cut off, so that the resumed run writes it again. `step` is the
    next step to make, `seconds` the training time so far. What its phases take is compared with `floors`.
    """

    def __init__(
        self, config: Config, folder: RunDir, learner: Learner, parts: Mapping[str, Remembers], floors: Floors
    ) -> None:
        self.config, self.folder, self.learner, self.parts, self.floors = config, folder, learner, parts, floors
        on_cpu = floors.ceilings.machine.device == "cpu"
        self.clock = Clock(settle=None if on_cpu else torch.accelerator.synchronize)
        self.step = 0
        self.seconds = 0.0
        self.skipped_in_a_row = 0
        self.best: tuple[int, float] | None = None
        self.evaluations: dict[str, dict[str, float]] = {}
        self.alarms = Alarms()
        self.last_metrics: dict[str, float] = {}
        self._phases: dict[str, float] = {}
        self._opened = ExitStack()
        self._enter_at_checkpoint()

    def _enter_at_checkpoint(self) -> None:
        found = checkpoint.latest(self.folder.checkpoint_dir)
        if found:
            path, state = found
            self.learner.load(path)
            self.step, self.seconds = state["step"], state["seconds"]
            self.skipped_in_a_row = state["skipped_in_a_row"]
            self.best = tuple(state["best"]) if state["best"] else None
            self.evaluations = state["evaluations"]
            self.last_metrics = state["last_metrics"]
            self.alarms.load(state["alarms"])
            for name, part in self.parts.items():
                part.load(state[name])
        cut_metrics(self.folder.metrics_path, self.step)
        cut_metrics(self.folder.failures_path, self.step)
        cut_ledger(self.folder.ledger_dir, self.step)

    def __enter__(self) -> Run:
        records = self.config.records
        self.log = MetricsLog(self.folder.metrics_path)
        self._opened.callback(self.log.close)
        self.trackers: list[Tracker] = []
        if records.tensorboard:
            self.trackers.append(TensorBoardTracker(self.folder.tensorboard_dir, self.step))
        if records.wandb:
            name, settings = self.config.name, self.config.model_dump(mode="json")
            self.trackers.append(WandbTracker("upweight", name, settings, self.folder.path / "wandb"))
        for tracker in self.trackers:
            self._opened.callback(tracker.close)
        limit = None if self.config.max_seconds is None else self.config.max_seconds - self.seconds
        progress = open_progress(self.config.name, self.config.steps, self.step, limit=limit)
        self.progress = self._opened.enter_context(progress)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._opened.__exit__(*exception)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of what happens within towards `time/NAME_seconds` of the step, and by `phases` as well."""
        start = time.perf_counter()
        with self.clock:
            yield
        self._phases[name] = time.perf_counter() - start

    def record(self, step: int, batch: Annotated, stats: dict[str, float]) -> None:
        """Writes the metrics and the ledger of a step.

        Raises SyncError when the sampler's log-probs are not the learner's, and UserError when too many steps in a row
        were not finite; the weights are then saved as they were.
        """
        metrics = {**stats, **{f"rollout/{name}": n for name, n in batch.counts.items()}}
        seconds = sum(self._phases.values())
        self.seconds += seconds
        tokens = sum(int(mask.sum()) for mask in batch.loss_mask)
        clock = speed_metrics(self.clock, self.floors)
        clock |= {f"time/{name}_seconds": spent for name, spent in self._phases.items()}
        clock |= {"time/step_seconds": seconds, "time/tokens_per_second": tokens / seconds}
        self._phases.clear()
        self.clock.clear()
        every = self.config.records.ledger_every
        if every and step % every == 0:
            write_ledger(self.folder.ledger_dir, step, batch)
        self._keep(batch.failures, step)
        self._log(step, {**metrics, **clock})
        self.progress.update(step, {**metrics, **clock})
        for line in self.alarms.check(step, metrics):
            self.progress.note(line)
        self.last_metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        check_mismatch(metrics, self.config.sampling.max_mismatch)
        self._stop_when_not_finite(step, stats)

    def evaluated(self, step: int, metrics: dict[str, float], when: str = "end") -> None:
        """Takes the held-out metrics after a step, or before the first one (`when` = "start")."""
        self.evaluations[when] = {name.removeprefix("eval/"): value for name, value in metrics.items()}
        kind = next(name for name in ACCURACIES if name in metrics)
        accuracy = metrics[kind]
        found = ", ".join(f"{words} {metrics[name]:.1%}" for name, words in ACCURACIES.items() if name in metrics)
        done = 0 if when == "start" else step + 1
        self.progress.note(f"{self.config.name} after {done} steps: held-out accuracy {found}")
        if when == "start":
            return
        self._log(step, metrics)
        if self.best is None or accuracy > self.best[1]:
            self.best = (step + 1, accuracy)

    def checkpoint_due(self, step: int) -> bool:
        """Whether to save after this step: every so often, at the end, out of time, or when it is the best so far."""
        best_now = self.best is not None and self.best[0] == step + 1
        return best_now or self.out_of_time() or due(self.config.checkpoint.every, step, self.config.steps)

    def out_of_time(self) -> bool:
        """Whether the training time has reached `max_seconds`."""
        return self.config.max_seconds is not None and self.seconds >= self.config.max_seconds

    def checkpoint(self, step: int) -> None:
        """Saves all that is needed to go on at `step`. Raises UserError when the disk does not take it."""
        state = {
            "step": step,
            "seconds": self.seconds,
            "skipped_in_a_row": self.skipped_in_a_row,
            "best": self.best,
            "evaluations": self.evaluations,
            "last_metrics": self.last_metrics,
            "alarms": self.alarms.state(),
            **{name: part.state() for name, part in self.parts.items()},
        }
        checkpoint.save(self.folder.checkpoint_dir, step, self.learner.save, state)
        checkpoint.prune(self.folder.checkpoint_dir, self.config.checkpoint.keep, self.best[0] if self.best else None)
        self.step = step

    def finish(self) -> dict[str, Any]:
        """Writes `final/` (the policy of the last checkpoint) and `summary.json`, and returns the summary."""
        found = checkpoint.latest(self.folder.checkpoint_dir)
        if found is None:
            raise RuntimeError("a run is finished after its last checkpoint")
        beside = self.folder.path / ".tmp-final"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            shutil.copytree(found[0] / "policy", beside)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise could_not_write(self.folder.final_dir, error) from error
        shutil.rmtree(self.folder.final_dir, ignore_errors=True)
        beside.rename(self.folder.final_dir)
        summary = {
            "name": self.config.name,
            "algorithm": self.config.algorithm.name,
            "seed": self.config.seed,
            "steps": self.step,
            "seconds": self.seconds,
            **peak_memory(),
            "speed": run_speed(read_metrics(self.folder.metrics_path)),
            "last": self.last_metrics,
            "eval_start": self.evaluations.get("start", {}),
            "eval": self.evaluations.get("end", {}),
            "best": {"step": self.best[0], "accuracy": self.best[1]} if self.best else None,
            "model": str(self.folder.final_dir),
        }
        write_summary(self.folder, summary)
        return summary

    def _keep(self, failures: Sequence[Mapping[str, str]], step: int) -> None:
        """Writes down how rewards failed, the first times that it happens in a run."""
        path = self.folder.failures_path
        room = FAILURES_KEPT - (len(read_metrics(path)) if failures and path.exists() else 0)
        if failures and room > 0:
            with closing(MetricsLog(path)) as log:
                for failure in failures[:room]:
                    log.append({"step": step, **failure})

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        self.log.append({"step": step, **metrics})
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def _stop_when_not_finite(self, step: int, stats: dict[str, float]) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if stats["train/skipped_steps"] else 0
        if self.skipped_in_a_row >= self.config.learner.max_skipped_steps:
            self.checkpoint(step + 1)
            raise UserError(
                f"loss or gradient was not finite in {self.skipped_in_a_row} steps in a row, so training stopped at "
                f"step {step}; the weights are as they were before and saved: lower optimizer.lr, or look for a reward "
                "that is not finite"
            )


def due(every: int, step: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and in any case after the last one, happens after `step`."""
    return step + 1 == steps or (every > 0 and (step + 1) % every == 0)
