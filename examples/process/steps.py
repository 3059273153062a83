"""Counting down by threes, step by step, each step judged; half of the solutions slip once.

A step is right while all before it are right too, as in Math-Shepherd: after a slip the count goes on, but not to where
it was to end. Rows have the keys of Hugging Face's stepwise supervision.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

ROWS = 6000
STEPS = 5


def solution(start: int, slip: int | None, draw: random.Random) -> tuple[list[str], list[bool]]:
    steps: list[str] = []
    value = start
    for place in range(STEPS):
        result = value - 3 + (draw.choice([-1, 1]) if place == slip else 0)
        steps.append(f"{value}-3={result}")
        value = result
    return steps, [slip is None or place < slip for place in range(STEPS)]


def main() -> None:
    draw = random.Random(0)
    path = Path("runs/steps.jsonl")
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in range(ROWS):
            start = draw.randrange(17, 47)
            steps, labels = solution(start, draw.randrange(STEPS) if row % 2 else None, draw)
            file.write(json.dumps({"prompt": str(start), "completions": steps, "labels": labels}) + "\n")


if __name__ == "__main__":
    main()
