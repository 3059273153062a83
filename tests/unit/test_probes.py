"""What a start decides about the machine, and that a resumed run keeps it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from upweight import probes
from upweight.config import Config
from upweight.configfile import make_config
from upweight.errors import UserError
from upweight.models.load import load_model
from upweight.records.run_dir import open_run

INIT = {"width": 16, "layers": 1, "heads": 2, "context": 64}


def config(folder: Path, dtype: str = "auto", **changes: Any) -> Config:
    tables = {
        "runs_dir": str(folder),
        "steps": 1,
        "algorithm": "sft",
        "model": {"init": INIT},
        "data": {"task": "arithmetic"},
        "compute": {"dtype": dtype},
        **changes,
    }
    return make_config(tables, "a test")


@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, "bfloat16"), (0.95, "float32"), (2.0, "float32")])
def test_bfloat16_has_to_win_by_a_tenth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, chosen: str
) -> None:
    given = config(tmp_path)
    model, tokenizer = load_model(given.model)
    monkeypatch.setattr(probes.Rehearsal, "seconds", lambda _, dtype: seconds if dtype == torch.bfloat16 else 1.0)
    assert probes.decided(given, model, tokenizer).compute.dtype == chosen
    assert probes.decided(config(tmp_path, "float32"), model, tokenizer).compute.dtype == "float32"


def test_exact_weights_stay_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float64 was asked for, auto does not even look, and bfloat16 is refused."""
    given = config(tmp_path, model={"init": INIT, "dtype": "float64"})
    model, tokenizer = load_model(given.model)
    monkeypatch.setattr(probes.Rehearsal, "seconds", lambda *_: pytest.fail("timed"))
    assert probes.decided(given, model, tokenizer).compute.dtype == "float32"
    with pytest.raises(UserError, match="float64"):
        config(tmp_path, "bfloat16", model={"init": INIT, "dtype": "float64"})


def test_the_rehearsal_is_of_the_runs_own_step(tmp_path: Path) -> None:
    """A method that draws is timed drawing too; no more rows, tokens or context than the run has."""
    given = config(tmp_path)
    model, tokenizer = load_model(given.model)
    draws = {"algorithm": "grpo", "rewards": {"parts": {"right": {"function": "exact"}}}}
    batch = {"batch": {"prompts": 3, "group_size": 2, "rows": 5}}
    one = probes.rehearsal_of(config(tmp_path, **batch), model, tokenizer)
    assert (one.rows, one.length, one.draws) == (5, 63, False)
    two = probes.rehearsal_of(
        config(tmp_path, **draws, **batch, sampling={"max_completion_tokens": 7}), model, tokenizer
    )
    assert (two.rows, two.length, two.draws) == (6, 7, True)
    assert two.seconds(None) > 0


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_a_probe_leaves_nothing_behind(tmp_path: Path, algorithm: str) -> None:
    threads = torch.get_num_threads()
    rewards = {"rewards": {"parts": {"right": {"function": "exact"}}}} if algorithm == "grpo" else {}
    given = config(tmp_path, threads="auto", algorithm=algorithm, **rewards)
    model, tokenizer = load_model(given.model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    try:
        found = probes.decided(given, model, tokenizer)
        assert found.compute.dtype in ("float32", "bfloat16")
        assert found.threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.grad is None


def test_a_resumed_run_keeps_what_was_found(tmp_path: Path) -> None:
    open_run(config(tmp_path, "bfloat16", threads=1), resume=False)
    given = config(tmp_path, threads="auto")
    kept = probes.frozen_choices(given, resume=True)
    assert (kept.compute.dtype, kept.threads) == ("bfloat16", 1)
    assert probes.frozen_choices(given, resume=False) == given
    assert probes.frozen_choices(config(tmp_path, "float32"), resume=True).compute.dtype == "float32"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is asked to keep memory on Linux only")
def test_freed_memory_is_used_again() -> None:
    """A block of 40 MiB is cleared by the kernel page by page each time, unless it was kept.

    Small blocks between the large ones let the heap grow for some rounds before it fits: those come first, uncounted.
    """
    code = """
import resource, torch
from upweight.allocator import keep_freed_memory
{keep}
def write():
    torch.empty(10 * 2**20).fill_(1)
for _ in range(25):
    write()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    write()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", code.format(keep=call)], capture_output=True, check=True).stdout)
        for call in ("keep_freed_memory()", "")
    )
    assert kept < given_back / 5
