"""TRL's GRPO step, timed from one step's end to the next one's: generation, scoring, update, data."""

from __future__ import annotations

import time
from typing import Any

from bench.arms.trl_setup import make_trainer, step_settings
from bench.jobs import Job, Measured, Place
from bench.workloads import letter_share, prompt_texts
from transformers import TrainerCallback
from trl import GRPOTrainer


class Stamps(TrainerCallback):
    """When training began and when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The first stamp."""
        self.times.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """One more."""
        self.times.append(time.perf_counter())


class TimedTrainer:
    """Notes how long a trainer's rollouts take, and how many tokens they have, each time that it makes some."""

    def __init__(self, trainer: GRPOTrainer) -> None:
        self.make = trainer._generate_and_score_completions
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        trainer._generate_and_score_completions = self

    def __call__(self, inputs: Any) -> Any:
        """The trainer's own, timed."""
        start = time.perf_counter()
        found = self.make(inputs)
        self.seconds.append(time.perf_counter() - start)
        self.tokens.append(int(found["completion_mask"].sum()))
        return found


def letters(completions: list[str], **_: Any) -> list[float]:
    """The same reward as ours."""
    return [letter_share(completion) for completion in completions]


def run(job: Job, place: Place) -> Measured:
    """Seconds a step of the trainer's own loop."""
    texts = prompt_texts(job.shape.prompts * job.steps, job.shape.prompt_tokens, job.repeat)
    stamps = Stamps()
    trainer = make_trainer(place, [{"prompt": text} for text in texts], letters, step_settings(job), [stamps])
    rollouts = TimedTrainer(trainer)
    trainer.train()
    seconds = [end - start for start, end in zip(stamps.times, stamps.times[1:], strict=False)]
    update = [whole - rollout for whole, rollout in zip(seconds, rollouts.seconds, strict=True)]
    return Measured(seconds, rollouts.tokens, {"rollout": rollouts.seconds, "update": update})
