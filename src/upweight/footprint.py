"""How much memory a run will hold at most, by part: what it holds all the time, and the hungriest of its phases.

Sampling, the training pass and saving follow one another, and what one of them takes it gives back. The formulas count
what the code keeps; `bench/memory.py` compares them with measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from upweight.models.head import CHUNK_BYTES
from upweight.sizes import ModelSize, kv_bytes

LIBRARIES_BYTES = 380 * 2**20  # Python, torch and transformers before the first tensor of ours
ADAM_MOMENTS = 2
# What the formulas count is what is alive. The C library's heap holds more: a block that is freed leaves a hole, which
# the next block may not fit. Fitted to runs of models of 1 to 60 million parameters.
HOLES = 1.1
HOLES_PADDED = 1.5
MLP_VECTORS = 14  # that going back through a layer takes a token: five are alive, the others are holes of their size


@dataclass(frozen=True)
class Load:
    """What a run asks of its model; tokens are at most or on average, as the plan has found them.

    `rows_at_once` are decoded together, each `sequence_tokens` long at the end. `microbatch_tokens` share a forward
    pass, of which `scored_tokens` go through the output head. `critic` is one with a trunk of its own; a `scorer` is a
    reward model, which has no output head. `shared`: a prompt is computed once for its completions, by our own blocks.
    `compute_bytes` are those of a number in a matrix product and in the sampler.
    """

    ranks: int
    reference: bool
    critic: bool
    scorer: bool
    sampler: bool
    rows_at_once: int
    sequence_tokens: int
    microbatch_tokens: int
    scored_tokens: int
    shared: bool
    checkpointing: bool
    compute_bytes: int


def memory_parts(size: ModelSize, load: Load) -> dict[str, int]:
    """Bytes by part at the largest moment of a run, all ranks together."""
    phases = [_training(size, load), _saving(size, load)]
    if load.sampler:
        phases.append({"sampler's next-token distributions": 2 * load.rows_at_once * size.vocabulary * 4})
    parts = _held(size, load) | max(phases, key=lambda phase: sum(phase.values()))
    return {name: count for name, count in parts.items() if count}


def _held(size: ModelSize, load: Load) -> dict[str, int]:
    """What is there all the time."""
    whole, trunk = (count * size.bytes_per_number for count in (size.parameters, size.trunk_parameters))
    model = trunk if load.scorer else whole
    parts = {
        "policy": load.ranks * model,
        "gradient": load.ranks * model,
        "AdamW moments": load.ranks * ADAM_MOMENTS * model,
        "critic, its gradient and AdamW moments": load.ranks * (2 + ADAM_MOMENTS) * trunk * load.critic,
        "reference": load.ranks * whole * load.reference,
        "Python and libraries": load.ranks * LIBRARIES_BYTES,
    }
    if load.sampler:
        parts["sampler's copy of the policy"] = size.parameters * load.compute_bytes
        cached = kv_bytes(size) * load.compute_bytes // size.bytes_per_number
        # One layer more than the model has: the sampler widens its cache by copying it there.
        parts["KV cache"] = load.rows_at_once * load.sequence_tokens * cached * (size.layers + 1) // size.layers
    return parts


def _training(size: ModelSize, load: Load) -> dict[str, int]:
    networks = 2 if load.critic else 1
    head = 0 if load.scorer else head_bytes(size, load.scored_tokens, load.compute_bytes)
    return {
        "activations of one micro-batch": load.ranks * networks * load.microbatch_tokens * activation_bytes(size, load),
        "log-prob head": load.ranks * head,
        "weights as they are multiplied": load.ranks * networks * lower_bytes(size, load),
        "gradient of the embeddings": load.ranks * size.vocabulary * size.width * size.bytes_per_number,
    }


def _saving(size: ModelSize, load: Load) -> dict[str, int]:
    """A file of tensors is put together in memory; the moments' is the largest."""
    model = size.trunk_parameters if load.scorer else size.parameters
    return {"moments while they are saved": ADAM_MOMENTS * model * size.bytes_per_number}


def activation_bytes(size: ModelSize, load: Load) -> int:
    """Bytes that one token takes in the layers until its gradient is known, holes in the heap included."""
    kept = _kept_by_shared_layer(size, load.compute_bytes) if load.shared else _kept_by_layer(size, load.compute_bytes)
    held = size.layers * size.width * size.bytes_per_number + kept if load.checkpointing else size.layers * kept
    going_back = MLP_VECTORS * size.mlp_width * load.compute_bytes
    return round((HOLES if load.shared else HOLES_PADDED) * held + going_back)


def _kept_by_shared_layer(size: ModelSize, compute: int) -> int:
    """Bytes a token that a layer of our own blocks keeps for its backward pass.

    In the weights' type: the state before attention and before the MLP. In that of products: both as they are read,
    queries, keys and values, what attention found, gate, up and their product.
    """
    attention = 2 * size.query_width + 2 * size.kv_width
    return 2 * size.width * size.bytes_per_number + (2 * size.width + attention + 3 * size.mlp_width) * compute


def _kept_by_layer(size: ModelSize, compute: int) -> int:
    """The same of transformers' own layers: norms also keep what they normalise, attention and MLP a vector more."""
    attention = 3 * size.query_width + 2 * size.kv_width
    return 4 * size.width * size.bytes_per_number + (2 * size.width + attention + 4 * size.mlp_width) * compute


def head_bytes(size: ModelSize, tokens: int, compute: int) -> int:
    """The log-prob head: three chunks of logits at most, and the gradient of its weight, held till the end."""
    chunks = 3 * min(CHUNK_BYTES, tokens * size.vocabulary * max(4, compute))
    return chunks + size.head_parameters * compute


def lower_bytes(size: ModelSize, load: Load) -> int:
    """The weights in the type that products are made in, where that is not theirs."""
    return size.matmul_parameters * load.compute_bytes if load.compute_bytes < size.bytes_per_number else 0
