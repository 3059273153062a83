"""Tiny models and batches that the contract tests share."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.algorithms import Algorithm, Term, algorithm
from upweight.config import InitConfig, LearnerConfig, ModelConfig, OptimizerConfig
from upweight.learners.local import LocalLearner
from upweight.models.load import load_model
from upweight.types import Annotated, Batch, annotated

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")


def tiny_model(
    architecture: str, dtype: str = "float32", seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of 2 layers whose weights are large enough that its distributions are far from uniform."""
    init = InitConfig(architecture=architecture, width=32, layers=2, heads=4, kv_heads=2, mlp_width=64, context=96)
    model, tokenizer = load_model(ModelConfig(init=init, dtype=dtype), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model, tokenizer


def learner(
    terms: tuple[Term, ...],
    dtype: str = "float64",
    pad_multiple: int = 1,
    tokens_per_microbatch: int = 10**6,
    **options: Any,
) -> LocalLearner:
    """A learner whose reference differs from its policy and which never clips its gradient."""
    policy, tokenizer = tiny_model("llama", dtype)
    reference, _ = tiny_model("llama", dtype, seed=1)
    return LocalLearner(
        policy,
        tokenizer,
        terms,
        reference=reference.requires_grad_(False),
        temperature=0.7,
        total_steps=10,
        optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=1e9),
        limits=LearnerConfig(tokens_per_microbatch=tokens_per_microbatch, pad_multiple=pad_multiple),
        **options,
    )


def batch(rows: int = 8, group_size: int = 4, seed: int = 0) -> Batch:
    """Groups of rows of very different lengths, with holes in the loss mask and rewards of many values."""
    draw = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    prompts = [torch.randint(5, 90, (integer(1, 12),), generator=draw) for _ in range(rows // group_size)]
    lengths = [integer(1, 20) for _ in range(rows)]
    return Batch(
        ids=[f"row{i}" for i in range(rows)],
        prompt_ids=[prompts[i // group_size] for i in range(rows)],
        token_ids=[torch.randint(5, 90, (length,), generator=draw) for length in lengths],
        loss_mask=[torch.rand(length, generator=draw) < 0.9 for length in lengths],
        group_ids=torch.arange(rows) // group_size,
        unit_ids=torch.arange(rows),
        row_columns={"rewards": torch.rand(rows, generator=draw, dtype=torch.float64) * 2 - 0.5},
    )


def every_term(name: str) -> Algorithm:
    """A preset with each of its optional terms switched on."""
    preset = algorithm(name)
    return preset.with_options({option: 0.3 for option in preset.options() if option.endswith("_coef")})


def with_old_logprobs(rows: Annotated, seed: int = 3) -> Annotated:
    """Old log-probs that are some way from the current ones, so that some ratios are clipped and some are not."""
    draw = torch.Generator().manual_seed(seed)
    current = rows.token_columns["old_logprobs"]
    return annotated(
        rows, {"old_logprobs": [x + 0.3 * torch.randn(x.shape, generator=draw, dtype=x.dtype) for x in current]}
    )


def gradient(learner: Any) -> torch.Tensor:
    """The policy's whole gradient as one vector."""
    local = getattr(learner, "local", learner)
    return torch.cat([p.grad.flatten() for p in local.policy.parameters()])


def factory(name: str) -> Any:
    """A picklable maker of the learner of a preset, for hosts that build it in every process."""
    return partial(learner, every_term(name).active_terms())
