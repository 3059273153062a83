"""The equivalence gate: completions that TRL sampled, through TRL's GRPO loss and ours; the same loss and gradient.

`python -m bench.gate MODEL SCRATCH RESULT.json`, in TRL's environment. Beside the old log-probs the comparison is that
of tests/agreement, whose two sides it uses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from bench.arms.ours_setup import ALGORITHM
from bench.arms.trl_setup import make_trainer, step_settings
from bench.arms.trl_step import letters
from bench.jobs import Job, Place
from bench.workloads import WORKLOADS, letter_share, prompt_texts
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tests.agreement import our_side, trl_side
from tests.agreement.cases import Case
from upweight.presets import algorithm
from upweight.types import Batch

TOLERANCE = 1e-5
ROUNDING = 5e-7  # of a loss whose summands are of order one and cancel
NOISE = 0.3  # nats between old and current log-probs, so that ratios differ from 1 and some are clipped


def sampled_by_trl(place: Place) -> Case:
    """A batch of workload B as TRL's trainer sampled it, as a case of tests/agreement."""
    shape = WORKLOADS["B"]
    job = Job("step", "trl", "tiny", "B", shape, "float32", warmup=0, measured=1)
    rows = [{"prompt": text} for text in prompt_texts(shape.prompts, shape.prompt_tokens)]
    trainer = make_trainer(place, rows, letters, step_settings(job), [])
    trainer.current_gradient_accumulation_steps = 1
    found = trainer._generate_and_score_completions([row for row in rows for _ in range(shape.group_size)])
    return case_of(trainer.model.eval(), trainer.processing_class, found, shape.group_size)


def case_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, found: dict[str, Any], group_size: int) -> Case:
    """The trainer's padded tensors as ragged rows, with the rewards of their texts."""
    prompts, masks = found["prompt_ids"], found["completion_mask"].bool()
    completions = [ids[mask] for ids, mask in zip(found["completion_ids"], masks, strict=True)]
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in completions]
    ended = torch.tensor([ids[-1].item() == tokenizer.eos_token_id for ids in completions])
    rewards = torch.tensor([letter_share(text) for text in texts], dtype=torch.float64)
    count = len(completions)
    batch = Batch(
        ids=[str(i) for i in range(count)],
        prompt_ids=list(prompts),
        token_ids=completions,
        loss_mask=[torch.ones(len(ids), dtype=torch.bool) for ids in completions],
        group_ids=torch.arange(count) // group_size,
        unit_ids=torch.arange(count),
        streams=["main"] * count,
        row_columns={
            "rewards": rewards,
            "truncated": ~ended,
            "correct": torch.zeros(count, dtype=torch.bool),
            "token_budget": torch.full((count,), 256.0),
        },
    )
    case = Case(model, model, tokenizer, batch, 1.0, [], group_size)
    draw = torch.Generator().manual_seed(0)
    old = [row + NOISE * torch.randn(len(row), generator=draw) for row in our_side.current_logprobs(case)]
    return Case(model, model, tokenizer, batch, 1.0, old, group_size)


def agreement(place: Place) -> dict[str, float | bool]:
    """How far loss and gradient are apart, relative to TRL's."""
    case = sampled_by_trl(place)
    options = {name: value for name, value in ALGORITHM.items() if name != "name"}
    ours = our_side.number(case, algorithm("grpo", options), old=True)
    theirs = trl_side.Grpo(case, place.scratch / "gate", loss_type="grpo").loss()
    apart = abs(ours.loss - theirs.loss)
    gradient = float((ours.gradient - theirs.gradient).norm() / theirs.gradient.norm())
    return {
        "completions": len(case.batch),
        "loss": theirs.loss,
        "loss_apart": apart,
        "gradient_apart": gradient,
        "passed": gradient < TOLERANCE and apart < TOLERANCE * abs(theirs.loss) + ROUNDING,
    }


def main(model: str, scratch: str, result: str) -> None:
    """Writes the comparison."""
    found = agreement(Place(Path(model), Path(scratch)))
    Path(result).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
