"""What a learner trains: a network turns rows into named token columns, one [T_i] tensor a row.

Column `x[t]` belongs to token t of the completion: `logprobs` and `entropy` of the choice of that token, `values` of
the state before it, `scores` of the state that ends with it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.models.forward import Positions, head_inputs
from upweight.models.head import scalar_head, token_logprobs, token_logprobs_only
from upweight.models.load import save_model
from upweight.models.reward import score_head
from upweight.models.trunk import Layout, LayoutKind, Trunk
from upweight.phases import Tokens
from upweight.types import Batch


class Network(Protocol):
    """Anything trained: `model` is what is saved as the result, `parameters` are grouped by optimizer."""

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model being trained."""

    @property
    def layout(self) -> LayoutKind:
        """How its rows are laid out."""

    @property
    def tokens(self) -> Tokens:
        """The tokens of the policy's last call: all that were processed, and those that were needed."""

    def outputs(self, rows: Batch) -> dict[str, list[Tensor]]:
        """Every column that the network makes, with gradient, in float32 or better."""

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each optimizer; none in two of them."""

    def save(self, folder: Path) -> None:
        """Writes the model as a Hugging Face folder `policy/`, and beside it whatever else is trained."""

    def load(self, folder: Path) -> None:
        """Takes back exactly what `save` wrote."""


class Critic(nn.Module):
    """A value head, and a trunk of its own or None: then it reads the policy's hidden states."""

    def __init__(self, head: nn.Linear, trunk: PreTrainedModel | None) -> None:
        super().__init__()
        self.head = head
        self.trunk = trunk


def make_critic(model: PreTrainedModel, share_trunk: bool) -> Critic:
    """A critic for the policy `model` whose values are all 0 before it is trained.

    Its own trunk is a copy of the policy's layers and embeddings, without the output head.
    """
    width = model.get_output_embeddings().weight.shape[1]
    head = nn.utils.skip_init(nn.Linear, width, 1, device=model.device, dtype=model.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if share_trunk:
        return Critic(head, None)
    trunk = copy.deepcopy(cast(PreTrainedModel, model.base_model))
    return Critic(head, trunk.requires_grad_(True))


class PolicyNetwork:
    """A causal language model, with a critic beside it if wanted.

    Raises UserError when rows are to be packed and the model cannot keep them apart.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        critic: Critic | None = None,
        temperature: float = 1.0,
        layout: Layout | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.critic = critic
        self.temperature = temperature
        self.trunk = Trunk(model, layout or Layout())
        own = critic.trunk if critic is not None else None
        self.critic_trunk = self.trunk if own is None else Trunk(own, layout or Layout())

    @property
    def layout(self) -> LayoutKind:
        """How the policy's rows are laid out."""
        return self.trunk.kind

    @property
    def tokens(self) -> Tokens:
        """The tokens of the last call."""
        return self.trunk.tokens

    def outputs(self, rows: Batch) -> dict[str, list[Tensor]]:
        """`logprobs` and `entropy` at the temperature and, with a critic, `values`."""
        hidden = _states(self.trunk, rows)
        logprobs, entropy = token_logprobs(*head_inputs(self.model, hidden, rows.token_ids), self.temperature)
        columns = {"logprobs": logprobs, "entropy": entropy}
        if self.critic is not None:
            states = hidden if self.critic_trunk is self.trunk else _states(self.critic_trunk, rows)
            columns["values"] = scalar_head(states, self.critic.head)
        return _ragged(columns, rows)

    def logprobs(self, rows: Batch) -> list[Tensor]:
        """The column of `outputs` alone: no entropy, no critic."""
        inputs = head_inputs(self.model, _states(self.trunk, rows), rows.token_ids)
        return list(token_logprobs_only(*inputs, self.temperature).split(rows.lengths()))

    def values(self, rows: Batch) -> list[Tensor]:
        """The column of `outputs` alone: no log-probs. Raises ValueError without a critic."""
        if self.critic is None:
            raise ValueError("this network was built without a critic")
        return list(scalar_head(_states(self.critic_trunk, rows), self.critic.head).split(rows.lengths()))

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """`policy` and, with a critic, `critic`: only its head when it reads the policy's hidden states.

        The gradient of the values then moves the policy's own layers too, by the policy's optimizer.
        """
        groups = {"policy": list(self.model.parameters())}
        if self.critic is not None:
            groups["critic"] = list(self.critic.parameters())
        return groups

    def save(self, folder: Path) -> None:
        """`policy/` and, with a critic, `critic.safetensors`."""
        save_model(self.model, self.tokenizer, folder / "policy")
        if self.critic is not None:
            tensors = {name: tensor.contiguous() for name, tensor in self.critic.state_dict().items()}
            save_file(tensors, folder / "critic.safetensors")

    def load(self, folder: Path) -> None:
        """The weights that `save` wrote, bit for bit."""
        _load_weights(self.model, folder / "policy")
        if self.critic is not None:
            self.critic.load_state_dict(load_file(folder / "critic.safetensors"))


class RewardNetwork:
    """A sequence-classification model with one output: `scores[t]` is that output after token t.

    The last score of a row is the model's own answer in transformers. Raises UserError as `PolicyNetwork` does.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        layout: Layout | None = None,
    ) -> None:
        self.model = model
        self.head = score_head(model)
        self.tokenizer = tokenizer
        self.trunk = Trunk(model, layout or Layout())

    @property
    def layout(self) -> LayoutKind:
        """How its rows are laid out."""
        return self.trunk.kind

    @property
    def tokens(self) -> Tokens:
        """The tokens of the last call."""
        return self.trunk.tokens

    def outputs(self, rows: Batch) -> dict[str, list[Tensor]]:
        """`scores` of every prefix of the completion, the whole of it last."""
        hidden = _states(self.trunk, rows, "own")
        return _ragged({"scores": scalar_head(hidden, self.head)}, rows)

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """All of them, as `policy`."""
        return {"policy": list(self.model.parameters())}

    def save(self, folder: Path) -> None:
        """`policy/`, which `AutoModelForSequenceClassification.from_pretrained` loads."""
        save_model(self.model, self.tokenizer, folder / "policy")

    def load(self, folder: Path) -> None:
        """The weights that `save` wrote, bit for bit."""
        _load_weights(self.model, folder / "policy")


def _states(trunk: Trunk, rows: Batch, positions: Positions = "predicting") -> Tensor:
    return trunk(rows.prompt_ids, rows.token_ids, positions)


def _ragged(columns: Mapping[str, Tensor], rows: Batch) -> dict[str, list[Tensor]]:
    return {name: list(column.split(rows.lengths())) for name, column in columns.items()}


@torch.no_grad()
def _load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Through transformers, which knows how it split, renamed and tied the tensors that it saved."""
    saved = type(model).from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
