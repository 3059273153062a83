"""What every learner can do, whatever hosts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from upweight.types import Annotated, Batch, StepStats

Which = Literal["policy", "reference"]


class Learner(Protocol):
    """Scores rows and makes optimizer steps. It computes no statistic of a batch: weights come from above."""

    @property
    def temperature(self) -> float:
        """What logits are divided by: that of the sampler, or the ratio of the first step would not be 1."""

    def score(self, rows: Batch, which: Which) -> list[Tensor]:
        """Log-probs [T_i] of each row's completion tokens, without gradient, at the sampling temperature."""

    def step(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]) -> StepStats:
        """One optimizer step on sum over terms and tokens of coefficient * weight * loss.

        `weights[term][i]` is [T_i], the share of that token in the whole step. A step whose loss or gradient is not
        finite leaves the weights alone and says so.
        """

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's parameters by their Hugging Face names."""

    def save(self, folder: Path) -> None:
        """Writes the policy as a Hugging Face folder `policy/`, and all that is needed to go on exactly."""

    def load(self, folder: Path) -> None:
        """Goes on exactly where `save` was called."""

    def close(self) -> None:
        """Ends whatever processes it holds."""
