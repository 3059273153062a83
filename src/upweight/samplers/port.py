"""What every sampler can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from upweight.types import Completion, Request


class Sampler(Protocol):
    """Answers requests with completions of one version of the policy."""

    @property
    def version(self) -> int:
        """The version of the weights that it samples from."""

    def sample(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """One completion a request, as they finish, in no promised order; the key says which is which."""

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Takes new weights by their Hugging Face names. Raises ValueError when one is missing or misshapen."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that it samples from, so that a sync can be proven."""

    def score(self, prefix_ids: Sequence[int], temperature: float) -> Tensor:
        """Log-probs [vocabulary] of the token after a prefix: the probe of a sync."""
