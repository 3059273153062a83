"""TRL's GRPO trainer in this process, tuned, or with its defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import torch
import transformers
from bench.jobs import Job, Place
from bench.workloads import BETAS, LEARNING_RATE
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

datasets.disable_progress_bars()
transformers.logging.set_verbosity_error()

# What both have: the same step, on this CPU, writing nothing.
SAME: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "beta": 0.0,
    "temperature": 1.0,
    "loss_type": "grpo",
    "num_iterations": 1,
    "use_vllm": False,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "adam_beta1": BETAS[0],
    "adam_beta2": BETAS[1],
}
# What its user can do for speed: no activations computed twice, the fused optimizer, no logging.
TUNED: dict[str, Any] = {
    "gradient_checkpointing": False,
    "optim": "adamw_torch_fused",
    "logging_strategy": "no",
    "shuffle_dataset": False,
}


def batch_settings(rows: int, micro: int) -> dict[str, int]:
    """One optimizer step on `rows` completions, all generated at once, `micro` of them in a forward pass."""
    if rows % micro:
        raise ValueError(f"{rows} rows are no multiple of micro-batches of {micro}")
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": rows // micro}


def step_settings(job: Job) -> dict[str, Any]:
    """The trainer's arguments for a workload; variant "defaults" leaves to TRL what it would choose itself."""
    shape = job.shape
    settings = {
        **SAME,
        "seed": job.repeat,
        "max_steps": job.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "num_generations": shape.group_size,
        "max_completion_length": shape.completion_tokens,
    }
    if shape.forced:  # its mask ends at the first EOS, so that none may be drawn
        settings["generation_kwargs"] = {"min_new_tokens": shape.completion_tokens}
    if job.variant == "defaults":
        return settings | batch_settings(shape.rows, min(8, shape.rows))
    tuned = TUNED | {"bf16": job.dtype == "bfloat16"}
    return settings | tuned | batch_settings(shape.rows, job.options.get("micro", shape.rows))


def make_trainer(
    place: Place,
    rows: list[dict[str, Any]],
    reward: Callable[..., list[float]],
    settings: dict[str, Any],
    callbacks: list[Any],
) -> GRPOTrainer:
    """A trainer on the model of a folder, in float32 with SDPA attention."""
    model = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32, attn_implementation="sdpa")
    return GRPOTrainer(
        model,
        reward_funcs=reward,
        args=GRPOConfig(output_dir=str(place.scratch / "trl"), **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(place.model),
        callbacks=callbacks,
    )
