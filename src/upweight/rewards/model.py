"""A trained reward model as a reward: all completions of a step are scored at once, in the controller's process.

[rewards.parts]
quality = {function = "reward_model", options = {path = "runs/rm/final", centre = 0.3}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.config import RewardPart
from upweight.errors import UserError, nearest
from upweight.models.reward import load_reward_model, reads_tokens_of, score_completions
from upweight.types import Rollout

OPTIONS: Mapping[str, Any] = {"path": "", "centre": 0.0, "tokens_per_microbatch": 16384}


@dataclass(frozen=True)
class ModelReward:
    """score(prompt, completion) - centre, from a sequence-classification model with one output.

    `encode` gives the ids that the model reads of a rollout: the policy's own where both have one vocabulary, else
    the conversation in the model's own template.
    """

    model: PreTrainedModel
    encode: Callable[[Rollout], tuple[Tensor, Tensor]]
    centre: float
    tokens_per_microbatch: int

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """One score a rollout. Raises UserError for a rollout that the model cannot read."""
        pairs = [self.encode(rollout) for rollout in rollouts]
        prompts, completions = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        scores = score_completions(self.model, prompts, completions, self.tokens_per_microbatch)
        return [score - self.centre for score in scores]


def load_model_reward(name: str, part: RewardPart, policy_tokenizer: PreTrainedTokenizerBase) -> ModelReward:
    """The reward model that a part of the config names.

    Raises UserError for an unknown option, a missing path, or a folder that is no reward model.
    """
    for option in part.options:
        if option not in OPTIONS:
            raise UserError(
                f"rewards.parts.{name}.options: reward_model has no option {option!r}{nearest(option, OPTIONS)}"
            )
    options = {**OPTIONS, **part.options}
    if not isinstance(options["path"], str) or not options["path"]:
        raise UserError(f'rewards.parts.{name}.options needs path = "...", the folder of a reward model')
    if isinstance(options["centre"], bool) or not isinstance(options["centre"], int | float):
        raise UserError(f"rewards.parts.{name}.options.centre must be a number, not {options['centre']!r}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_reward_model(options["path"], device=device)
    model.requires_grad_(False)
    shared = reads_tokens_of(tokenizer, policy_tokenizer)
    encode = _as_sampled if shared else _Rendered(tokenizer)
    return ModelReward(model, encode, float(options["centre"]), int(options["tokens_per_microbatch"]))


def _as_sampled(rollout: Rollout) -> tuple[Tensor, Tensor]:
    return torch.tensor(rollout.prompt.token_ids), torch.tensor(rollout.token_ids)


@dataclass(frozen=True)
class _Rendered:
    """The conversation with the completion's text as the last turn, in the reward model's own template."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        turns = [*map(dict, rollout.prompt.messages), {"role": "assistant", "content": rollout.text}]
        if self.tokenizer.chat_template is None:
            raise UserError(
                "the reward model has another vocabulary than the policy and no chat template, so it cannot be shown a "
                "conversation: use one that was trained from the policy's own start, or add a template to its tokenizer"
            )
        ids = self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        return torch.tensor(ids[:-1]), torch.tensor(ids[-1:])
