"""Runs measurements one after the other, each in a fresh process of its own environment, and keeps what was measured.

What a folder already has is not measured again, so that an interrupted series goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.environments import ROOT, interpreter, missing
from bench.figures import clock, seconds_left
from bench.jobs import ENVIRONMENT_OF, Job
from bench.profiles import guess
from bench.results import Record, read_records
from bench.workloads import WORKLOADS

THREADS = 2
LAST_LINES = 12


class BenchError(Exception):
    """What keeps a series from going on, in words. `status` is the exit code."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Series:
    """A folder of results, with the models, data and logs of its measurements."""

    folder: Path
    threads: int = THREADS

    @property
    def results(self) -> Path:
        """One JSON a measurement."""
        return self.folder / "results"

    def result(self, job: Job) -> Path:
        """The file of a measurement."""
        return self.results / f"{job.name}.json"

    def run(self, jobs: Sequence[Job]) -> list[Record]:
        """Makes the measurements that are not there yet and returns those of all jobs, in the order of the jobs.

        Raises BenchError where an environment is missing, before anything runs, and where a measurement fails.
        """
        pythons = {name: python_of(name) for name in {ENVIRONMENT_OF[job.arm] for job in jobs}}
        to_do = [job for job in jobs if not self.result(job).exists()]
        done: list[tuple[float, float]] = []
        for i, job in enumerate(to_do):
            left = seconds_left(done, [guess(other) for other in to_do[i:]])
            say(f"{i + 1}/{len(to_do)} {job.name} ({clock(left)} left)")
            start = time.perf_counter()
            self._measure(job, pythons[ENVIRONMENT_OF[job.arm]])
            done.append((guess(job), time.perf_counter() - start))
        return read_records(self.results, [job.name for job in jobs])

    def _measure(self, job: Job, python: Path) -> None:
        files = self.folder / "jobs"
        files.mkdir(parents=True, exist_ok=True)
        self.results.mkdir(parents=True, exist_ok=True)
        job_file = files / f"{job.name}.json"
        job_file.write_text(job.to_json(), encoding="utf-8")
        arguments = [job_file, self.model(job), self.folder / "scratch", self.result(job)]
        self.call(job.name, python, "bench.arms.main", arguments, preloaded(job, python))

    def model(self, job: Job) -> Path:
        """The folder of the weights that every arm of a series starts from, made where there is none."""
        if job.task == "learn":
            return self._demo_start(job.repeat)
        folder = self.folder / "models" / job.size
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            self.call(f"model_{job.size}", python_of("own"), "bench.model_folder", [job.size, folder])
        return folder

    def _demo_start(self, seed: int) -> Path:
        folder = self.folder / "models" / f"demo-{seed}"
        if not (folder / "start" / "sft" / "summary.json").exists():
            say(f"the model that seed {seed} of the demo task starts from")
            self.call(f"demo_start_{seed}", python_of("own"), "bench.demo_start", [seed, folder])
        return folder / "start" / "sft" / "final"

    def gate(self) -> Mapping[str, float | bool]:
        """The equivalence gate, once a series. Raises BenchError when loss or gradient differ."""
        result = self.folder / "gate.json"
        if not result.exists():
            python, job = python_of("trl"), Job("step", "trl", "tiny", "B", WORKLOADS["B"], "float32")
            say("equivalence gate: TRL's completions through both losses")
            self.call("gate", python, "bench.gate", [self.model(job), self.folder / "scratch", result])
        found: dict[str, float | bool] = json.loads(result.read_text(encoding="utf-8"))
        if not found["passed"]:
            raise BenchError(f"the equivalence gate failed, so that no ratio would mean anything: {found}")
        return found

    def call(
        self, name: str, python: Path, module: str, arguments: Sequence[object], extra: Mapping[str, str] | None = None
    ) -> None:
        """A module in a process of its own; what it prints goes to a log. Raises BenchError when it fails."""
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "scratch").mkdir(parents=True, exist_ok=True)
        command = [str(python), "-W", "ignore", "-m", module, *(str(one) for one in arguments)]
        with log.open("w", encoding="utf-8") as out:
            variables = environment(self.threads, extra or {})
            status = subprocess.run(command, cwd=ROOT, env=variables, stdout=out, stderr=out, check=False).returncode
        if status:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
            raise BenchError(f"{name} failed with status {status}; {log} ends with\n{tail}")


def python_of(name: str) -> Path:
    """The interpreter of an environment. Raises BenchError, with exit code 2, where there is none."""
    found = interpreter(name)
    if found is None:
        raise BenchError(missing(name), status=2)
    return found


def environment(threads: int, extra: Mapping[str, str]) -> dict[str, str]:
    """The variables of a measurement: pinned threads, no network, no GPU, this tree's code."""
    own = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {**os.environ, **own, **extra}


def preloaded(job: Job, python: Path) -> dict[str, str]:
    """The OpenMP runtime that vLLM's variants differ in. Raises BenchError where the environment does not have it."""
    if job.variant != "libiomp5":
        return {}
    library = python.parent.parent / "lib" / "libiomp5.so"
    if not library.exists():
        raise BenchError(f"vLLM's environment has no {library.name}: make it anew", status=2)
    return {"LD_PRELOAD": str(library)}


def say(line: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(line, file=sys.stderr, flush=True)
