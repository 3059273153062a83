"""The loop. It knows no method by name, and a new method never adds a flag to it.

    task -> prompts -> sampler -> completions -> rewards -> rollouts -> advantages -> update -> new weights -> sampler

Everything in it is a port or a value that `compose.py` picked.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from upweight.config import Config
from upweight.evaluate import Evaluator, PairEvaluator, StepEvaluator
from upweight.learners.port import Learner
from upweight.phases import phase
from upweight.run import Run, due
from upweight.sources import Source
from upweight.update import Updater


@dataclass(frozen=True)
class Session:
    """All that a run is made of. `evaluator` is None when the config asks for no evaluation."""

    config: Config
    source: Source
    learner: Learner
    updater: Updater
    evaluator: Evaluator | PairEvaluator | StepEvaluator | None
    run: Run


def train(session: Session) -> dict[str, Any]:
    """Makes the steps that the run still has to make, and returns its summary."""
    config, source, learner, run = session.config, session.source, session.learner, session.run
    with closing(learner), run:
        source.sync(learner, run.step)
        if session.evaluator and run.step == 0:
            run.evaluated(0, session.evaluator(learner, 0), when="start")
        for step in range(run.step, config.steps):
            if run.out_of_time():
                break
            with run.phase("rollout"):
                batch = source.next(step)
            with run.phase("update"):
                extra = measured_columns(config, step)
                annotated, stats = session.updater.update(batch, (config.seed, step), extra)
            with run.phase("sync"), phase("sync", whole=True):
                source.sync(learner, step + 1)
            run.record(step, annotated, stats)
            if session.evaluator and (due(config.evaluate.every, step, config.steps) or run.out_of_time()):
                run.evaluated(step, session.evaluator(learner, step + 1))
            if run.checkpoint_due(step):
                run.checkpoint(step + 1)
        return run.finish()


def measured_columns(config: Config, step: int) -> tuple[str, ...]:
    """Columns that only a metric needs: the starting model's log-probs, every `records.kl_every` steps."""
    every = config.records.kl_every
    return ("ref_logprobs",) if every and step % every == 0 else ()
