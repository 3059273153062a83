"""Choices that only the machine can make: precision and threads, by rehearsing a small step of the run.

What was found is frozen in the run's config, so that a resumed run computes as it did before.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.config import Config
from upweight.configfile import make_config, read_toml
from upweight.models.forward import context_length
from upweight.models.networks import PolicyNetwork
from upweight.models.trunk import Layout
from upweight.samplers.native import NativeSampler
from upweight.types import Batch, Request, SampleKey, SamplingParams

PROBE_FLOPS = 1e11  # of one timed pass at most, unless the model is large: a second on a slow machine
GAIN = 0.9  # another choice than the plain one must take less than this share of its time
ROWS, LENGTH = 256, 64  # completions and tokens of each, at most; as many as the run has, where that is not too long


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
    step = rehearsal_of(config, model, tokenizer)
    if dtype == "auto":
        lower = config.model.dtype == "float32" and _is_faster(
            lambda: step.seconds(torch.bfloat16), lambda: step.seconds(None)
        )
        dtype = "bfloat16" if lower else "float32"
    if threads == "auto":
        threads = _threads(step, torch.bfloat16 if dtype == "bfloat16" else None)
        torch.set_num_threads(threads)
    return _with(config, threads, dtype)


def _with(config: Config, threads: Any, dtype: str) -> Config:
    compute = config.compute.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"threads": threads, "compute": compute})


@dataclass(frozen=True)
class Rehearsal:
    """A small step of a run: `rows` completions of `length` tokens, drawn where the method draws, and learned from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: int
    length: int
    draws: bool

    def seconds(self, dtype: torch.dtype | None) -> float:
        """What it takes in a type of arithmetic, None being the weights' own; leaves no gradient behind."""
        return (self._sampling(dtype or self.model.dtype) if self.draws else 0.0) + self._training(dtype)

    def _sampling(self, dtype: torch.dtype) -> float:
        own = copy.deepcopy(self.model).to(dtype)  # type: ignore[arg-type]
        sampler = NativeSampler(own, self.tokenizer, frozenset())
        params = SamplingParams(max_completion_tokens=self.length)
        requests = [Request((0,), SampleKey(0, 0, 0, row), params) for row in range(self.rows)]
        start = time.perf_counter()
        list(sampler.sample(requests))
        return time.perf_counter() - start

    def _training(self, dtype: torch.dtype | None) -> float:
        network = PolicyNetwork(self.model, self.tokenizer, layout=Layout(dtype=dtype))
        ids = torch.arange(self.length) % min(len(self.tokenizer), 50)
        rows = Batch(
            ids=["probe"] * self.rows,
            prompt_ids=[ids[:1]] * self.rows,
            token_ids=[ids] * self.rows,
            loss_mask=[torch.ones(self.length, dtype=torch.bool)] * self.rows,
            group_ids=torch.zeros(self.rows, dtype=torch.long),
            unit_ids=torch.arange(self.rows),
            streams=["main"] * self.rows,
        )
        start = time.perf_counter()
        torch.cat(network.outputs(rows)["logprobs"]).sum().backward()
        spent = time.perf_counter() - start
        for parameter in self.model.parameters():
            parameter.grad = None
        return spent


def rehearsal_of(config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Rehearsal:
    """The run's own rows and lengths, but no more than some, and fewer for a large model."""
    draws = config.algorithm.resolve().source == "rollouts"
    rows = min(config.batch.prompts * config.batch.group_size if draws else config.batch.rows, ROWS)
    length = min(config.sampling.max_completion_tokens, LENGTH, context_length(model) - 1)
    tokens = PROBE_FLOPS / (6 * sum(parameter.numel() for parameter in model.parameters()))
    length = int(min(length, max(8, tokens / rows)))
    return Rehearsal(model, tokenizer, int(min(rows, max(1, tokens / length))), length, draws)


def _threads(step: Rehearsal, dtype: torch.dtype | None) -> int:
    every = os.cpu_count() or 1

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        return step.seconds(dtype)

    alone = every > 1 and step.model.device.type == "cpu" and _is_faster(lambda: seconds(1), lambda: seconds(every))
    return 1 if alone else every


def _is_faster(candidate: Callable[[], float], plain: Callable[[], float]) -> bool:
    """Compares the better of two runs each, in turn; the first of each only warms up."""
    for run in (plain, candidate):
        run()
    times = [(plain(), candidate()) for _ in range(2)]
    return min(new for _, new in times) < GAIN * min(old for old, _ in times)
