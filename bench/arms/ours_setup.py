"""A session of ours for a workload, built as `upweight train` builds it."""

from __future__ import annotations

import shutil
from typing import Any

from bench.jobs import Job, Place
from bench.workloads import BETAS, LEARNING_RATE, prompt_texts, write_prompts

from upweight.compose import build_session
from upweight.config import Config
from upweight.configfile import apply_overrides, make_config
from upweight.train import Session

# GRPO as TRL's `loss_type="grpo"` has it: rewards over the sample deviation of the group, no KL.
ALGORITHM = {"name": "grpo", "kl_coef": 0.0, "std": "sample", "std_eps": 1e-4}


def tables(job: Job, place: Place, steps: int) -> dict[str, Any]:
    """The config of a workload: nothing is recorded or saved on the way, as in TRL's arm."""
    shape = job.shape
    prompts = prompt_texts(shape.prompts * steps, shape.prompt_tokens, job.repeat)
    return {
        "name": job.name,
        "runs_dir": str(place.scratch / "runs"),
        "seed": job.repeat,
        "steps": steps,
        "algorithm": ALGORITHM,
        "model": {"path": str(place.model), "device": "cpu"},
        "data": {"path": str(write_prompts(place.scratch / f"{job.name}.jsonl", prompts))},
        "rewards": {"parts": {"letters": {"function": "bench.workloads:letter_share"}}},
        "batch": {"prompts": shape.prompts, "group_size": shape.group_size},
        "sampling": {"max_completion_tokens": shape.completion_tokens},
        "optimizer": {"lr": LEARNING_RATE, "betas": BETAS},
        "checkpoint": {"every": 0},
        "records": {"ledger_every": 0, "kl_every": 0, "tensorboard": False},
        **compute(job),
    }


def compute(job: Job) -> dict[str, Any]:
    """The table that chooses the number type of the arithmetic, in a version that has it."""
    return {"compute": {"dtype": job.dtype}} if "compute" in Config.model_fields else {}


def session_of(job: Job, place: Place, steps: int) -> Session:
    """A new session; where completions are forced, no token ends them.

    `job.options["config"]` holds further `key=value` overrides.
    """
    config = make_config(apply_overrides(tables(job, place, steps), job.options.get("config", ())), job.name)
    shutil.rmtree(config.run_dir, ignore_errors=True)
    session = build_session(config)
    if job.shape.forced:
        session.source.maker.sampler.stop_ids = frozenset()  # type: ignore[attr-defined]
    return session
