"""The arithmetic of the tables: medians, spread, ratios, fitted exponents, time left. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and extremes of some numbers."""

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Quartiles as in Excel's and numpy's default; of one number all five are that number.

    Raises ValueError for no numbers.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    if len(ordered) == 1:
        only = ordered[0]
        return Spread(only, only, only, only, only, 1)
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(median, low, high, ordered[0], ordered[-1], len(ordered))


def rates(tokens: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Tokens per second of each step."""
    return [count / spent for count, spent in zip(tokens, seconds, strict=True)]


@dataclass(frozen=True)
class Growth:
    """y ~ x^exponent, by least squares on the logarithms; `error` is the standard error of the exponent."""

    exponent: float
    error: float
    points: int


def growth(x: Sequence[float], y: Sequence[float], skip: int = 0) -> Growth:
    """The exponent over all points but the `skip` smallest x. Raises ValueError for fewer than two.

    With two points the error is NaN: a line through them has none.
    """
    points = sorted(zip(x, y, strict=True))[skip:]
    if len(points) < 2:
        raise ValueError(f"a slope needs two points, not {len(points)}")
    logs = [(math.log(a), math.log(b)) for a, b in points]
    mean_x = statistics.fmean(a for a, _ in logs)
    mean_y = statistics.fmean(b for _, b in logs)
    width = sum((a - mean_x) ** 2 for a, _ in logs)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in logs) / width
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in logs)
    error = math.sqrt(left / (len(logs) - 2) / width) if len(logs) > 2 else math.nan
    return Growth(slope, error, len(logs))


def seconds_left(done: Sequence[tuple[float, float]], to_do: Sequence[float]) -> float:
    """What the rest will take: `done` are (guess, seconds) of what ran, `to_do` the guesses of what will.

    The guesses are scaled by how wrong they were so far.
    """
    guessed, spent = sum(guess for guess, _ in done), sum(seconds for _, seconds in done)
    return sum(to_do) * (spent / guessed if guessed else 1.0)


def clock(seconds: float) -> str:
    """A duration in words that are as exact as a guess deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
