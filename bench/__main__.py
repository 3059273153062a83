"""`python -m bench quick | standard | full | table`: see docs/benchmarks.md."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from bench import growth, profiles
from bench.environments import ROOT
from bench.jobs import Job
from bench.protocol import THREADS, BenchError, Series, python_of, say
from bench.results import Line, best, faster_micro, lines_of, ratio, read_records
from bench.table import benches, markdown

RESULTS = ROOT / "runs" / "bench"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Threads = Annotated[int, typer.Option(min=1, help="of every process")]


@app.command()
def quick(threads: Threads = THREADS) -> None:
    """A and B at small against TRL, anew, in at most five minutes; the last line is one JSON object."""
    check_environments("trl")
    series = fresh("quick", threads)
    gate = series.gate()
    records = series.run(profiles.quick())
    save(series, markdown(records, gate))
    print(json.dumps(summary(lines_of(records))))


@app.command()
def standard(
    threads: Threads = THREADS,
    resume: Annotated[bool, typer.Option("--resume", help="go on where it was interrupted")] = False,
) -> None:
    """A, B and generation at every size."""
    check_environments("trl", "vllm")
    series = Series(RESULTS / "standard", threads) if resume else fresh("standard", threads)
    gate = series.gate()
    save(series, markdown(series.run(profiles.standard(tuned(series))), gate))


@app.command()
def full(threads: Threads = THREADS) -> None:
    """Everything, for hours; goes on where it was interrupted."""
    check_environments("trl", "vllm")
    series = Series(RESULTS / "full", threads)
    gate = series.gate()
    jobs = profiles.full(tuned(series))
    save(series, markdown(series.run(jobs), gate))
    jobs += learning(series)
    save(series, markdown(series.run(jobs), gate))
    growth.run(Series(RESULTS / "growth", threads))


@app.command()
def table(name: Annotated[str, typer.Argument(help="quick, standard or full")] = "full") -> None:
    """The table of what a series has measured so far."""
    series = Series(RESULTS / name)
    gate = series.folder / "gate.json"
    records = read_records(series.results)
    if not records:
        raise BenchError(f"bench: nothing was measured in {series.folder.relative_to(ROOT)} yet", status=2)
    save(series, markdown(records, json.loads(gate.read_text()) if gate.exists() else None))


def check_environments(*names: str) -> None:
    """Raises BenchError where one is missing, before earlier results are forgotten."""
    for name in names:
        python_of(name)


def fresh(name: str, threads: int) -> Series:
    """A series that forgets what was measured before: ratios are of one run."""
    folder = RESULTS / name
    shutil.rmtree(folder, ignore_errors=True)
    return Series(folder, threads)


def tuned(series: Series) -> dict[tuple[str, str], int]:
    """The micro-batch that TRL is fastest with, at each size and number type."""
    return faster_micro(lines_of(series.run(profiles.tuning())))


def learning(series: Series) -> list[Job]:
    """The runs of the demo task, with TRL as it was fastest on a few batches."""
    line = min(lines_of(series.run(profiles.learn_tuning())), key=lambda line: line.seconds.median)
    return profiles.learn(line.job.dtype, line.job.options["micro"])


def summary(lines: list[Line]) -> dict[str, Any]:
    """The quick run in one object: ours at auto over TRL at its better type, the same in float32, and the medians."""
    found: dict[str, Any] = {}
    medians: dict[str, dict[str, float]] = {}
    for (_, workload, _), group in benches(lines).items():
        name = workload.lower()
        found[f"ratio_{name}"] = ratio(group, "trl", "auto")
        found[f"ratio_{name}_float32"] = ratio(group, "trl", "float32", "float32")
        opponent = best(group, "trl")
        found[f"trl_{name}"] = opponent.job.dtype if opponent else None
        for line in group:
            arm = f"{line.job.arm} {line.job.dtype}"
            medians[f"{workload} {arm}"] = {"seconds": line.seconds.median, "tokens_per_second": line.speed.median}
    return {**found, "medians": medians}


def save(series: Series, text: str) -> None:
    """Prints the table and leaves it in the series' folder."""
    path: Path = series.folder / "table.md"
    path.write_text(text, encoding="utf-8")
    print(text)
    say(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        app()
    except BenchError as error:
        print(error, file=sys.stderr)
        sys.exit(error.status)
