"""Results as Markdown: medians, spread and ratios. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.figures import Spread, spread
from bench.results import Line, Record, best, lines_of, ratio

# Ours, the opponent, their number types: the rows of the table of ratios for a step or a pass of log-probs.
STEP_RATIOS = (("auto", "trl", None), ("float32", "trl", "float32"))
GENERATION_RATIOS = tuple(
    (dtype, other, dtype) for other in ("transformers", "vllm") for dtype in ("float32", "bfloat16")
)
PARTS = ("rollout", "update")
TITLES = {
    "step": "One GRPO step",
    "generate": "Generation alone",
    "score": "Log-probs alone",
}


def benches(lines: Iterable[Line]) -> dict[tuple[str, str, str], list[Line]]:
    """The lines by what they can be compared within."""
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        found.setdefault(line.bench, []).append(line)
    return found


def markdown(records: Sequence[Record], gate: Mapping[str, float | bool] | None = None) -> str:
    """Everything: the gate, the ratios, each bench's figures, the demo task, the machine."""
    learned = [record for record in records if record["job"]["task"] == "learn"]
    lines = lines_of(record for record in records if record["job"]["task"] != "learn")
    by_bench = {key: found for key, found in benches(lines).items() if key[1] != "tune"}
    parts = [gate_line(gate)] if gate else []
    parts += [ratio_table(by_bench)] if by_bench else []
    parts += [bench_table(key, found) for key, found in by_bench.items()]
    parts += [learning_table(learned)] if learned else []
    return "\n\n".join([*parts, machine_line(records)]) + "\n"


def gate_line(gate: Mapping[str, float | bool]) -> str:
    """What the equivalence gate found."""
    return (
        f"Equivalence gate, {gate['completions']} completions of TRL's through both losses in float32: loss "
        f"{gate['loss']:.6f}, apart by {gate['loss_apart']:.1e}; gradient apart by {gate['gradient_apart']:.1e} of its "
        "norm."
    )


def ratio_table(by_bench: Mapping[tuple[str, str, str], Sequence[Line]]) -> str:
    """How many times the opponent's useful tokens a second ours are, by medians."""
    rows = ["| bench | size | ours | opponent | ratio |", "|---|---|---|---|---|"]
    for (task, workload, size), lines in by_bench.items():
        for ours, other, theirs in GENERATION_RATIOS if task == "generate" else STEP_RATIOS:
            found, against = ratio(lines, other, ours, theirs), best(lines, other, theirs)
            if found is not None and against is not None:
                rows.append(f"| {task} {workload} | {size} | {ours} | {against.label} | {found:.2f} |")
    return "\n".join(rows)


def bench_table(key: tuple[str, str, str], lines: Sequence[Line]) -> str:
    """Every arm of one bench; last, how many times its speed ours has, at auto or else at the same number type."""
    task, workload, size = key
    rows = [
        f"{TITLES[task]}, {workload}, {size}:",
        "",
        "| arm | seconds, median | quartiles | least to most | steps | tokens/s | rollout | update | peak MiB "
        "| ours / it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        seconds = line.seconds
        parts = " | ".join(short(line.parts[name].median) if name in line.parts else "" for name in PARTS)
        ours = best(lines, "ours", "auto") or best(lines, "ours", line.job.dtype)
        times = f"{ours.speed.median / line.speed.median:.2f}" if ours else ""
        rows.append(
            f"| {line.label} | {short(seconds.median)} | {short(seconds.low)} to {short(seconds.high)} "
            f"| {short(seconds.least)} to {short(seconds.most)} | {seconds.count} | {line.speed.median:,.0f} | {parts} "
            f"| {line.peak_memory_bytes / 2**20:.0f} | {times} |"
        )
    return "\n".join(rows)


def learning_table(records: Sequence[Record]) -> str:
    """The demo task to its goal: seconds of training and samples, over the seeds."""
    rows = [
        "The demo task to 90% held-out accuracy:",
        "",
        "| arm | seeds that got there | seconds, median | least to most | samples, median | least to most "
        "| ours / it, seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["job"]["workload"] == "demo":
            groups.setdefault((record["job"]["arm"], record["job"]["dtype"]), []).append(record)
    ours = reached_seconds(groups.get(("ours", "auto"), []))
    for (arm, dtype), group in groups.items():
        seconds, samples = reached_seconds(group), reached_samples(group)
        there = sum(record["notes"]["reached"] for record in group)
        cells = "| | | | | |"
        if seconds and samples:
            share = f"{ours.median / seconds.median:.2f}" if ours else ""
            cells = (
                f"| {seconds.median:.0f} | {seconds.least:.0f} to {seconds.most:.0f} | {samples.median:,.0f} "
                f"| {samples.least:,.0f} to {samples.most:,.0f} | {share} |"
            )
        rows.append(f"| {arm}, {dtype} | {there} of {len(group)} {cells}")
    return "\n".join(rows)


def reached_seconds(records: Sequence[Record]) -> Spread | None:
    """Training seconds of the seeds that reached the goal."""
    found = [record["seconds"][0] for record in records if record["notes"]["reached"]]
    return spread(found) if found else None


def reached_samples(records: Sequence[Record]) -> Spread | None:
    """Completions sampled until then."""
    found = [record["notes"]["samples"] for record in records if record["notes"]["reached"]]
    return spread(found) if found else None


def machine_line(records: Sequence[Record]) -> str:
    """On what this was measured."""
    machine = records[0]["machine"]
    packages: dict[str, str] = {}
    for record in records:
        packages |= {f"{name} {version}": "" for name, version in record["machine"]["packages"].items()}
    return (
        f"{machine['cpu'] or 'CPU'}, {machine['cores']} cores; {', '.join(sorted(packages))}. Quartiles and extremes "
        "are over all measured steps; peak memory is the process's, libraries included."
    )


def short(seconds: float) -> str:
    """Three significant digits."""
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"
