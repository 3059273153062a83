"""The blocks of the Llama family, read off a transformers model: what the fast paths of sampler and learner compute on.

Llama, Mistral, Qwen2, Qwen3, SmolLM and others differ in biases, in norms of queries and keys, and in their numbers; a
block is otherwise the same. `read_blocks` recognises it by the names and types of its parts; `proven_blocks` of
`trunk.py` also compares what comes out. A model that is anything else keeps the transformers forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
MLP = {"gate_proj", "up_proj", "down_proj"}
STATIC_ROPE = {"default", "linear", "llama3", "yarn"}  # angles that depend on the position alone


class Norm(Protocol):
    """A norm of the family: x / sqrt(mean(x^2) + variance_epsilon) * weight."""

    weight: Tensor
    variance_epsilon: float


class Rotary(Protocol):
    """Angles of rotary positions: cosine and sine [1, tokens, head_size] in the type of `like`."""

    def __call__(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """At positions [1, tokens]."""


@dataclass(frozen=True)
class Block:
    """The modules of one decoder layer; their parameters are the model's own. `q_norm` and `k_norm` may be absent."""

    input_norm: Norm
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    o: nn.Linear
    q_norm: Norm | None
    k_norm: Norm | None
    mlp_norm: Norm
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear


@dataclass(frozen=True)
class Blocks:
    """A decoder of the Llama family. `scale` multiplies query times key."""

    embedding: nn.Embedding
    layers: tuple[Block, ...]
    norm: Norm
    rotary: Rotary
    heads: int
    kv_heads: int
    head_size: int
    scale: float

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine [tokens, head_size] of the rotation at positions [tokens], by the model's own module."""
        like = torch.empty(0, dtype=dtype, device=positions.device)
        cos, sin = self.rotary(like, positions[None])
        return cos[0], sin[0]


def read_blocks(model: PreTrainedModel) -> Blocks | None:
    """The model's blocks, or None when it has any part, or any setting, that the family does not share."""
    base: Any = model.base_model
    config = model.config.get_text_config()
    layers = getattr(base, "layers", None)
    if layers is None or {"embed_tokens", "layers", "norm", "rotary_emb"} != _children(base):
        return None
    if not all(_is_block(layer) for layer in layers) or _has_window(config):
        return None
    if getattr(base.rotary_emb, "rope_type", None) not in STATIC_ROPE:
        return None
    attention = layers[0].self_attn
    return Blocks(
        embedding=base.embed_tokens,
        layers=tuple(_block(layer) for layer in layers),
        norm=base.norm,
        rotary=base.rotary_emb,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=attention.head_dim,
        scale=attention.scaling,
    )


def _block(layer: Any) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        input_norm=layer.input_layernorm,
        q=attention.q_proj,
        k=attention.k_proj,
        v=attention.v_proj,
        o=attention.o_proj,
        q_norm=getattr(attention, "q_norm", None),
        k_norm=getattr(attention, "k_norm", None),
        mlp_norm=layer.post_attention_layernorm,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
    )


def _is_block(layer: Any) -> bool:
    return (
        _children(layer) == LAYER
        and _children(layer.self_attn) in (ATTENTION, ATTENTION | HEAD_NORMS)
        and _children(layer.mlp) - {"act_fn"} == MLP
        and all(type(getattr(layer.self_attn, name)) is nn.Linear for name in ATTENTION)
        and all(type(getattr(layer.mlp, name)) is nn.Linear for name in MLP)
        and all(hasattr(norm, "variance_epsilon") for norm in (layer.input_layernorm, layer.post_attention_layernorm))
    )


def _has_window(config: Any) -> bool:
    """Whether some layer sees only the last tokens of a context that can be longer."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return window is not None and window < config.max_position_embeddings


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}
