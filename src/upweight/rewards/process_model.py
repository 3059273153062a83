"""A trained process reward model as a reward: every step of every completion is scored, in the controller's process.

[rewards.parts]
steps = {function = "process_reward_model", options = {path = "runs/prm/final", separator = "\n", aggregate = "min"}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.config import RewardPart
from upweight.errors import UserError, nearest
from upweight.models.forward import context_length
from upweight.models.reward import load_reward_model, reads_tokens_of, score_tokens, step_tokens
from upweight.objectives.steps import Aggregate, aggregate_steps
from upweight.rewards.call import Stepwise
from upweight.types import Rollout

PROCESS_REWARD_MODEL = "process_reward_model"
OPTIONS: Mapping[str, Any] = {"path": "", "separator": "\n", "aggregate": "product", "tokens_per_microbatch": 16384}


@dataclass(frozen=True)
class ProcessModelReward:
    """sigma(score) of each step of a completion, and their aggregate as its one number.

    Steps are cut at the separator; what is blank between two of them is no step, and the last step needs none after
    it. The model reads the steps as it was trained on them, each tokenised by itself and closed by the separator,
    after the policy's own prompt. A completion without a step is worth 0, and so is a step beyond the model's context.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    separator: str
    aggregate: Aggregate
    tokens_per_microbatch: int

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Stepwise]:
        """The steps of each rollout with their probabilities."""
        steps = [split_steps(rollout.text, self.separator) for rollout in rollouts]
        prompts = [torch.tensor(rollout.prompt.token_ids) for rollout in rollouts]
        read = [self._read(prompt, [text for text, _ in found]) for prompt, found in zip(prompts, steps, strict=True)]
        scores = score_tokens(self.model, prompts, [tokens for tokens, _ in read], self.tokens_per_microbatch)
        return [
            self._stepwise([end for _, end in found], torch.sigmoid(row[ends].double()))
            for found, row, (_, ends) in zip(steps, scores, read, strict=True)
        ]

    def _read(self, prompt: Tensor, steps: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The tokens of the steps as far as the model's context reaches, and which of them end a step."""
        tokens, ends = step_tokens(self.tokenizer, steps, self.separator)
        room = context_length(self.model) - len(prompt)
        return torch.tensor(tokens[:room], dtype=torch.long), torch.tensor(ends[:room], dtype=torch.bool)

    def _stepwise(self, ends: Sequence[int], probabilities: Tensor) -> Stepwise:
        whole = torch.cat([probabilities, probabilities.new_zeros(len(ends) - len(probabilities))])
        return Stepwise(aggregate_steps(whole, self.aggregate).item(), tuple(ends), tuple(whole.tolist()))


def split_steps(text: str, separator: str) -> list[tuple[str, int]]:
    """The steps of a text, each with the offset at which it ends, its separator included."""
    found: list[tuple[str, int]] = []
    start = 0
    for piece in text.split(separator):
        end = min(start + len(piece) + len(separator), len(text))
        if piece.strip():
            found.append((piece, end))
        start = end
    return found


def load_process_reward(name: str, part: RewardPart, policy_tokenizer: PreTrainedTokenizerBase) -> ProcessModelReward:
    """The process reward model that a part of the config names.

    Raises UserError for an unknown or impossible option, a missing path, a folder that is no reward model, or one
    with another vocabulary than the policy's.
    """
    where = f"rewards.parts.{name}.options"
    options = _options(where, part.options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_reward_model(options["path"], device=device)
    if not reads_tokens_of(tokenizer, policy_tokenizer):
        raise UserError(
            f"{where}.path: {options['path']} has another vocabulary than the policy, so it cannot read the policy's "
            "prompts: train one from the policy's own start"
        )
    try:
        step_tokens(tokenizer, (), options["separator"])
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    model.requires_grad_(False)
    aggregate = cast(Aggregate, options["aggregate"])
    return ProcessModelReward(model, tokenizer, options["separator"], aggregate, options["tokens_per_microbatch"])


def _options(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    for option, value in given.items():
        if option not in OPTIONS:
            raise UserError(f"{where}: {PROCESS_REWARD_MODEL} has no option {option!r}{nearest(option, OPTIONS)}")
        if type(value) is not type(OPTIONS[option]) or not value:
            raise UserError(f"{where}.{option} must be like {OPTIONS[option] or 'runs/prm/final'!r}, not {value!r}")
    options = {**OPTIONS, **given}
    if not options["path"]:
        raise UserError(f'{where} needs path = "...", the folder of a process reward model')
    if options["aggregate"] not in get_args(Aggregate):
        raise UserError(f"{where}.aggregate: {options['aggregate']!r} is not one of {', '.join(get_args(Aggregate))}")
    return options
