"""TRL's own number for a batch: its loss and its gradient, out of the trainers' own methods and data pipeline.

Each function builds the trainer that a user of TRL would build and hands it the rows in the form in which it takes
them: texts where TRL tokenizes, token ids where it does not. Nothing of a loss is computed here.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from tests.agreement.cases import Case, Number, flat
from upweight.objectives.tokens import pad

datasets.disable_progress_bars()

# Float32 and one process on the CPU; no checkpointed activations, which change no number.
PLAIN: dict[str, Any] = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def sft_of_texts(case: Case, folder: Path) -> Number:
    """SFTTrainer on prompts and completions as texts, the whole data set as one batch."""
    rows = case.batch
    texts = [
        {"prompt": case.text(prompt), "completion": case.text(completion[:-1])}  # TRL appends the EOS itself
        for prompt, completion in zip(rows.prompt_ids, rows.token_ids, strict=True)
    ]
    return _sft(case, folder, texts, per_device_train_batch_size=len(rows))


def sft_of_labels(case: Case, folder: Path, accumulation: int) -> Number:
    """SFTTrainer on token ids whose labels have holes, in several micro-batches of one optimizer step."""
    rows = case.batch
    labelled = []
    for prompt, completion, mask in zip(rows.prompt_ids, rows.token_ids, rows.loss_mask, strict=True):
        labels = [-100] * len(prompt) + torch.where(mask, completion, -100).tolist()
        labelled.append({"input_ids": torch.cat([prompt, completion]).tolist(), "labels": labels})
    options = {
        "per_device_train_batch_size": len(rows) // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    return _sft(case, folder, labelled, **options)


def _sft(case: Case, folder: Path, examples: list[dict[str, Any]], **options: Any) -> Number:
    model = deepcopy(case.policy)
    config = SFTConfig(output_dir=str(folder), **PLAIN, **options)
    trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(examples), processing_class=case.tokenizer)
    return _step(trainer, model)


def dpo(case: Case, folder: Path, **options: Any) -> Number:
    """DPOTrainer on pairs of texts."""
    pairs = [
        {"prompt": case.text(prompt), "chosen": case.text(chosen[:-1]), "rejected": case.text(rejected[:-1])}
        for prompt, chosen, rejected in case.pairs()
    ]
    model = deepcopy(case.policy)
    config = DPOConfig(output_dir=str(folder), per_device_train_batch_size=len(pairs), **PLAIN, **options)
    trainer = DPOTrainer(
        model,
        ref_model=deepcopy(case.reference),
        args=config,
        train_dataset=Dataset.from_list(pairs),
        processing_class=case.tokenizer,
    )
    return _step(trainer, model)


def kto(case: Case, folder: Path, **options: Any) -> tuple[Number, float]:
    """KTOTrainer on labelled texts, and the reference point that it found."""
    rows = case.batch
    examples = [
        {"prompt": case.text(prompt), "completion": case.text(completion[:-1]), "label": bool(label)}
        for prompt, completion, label in zip(rows.prompt_ids, rows.token_ids, rows.row_columns["label"], strict=True)
    ]
    model = deepcopy(case.policy)
    config = KTOConfig(output_dir=str(folder), per_device_train_batch_size=len(rows), **PLAIN, **options)
    trainer = KTOTrainer(
        model,
        ref_model=deepcopy(case.reference),
        args=config,
        train_dataset=Dataset.from_list(examples),
        processing_class=case.tokenizer,
    )
    return _step(trainer, model), trainer._metrics["train"]["kl"][-1]


def reward(model: PreTrainedModel, case: Case, folder: Path, margins: bool, **options: Any) -> Number:
    """RewardTrainer on pairs of token ids, with the pairs' margins if wanted."""
    pairs: list[dict[str, Any]] = [
        {"chosen_ids": torch.cat([prompt, chosen]).tolist(), "rejected_ids": torch.cat([prompt, rejected]).tolist()}
        for prompt, chosen, rejected in case.pairs()
    ]
    if margins:
        chosen = case.batch.row_columns["chosen"]
        for pair, margin in zip(pairs, case.batch.row_columns["margin"][chosen].tolist(), strict=True):
            pair["margin"] = margin
    model = deepcopy(model)
    config = RewardConfig(output_dir=str(folder), per_device_train_batch_size=len(pairs), **PLAIN, **options)
    trainer = RewardTrainer(model, args=config, train_dataset=Dataset.from_list(pairs), processing_class=case.tokenizer)
    return _step(trainer, model)


