"""A large vocabulary does not cost its logits: they are never held all at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bench.memory import CASES, measure

# In a fresh process, since memory that an earlier test took would hide what this one takes.
PROGRAM = """
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from upweight.learners.local import LocalLearner
from upweight.models.networks import PolicyNetwork
from upweight.presets import algorithm
from upweight.memory import peak_memory_bytes
from upweight.types import Batch
from upweight.update import Updater

config = AutoConfig.for_model(
    "qwen2", vocab_size=151936, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=512, tie_word_embeddings=True,
)
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
method = algorithm("grpo")
updater = Updater(LocalLearner(PolicyNetwork(model, None), method.active_terms()), method)


def batch(rows, tokens):
    draw = torch.Generator().manual_seed(0)
    ids = lambda n: [torch.randint(0, 151936, (n,), generator=draw) for _ in range(rows)]
    return Batch(
        ids=[str(i) for i in range(rows)], prompt_ids=ids(8), token_ids=ids(tokens),
        loss_mask=[torch.ones(tokens, dtype=torch.bool)] * rows, group_ids=torch.zeros(rows, dtype=torch.long),
        unit_ids=torch.arange(rows), streams=["main"] * rows,
        row_columns={"rewards": torch.arange(rows, dtype=torch.float64)},
    )


updater.update(batch(2, 4), (0, 0))
before = peak_memory_bytes()
updater.update(batch(8, 512), (0, 1))
print(peak_memory_bytes() - before)
"""


@pytest.mark.slow
def test_one_update_with_a_vocabulary_of_151936() -> None:
    """Width 256, 4,096 completion tokens: all logits in float32 would take 2.5 GB, and their gradient as much."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 0.8e9


def test_the_plan_foresees_the_peak_of_a_run() -> None:
    """About half of it are Python and its libraries, the other half activations; bench/memory.py has larger cases."""
    parts, peak = measure(*CASES["grpo 1M"])
    assert sum(parts.values()) == pytest.approx(peak, rel=0.25)
