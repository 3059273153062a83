"""Held-out accuracy: greedy, sampled, and pass@k, each with a 95% interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from upweight.batches import batch_of_units
from upweight.config import EvaluateConfig
from upweight.encode import Unit
from upweight.learners.port import Learner
from upweight.rewards.score import Rewards
from upweight.rollouts import RolloutMaker
from upweight.types import Prompt, Rollout, SamplingParams

# Evaluation has its own place in the space of sample keys, and the same numbers at every step: what changes from one
# evaluation to the next is then the policy alone.
EVALUATION_STEP = 2**32 - 1
Z95 = 1.959964


@dataclass(frozen=True)
class Evaluator:
    """Answers held-out prompts with the policy of a learner."""

    prompts: Sequence[Prompt]
    maker: RolloutMaker
    settings: EvaluateConfig
    seed: int

    def __call__(self, learner: Learner, version: int) -> dict[str, float]:
        """Metrics of the policy as it is now; the sampler takes its weights first if it has others."""
        sampler = self.maker.sampler
        if sampler.version != version:
            sampler.load(learner.weights(), version)
        return self.measure()

    def measure(self) -> dict[str, float]:
        """Metrics of the policy that the sampler holds."""
        greedy = self.answers(1, replace(self.maker.params, temperature=0.0, top_p=1.0, top_k=0))
        metrics = greedy_metrics(greedy, self.maker.rewards)
        if self.settings.samples:
            metrics |= sampled_metrics(self.correct_counts(self.settings.samples), self.settings.samples)
        return metrics

    def correct_counts(self, samples: int) -> list[int]:
        """How many of `samples` sampled answers to each problem are correct."""
        settings = self.settings
        params = replace(
            self.maker.params, temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k
        )
        counts = [0] * len(self.prompts)
        for rollout in self.answers(samples, params):
            counts[rollout.draw] += self.maker.rewards.is_correct(rollout.reward_parts)
        return counts

    def answers(self, samples: int, params: SamplingParams) -> Sequence[Rollout]:
        """`samples` scored answers to each prompt; the draw of a rollout is its prompt's index."""
        maker = replace(self.maker, params=params)
        if maker.on_failure == "drop":
            maker = replace(maker, on_failure="zero")  # a problem that is dropped would flatter the accuracy
        return maker.collect(list(enumerate(self.prompts)), samples, self.seed, EVALUATION_STEP).rollouts


@dataclass(frozen=True)
class PairEvaluator:
    """How often a reward model ranks held-out pairs as they were marked."""

    units: Sequence[Unit]

    def __call__(self, learner: Learner, version: int) -> dict[str, float]:
        """Share of pairs whose chosen completion has the higher score, with its interval."""
        batch = batch_of_units(self.units)
        scores = torch.stack(
            [row[mask][-1] for row, mask in zip(learner.score(batch, "reward"), batch.loss_mask, strict=True)]
        )
        chosen = batch.row_columns["chosen"]
        return _share("eval/pair_accuracy", (scores[chosen] > scores[~chosen]).double())


@dataclass(frozen=True)
class StepEvaluator:
    """How often a process reward model tells right steps of held-out solutions from wrong ones.

    A step is right from a label of a half on, and called right from a probability of a half on.
    """

    units: Sequence[Unit]

    def __call__(self, learner: Learner, version: int) -> dict[str, float]:
        """Share of steps that are called what they are, and of solutions of which all steps are, with intervals.

        The steps of one solution are not independent, so the interval over steps is somewhat narrow.
        """
        batch = batch_of_units(self.units)
        columns = zip(learner.score(batch, "reward"), batch.token_columns["step_labels"], batch.loss_mask, strict=True)
        same = [(scores[ends] >= 0) == (labels[ends] >= 0.5) for scores, labels, ends in columns]
        steps, solutions = torch.cat(same).double(), torch.stack([row.all() for row in same]).double()
        return {**_share("eval/step_accuracy", steps), **_share("eval/solution_accuracy", solutions)}


def _share(name: str, hits: Tensor) -> dict[str, float]:
    share = float(hits.mean())
    low, high = wilson_interval(share, len(hits))
    return {name: share, f"{name}_low": low, f"{name}_high": high}


def greedy_metrics(rollouts: Sequence[Rollout], rewards: Rewards) -> dict[str, float]:
    """Accuracy of one answer a problem with its Wilson interval, mean of each reward part, length, truncation."""
    n = len(rollouts)
    accuracy = sum(rewards.is_correct(r.reward_parts) for r in rollouts) / n
    low, high = wilson_interval(accuracy, n)
    return {
        "eval/greedy": accuracy,
        "eval/greedy_low": low,
        "eval/greedy_high": high,
        **{f"eval/part/{name}": sum(r.reward_parts[name] for r in rollouts) / n for name in rollouts[0].reward_parts},
        "eval/completion_tokens": sum(len(r.token_ids) for r in rollouts) / n,
        "eval/truncated_share": sum(r.finish_reason == "length" for r in rollouts) / n,
    }


def sampled_metrics(correct: Sequence[int], samples: int) -> dict[str, float]:
    """mean@n over problems, with a normal interval over the problems' means."""
    means = np.asarray(correct) / samples
    half = Z95 * means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    mean = float(means.mean())
    return {"eval/sampled": mean, "eval/sampled_low": max(0.0, mean - half), "eval/sampled_high": min(1.0, mean + half)}


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95% interval of a share seen in n trials (Wilson 1927); it stays within [0, 1] and works near its ends."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that one of k answers is right, unbiased from n answers of which `correct` are (2107.03374).

    1 - C(n - c, k) / C(n, k) as a product that does not overflow; 1 when n - c < k. Raises ValueError unless
    1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} answers, and k at least 1; there are {n}")
    if n - correct < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(n - correct + 1, n + 1)))
