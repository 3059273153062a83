"""In which order the rows of a mixture are drawn: a pure function of the position, so that resuming needs no state."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

_LONGEST_PERIOD = 2**14


class DrawOrder:
    """Row after row of several streams, drawn in proportion to their weights.

    Among the first n draws each stream has more than n * share - 1 and fewer than n * share + 1, so that a short run
    sees the mixture it asked for. Within a stream rows come in epochs, each a fresh permutation keyed by (seed,
    stream, epoch). Shares repeat exactly after a period, which is tabulated; weights whose ratio would need a period
    above 16384 are rounded to one of that length.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if not sizes or len(sizes) != len(weights) or min(sizes) < 1 or not min(weights) > 0:
            raise ValueError("every stream needs at least one row and a positive weight")
        self.sizes = tuple(sizes)
        self.seed = seed
        self._counts = _integer_shares(weights)
        self._streams, self._earlier = _interleave(self._counts)
        self._epochs: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def at(self, position: int) -> tuple[int, int]:
        """(stream, row) of the draw at a position, counted from 0. Raises ValueError for a negative one."""
        if position < 0:
            raise ValueError(f"a draw has a position of at least 0, not {position}")
        period, place = divmod(position, len(self._streams))
        stream = self._streams[place]
        drawn = period * self._counts[stream] + self._earlier[place]
        epoch, place = divmod(drawn, self.sizes[stream])
        return stream, int(self._permutation(stream, epoch)[place])

    def _permutation(self, stream: int, epoch: int) -> NDArray[np.int64]:
        cached = self._epochs.get(stream)
        if cached is None or cached[0] != epoch:
            rng = np.random.default_rng([self.seed, stream, epoch])
            cached = self._epochs[stream] = (epoch, rng.permutation(self.sizes[stream]))
        return cached[1]


def _integer_shares(weights: Sequence[float]) -> list[int]:
    """The smallest integers in the ratio of the weights as they are written (0.7 is 7/10, not its nearest float)."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * scale) for weight in exact]
    if sum(counts) // gcd(*counts) > _LONGEST_PERIOD:
        counts = [max(1, round(_LONGEST_PERIOD * count / sum(counts))) for count in counts]
    return [count // gcd(*counts) for count in counts]


def _interleave(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """The stream at each place of a period, and how often it was drawn before in that period.

    The j-th draw of a stream with share w may not come before place j / w and must be done by (j + 1) / w; of those
    that may come the one with the earliest deadline is taken, which meets them all.
    """
    period, drawn = sum(counts), [0] * len(counts)
    streams: list[int] = []
    earlier: list[int] = []
    for place in range(period):
        released = [k for k, count in enumerate(counts) if drawn[k] * period < (place + 1) * count]
        chosen = min(released, key=lambda k: -(-(drawn[k] + 1) * period // counts[k]))
        streams.append(chosen)
        earlier.append(drawn[chosen])
        drawn[chosen] += 1
    return streams, earlier
