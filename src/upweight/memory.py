"""How much memory this process has held at once, in main memory and on a GPU."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def forget_peak() -> None:
    """Begins to look for the peak anew, so that a stage of a pipeline does not report that of an earlier one.

    Main memory's can be forgotten on Linux alone; elsewhere it stays that of the process.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """Largest resident memory of this process since `forget_peak`, or since it began."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_memory() -> dict[str, int]:
    """Both peaks by their names in a summary; the GPU's where CUDA was used."""
    found = {"peak_memory_bytes": peak_memory_bytes()}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    return found
