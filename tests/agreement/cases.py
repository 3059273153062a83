"""The rows that both sides are given: tiny random models in float32, ragged rows, masks with holes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.config import InitConfig, ModelConfig
from upweight.models.load import load_model
from upweight.models.networks import PolicyNetwork
from upweight.types import Batch

GROUP_SIZE = 4
TOKENS = (3, 90)  # ids of printable characters, each of which is one token
# A constant group, and rewards that are no round numbers.
REWARDS = (1.0, 0.0, 0.3, -0.7, 0.5, 0.5, 0.5, 0.5, 2.0, 1.0, 1.0, -1.0)


@dataclass(frozen=True)
class Number:
    """What the two sides are compared by: the loss of one optimizer step and its gradient, one vector."""

    loss: float
    gradient: Tensor


@dataclass(frozen=True)
class Case:
    """Models and rows. `old_logprobs` are some way from the policy's own, so that some ratios are clipped."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch: Batch
    temperature: float
    old_logprobs: list[Tensor]
    group_size: int = GROUP_SIZE

    def text(self, ids: Tensor) -> str:
        """The text of some ids, one character a token."""
        return str(self.tokenizer.decode(ids))

    def pairs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Prompt, chosen and rejected ids of each pair."""
        rows, chosen = self.batch, self.batch.row_columns["chosen"].tolist()
        for i in range(0, len(rows), 2):
            good, bad = (i, i + 1) if chosen[i] else (i + 1, i)
            yield rows.prompt_ids[i], rows.token_ids[good], rows.token_ids[bad]

    def with_whole_masks(self) -> Case:
        """The same rows, every token of which the policy chose."""
        masks = [torch.ones_like(mask) for mask in self.batch.loss_mask]
        return replace(self, batch=replace(self.batch, loss_mask=masks))


def rollouts(architecture: str, seed: int = 0) -> Case:
    """Three groups of four rollouts; the last row of each group was cut off before its EOS."""
    draw = torch.Generator().manual_seed(seed)
    prompts = [_ids(draw, 2, 9) for _ in range(len(REWARDS) // GROUP_SIZE)]
    ended = [i % GROUP_SIZE != GROUP_SIZE - 1 for i in range(len(REWARDS))]
    return _case(
        architecture,
        draw,
        [prompts[i // GROUP_SIZE] for i in range(len(REWARDS))],
        ended,
        torch.arange(len(REWARDS)) // GROUP_SIZE,
        torch.arange(len(REWARDS)),
        {
            "rewards": torch.tensor(REWARDS, dtype=torch.float64),
            "truncated": ~torch.tensor(ended),
            "correct": torch.tensor(REWARDS) > 0.5,
            "token_budget": torch.full((len(REWARDS),), 16.0),
        },
        temperature=0.7,
    )


def demonstrations(architecture: str, rows: int = 6, seed: int = 1) -> Case:
    """Prompts with one completion each, and labels that are good or bad."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3 != 0
    prompts = [_ids(draw, 1, 9) for _ in range(rows)]
    index = torch.arange(rows)
    return _case(architecture, draw, prompts, [True] * rows, index, index, {"label": labels})


def preferences(architecture: str, count: int = 4, seed: int = 2) -> Case:
    """Pairs of completions; the chosen one stands first in some and second in others."""
    draw = torch.Generator().manual_seed(seed)
    prompts = [_ids(draw, 1, 9) for _ in range(count)]
    index = torch.arange(2 * count)
    columns = {
        "chosen": (index % 2 == 0) ^ (index // 2 % 2 == 1),
        "margin": torch.rand(count, generator=draw, dtype=torch.float64).repeat_interleave(2),
    }
    return _case(
        architecture, draw, [prompts[i // 2] for i in index], [True] * len(index), index // 2, index // 2, columns
    )


def _case(
    architecture: str,
    draw: torch.Generator,
    prompts: list[Tensor],
    ended: list[bool],
    group_ids: Tensor,
    unit_ids: Tensor,
    columns: dict[str, Tensor],
    temperature: float = 1.0,
) -> Case:
    policy, tokenizer = tiny_model(architecture, seed=0)
    reference, _ = tiny_model(architecture, seed=1)
    eos = torch.tensor([tokenizer.eos_token_id])
    token_ids = [torch.cat([_ids(draw, 2, 12), eos]) if end else _ids(draw, 3, 13) for end in ended]
    batch = Batch(
        ids=[f"row{i}" for i in range(len(prompts))],
        prompt_ids=prompts,
        token_ids=token_ids,
        loss_mask=[_mask(draw, len(ids)) for ids in token_ids],
        group_ids=group_ids,
        unit_ids=unit_ids,
        streams=["main"] * len(prompts),
        row_columns=columns,
    )
    with torch.no_grad():
        current = PolicyNetwork(policy, tokenizer, temperature=temperature).logprobs(batch)
    old = [row + 0.3 * torch.randn(len(row), generator=draw) for row in current]
    return Case(policy, reference.requires_grad_(False), tokenizer, batch, temperature, old)


def tiny_model(architecture: str, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of 2 layers whose weights are large enough that its distributions are far from uniform."""
    init = InitConfig(architecture=architecture, width=32, layers=2, heads=4, kv_heads=2, mlp_width=64, context=96)
    model, tokenizer = load_model(ModelConfig(init=init, dtype="float32"), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model, tokenizer


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors as one vector, in float64."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def _ids(draw: torch.Generator, shortest: int, longest: int) -> Tensor:
    length = int(torch.randint(shortest, longest + 1, (), generator=draw))
    return torch.randint(*TOKENS, (length,), generator=draw)


def _mask(draw: torch.Generator, length: int) -> Tensor:
    """True for most tokens, and for the first and the last."""
    mask = torch.rand(length, generator=draw) < 0.8
    mask[[0, -1]] = True
    return mask
