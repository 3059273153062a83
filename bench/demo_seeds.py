"""The demo over five seeds, each with a control whose rewards are shuffled: is what GRPO gains due to its rewards?

    make demo-seeds            # about half an hour on two cores; goes on where it was interrupted

For every seed the pipeline of examples/demo.toml is run, and its GRPO stage once more with the rewards permuted among
all completions of a step. Writes runs/demo-seeds/table.md and table.json, and docs/demo.png.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from upweight import api
from upweight.compose import measure_model
from upweight.pipeline import Pipeline, load_pipeline, run_pipeline, stage_config
from upweight.records.trackers import read_metrics

DEMO = "examples/demo.toml"
SEEDS = range(5)
FOLDER = Path("runs/demo-seeds")
T95_OF_FIVE = 2.776  # Student's t, 4 degrees of freedom


def run_seed(seed: int) -> dict[str, Any]:
    """Accuracies and seconds of one seed, with `shuffled` for the control."""
    pipeline = load_pipeline(DEMO, [f"name=demo-seeds/seed-{seed}", f"seed={seed}"])
    summary = run_pipeline(pipeline)
    control = FOLDER / f"seed-{seed}" / "shuffled.json"
    if not control.exists():
        control.write_text(json.dumps(run_control(pipeline)))
    summary["accuracy"]["shuffled"] = json.loads(control.read_text())
    return summary


def run_control(pipeline: Pipeline) -> dict[str, float]:
    """The GRPO stage with shuffled rewards, measured like every stage."""
    (stage,) = (stage for stage in pipeline.stages if stage.name == "grpo")
    config = stage_config(pipeline, stage)
    config = config.model_copy(
        update={"name": f"{config.name}_shuffled", "rewards": config.rewards.model_copy(update={"shuffled": True})}
    )
    run = api.train(config, resume=True)
    trained = config.model.model_copy(update={"path": str(run.model_dir)})
    settings = config.evaluate.model_copy(update=pipeline.measure.model_dump())
    found = measure_model(config.model_copy(update={"model": trained, "evaluate": settings}))
    return {name.removeprefix("eval/"): value for name, value in found.items()}


def meets(summary: dict[str, Any]) -> bool:
    """Whether a seed has what the demo promises."""
    accuracy = summary["accuracy"]
    sft, grpo, continued = accuracy["sft"], accuracy["grpo"], accuracy["sft_continued"]
    return (
        sft["part/format"] >= 0.9
        and 0.2 <= sft["greedy"] <= 0.65
        and grpo["greedy"] - sft["greedy"] >= 0.25
        and grpo["sampled"] - sft["sampled"] >= 0.30
        and grpo["greedy"] > continued["greedy"]
        and summary["seconds"]["total"] <= 300
    )


def gain_interval(gains: list[float]) -> tuple[float, float, float]:
    """Mean gain and its 95% interval over the seeds (Student's t)."""
    mean = statistics.mean(gains)
    half = T95_OF_FIVE * statistics.stdev(gains) / math.sqrt(len(gains))
    return mean, mean - half, mean + half


def table(summaries: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    names = {
        "base": "random weights",
        "sft": "SFT",
        "sft_continued": "SFT continued for GRPO's time",
        "shuffled": "GRPO, rewards shuffled (control)",
        "grpo": "GRPO",
    }
    lines = ["| model | greedy | sampled, mean@8 | well-formed |", "|---|---|---|---|"]
    for name, title in names.items():
        cells = []
        for key in ("greedy", "sampled", "part/format"):
            values = [100 * summary["accuracy"][name][key] for summary in summaries]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_curve(path: Path) -> None:
    """Held-out greedy accuracy over training time, a line a seed and stage."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=150)
    colours = {"sft": "#8a8a8a", "sft_continued": "#c9a227", "grpo_shuffled": "#b0c4de", "grpo": "#1f6f54"}
    labels = {"sft": "SFT", "sft_continued": "SFT continued", "grpo_shuffled": "GRPO, rewards shuffled", "grpo": "GRPO"}
    for seed in SEEDS:
        folder = FOLDER / f"seed-{seed}"
        offset = 0.0
        for stage, colour in colours.items():
            seconds, accuracy = curve(folder / stage)
            start = 0.0 if stage == "sft" else offset
            label = labels[stage] if seed == 0 else None
            axes.plot([start + s for s in seconds], [100 * a for a in accuracy], color=colour, label=label, lw=1.4)
            if stage == "sft":
                offset = seconds[-1]
    axes.set_xlabel("training time, seconds on two cores")
    axes.set_ylabel("held-out accuracy, % (greedy)")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def curve(run: Path) -> tuple[list[float], list[float]]:
    """Training seconds so far and held-out accuracy at each evaluation of a run."""
    summary = json.loads((run / "summary.json").read_text())
    seconds, spent, accuracy = [0.0], 0.0, [summary["eval_start"]["greedy"]]
    for line in read_metrics(run / "metrics.jsonl"):
        if "eval/greedy" in line:
            seconds.append(spent)
            accuracy.append(line["eval/greedy"])
        else:
            spent += line["time/step_seconds"]
    return seconds, accuracy


def main() -> None:
    """Runs what is missing and prints the figures."""
    summaries = [run_seed(seed) for seed in SEEDS]
    text = table(summaries)
    greedy = [s["accuracy"]["shuffled"]["greedy"] - s["accuracy"]["sft"]["greedy"] for s in summaries]
    sampled = [s["accuracy"]["shuffled"]["sampled"] - s["accuracy"]["sft"]["sampled"] for s in summaries]
    report = {
        "seeds_that_meet": sum(map(meets, summaries)),
        "control_gain_greedy": gain_interval(greedy),
        "control_gain_sampled": gain_interval(sampled),
        "seconds": [s["seconds"] for s in summaries],
        "accuracy": [s["accuracy"] for s in summaries],
    }
    (FOLDER / "table.md").write_text(text)
    (FOLDER / "table.json").write_text(json.dumps(report, indent=2))
    draw_curve(Path("docs/demo.png"))
    print(text)
    print(f"seeds that meet the demo's promise: {report['seeds_that_meet']} of {len(summaries)}")
    print("control's gain, mean and 95% interval: greedy {:.3f} ({:.3f} to {:.3f})".format(*gain_interval(greedy)))
    print("control's gain, mean and 95% interval: sampled {:.3f} ({:.3f} to {:.3f})".format(*gain_interval(sampled)))
    print("training seconds (sft + grpo):", [round(s["seconds"]["total"]) for s in summaries])


if __name__ == "__main__":
    main()
