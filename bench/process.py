"""Outcome supervision beside process supervision where right answers are rare: the table of docs/process.md.

    PYTHONPATH=. python bench/process.py runs/process-bench --seeds 5

A small model that imitated a few worked three-digit sums is right about once in a hundred times. From there it learns
by rewards, with the same budget of samples: of right answers alone; of answers and right steps, added up; of both,
where each token is worth what is earned from there on. A step is right when it is the one that stands there on paper.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from upweight.tasks.sums import Question, work

ARMS: dict[str, list[str]] = {
    "outcome": ["rewards.parts.steps.weight=0.0"],
    "outcome + steps": [],
    "grpo_process": ["algorithm.name=grpo_process"],
}
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # of Student's t, by degrees of freedom

START = """
name = "start"
steps = 700
algorithm = "sft"
batch.rows = 64
rewards.parts.correct = { function = "number", options = { tag = "answer" } }
sampling.max_completion_tokens = 48
learner.tokens_per_microbatch = 4096
checkpoint = { every = 50, keep = 30 }
optimizer = { lr = 2e-3, warmup_steps = 20, schedule = "cosine" }

[model.init]
width = 64
layers = 4
heads = 4
context = 80
tokens = ["<think>", "</think>", "<answer>", "</answer>"]

[data]
task = "arithmetic"
digits = 3
steps = true
demonstrations = 1000
"""
LEARN = f"""
steps = 150
algorithm = {{ name = "grpo", minibatches = 2 }}
model.path = "runs/start/checkpoints/step-00000350/policy"
data = {{ task = "arithmetic", digits = 3, problems = 20000 }}
batch = {{ prompts = 64, group_size = 8 }}
sampling.max_completion_tokens = 48
learner.tokens_per_microbatch = 4096
evaluate = {{ every = 50, problems = 512, samples = 2 }}
records.ledger_every = 0
optimizer = {{ lr = 3e-4, betas = [0.9, 0.99], warmup_steps = 10 }}

[rewards.parts]
correct = {{ function = "number", options = {{ tag = "answer" }} }}

[rewards.parts.steps]
function = "steps"
isolate = false
options = {{ tag = "think", separator = ",", most = 3, judge = "{Path(__file__).resolve()}:on_paper" }}
"""


def on_paper(step: str, before: list[str], prompt: str) -> float:
    """1 for the step that the sum has at this place when it is worked on paper."""
    left, _, right = prompt.rstrip("=").partition("+")
    steps = work(Question(int(left), "+", int(right))).steps.split(",")
    return float(len(before) < len(steps) and step == steps[len(before)])


def train(folder: Path, config: str, *settings: str) -> None:
    """One run, on one thread, in a process of its own."""
    command = [sys.executable, "-c", "from upweight.cli import main; main()", "train", config, *settings]
    with (folder / "log.txt").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True, env=environment)


def measured(folder: Path, arm: str, seed: int) -> dict[str, dict[str, Any]]:
    """What was found on held-out problems at the start and at the end of a run: `eval_start` and `eval`."""
    found: dict[str, dict[str, Any]] = json.loads((folder / "runs" / name_of(arm, seed) / "summary.json").read_text())
    return found


def name_of(arm: str, seed: int) -> str:
    """What a run is called."""
    return f"{arm.replace(' ', '')}-{seed}"


def interval(values: list[float]) -> str:
    """Mean with its 95% interval over seeds."""
    half = T95[len(values) - 1] * stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):.1%} ± {half:.1%}"


def main() -> None:
    """Runs what has not been run, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    folder: Path = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "start.toml").write_text(START)
    (folder / "learn.toml").write_text(LEARN)
    if not (folder / "runs" / "start").exists():
        train(folder, "start.toml")

    def learn(job: tuple[int, str]) -> None:
        seed, arm = job
        name = name_of(arm, seed)
        if not (folder / "runs" / name / "summary.json").exists():
            train(folder, "learn.toml", f"name={name}", f"seed={seed}", *ARMS[arm])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(learn, [(seed, arm) for seed in range(chosen.seeds) for arm in ARMS]))
    print("| rewarded | right, greedy | right, sampled | share of steps right |\n|---|---|---|---|")
    for arm in ARMS:
        ran = [measured(folder, arm, seed) for seed in range(chosen.seeds)]
        if arm == "outcome":
            print("| start |", " | ".join(interval([run["eval_start"][key] for run in ran]) for key in KEYS), "|")
        print(f"| {arm} |", " | ".join(interval([run["eval"][key] for run in ran]) for key in KEYS), "|")


KEYS = ("greedy", "sampled", "part/steps")

if __name__ == "__main__":
    main()
