"""Rewards in worker processes: what hangs, dies or raises is told from a wrong answer, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from upweight.config import RewardsConfig
from upweight.errors import UserError
from upweight.rewards.call import Failed
from upweight.rewards.combine import Scored
from upweight.rewards.make import make_rewards
from upweight.rewards.score import Rewards
from upweight.types import Prompt

OBEDIENT = f"{Path(__file__).with_name('bad_rewards.py')}:obedient"
PROMPT = Prompt("id", ({"role": "user", "content": "2+2="},), (1,), "4", {})


def rewards_of(**settings: object) -> Rewards:
    given = {"parts": {"right": OBEDIENT}, "deadline": 0.5, "workers": 2, "memory_mb": 512, **settings}
    return make_rewards(RewardsConfig.model_validate(given))


@pytest.fixture
def rewards() -> Iterator[Rewards]:
    made = rewards_of()
    yield made
    made.close()


def descendants() -> set[int]:
    """Processes below this one, whatever their session."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.name)] = int(status[1])
    below, new = set(), {os.getpid()}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        below |= new
    return below


@pytest.mark.parametrize(
    ("order", "kind", "words"),
    [
        ("loop", "timeout", "no result within 0.5 s"),
        ("sleep 5", "timeout", "no result within 0.5 s"),
        ("memory", "memory", "MemoryError"),
        ("kill", "crash", "SIGKILL"),
        ("exit 0", "crash", "exit code 0"),
        ("exit 7", "crash", "exit code 7"),
        ("leave", "error", "SystemExit: 3"),
        ("raise it", "error", "ValueError: told to raise it"),
        ("nan", "not_a_number", "returned nan"),
    ],
)
def test_each_way_to_fail_has_its_name_and_the_next_completion_is_scored(
    rewards: Rewards, order: str, kind: str, words: str
) -> None:
    failed = rewards.score(PROMPT, order, "stop")
    assert isinstance(failed, Failed)
    assert (failed.part, failed.kind) == ("right", kind)
    assert words in failed.message
    assert ("told to raise it" in failed.traceback) == (order == "raise it")
    for _ in range(4):
        assert rewards.score(PROMPT, "4", "stop") == Scored(1.0, {"right": 1.0})


def test_a_reward_that_cannot_judge_refuses(rewards: Rewards) -> None:
    refusing = rewards_of(parts={"right": {"function": "number", "isolate": True}})
    failed = refusing.score(Prompt("id", (), (1,), "Paris", {}), "4", "stop")
    assert failed == Failed("right", "refusal", "the answer 'Paris' is not a number")
    refusing.close()


def test_what_a_reward_prints_or_reads_is_not_the_protocol(rewards: Rewards) -> None:
    assert rewards.score(PROMPT, "shout", "stop") == Scored(0.0, {"right": 0.0})
    assert rewards.score(PROMPT, "read", "stop") == Scored(0.0, {"right": 0.0})
    assert rewards.score(PROMPT, "4", "stop") == Scored(1.0, {"right": 1.0})


def test_what_a_killed_reward_had_started_is_killed_too(rewards: Rewards) -> None:
    mark = f"of-{os.getpid()}-{random.random()}"
    assert isinstance(rewards.score(PROMPT, f"child {mark}", "stop"), Failed)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if mark in line and "ps -eo" not in line]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
def test_a_thousand_completions_of_which_some_hang_and_some_die() -> None:
    orders = ["loop"] * 50 + ["memory"] * 10 + ["kill"] * 10 + ["raise"] * 10
    orders += [str(3 + i % 2) for i in range(920)]
    random.Random(0).shuffle(orders)
    before = descendants()
    rewards = rewards_of(workers=4)
    pending = [rewards.submit(PROMPT, order, "stop") for order in orders]
    outcomes = [one.result() for one in pending]
    kinds = Counter(outcome.kind for outcome in outcomes if isinstance(outcome, Failed))
    assert kinds == {"timeout": 50, "memory": 10, "crash": 10, "error": 10}
    for order, outcome in zip(orders, outcomes, strict=True):
        if order in "34":
            assert outcome == Scored(float(order == "4"), {"right": float(order == "4")})
    rewards.close()
    assert descendants() <= before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
def test_a_pool_that_is_forgotten_leaves_no_process() -> None:
    before = descendants()
    rewards = rewards_of()
    rewards.score(PROMPT, "4", "stop")
    assert descendants() - before
    del rewards
    gc.collect()
    assert descendants() <= before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
def test_workers_die_with_their_parent() -> None:
    code = f"""
import os, signal
from pathlib import Path
from upweight.config import RewardsConfig
from upweight.rewards.make import make_rewards
from upweight.types import Prompt
rewards = make_rewards(RewardsConfig.model_validate({{"parts": {{"right": {OBEDIENT!r}}}, "workers": 2}}))
prompt = Prompt("id", ({{"role": "user", "content": ""}},), (1,), "4", {{}})
rewards.score(prompt, "4", "stop")
rewards.submit(prompt, "loop", "stop")
print(*(file.read_text() for file in Path("/proc/self/task").glob("*/children")), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    workers = [Path("/proc", number) for number in found.stdout.split()]
    assert len(workers) == 3, found.stderr
    end = time.monotonic() + 5
    while any(worker.exists() for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(worker.exists() and "zombie" not in (worker / "status").read_text() for worker in workers)


def test_a_function_that_a_worker_cannot_load_is_told_in_one_line(tmp_path: Path) -> None:
    """It loads here and not there: only this process is one in which it has been told that it may."""
    file = tmp_path / "picky.py"
    file.write_text("import os\nif not os.environ.get('HERE'):\n    raise OSError('not here')\ndef f(): return 1.0\n")
    os.environ["HERE"] = "1"
    try:
        rewards = rewards_of(parts={"right": f"{file}:f"})
    finally:
        del os.environ["HERE"]
    with pytest.raises(UserError, match=r"picky\.py:3: OSError: not here"):
        rewards.score(PROMPT, "4", "stop")
    rewards.close()


def test_a_column_that_cannot_be_sent_fails_its_completion(tmp_path: Path) -> None:
    (tmp_path / "reads.py").write_text("def f(lines): return float(len(list(lines)))\n")
    rewards = rewards_of(parts={"right": f"{tmp_path}/reads.py:f"})
    failed = rewards.score(Prompt("id", (), (1,), "4", {"lines": (i for i in "x")}), "4", "stop")
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.message[:38]) == ("error", "a column of the row cannot be sent to ")
    assert rewards.score(Prompt("id", (), (1,), "4", {"lines": "ab"}), "4", "stop") == Scored(2.0, {"right": 2.0})
    rewards.close()


def test_results_come_in_order() -> None:
    rewards = rewards_of(workers=4, deadline=5.0)
    pending = [rewards.submit(PROMPT, order, "stop") for order in ("sleep 0.3", "4", "sleep 0.1", "5", "4")]
    assert [one.result() for one in pending] == [Scored(v, {"right": v}) for v in (0.0, 1.0, 0.0, 0.0, 1.0)]
    rewards.close()


def test_a_cancelled_completion_is_not_computed(rewards: Rewards) -> None:
    pending = [rewards.submit(PROMPT, "loop", "stop") for _ in range(40)]
    for one in pending:
        one.cancel()
    found = [one.parts["right"] for one in pending]
    assert sum(isinstance(future, Future) and future.cancelled() for future in found) >= 36
    assert rewards.score(PROMPT, "4", "stop") == Scored(1.0, {"right": 1.0})
