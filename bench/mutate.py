"""Mutation testing of objectives/: each small mistake that one can make in it, made; does tests/math notice?

    make mutate                                  # goes on where it was interrupted; `rm -r runs/mutation` starts anew
    python bench/mutate.py --modules kl,policy --jobs 2 --share 0.5

Works on a copy of the tree, one for each job. A first run notes which functions each test calls; a mutant is then run,
in a fork that has torch imported already, against every test that calls its function, shortest first, until one fails.
Hypothesis draws the same examples every time. Writes runs/mutation/results.jsonl, a line a mutant, and report.md.
What survived is tried again when a test has changed, and so is everything in a module that has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import beartype  # noqa: F401 - what is imported here need not be imported for each mutant
import hypothesis
import jaxtyping  # noqa: F401
import pytest
import torch
import transformers  # noqa: F401
from mutants import Mutant, choices_in, mutants
from mutation_plugins import Calls, Selected

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "mutation"
PACKAGE = Path("src/upweight/objectives")
TESTS = "tests/math"
READS_THE_SOURCE = "test_formulas.py"  # calls nothing, and may notice any change of a signature
WORST = 30.0  # seconds that a mutant may take beyond five times what its tests take


def fork_pytest(tree: Path, plugin: Calls | Selected, files: list[str], write_bytecode: bool = False) -> int:
    """Starts pytest in a child of this process on a copy of the tree; its answer goes to answer.json there."""
    (tree / "answer.json").unlink(missing_ok=True)
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(tree)
        sys.path.insert(0, str(tree / "src"))
        sys.dont_write_bytecode = not write_bytecode
        log = os.open(tree / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", "--hypothesis-profile=mutate"]
        status = pytest.main([*options, "-Wignore::pytest.PytestAssertRewriteWarning", *files], plugins=[plugin])
        Path("answer.json").write_text(json.dumps({"status": int(status), **plugin.answer()}))
    finally:
        os._exit(0)


def copy_tree(tree: Path) -> None:
    """The package and its tests as they stand now, so that an edit during the run changes nothing."""
    shutil.rmtree(tree, ignore_errors=True)
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)


def measure(tree: Path) -> dict[str, Any]:
    """Runs all of tests/math unchanged; exits if it does not pass."""
    os.waitpid(fork_pytest(tree, Calls(str(tree / PACKAGE)), [TESTS], write_bytecode=True), 0)
    answer: dict[str, Any] = {"status": -1}
    if (tree / "answer.json").exists():
        answer = json.loads((tree / "answer.json").read_text())
    if answer["status"] != pytest.ExitCode.OK or not any(answer["calls"].values()):
        sys.exit(f"{TESTS} does not pass as it stands: see {tree / 'log.txt'}")
    # A mutant may have the size and the second of the source that this was compiled from.
    shutil.rmtree(tree / PACKAGE / "__pycache__", ignore_errors=True)
    return answer


def tests_of(mutant: Mutant, measured: dict[str, Any]) -> list[str]:
    """Every test that calls the function, or, for what stands outside of one, any of its module; shortest first."""
    name = f"{mutant.module}.{mutant.function}"
    chosen = [
        test
        for test, calls in measured["calls"].items()
        if READS_THE_SOURCE in test
        or (name in calls if mutant.function else any(call.startswith(name) for call in calls))
    ]
    return sorted(chosen, key=measured["seconds"].__getitem__)


@dataclass(eq=False)
class Running:
    """A mutant under test in a child of this process."""

    mutant: Mutant
    tree: Path
    child: int
    deadline: float


def start(mutant: Mutant, tree: Path, measured: dict[str, Any]) -> Running:
    """Writes the mutant into the tree and runs its tests."""
    tests = tests_of(mutant, measured)
    (tree / PACKAGE / f"{mutant.module}.py").write_text(mutant.source)
    seconds = WORST + 5 * sum(measured["seconds"][test] for test in tests)
    order = {test: place for place, test in enumerate(tests)}
    child = fork_pytest(tree, Selected(order), sorted({test.partition("::")[0] for test in tests}))
    return Running(mutant, tree, child, time.monotonic() + seconds)


def verdict(running: Running) -> tuple[str, str] | None:
    """("killed" | "survived" | "timeout", the test that noticed), or None while it runs."""
    late = time.monotonic() > running.deadline
    if late:
        os.kill(running.child, signal.SIGKILL)
    if not os.waitpid(running.child, 0 if late else os.WNOHANG)[0]:
        return None
    if late:
        return "timeout", ""
    if not (running.tree / "answer.json").exists():
        return "killed", "the interpreter"
    answer = json.loads((running.tree / "answer.json").read_text())
    if not answer["by"] and answer["status"] != pytest.ExitCode.OK:
        sys.exit(f"pytest broke down: see {running.tree / 'log.txt'}")
    return ("killed" if answer["by"] else "survived"), answer["by"]


def run_all(todo: list[Mutant], measured: dict[str, Any], trees: list[Path]) -> Iterator[tuple[Mutant, str, str]]:
    """Each mutant with its verdict as it ends; one at a time in each tree."""
    waiting, free, active = todo[::-1], list(trees), list[Running]()
    try:
        while waiting or active:
            while waiting and free:
                active.append(start(waiting.pop(), free.pop(), measured))
            time.sleep(0.02)
            for running in list(active):
                if found := verdict(running):
                    active.remove(running)
                    free.append(running.tree)
                    file = PACKAGE / f"{running.mutant.module}.py"
                    shutil.copy(FOLDER / "original" / file, running.tree / file)
                    yield running.mutant, *found
    finally:
        for running in active:
            os.kill(running.child, signal.SIGKILL)


def digest(folder: Path) -> str:
    """Names the state of the Python files of a folder."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()[:16]


