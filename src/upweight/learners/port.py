"""What every learner can do, whatever hosts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from upweight.types import Annotated, Batch, StepStats

# What rows are scored by: log-probs of the policy or of the reference, values of the critic, scores of a reward model.
Which = Literal["policy", "reference", "critic", "reward"]


class Learner(Protocol):
    """Scores rows and makes optimizer steps. It computes no statistic of a batch: weights come from above."""

    @property
    def temperature(self) -> float:
        """What logits are divided by: that of the sampler, or the ratio of the first step would not be 1."""

    def score(self, rows: Batch, which: Which) -> list[Tensor]:
        """One number for each of a row's completion tokens, [T_i], without gradient, at the sampling temperature."""

    def step(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]) -> StepStats:
        """One optimizer step on the sum over terms of weight * loss.

        `weights[term][i]` is [T_i] for a loss of tokens, the share of each in the whole step, and [1] for a loss of
        rows or units. A step whose loss or gradient is not finite leaves the weights alone and says so.
        """

    def move_reference(self, mix: float) -> None:
        """reference = mix * policy + (1 - mix) * reference."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The trained model's parameters by their Hugging Face names."""

    def save(self, folder: Path) -> None:
        """Writes the trained model as a Hugging Face folder `policy/`, and all that is needed to go on exactly."""

    def load(self, folder: Path) -> None:
        """Goes on exactly where `save` was called."""

    def close(self) -> None:
        """Ends whatever processes it holds."""
