"""Ours on the demo task until the goal is reached."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from bench.arms.learn_setup import Course, demo_config
from bench.arms.ours_step import TimedSource
from bench.jobs import Job, Measured, Place

from upweight.compose import build_session
from upweight.evaluate import Evaluator
from upweight.learners.port import Learner
from upweight.train import train


class Reached(Exception):
    """Training may stop."""


class Judge:
    """An evaluator that ends training at the goal."""

    def __init__(self, evaluator: Evaluator, course: Course) -> None:
        self.evaluator, self.course = evaluator, course

    def __call__(self, learner: Learner, version: int) -> dict[str, float]:
        """The evaluator's metrics. Raises Reached when they are good enough."""
        found: dict[str, float] = {}

        def accuracy() -> float:
            found.update(self.evaluator(learner, version))
            return found["eval/greedy"]

        done = self.course.reached(version, accuracy)
        if version == 0:
            self.course.begin()
        if done:
            raise Reached
        return found


def run(job: Job, place: Place) -> Measured:
    """One training run."""
    session = build_session(demo_config(job, place))
    course, source = Course(job), TimedSource(session.source)
    judge = Judge(session.evaluator, course)  # type: ignore[arg-type]
    with suppress(Reached):
        train(replace(session, source=source, evaluator=judge))  # type: ignore[arg-type]
    return course.measured(sum(source.tokens))