def read_results() -> dict[str, dict[str, Any]]:
    """The last result of each mutant, by its key."""
    path = FOLDER / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {result["key"]: result for result in map(json.loads, lines)}


def report(population: list[Mutant], results: dict[str, dict[str, Any]]) -> str:
    """The table by module, and the survivors."""
    lines = ["| module | mutants | run | killed | timeout | survived | killed, % |", "|---|---|---|---|---|---|---|"]
    for module in [*sorted({mutant.module for mutant in population}), "all"]:
        own = [mutant.key for mutant in population if module in (mutant.module, "all")]
        found = [results[key]["verdict"] for key in own if key in results]
        killed, late, survived = (found.count(kind) for kind in ("killed", "timeout", "survived"))
        share = f"{100 * (killed + late) / len(found):.1f}" if found else ""
        lines.append(f"| {module} | {len(own)} | {len(found)} | {killed} | {late} | {survived} | {share} |")
    lines += ["", "Survivors:", ""]
    for mutant in sorted(population, key=lambda mutant: (mutant.module, mutant.line)):
        if results.get(mutant.key, {}).get("verdict") == "survived":
            lines += [f"{mutant.module}.py:{mutant.line}", f"  - {mutant.before}", f"  + {mutant.after}"]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modules", default="", help="names with commas between them; all if not given")
    parser.add_argument("--jobs", type=int, default=2, help="mutants under test at a time")
    parser.add_argument("--share", type=float, default=1.0, help="part of the mutants to run, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which mutants are run")
    return parser.parse_args()


def prepare(jobs: int) -> tuple[list[Path], dict[str, Any]]:
    """A tree for each job, and what the tests call and take when nothing is wrong."""
    os.nice(10)
    torch.set_num_threads(1)
    hypothesis.settings.register_profile(
        "mutate",
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    copy_tree(FOLDER / "original")
    trees = [FOLDER / f"tree-{job}" for job in range(jobs)]
    copy_tree(trees[0])
    measured = measure(trees[0])
    for tree in trees[1:]:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(trees[0], tree)
    return trees, measured


def main() -> None:
    """Runs what has not been run, writing each result at once, and prints the report."""
    options = arguments()
    trees, measured = prepare(options.jobs)
    sources = {path.stem: path.read_text() for path in sorted((FOLDER / "original" / PACKAGE).glob("*.py"))}
    choices = choices_in(sources.values())
    wanted = options.modules.split(",") if options.modules else list(sources)
    population = [mutant for module in wanted for mutant in mutants(module, sources[module], choices)]
    random.Random(options.seed).shuffle(population)
    tests, results = digest(FOLDER / "original" / "tests"), read_results()
    todo = [
        mutant
        for mutant in population[: round(options.share * len(population))]
        if (known := results.get(mutant.key)) is None or (known["verdict"] == "survived" and known["tests"] != tests)
    ]
    print(f"{len(population)} mutants, {len(todo)} to run; tests alone take {sum(measured['seconds'].values()):.0f} s")
    with (FOLDER / "results.jsonl").open("a") as file:
        for mutant, found, by in run_all(todo, measured, trees):
            results[mutant.key] = {"key": mutant.key, "verdict": found, "by": by, "tests": tests} | asdict(mutant)
            del results[mutant.key]["source"]
            file.write(json.dumps(results[mutant.key]) + "\n")
            file.flush()
    (FOLDER / "report.md").write_text(report(population, results))
    print((FOLDER / "report.md").read_text())


if __name__ == "__main__":
    main()
