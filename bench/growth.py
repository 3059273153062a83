"""How the time of a step grows with each factor, the others as they are: ours alone, in float32.

    python -m bench.growth            # about half an hour; goes on where it was interrupted

Writes runs/bench/growth/growth.json and table.md, and docs/growth.png.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.environments import ROOT
from bench.figures import Growth, growth
from bench.jobs import Job
from bench.protocol import Series
from bench.results import Line, lines_of
from bench.workloads import SIZES, WORKLOADS, Workload

FACTORS: dict[str, tuple[int | str, ...]] = {
    "group_size": (2, 4, 8, 16, 32, 64),
    "completion_tokens": (32, 64, 128, 256, 512, 1024),
    "prompt_tokens": (16, 32, 64, 128, 256, 512, 1024),
    "parameters": tuple(SIZES),
}
TITLES = {
    "group_size": "completions of a prompt",
    "completion_tokens": "tokens of a completion",
    "prompt_tokens": "tokens of a prompt",
    "parameters": "parameters",
}
PARTS = ("step", "rollout", "update")
PROMPTS = 2
SKIP = 2  # smallest points left out of the second fit, where costs that do not grow hide the slope


def jobs(factor: str) -> list[Job]:
    """The points of a factor; the rest is as in workload A at small, with PROMPTS prompts."""
    return [
        Job(
            "step", "ours", size_of(factor, value), f"{factor} {value}", shape_of(factor, value), "float32", "", 0, 1, 3
        )
        for value in FACTORS[factor]
    ]


def size_of(factor: str, value: int | str) -> str:
    """The model of a point."""
    return str(value) if factor == "parameters" else "small"


def shape_of(factor: str, value: int | str) -> Workload:
    """The workload of a point."""
    changed: dict[str, Any] = {} if factor == "parameters" else {factor: int(value)}
    return replace(WORKLOADS["A"], prompts=PROMPTS, **changed)


def position(factor: str, job: Job) -> float:
    """Where a point lies on its factor's axis."""
    return SIZES[job.size].parameters if factor == "parameters" else getattr(job.shape, factor)


def curves(factor: str, lines: Sequence[Line]) -> dict[str, list[tuple[float, float]]]:
    """(factor, median seconds) of the step and of its parts, in order."""
    found: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    for line in lines:
        x = position(factor, line.job)
        for part in PARTS:
            seconds = line.seconds if part == "step" else line.parts[part]
            found[part].append((x, seconds.median))
    return {part: sorted(points) for part, points in found.items()}


def fits(points: Sequence[tuple[float, float]]) -> tuple[Growth, Growth]:
    """The exponent over all points, and without the smallest ones."""
    x, y = zip(*points, strict=True)
    return growth(x, y), growth(x, y, SKIP)


def table(found: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> str:
    """Exponents of every factor and part."""
    rows = [
        f"| factor | from, to | part | seconds at the ends | exponent | without the {SKIP} smallest |",
        "|---|---|---|---|---|---|",
    ]
    for factor, parts in found.items():
        for part, points in parts.items():
            whole, upper = fits(points)
            (first, start), (last, end) = points[0], points[-1]
            rows.append(
                f"| {TITLES[factor]} | {first:,.0f} to {last:,.0f} | {part} | {start:.3g} to {end:.3g} "
                f"| {whole.exponent:.2f} ± {whole.error:.2f} | {upper.exponent:.2f} ± {upper.error:.2f} |"
            )
    return "\n".join(rows) + "\n"


def draw(found: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path) -> None:
    """A panel a factor, logarithmic on both axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(8, 6), dpi=100)
    colours = {"step": "#222222", "rollout": "#1f6f54", "update": "#c9a227"}
    for axes, (factor, parts) in zip(panels.flat, found.items(), strict=True):
        for part, points in parts.items():
            upper = fits(points)[1].exponent
            x, y = zip(*points, strict=True)
            axes.loglog(x, y, marker="o", ms=3.5, lw=1.3, color=colours[part], label=f"{part}: x^{upper:.2f}")
        places = [x for x, _ in parts["step"]]
        axes.set_xticks(places, [f"{x / 1e6:.0f}M" if x >= 1e6 - 5e3 else f"{x:,.0f}" for x in places])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_xlabel(TITLES[factor])
        axes.set_ylabel("seconds a step")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def run(series: Series) -> None:
    """Measures what is missing, then writes figures, table and plot."""
    found = {factor: curves(factor, lines_of(series.run(jobs(factor)))) for factor in FACTORS}
    (series.folder / "growth.json").write_text(json.dumps(report(found), indent=1), encoding="utf-8")
    (series.folder / "table.md").write_text(table(found), encoding="utf-8")
    draw(found, ROOT / "docs" / "growth.png")
    print(table(found))


def report(found: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> dict[str, Any]:
    """Points and fits, for programs."""
    return {
        factor: {
            part: {"points": points, "fit": asdict(fits(points)[0]), "upper_fit": asdict(fits(points)[1])}
            for part, points in parts.items()
        }
        for factor, parts in found.items()
    }


if __name__ == "__main__":
    run(Series(ROOT / "runs" / "bench" / "growth"))
