"""What a critic costs and brings: PPO beside GRPO on the demo task, from the same start with the same samples.

    python bench/critic.py            # two seeds of examples/critic.toml; goes on where it was interrupted
    python bench/critic.py --cost     # time and peak memory only: a few steps each, every one in a fresh process

Writes runs/critic/table.md and table.json.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import sys
from pathlib import Path
from typing import Any

from upweight import api
from upweight.pipeline import load_pipeline, run_pipeline, stage_config
from upweight.records.trackers import read_metrics

PIPELINE = "examples/critic.toml"
SEEDS = range(2)
FOLDER = Path("runs/critic")
STAGES = {"grpo": "GRPO", "ppo": "PPO", "sft_continued": "SFT continued for PPO's time (control)"}
COSTS = {"grpo": [], "ppo": [], "ppo, head on the policy": ["critic.share_trunk=true"]}
COST_STEPS, COST_ROUNDS = 8, 2
T95_OF_TWO = 12.706  # Student's t, 1 degree of freedom


def run_seed(seed: int) -> dict[str, Any]:
    """Accuracies of one seed, and how much of the returns the critic explained over the last quarter of PPO."""
    summary = run_pipeline(load_pipeline(PIPELINE, [f"name=critic/seed-{seed}", f"seed={seed}", "threads=1"]))
    lines = read_metrics(FOLDER / f"seed-{seed}" / "ppo" / "metrics.jsonl")
    explained = [line["train/explained_variance"] for line in lines if "train/explained_variance" in line]
    return {**summary, "explained_variance": statistics.mean(explained[-len(explained) // 4 :])}


def cost(name: str, turn: int, answer: Any) -> None:
    """In a fresh process: median seconds of a step after the first two, and the process's peak memory."""
    pipeline = load_pipeline(PIPELINE, ["name=critic/seed-0", "seed=0", "threads=1"])
    (stage,) = (stage for stage in pipeline.stages if stage.name == name.split(",", maxsplit=1)[0])
    config = stage_config(pipeline, stage).model_dump(exclude_none=True)
    config |= {"name": f"critic/cost-{name.replace(', ', '-').replace(' ', '-')}-{turn}", "steps": COST_STEPS}
    config["evaluate"]["every"] = 0
    run = api.train(config, *COSTS[name], resume=True)
    steps = [line["time/step_seconds"] for line in run.metrics()]
    updates = [line["time/update_seconds"] for line in run.metrics()]
    answer.put((statistics.median(steps[2:]), statistics.median(updates[2:]), run.summary["peak_memory_bytes"]))


def costs() -> dict[str, dict[str, float]]:
    """Medians over interleaved rounds."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in COSTS}
    for turn in range(COST_ROUNDS):
        for name in COSTS:
            answer = context.Queue()
            process = context.Process(target=cost, args=(name, turn, answer))
            process.start()
            found[name].append(answer.get())
            process.join()
    keys = ("step_seconds", "update_seconds", "peak_memory_bytes")
    return {
        name: {key: statistics.median(row[i] for row in rows) for i, key in enumerate(keys)}
        for name, rows in found.items()
    }


def interval(gains: list[float]) -> tuple[float, float, float]:
    """Mean and its 95% interval over the seeds (Student's t)."""
    mean = statistics.mean(gains)
    half = T95_OF_TWO * statistics.stdev(gains) / math.sqrt(len(gains))
    return mean, mean - half, mean + half


def cost_table(found: dict[str, dict[str, float]]) -> str:
    """Time and memory side by side; ratios to GRPO."""
    base = found["grpo"]
    lines = [
        "| | seconds a step | of them update | peak memory | step, ratio | memory, ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        step, update, memory = row["step_seconds"], row["update_seconds"], row["peak_memory_bytes"]
        ratios = f"{step / base['step_seconds']:.2f} | {memory / base['peak_memory_bytes']:.2f}"
        lines.append(f"| {name} | {step:.2f} | {update:.2f} | {memory / 2**20:.0f} MiB | {ratios} |")
    return "\n".join(lines) + "\n"


def accuracy_table(summaries: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, in percent, and the gain over the control."""
    lines = ["| model | greedy | sampled, mean@8 |", "|---|---|---|"]
    for name, title in {"sft": "SFT", **STAGES}.items():
        cells = []
        for key in ("greedy", "sampled"):
            values = [100 * summary["accuracy"][name][key] for summary in summaries]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines.append("")
    for key in ("greedy", "sampled"):
        gains = [s["accuracy"]["ppo"][key] - s["accuracy"]["sft_continued"][key] for s in summaries]
        lines.append("PPO over the control, {}: {:.3f} (95%: {:.3f} to {:.3f})  ".format(key, *interval(gains)))
        gaps = [s["accuracy"]["grpo"][key] - s["accuracy"]["ppo"][key] for s in summaries]
        lines.append("GRPO over PPO, {}: {:.3f} (95%: {:.3f} to {:.3f})  ".format(key, *interval(gaps)))
    explained = ", ".join(f"{summary['explained_variance']:.2f}" for summary in summaries)
    return "\n".join([*lines, f"explained variance of the critic, last quarter of PPO, by seed: {explained}"]) + "\n"


def main() -> None:
    """Runs what is missing and prints the figures."""
    summaries = [run_seed(seed) for seed in (range(1) if "--cost" in sys.argv else SEEDS)]
    text = "" if "--cost" in sys.argv else accuracy_table(summaries) + "\n"
    found = costs()
    text += cost_table(found)
    (FOLDER / "table.md").write_text(text)
    (FOLDER / "table.json").write_text(json.dumps({"seeds": summaries, "costs": found}, indent=2))
    print(text)


if __name__ == "__main__":
    main()
