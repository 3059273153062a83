"""Writes runs/larger.jsonl: pairs for the question which of two numbers is the larger one.

    python examples/preferences/pairs.py

Each row is a demonstration (`prompt`, `completion`), a pair (`chosen`, `rejected`) and a problem (`answer`) in one.
What is rejected has many faces, since a policy will show its reward model all of them: the smaller number, a digit that
slipped, another number, digits too many or too few, an answer given twice.
"""

import json
import random
from pathlib import Path

QUESTIONS, PAIRS_OF_EACH = 8000, 3


def rows():
    draw = random.Random(0)
    numbers = [(a, b) for a in range(10, 100) for b in range(10, 100) if a != b]
    for a, b in draw.sample(numbers, QUESTIONS):
        large, small = str(max(a, b)), str(min(a, b))
        for _ in range(PAIRS_OF_EACH):
            rejected = draw.choice([text for text in wrong(draw, large, small) if text.strip() and text != large])
            yield {
                "prompt": f"{a} or {b}?",
                "completion": large,
                "chosen": large,
                "rejected": rejected,
                "answer": large,
            }


def wrong(draw, large, small):
    digit = draw.choice("0123456789")
    noise = "".join(draw.choice("0123456789or ?") for _ in range(draw.randint(1, 7)))
    slips = [large[0] + digit, digit + large[1], large[0] + small[1], small[0] + large[1]]
    strange = [str(draw.randint(10, 99)), large[0], large + digit, large + large, noise]
    return [small] * 3 + slips * 3 + strange


if __name__ == "__main__":
    path = Path("runs/larger.jsonl")
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    print(path)
