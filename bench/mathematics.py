"""How often the reward `math` is wrong, by category, and how many completions it judges a second.

    PYTHONPATH=. python bench/mathematics.py [folder of gsm8k]

Ten thousand pairs of a gold answer and a completion whose truth is known by how they were made, judged by two worker
processes; then every reference of GSM8K's test set by its own answer, and by that answer with a digit more.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

from tests.unit.math_pairs import CATEGORIES, pairs
from upweight.config import RewardsConfig
from upweight.rewards.call import Failed
from upweight.rewards.make import make_rewards
from upweight.rewards.score import Rewards
from upweight.types import Prompt

PAIRS, SEED, WORKERS = 10_000, 0, 2


def judged(rewards: Rewards, rows: list[tuple[str, str]]) -> tuple[list[float], Counter[str], float]:
    """The reward of each (gold, completion), how many failed in which way, and the seconds that it took."""
    start = time.perf_counter()
    pending = [
        rewards.submit(Prompt("id", ({"role": "user", "content": "?"},), (1,), gold, {}), completion, "stop")
        for gold, completion in rows
    ]
    outcomes = [one.result() for one in pending]
    seconds = time.perf_counter() - start
    failures = Counter(one.kind for one in outcomes if isinstance(one, Failed))
    return [0.0 if isinstance(one, Failed) else one.reward for one in outcomes], failures, seconds


def table(rewards: Rewards) -> None:
    """False accepts and false rejects by category."""
    made = pairs(PAIRS, SEED)
    values, failures, seconds = judged(rewards, [(pair.gold, pair.completion) for pair in made])
    wrong: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    number: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for pair, value in zip(made, values, strict=True):
        number[pair.right][pair.category] += 1
        wrong[pair.right][pair.category] += (value == 1) != pair.right
    print("| category | right | rejected | wrong | accepted |\n|---|---|---|---|---|")
    for name in (*CATEGORIES, "all"):
        cells = []
        for right in (True, False):
            cells += [counts.total() if name == "all" else counts[name] for counts in (number[right], wrong[right])]
        print(f"| {name.replace('_', ' ')} | {' | '.join(map(str, cells))} |")
    print(f"false accepts {wrong[False].total() / PAIRS:.2%}, false rejects {wrong[True].total() / PAIRS:.2%} of all")
    print(f"{PAIRS / seconds:.0f} a second with {WORKERS} workers; failures: {dict(failures)}")


def gsm8k(rewards: Rewards, folder: Path) -> None:
    """Every reference by its own answer, and by another."""
    solutions = [json.loads(line)["answer"] for line in (folder / "test.jsonl").read_text("utf-8").splitlines()]
    answers = [solution.rpartition("####")[2].strip() for solution in solutions]
    right, failures, seconds = judged(rewards, list(zip(answers, solutions, strict=True)))
    wrong, more_failures, _ = judged(rewards, [(a, f"{s}1") for a, s in zip(answers, solutions, strict=True)])
    print(f"GSM8K: {sum(right):.0f} of {len(right)} references earn 1, {sum(wrong):.0f} with one more digit do")
    print(f"{len(right) / seconds:.0f} a second; failures: {dict(failures + more_failures)}")


if __name__ == "__main__":
    settings = {
        "parts": {"correct": {"function": "math", "isolate": True}},
        "workers": WORKERS,
        "deadline": 10.0,
    }
    rewards = make_rewards(RewardsConfig.model_validate(settings))
    judged(rewards, [("2\\sqrt{3}", "\\boxed{\\sqrt{12}}")] * 8 * WORKERS)  # everything is imported
    table(rewards)
    if len(sys.argv) > 1:
        gsm8k(rewards, Path(sys.argv[1]))
    rewards.close()
