"""From rows to hidden states: which layout a model takes, and in which precision it computes.

Llama-family models take rows as one stream in which a shared prompt is computed once (`shared`); any other model gets
rows that are padded, or packed into shared sequences, and runs its own transformers forward. Whatever the layout,
the states that come out are the same to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from upweight.errors import UserError
from upweight.models.forward import Positions, check_packing, hidden_rows
from upweight.models.layout import stream_of
from upweight.models.llama import Blocks, read_blocks
from upweight.models.proof import TOLERANCE
from upweight.models.shared import stream_states
from upweight.phases import Tokens

LayoutKind = Literal["shared", "padded", "packed"]


@dataclass(frozen=True)
class Layout:
    """How rows go through a model. `dtype` is what matrix products are made in; None: the type of the weights."""

    kind: LayoutKind | Literal["auto"] = "auto"
    pad_multiple: int = 1
    dtype: torch.dtype | None = None
    checkpointing: bool = False


class Trunk:
    """A model without its head, in a layout: `kind`. `tokens` are those of its last call.

    Raises UserError when the model cannot keep the rows of a layout apart.
    """

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self.model, self.layout = model, layout
        self.dtype = layout.dtype or model.dtype
        self.blocks = proven_blocks(model) if layout.kind in ("auto", "shared") else None
        self.kind: LayoutKind = "shared" if self.blocks else "packed" if layout.kind == "packed" else "padded"
        self.tokens = Tokens()
        if layout.kind == "shared" and self.blocks is None:
            raise UserError(f'learner.layout: {type(model).__name__} has no "shared" layout; use "auto" or "padded"')
        if layout.kind == "packed":
            check_packing(model)
        if layout.checkpointing and self.blocks is None:
            checkpoint_layers(model)

    def __call__(self, prompt_ids: Sequence[Tensor], token_ids: Sequence[Tensor], positions: Positions) -> Tensor:
        """The states of the rows' completion tokens, [sum T_i, width], in the trunk's `dtype`; see `hidden_rows`."""
        if self.blocks is not None:
            stream = stream_of(prompt_ids, token_ids, positions == "predicting").to(self.model.device)
            self.tokens = Tokens(len(stream.ids), stream.useful)
            return stream_states(self.blocks, stream, self.dtype, self.layout.checkpointing)[stream.picked]
        with torch.autocast(self.model.device.type, self.dtype, enabled=self.dtype != self.model.dtype):
            hidden, processed = hidden_rows(
                self.model, prompt_ids, token_ids, positions, self.layout.pad_multiple, self.kind == "packed"
            )
        self.tokens = Tokens(processed, needed_tokens(prompt_ids, token_ids, positions))
        return hidden.to(self.dtype)


def needed_tokens(prompt_ids: Sequence[Tensor], token_ids: Sequence[Tensor], positions: Positions) -> int:
    """Each distinct prompt once, and the completions; their last tokens only where the states after them are wanted."""
    prompts = {tuple(prompt.tolist()): len(prompt) for prompt in prompt_ids}
    return sum(prompts.values()) + sum(map(len, token_ids)) - len(token_ids) * (positions == "predicting")


def proven_blocks(model: PreTrainedModel) -> Blocks | None:
    """The model's blocks, if computing with them gives what transformers gives on a probe; otherwise None.

    Names of modules promise nothing about what a model does between them: scales, layers without positions.
    """
    blocks = read_blocks(model)
    return blocks if blocks is not None and _agree(model, blocks) else None


@torch.no_grad()
def _agree(model: PreTrainedModel, blocks: Blocks) -> bool:
    rows = [torch.arange(5) % blocks.embedding.num_embeddings, torch.tensor([1, 0, 1])]
    prompts = [rows[0][:3], rows[0][:3]]
    stream = stream_of(prompts, rows, predicting=False).to(model.device)
    ours = stream_states(blocks, stream, model.dtype)[stream.picked].float()
    theirs = hidden_rows(model, prompts, rows, "own")[0].float()
    return bool((ours - theirs).norm() <= TOLERANCE[model.dtype] * theirs.norm())


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Transformers' own checkpointing: a layer keeps its input only.

    It asks that a layer be in training mode; only the layer itself is, so that dropout within it stays off.
    Raises UserError when the model has no layers that can do it.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"learner.gradient_checkpointing: {type(model).__name__} cannot; switch it off")
    for layer in layers:
        layer.gradient_checkpointing, layer.training = True, True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
