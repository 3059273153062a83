"""Memory by part against numbers worked by hand; tests/e2e/test_memory.py compares a sum of them with a real run."""

from __future__ import annotations

from dataclasses import replace

from upweight.footprint import (
    HOLES,
    HOLES_PADDED,
    LIBRARIES_BYTES,
    MLP_VECTORS,
    Load,
    activation_bytes,
    head_bytes,
    memory_parts,
)
from upweight.models.head import CHUNK_BYTES
from upweight.sizes import ModelSize

SIZE = ModelSize(
    parameters=1000,
    trunk_parameters=600,
    matmul_parameters=900,
    head_parameters=400,
    layers=2,
    width=8,
    query_width=6,
    kv_width=4,
    mlp_width=32,
    vocabulary=50,
    context=64,
    bytes_per_number=4,
)
LOAD = Load(
    ranks=2,
    reference=True,
    critic=False,
    scorer=False,
    sampler=True,
    rows_at_once=10,
    sequence_tokens=6,
    microbatch_tokens=100,
    scored_tokens=30,
    shared=True,
    checkpointing=False,
    compute_bytes=4,
)
KEPT = 2 * 8 * 4 + (2 * 8 + 2 * 6 + 2 * 4 + 3 * 32) * 4
GOING_BACK = MLP_VECTORS * 32 * 4


def test_what_is_held_all_the_time() -> None:
    parts = memory_parts(SIZE, LOAD)
    assert parts["policy"] == parts["gradient"] == parts["reference"] == 2 * 4000
    assert parts["AdamW moments"] == 2 * 2 * 4000
    assert parts["sampler's copy of the policy"] == 4000
    assert parts["KV cache"] == 10 * 6 * (2 * 2 * 4 * 4) * 3 // 2  # a layer more than two
    assert parts["Python and libraries"] == 2 * LIBRARIES_BYTES
    assert not [part for part in parts if "critic" in part]


def test_the_training_pass() -> None:
    parts = memory_parts(SIZE, LOAD)
    assert parts["activations of one micro-batch"] == 2 * 100 * round(HOLES * 2 * KEPT + GOING_BACK)
    assert parts["log-prob head"] == 2 * (3 * 30 * 50 * 4 + 400 * 4)
    assert parts["gradient of the embeddings"] == 2 * 50 * 8 * 4
    assert "weights as they are multiplied" not in parts


def test_a_layer_that_is_computed_again_keeps_its_input() -> None:
    load = replace(LOAD, checkpointing=True)
    assert activation_bytes(SIZE, load) == round(HOLES * (2 * 8 * 4 + KEPT) + GOING_BACK)


def test_transformers_layers_keep_more() -> None:
    kept = 4 * 8 * 4 + (2 * 8 + 3 * 6 + 2 * 4 + 4 * 32) * 4
    assert activation_bytes(SIZE, replace(LOAD, shared=False)) == round(HOLES_PADDED * 2 * kept + GOING_BACK)


def test_a_lower_precision_halves_what_products_read() -> None:
    load = replace(LOAD, compute_bytes=2)
    parts = memory_parts(SIZE, load)
    kept = 2 * 8 * 4 + (2 * 8 + 2 * 6 + 2 * 4 + 3 * 32) * 2
    assert activation_bytes(SIZE, load) == round(HOLES * 2 * kept + GOING_BACK / 2)
    assert parts["weights as they are multiplied"] == 2 * 900 * 2
    assert parts["sampler's copy of the policy"] == 2000
    assert parts["KV cache"] == 10 * 6 * (2 * 2 * 4 * 2) * 3 // 2


def test_only_the_hungriest_phase_counts() -> None:
    saved = replace(LOAD, microbatch_tokens=0, scored_tokens=0)
    assert "activations of one micro-batch" not in memory_parts(replace(SIZE, vocabulary=1, head_parameters=0), saved)
    assert memory_parts(SIZE, saved)["moments while they are saved"] == 2 * 4000
    sampled = memory_parts(replace(SIZE, vocabulary=50_000), replace(saved, rows_at_once=500))
    assert sampled["sampler's next-token distributions"] == 2 * 500 * 50_000 * 4
    assert "moments while they are saved" not in sampled


def test_a_critic_of_its_own_doubles_what_is_trained() -> None:
    without, parts = memory_parts(SIZE, LOAD), memory_parts(SIZE, replace(LOAD, critic=True))
    # Weights, gradient and two moments of 600 numbers, on each of two ranks.
    assert parts.pop("critic, its gradient and AdamW moments") == 2 * 4 * 600 * 4
    assert parts.pop("activations of one micro-batch") == 2 * without.pop("activations of one micro-batch")
    assert parts == without


def test_a_reward_model_has_no_output_head() -> None:
    parts = memory_parts(SIZE, replace(LOAD, scorer=True))
    assert parts["policy"] == 2 * 600 * 4
    assert parts["sampler's copy of the policy"] == 4000
    assert "log-prob head" not in parts


def test_the_head_holds_three_chunks_at_most() -> None:
    assert head_bytes(SIZE, 10**9, 4) == 3 * CHUNK_BYTES + 400 * 4