class Grpo:
    """A GRPOTrainer that has just been handed the rows as what its policy sampled, and has scored them."""

    def __init__(self, case: Case, folder: Path, **options: Any) -> None:
        rows = case.batch
        self.case, self.model = case, _policy_with_reference(case, folder)
        settings = {
            "per_device_train_batch_size": len(rows),
            "num_generations": case.group_size,
            "temperature": case.temperature,
        }
        self.trainer = GRPOTrainer(
            self.model,
            reward_funcs=lambda **_: rows.row_columns["rewards"].tolist(),
            args=GRPOConfig(output_dir=str(folder), **PLAIN, **(settings | options)),
            train_dataset=Dataset.from_list(_prompts(case)),
            processing_class=case.tokenizer,
            rollout_func=lambda *_: {
                "prompt_ids": [ids.tolist() for ids in rows.prompt_ids],
                "completion_ids": [ids.tolist() for ids in rows.token_ids],
                "logprobs": [[0.0] * len(ids) for ids in rows.token_ids],
                "env_mask": [mask.long().tolist() for mask in rows.loss_mask],
            },
        )
        self.trainer.current_gradient_accumulation_steps = self.trainer.args.gradient_accumulation_steps
        self.model.train()
        self.inputs = self.trainer._generate_and_score_completions(_prompts(case))

    def advantages(self) -> Tensor:
        """One advantage a row."""
        return self.inputs["advantages"]

    def loss(self, rows: slice = slice(None)) -> Number:
        """The loss of some of the rows, under old log-probs that are not the current ones."""
        inputs = {**self.inputs, "old_per_token_logps": pad(self.case.old_logprobs).float()}
        per_row = {name: value[rows] if value.dim() else value for name, value in inputs.items()}
        return _number(self.trainer.compute_loss(self.model, per_row), self.model)


class Rloo:
    """An RLOOTrainer that has just been handed the rows as what its policy sampled, and has scored them."""

    def __init__(self, case: Case, folder: Path, **options: Any) -> None:
        rows = case.batch
        self.case, self.model = case, _policy_with_reference(case, folder)
        settings = {
            "per_device_train_batch_size": len(rows),
            "num_generations": case.group_size,
            "temperature": case.temperature,
        }
        self.trainer = RLOOTrainer(
            self.model,
            reward_funcs=lambda **_: rows.row_columns["rewards"].tolist(),
            args=RLOOConfig(output_dir=str(folder), **PLAIN, **(settings | options)),
            train_dataset=Dataset.from_list(_prompts(case)),
            processing_class=case.tokenizer,
        )
        self.trainer._generate_single_turn = lambda *_: [ids.tolist() for ids in rows.token_ids]
        self.model.train()
        self.inputs = self.trainer._generate_and_score_completions(_prompts(case))

    def advantages(self) -> Tensor:
        """One advantage a row."""
        return self.inputs["advantages"]

    def loss(self) -> Number:
        """The loss of all rows, under old log-probs that are not the current ones."""
        old = torch.stack([row.sum() for row in self.case.old_logprobs]).float()
        return _number(self.trainer.compute_loss(self.model, {**self.inputs, "old_logps": old}), self.model)


def _prompts(case: Case) -> list[dict[str, Any]]:
    return [{"prompt": case.text(prompt)} for prompt in case.batch.prompt_ids]


def _policy_with_reference(case: Case, folder: Path) -> PreTrainedModel:
    """The policy, whose config names a folder with the reference: TRL loads its reference from there."""
    model = deepcopy(case.policy)
    case.reference.save_pretrained(folder / "reference")
    model.config._name_or_path = str(folder / "reference")
    return model


def _step(trainer: Any, model: PreTrainedModel) -> Number:
    """The loss of one optimizer step over the whole data set: the sum over its micro-batches, as Trainer adds them."""
    micro = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = micro
    model.train()
    batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), micro, trainer.args.device)
    if micro > 1 and items is None:
        raise ValueError("the trainer does not normalise over micro-batches")
    return _number(sum(trainer.compute_loss(model, one, num_items_in_batch=items) for one in batches), model)


def _number(loss: Tensor, model: PreTrainedModel) -> Number:
    model.zero_grad()
    loss.backward()
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return Number(loss.item(), flat(gradient))
