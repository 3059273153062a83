"""How long the worker processes of rewards take: many completions of which some hang, die or raise; and slow rewards.

    PYTHONPATH=. python bench/rewards.py

The first table compares a thousand completions with the time that nobody could avoid: timeouts x deadline / workers +
kills x the start of a worker + the same completions without the bad ones. The second is the time that sampling grows
by when each of 64 completions has a reward that sleeps for 0.2 s, with 8 workers: scored afterwards, and meanwhile.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from upweight.config import RewardsConfig
from upweight.rewards.call import Failed
from upweight.rewards.make import make_rewards
from upweight.rewards.score import Rewards
from upweight.types import Prompt

OBEDIENT = f"{Path(__file__).resolve().parents[1] / 'tests' / 'unit' / 'bad_rewards.py'}:obedient"
PROMPT = Prompt("id", ({"role": "user", "content": "2+2="},), (1,), "4", {})
DEADLINE = 1.0
BAD = ["loop"] * 50 + ["memory"] * 10 + ["kill"] * 10 + ["raise"] * 10


def rewards_of(workers: int, deadline: float) -> Rewards:
    """Workers that have started."""
    settings = {"parts": {"right": OBEDIENT}, "workers": workers, "deadline": deadline, "memory_mb": 512}
    rewards = make_rewards(RewardsConfig.model_validate(settings))
    for pending in [rewards.submit(PROMPT, "4", "stop") for _ in range(4 * workers)]:
        pending.result()
    return rewards


def seconds(rewards: Rewards, orders: list[str]) -> tuple[float, Counter[str]]:
    """The time for all, and how many failed in which way."""
    start = time.perf_counter()
    outcomes = [one.result() for one in [rewards.submit(PROMPT, order, "stop") for order in orders]]
    return time.perf_counter() - start, Counter(one.kind for one in outcomes if isinstance(one, Failed))


def deadline_table(workers: int) -> None:
    """A thousand completions, of which 8% misbehave."""
    good = ["4"] * 920
    orders = BAD + good
    random.Random(0).shuffle(orders)
    rewards = rewards_of(workers, DEADLINE)
    clean, _ = seconds(rewards, good)
    start = time.perf_counter()
    rewards_of(1, DEADLINE).close()
    respawn = time.perf_counter() - start
    spent, kinds = seconds(rewards, orders)
    rewards.close()
    least = 50 * DEADLINE / workers + (50 + 10 + 10) * respawn + clean
    print(f"workers {workers}: {spent:.2f} s / {least:.2f} s unavoidable = {spent / least:.2f}; {dict(kinds)}")
    print(f"  clean {clean:.2f} s ({clean / 920 * 1e6:.0f} us each), start of a worker {respawn:.2f} s")


def overlap_table() -> None:
    """64 completions whose reward sleeps 0.2 s, while they are sampled in two seconds, and after."""
    rewards = rewards_of(8, 5.0)
    start = time.perf_counter()
    pending = [rewards.submit(PROMPT, "sleep 0.2", "stop") for _ in range(64)]
    for one in pending:
        one.result()
    print(f"scored after sampling: {time.perf_counter() - start:.2f} s more")
    start = time.perf_counter()
    pending = []
    for _ in range(64):
        time.sleep(2 / 64)
        pending.append(rewards.submit(PROMPT, "sleep 0.2", "stop"))
    for one in pending:
        one.result()
    print(f"scored while sampling takes 2 s: {time.perf_counter() - start - 2:.2f} s more")
    rewards.close()


if __name__ == "__main__":
    for workers in (2, 8):
        deadline_table(workers)
    overlap_table()
