"""How large a model is, in the numbers that floors and estimates are made of. Works on torch's meta device too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from upweight.models.llama import read_blocks


@dataclass(frozen=True)
class ModelSize:
    """What the estimates need to know of a model. `query_width` is heads times head size, `kv_width` kv heads times it.

    `trunk_parameters` are those without an output head of its own: what a critic or a reward model is made of.
    `matmul_parameters` are those that every token is multiplied with: the output head, also where it is tied to the
    embeddings, but no looked-up embedding, norm or bias; of a mixture of experts, all experts. `shareable`: made of the
    blocks that upweight computes itself, a prompt once for all its completions.
    """

    parameters: int
    trunk_parameters: int
    matmul_parameters: int
    head_parameters: int
    layers: int
    width: int
    query_width: int
    kv_width: int
    mlp_width: int
    vocabulary: int
    context: int | None
    bytes_per_number: int
    shareable: bool = False

    @property
    def trunk_matmul_parameters(self) -> int:
        """`matmul_parameters` without the output head."""
        return self.matmul_parameters - self.head_parameters


def size_of(model: PreTrainedModel, dtype: torch.dtype | None = None) -> ModelSize:
    """The size of a causal language model, with numbers of `dtype` where they will not be the model's."""
    text = model.config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    multiplied = sum(p.numel() for p in model.parameters() if p.dim() > 1 and id(p) not in looked_up)
    return ModelSize(
        parameters=parameters,
        trunk_parameters=parameters - (0 if head is None or tied else sum(p.numel() for p in head.parameters())),
        matmul_parameters=multiplied + (head.weight.numel() if tied else 0),
        head_parameters=0 if head is None else head.weight.numel(),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        query_width=heads * head_size,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        mlp_width=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
        bytes_per_number=(dtype or model.dtype).itemsize,
        shareable=read_blocks(model) is not None,
    )


def kv_bytes(size: ModelSize) -> int:
    """Bytes of keys and values of one token in all layers."""
    return 2 * size.layers * size.kv_width * size.bytes_per_number
