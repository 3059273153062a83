"""Where the rows of a step come from: a dataset, fresh rollouts of the current policy, or both side by side.

What a source yields at a step depends on the step, on its `state` and, for rollouts, on the policy; the state goes
into every checkpoint, so that a resumed run draws what the killed one would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from upweight.algorithms import Call
from upweight.batches import batch_of_units, join
from upweight.columns import padded_columns
from upweight.encode import Unit
from upweight.errors import UserError
from upweight.learners.port import Learner
from upweight.rollout_batch import batch_of
from upweight.rollouts import RolloutMaker, failure_counts
from upweight.sync import prove_sync
from upweight.tasks.order import DrawOrder
from upweight.types import Batch, Prompt, Rollout


class Source(Protocol):
    """Yields the batch of a step, and takes the new policy after it."""

    def next(self, step: int) -> Batch:
        """The rows of a step."""

    def sync(self, learner: Learner, version: int) -> None:
        """Hands the learner's weights to whatever samples, and proves that they arrived."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold to go on from here."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""


@dataclass(frozen=True)
class DatasetSource:
    """Units (a row, or a pair) of one or several datasets, each in seeded epochs, mixed by weight."""

    datasets: Sequence[Sequence[Unit]]
    order: DrawOrder
    units_per_step: int

    def next(self, step: int) -> Batch:
        """Units step * n to step * n + n - 1 of the order."""
        places = range(step * self.units_per_step, (step + 1) * self.units_per_step)
        return batch_of_units([self.datasets[stream][row] for stream, row in map(self.order.at, places)])

    def sync(self, learner: Learner, version: int) -> None:
        """Nothing samples while a dataset is learned."""

    def state(self) -> dict[str, Any]:
        """Nothing: what is drawn follows from the step."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """There is nothing to remember."""


class RolloutSource:
    """Groups of rollouts for prompts taken in draw order. `position` is the next draw.

    A group that a filter refuses, or that lost too many completions to failing rewards, makes room for the next draw
    until the batch is full. Groups are admitted in draw order; what was sampled beyond the last one admitted is
    discarded, and its prompts are asked again in the next step, so that the batch does not depend on how many draws
    were sampled at a time.
    """

    def __init__(
        self,
        datasets: Sequence[Sequence[Prompt]],
        order: DrawOrder,
        maker: RolloutMaker,
        *,
        prompts_per_step: int,
        group_size: int,
        seed: int,
        filters: Sequence[Call] = (),
        refill_limit: int = 20,
        shuffled: bool = False,
    ) -> None:
        self.datasets, self.order, self.maker = datasets, order, maker
        self.prompts_per_step, self.group_size, self.seed = prompts_per_step, group_size, seed
        self.filters, self.refill_limit, self.shuffled = tuple(filters), refill_limit, shuffled
        self.position = 0

    def next(self, step: int) -> Batch:
        """Samples and scores prompts until `prompts_per_step` groups are admitted.

        Raises UserError when `refill_limit` times as many prompts were drawn and the batch is still not full.
        """
        admitted: list[Rollout] = []
        groups = drawn = sampled = 0
        failures: list[Mapping[str, str]] = []
        position = self.position
        while groups < self.prompts_per_step:
            if drawn >= self.refill_limit * self.prompts_per_step:
                raise UserError(
                    f"step {step}: only {groups} of {self.prompts_per_step} groups were admitted from {drawn} prompts: "
                    "too easy or too hard for the filter; change the task, raise batch.group_size or "
                    "batch.refill_limit, or set algorithm.dynamic_sampling=false"
                )
            draws = range(position, position + self._chunk(groups, drawn))
            collected = self.maker.collect(self._prompts(draws), self.group_size, self.seed, step)
            failures += collected.failures
            sampled += len(draws) * self.group_size
            position, drawn = draws.stop, drawn + len(draws)
            for group in by_draw(collected.rollouts):
                if groups < self.prompts_per_step and self._admits(group):
                    admitted += group
                    groups += 1
                    last = group[0].draw + 1
            if groups == self.prompts_per_step:
                position = last
        self.position = position
        rollouts = shuffle_rewards(admitted, (self.seed, step)) if self.shuffled else admitted
        batch = batch_of(rollouts, self.maker.rewards, self.maker.params.max_completion_tokens)
        dropped = sampled - len(admitted)
        counts = {**failure_counts(failures), "dropped": dropped, "wasted_share": dropped / sampled}
        return replace(batch, counts=counts, failures=failures)

    def sync(self, learner: Learner, version: int) -> None:
        """Loads the learner's weights into the sampler and proves it."""
        self.maker.sampler.load(learner.weights(), version)
        prove_sync(learner, self.maker.sampler, version, self.datasets[0][0])

    def state(self) -> dict[str, Any]:
        """The next draw."""
        return {"position": self.position}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on at a draw."""
        self.position = state["position"]

    def _prompts(self, draws: Sequence[int]) -> list[tuple[int, Prompt]]:
        places = [(draw, self.order.at(draw)) for draw in draws]
        return [(draw, self.datasets[stream][row]) for draw, (stream, row) in places]

    def _chunk(self, groups: int, drawn: int) -> int:
        """How many prompts to draw now: what is missing, and more where many were refused so far."""
        missing = self.prompts_per_step - groups
        kept = max(groups, 1) / drawn if drawn else 1.0
        return min(self.prompts_per_step, int(np.ceil(missing / kept)))

    def _admits(self, group: Sequence[Rollout]) -> bool:
        if not self.filters:
            return True
        budget = self.maker.params.max_completion_tokens
        columns = padded_columns(batch_of(group, self.maker.rewards, budget))
        return all(bool(keep(columns).all()) for keep in self.filters)


@dataclass(frozen=True)
class MixedSource:
    """The rows of a main source, then those of other streams, which only some terms of the loss sum over."""

    main: Source
    others: Mapping[str, Source]

    def next(self, step: int) -> Batch:
        """The main rows of a step and after them the rows of each other stream, in one batch."""
        batch = self.main.next(step)
        for stream, source in self.others.items():
            batch = join(batch, source.next(step), stream)
        return batch

    def sync(self, learner: Learner, version: int) -> None:
        """Hands the weights to whatever samples."""
        self.main.sync(learner, version)

    def state(self) -> dict[str, Any]:
        """The main source's; datasets have none."""
        return self.main.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.main.load(state)


def by_draw(rollouts: Sequence[Rollout]) -> Iterator[list[Rollout]]:
    """The groups of rollouts, which stand in order of draw."""
    groups: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.draw, []).append(rollout)
    yield from groups.values()


def shuffle_rewards(rollouts: Sequence[Rollout], key: tuple[int, int]) -> list[Rollout]:
    """The rollouts with their rewards permuted among all of them: what is learned then is not learned from rewards.

    The parts stay where they were, so that the metrics still tell the truth; nothing is earned by steps.
    """
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(len(rollouts))
    return [replace(r, reward=rollouts[other].reward, steps={}) for r, other in zip(rollouts, order, strict=True)]
