"""How long the worker processes of rewards take: many completions of which some hang, die or raise; and slow rewards.

    PYTHONPATH=. python bench/rewards.py

The first table compares a thousand completions with the time that nobody could avoid: timeouts x deadline / workers +
kills x the start of a worker + the same completions without the bad ones. The second is the time that the rollouts of a
step grow by when each of 64 completions has a reward that sleeps for 0.2 s, with 8 workers.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from statistics import median

from upweight.compose import make_sampler
from upweight.config import InitConfig, ModelConfig, RewardsConfig
from upweight.models.load import load_model
from upweight.rewards.call import Failed
from upweight.rewards.make import make_rewards
from upweight.rewards.score import Rewards
from upweight.rollouts import RolloutMaker
from upweight.types import Prompt, SamplingParams

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
    """64 completions whose reward sleeps 0.2 s: what the rollouts of a step cost more than with one that does not.

    Decoded all at once, and all cut off by the budget, they finish together; decoded 8 at a time they come one after
    the other, and are scored meanwhile.
    """
    for rows, tokens, words in ((64, 400, "all finish together"), (8, 900, "sampled 8 at a time")):
        spent = {}
        for nap in (0.0, 0.2):
            maker = maker_of(rows, tokens, nap)
            times = [step_seconds(maker, step) for step in range(4)]
            spent[nap] = median(times[1:])  # the first has to start workers
            maker.rewards.close()
        print(f"{words}: {spent[0.0]:.2f} s a step, {spent[0.2] - spent[0.0]:+.2f} s with rewards that sleep 0.2 s")


def maker_of(rows: int, tokens: int, nap: float) -> RolloutMaker:
    """A small model that is cut off after `tokens`, and 8 workers."""
    init = InitConfig(width=64, layers=2, heads=4, context=1024)
    model, tokenizer = load_model(ModelConfig(init=init))
    part = {"function": f"{OBEDIENT.removesuffix('obedient')}naps", "options": {"seconds": nap}}
    rewards = make_rewards(RewardsConfig.model_validate({"parts": {"right": part}, "workers": 8}))
    sampler = make_sampler(model, tokenizer, frozenset({tokenizer.eos_token_id}), rows)
    params = SamplingParams(temperature=0.0, max_completion_tokens=tokens)
    return RolloutMaker(sampler, tokenizer, rewards, params)


def step_seconds(maker: RolloutMaker, step: int) -> float:
    """The time for 64 scored completions."""
    prompts = [(draw, Prompt(f"{draw}", PROMPT.messages, (5 + draw, 6), "4", {})) for draw in range(64)]
    start = time.perf_counter()
    maker.collect(prompts, 1, seed=0, step=step)
    return time.perf_counter() - start


if __name__ == "__main__":
    for workers in (2, 8):
        deadline_table(workers)
    overlap_table()
