"""The speed of a run by phase: as metrics of each step, and put together again from those, as `summary.json` has it.

`floor_share` is the least time that a phase could have taken, over the time it took (see `floors`); `useful_share` the
tokens that were needed, over those that went through the model. A high one cannot hide a low other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from upweight.floors import Floors
from upweight.phases import PHASES, Clock

# Prefixes of the metrics that read the clock, and which a resumed run does not reproduce.
CLOCK_PREFIXES = ("time/", "speed/")


def speed_metrics(clock: Clock, floors: Floors) -> dict[str, float]:
    """Seconds of each phase that a step had, its floor as a share of them, its tokens and how many were needed."""
    found: dict[str, float] = {}
    for name in PHASES:
        if name not in clock.seconds:
            continue
        seconds = found[f"time/{name}_seconds"] = clock.seconds[name]
        floor, tokens = floors.seconds(name, clock), clock.tokens.get(name)
        if floor is not None and seconds > 0:
            found[f"speed/{name}_floor_share"] = floor / seconds
        if tokens is not None and tokens.processed:
            found[f"speed/{name}_tokens"] = tokens.processed
            found[f"speed/{name}_useful_share"] = tokens.useful / tokens.processed
    return found


def run_speed(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What the steps of a run took in all, by phase: `seconds`, `share` of them, `floor_share` and `useful_share`.

    `records` are those of `metrics.jsonl`; a share that no step had is left out.
    """
    steps = [record for record in records if "time/step_seconds" in record]
    whole = sum(step["time/step_seconds"] for step in steps)
    found = {}
    for name in PHASES:
        mine = [step for step in steps if f"time/{name}_seconds" in step]
        if mine:
            seconds = sum(step[f"time/{name}_seconds"] for step in mine)
            found[name] = {"seconds": seconds, "share": seconds / whole, **_shares(name, seconds, mine)}
    return found


def _shares(name: str, seconds: float, steps: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    floor_key, useful_key, tokens_key = (f"speed/{name}_{what}" for what in ("floor_share", "useful_share", "tokens"))
    floors = [step[floor_key] * step[f"time/{name}_seconds"] for step in steps if floor_key in step]
    useful = [step[useful_key] * step[tokens_key] for step in steps if useful_key in step]
    found = {"floor_share": sum(floors) / seconds} if floors and seconds else {}
    if useful:
        found["useful_share"] = sum(useful) / sum(step[tokens_key] for step in steps if useful_key in step)
    return found
