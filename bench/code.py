"""What the sandbox costs: milliseconds a program, against Python by itself; and HumanEval, scored and timed.

    PYTHONPATH=. python bench/code.py [HumanEval.jsonl.gz]

A program that does nothing is run by Python alone, in the sandbox, and without it (the option that trusts every
completion); then both rewards score one. Each figure is the median of many, with the fastest and the slowest. With the
data set, each reference solution and a body of `pass` are scored.
"""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from upweight import sandbox
from upweight.rewards.code import code, code_asserts
from upweight.walls import interpreter

REPEATS = 50
TESTS = [{"input": "1 2", "output": "3"}]
ADD = "print(sum(map(int, input().split())))"
CHECK = "def check(candidate):\n    assert candidate(1, 2) == 3"


def milliseconds(call: Callable[[], object]) -> tuple[float, float, float]:
    """The median, the fastest and the slowest of many calls, after one that is not counted."""
    call()
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        spent.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spent), min(spent), max(spent)


def overhead() -> None:
    """One line a way to run a program."""
    python = [interpreter(), "-P", "-s", "-S", "-B", "-c", "pass"]
    ways: dict[str, Callable[[], object]] = {
        "Python by itself": lambda: subprocess.run(python, env={}, check=True),
        "in the sandbox": lambda: sandbox.run_python("pass"),
        "without it": lambda: sandbox.run_python("pass", unsandboxed=True),
        "`code`, one test": lambda: code(ADD, TESTS),
        "`code_asserts`": lambda: code_asserts("    return a + b", "def add(a, b):\n", CHECK, "add"),
    }
    for name, call in ways.items():
        median, fastest, slowest = milliseconds(call)
        print(f"{name:20} {median:6.1f} ms  ({fastest:.1f} .. {slowest:.1f})")


def humaneval(path: Path) -> None:
    """How many references and how many empty bodies score what, and how long one takes."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for name, body in (("references", None), ("bodies of `pass`", "    pass\n")):
        start = time.perf_counter()
        scores = Counter(
            code_asserts(body or row["canonical_solution"], row["prompt"], row["test"], row["entry_point"])
            for row in rows
        )
        spent = (time.perf_counter() - start) / len(rows) * 1e3
        print(f"{len(rows)} {name}: {dict(scores)}, {spent:.0f} ms each")


if __name__ == "__main__":
    sandbox.require()
    overhead()
    for given in sys.argv[1:]:
        humaneval(Path(given))
