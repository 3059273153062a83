"""Choices that only the machine can make: precision and threads, by timing the model's own training pass.

What was found is frozen in the run's config, so that a resumed run computes as it did before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.config import Config
from upweight.configfile import make_config, read_toml
from upweight.models.networks import PolicyNetwork
from upweight.models.trunk import Layout
from upweight.types import Batch

PROBE_FLOPS = 2e11  # of one timed pass at most, unless the model is large: a second on a slow machine
GAIN = 0.9  # another choice than the plain one must take less than this share of its time
ROWS = 32  # completions that share the probe's prompt: a batch of a few tokens would time calls, not arithmetic


def frozen_choices(config: Config, resume: bool) -> Config:
    """The config with what an earlier start of this run has found in place of "auto", when it is to be resumed."""
    path = Path(config.run_dir) / "config.toml"
    if not (resume and path.is_file()):
        return config
    before = make_config(read_toml(path), str(path))
    threads = before.threads if config.threads == "auto" else config.threads
    dtype = before.compute.dtype if config.compute.dtype == "auto" else config.compute.dtype
    return _with(config, threads, dtype)


def decided(config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Config:
    """The config with every "auto" decided, and torch told how many threads it has.

    Ties go to all cores and to float32: another choice must win by a tenth.
    """
    threads, dtype = config.threads, config.compute.dtype
    if isinstance(threads, int):
        torch.set_num_threads(threads)
    if dtype == "auto":
        lower = config.model.dtype == "float32" and _is_faster(
            lambda: _seconds(model, tokenizer, torch.bfloat16), lambda: _seconds(model, tokenizer, None)
        )
        dtype = "bfloat16" if lower else "float32"
    if threads == "auto":
        threads = _threads(model, tokenizer, torch.bfloat16 if dtype == "bfloat16" else None)
        torch.set_num_threads(threads)
    return _with(config, threads, dtype)


def _with(config: Config, threads: Any, dtype: str) -> Config:
    compute = config.compute.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"threads": threads, "compute": compute})


def _threads(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype | None) -> int:
    every = os.cpu_count() or 1

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        return _seconds(model, tokenizer, dtype)

    alone = every > 1 and model.device.type == "cpu" and _is_faster(lambda: seconds(1), lambda: seconds(every))
    return 1 if alone else every


def _is_faster(candidate: Callable[[], float], plain: Callable[[], float]) -> bool:
    """Compares the better of two runs each, in turn; the first of each only warms up."""
    for run in (plain, candidate):
        run()
    times = [(plain(), candidate()) for _ in range(2)]
    return min(new for _, new in times) < GAIN * min(old for old, _ in times)


def _seconds(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype | None) -> float:
    """The time of a forward and backward pass over some rows of nothing in particular; leaves no gradient behind."""
    network = PolicyNetwork(model, tokenizer, layout=Layout(dtype=dtype))
    count = sum(parameter.numel() for parameter in model.parameters())
    length = int(min(max(PROBE_FLOPS / (6 * count * ROWS), 8), 128))
    ids = torch.arange(length) % min(len(tokenizer), 50)
    rows = Batch(
        ids=["probe"] * ROWS,
        prompt_ids=[ids] * ROWS,
        token_ids=[ids] * ROWS,
        loss_mask=[torch.ones(length, dtype=torch.bool)] * ROWS,
        group_ids=torch.zeros(ROWS, dtype=torch.long),
        unit_ids=torch.arange(ROWS),
        streams=["main"] * ROWS,
    )
    start = time.perf_counter()
    torch.cat(network.outputs(rows)["logprobs"]).sum().backward()
    spent = time.perf_counter() - start
    for parameter in model.parameters():
        parameter.grad = None
    return spent
