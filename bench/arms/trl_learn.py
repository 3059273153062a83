"""TRL on the demo task until the goal is reached, with our rewards and our judge."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from bench.arms.learn_setup import EVERY, Course, demo_config
from bench.arms.trl_setup import SAME, TUNED, make_trainer
from bench.arms.trl_step import TimedTrainer
from bench.jobs import Job, Measured, Place
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from upweight.compose import make_encoder, make_evaluator, make_maker
from upweight.config import Config
from upweight.evaluate import Evaluator
from upweight.rewards.combine import Scored
from upweight.rewards.score import Rewards
from upweight.tasks.load import load_data
from upweight.types import Prompt


@dataclass(frozen=True)
class Demo:
    """The task as both sides see it."""

    prompts: list[Prompt]
    rewards: Rewards
    evaluator: Evaluator

    def rows(self) -> list[dict[str, Any]]:
        """One row a problem, as text; `index` leads the reward back to it."""
        texts = ["".join(message["content"] for message in prompt.messages) for prompt in self.prompts]
        return [{"prompt": text, "index": i} for i, text in enumerate(texts)]

    def reward(self, completions: list[str], index: list[int], **_: Any) -> list[float]:
        """Our reward of each completion. Raises ValueError where it fails."""
        outcomes = [
            self.rewards.score(self.prompts[i], text, "stop") for i, text in zip(index, completions, strict=True)
        ]
        if not all(isinstance(outcome, Scored) for outcome in outcomes):
            raise ValueError("a reward failed")
        return [outcome.reward for outcome in outcomes if isinstance(outcome, Scored)]


def demo_of(config: Config, place: Place) -> Demo:
    """Problems, rewards and judge of the demo; raises ValueError when TRL would read other tokens."""
    data = load_data(config.data, config.seed, "problems")
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    model = AutoModelForCausalLM.from_pretrained(place.model)
    encoder = make_encoder(config, model, tokenizer)
    maker = make_maker(config, copy.deepcopy(model), tokenizer, encoder)
    prompts = encoder.prompts(data[0].problems, "demo")
    demo = Demo(prompts, maker.rewards, make_evaluator(config, data, encoder, maker))
    if any(tuple(tokenizer(row["prompt"])["input_ids"]) != prompts[row["index"]].token_ids for row in demo.rows()[:64]):
        raise ValueError("prompts as text have other tokens than ours")
    return demo


class Judge(TrainerCallback):
    """Judges every so many batches and ends training at the goal."""

    def __init__(self, course: Course, evaluator: Evaluator, minibatches: int) -> None:
        self.course, self.evaluator, self.minibatches = course, evaluator, minibatches

    def accuracy(self, model: Any, version: int) -> float:
        """Held-out greedy accuracy of the weights as they are."""
        self.evaluator.maker.sampler.load(model.named_parameters(), version)
        return self.evaluator.measure()["eval/greedy"]

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Judges the start."""
        self.course.reached(0, lambda: self.accuracy(model, 0))
        self.course.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Judges after whole batches."""
        batches, rest = divmod(state.global_step, self.minibatches)
        due = batches % EVERY == 0 or state.global_step == state.max_steps
        if rest == 0 and due and self.course.reached(batches, lambda: self.accuracy(model, batches)):
            control.should_training_stop = True


def settings_of(job: Job, config: Config) -> dict[str, Any]:
    """The demo's batch arithmetic, rate and schedule as the trainer's arguments."""
    minibatches = config.algorithm.resolve().minibatches
    rows, micro, optimizer = job.shape.rows, job.options["micro"], config.optimizer
    if rows // minibatches % micro:
        raise ValueError(f"minibatches of {rows // minibatches} rows are no multiple of {micro}")
    return {
        **SAME,
        **TUNED,
        "shuffle_dataset": True,
        "bf16": job.dtype == "bfloat16",
        "seed": job.repeat,
        "max_steps": job.options["cap"] * minibatches,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // minibatches // micro,
        "steps_per_generation": rows // micro,
        "num_generations": job.shape.group_size,
        "max_completion_length": config.sampling.max_completion_tokens,
        "learning_rate": optimizer.lr,
        "lr_scheduler_type": optimizer.schedule,
        "warmup_steps": optimizer.warmup_steps,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
    }


def run(job: Job, place: Place) -> Measured:
    """One training run."""
    config = demo_config(job, place)
    demo, course = demo_of(config, place), Course(job)
    judge = Judge(course, demo.evaluator, config.algorithm.resolve().minibatches)
    trainer = make_trainer(place, demo.rows(), demo.reward, settings_of(job, config), [judge])
    rollouts = TimedTrainer(trainer)
    trainer.train()
    return course.measured(sum(rollouts.tokens))
