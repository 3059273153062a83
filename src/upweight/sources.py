"""Where the rows of a step come from: a dataset, or fresh rollouts of the current policy.

What a source yields at a step is a pure function of the step (and, for rollouts, of the policy), so that a resumed
run needs no other memory of where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from upweight.encode import DemonstrationRow
from upweight.learners.port import Learner
from upweight.rollouts import RolloutMaker, batch_of
from upweight.sync import prove_sync
from upweight.tasks.order import DrawOrder
from upweight.types import Batch, Prompt, Rollout


class Source(Protocol):
    """Yields the batch of a step, and takes the new policy after it."""

    def next(self, step: int) -> Batch:
        """The rows of a step."""

    def sync(self, learner: Learner, version: int) -> None:
        """Hands the learner's weights to whatever samples, and proves that they arrived."""


@dataclass(frozen=True)
class DatasetSource:
    """Rows of one or several datasets, each in seeded epochs, mixed by weight."""

    datasets: Sequence[Sequence[DemonstrationRow]]
    order: DrawOrder
    rows_per_step: int

    def next(self, step: int) -> Batch:
        """Rows step * n to step * n + n - 1 of the order."""
        places = range(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        rows = [self.datasets[stream][row] for stream, row in map(self.order.at, places)]
        return Batch(
            ids=[row.id for row in rows],
            prompt_ids=[torch.tensor(row.prompt_ids) for row in rows],
            token_ids=[torch.tensor(row.token_ids) for row in rows],
            loss_mask=[torch.tensor(row.loss_mask) for row in rows],
            group_ids=torch.arange(len(rows)),
            unit_ids=torch.arange(len(rows)),
        )

    def sync(self, learner: Learner, version: int) -> None:
        """Nothing samples while a dataset is learned."""


@dataclass(frozen=True)
class RolloutSource:
    """Groups of rollouts for prompts taken in draw order."""

    datasets: Sequence[Sequence[Prompt]]
    order: DrawOrder
    maker: RolloutMaker
    prompts_per_step: int
    group_size: int
    seed: int
    shuffled: bool = False

    def next(self, step: int) -> Batch:
        """Samples and scores the prompts of draws step * n to step * n + n - 1."""
        draws = range(step * self.prompts_per_step, (step + 1) * self.prompts_per_step)
        places = [(draw, self.order.at(draw)) for draw in draws]
        prompts = [(draw, self.datasets[stream][row]) for draw, (stream, row) in places]
        collected = self.maker.collect(prompts, self.group_size, self.seed, step)
        rollouts: Sequence[Rollout] = collected.rollouts
        if self.shuffled:
            rollouts = shuffle_rewards(rollouts, (self.seed, step))
        batch = batch_of(rollouts, self.maker.rewards)
        counts = {"failed_rewards": collected.failed_rewards, "dropped": collected.dropped}
        return replace(batch, counts=counts)

    def sync(self, learner: Learner, version: int) -> None:
        """Loads the learner's weights into the sampler and proves it."""
        self.maker.sampler.load(learner.weights(), version)
        prove_sync(learner, self.maker.sampler, version, self.datasets[0][0])


def shuffle_rewards(rollouts: Sequence[Rollout], key: tuple[int, int]) -> list[Rollout]:
    """The rollouts with their rewards permuted among all of them: what is learned then is not learned from rewards.

    The parts stay where they were, so that the metrics still tell the truth.
    """
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(len(rollouts))
    return [replace(r, reward=rollouts[other].reward) for r, other in zip(rollouts, order, strict=True)]
