"""What is measured: model sizes, workloads and the data that every arm is given. Nothing here is imported that an
opponent's environment lacks.

A: every completion has exactly 64 tokens. B: a completion ends where the random model draws its EOS, which is about
once in 77 tokens, or at 256. Both have 8 prompts of 64 characters (one token each) with 8 completions.
"""

from __future__ import annotations

import json
import random
import string
from dataclasses import dataclass
from pathlib import Path

# 74 characters beside <pad>, <eos> and <unk>: a vocabulary of 77. No space: transformers 5 loads the tokenizer of any
# Qwen2 folder as Qwen2's own, for which a space is another character.
CHARACTERS = string.digits + string.ascii_letters + "%+-*/=,.:;?!"
VOCABULARY = 3 + len(CHARACTERS)
LEARNING_RATE = 1e-6  # small: the weights, and with them the lengths of completions, stay what they are
BETAS = (0.9, 0.95)
CONTEXT = 2304


@dataclass(frozen=True)
class Size:
    """A Qwen2 architecture with tied embeddings."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int

    @property
    def parameters(self) -> int:
        """Weights, biases of queries, keys and values, norms, and the embedding, which is the head too."""
        width, keys = self.width, self.width // self.heads * self.kv_heads
        attention = 2 * width * width + 2 * width * keys + width + 2 * keys
        return VOCABULARY * width + self.layers * (attention + 3 * width * self.mlp_width + 2 * width) + width


# Parameters: 1.0, 5.9 and 25.2 million; the others are for growth alone.
SIZES = {
    "tiny": Size(128, 4, 4, 2, 512),
    "3M": Size(192, 5, 4, 2, 768),
    "small": Size(256, 6, 4, 2, 1024),
    "13M": Size(384, 7, 6, 3, 1280),
    "medium": Size(512, 8, 8, 4, 1536),
    "50M": Size(640, 11, 10, 5, 1664),
}


@dataclass(frozen=True)
class Workload:
    """One GRPO step. `forced`: no completion ends before `completion_tokens`."""

    prompts: int = 8
    group_size: int = 8
    prompt_tokens: int = 64
    completion_tokens: int = 64
    forced: bool = True

    @property
    def rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.group_size


WORKLOADS = {"A": Workload(), "B": Workload(completion_tokens=256, forced=False)}
# Generation alone: 64 prompts of 7 tokens, each answered once, so that no arm can share a prompt.
GENERATION = {
    "forced": Workload(prompts=64, group_size=1, prompt_tokens=7, completion_tokens=128),
    "natural": Workload(prompts=64, group_size=1, prompt_tokens=7, completion_tokens=256, forced=False),
}


def prompt_texts(count: int, length: int, seed: int = 0) -> list[str]:
    """Distinct texts of `length` characters, the same ones for the same arguments."""
    draw = random.Random(f"{seed}-{length}")
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(draw.choices(CHARACTERS, k=length))] = None
    return list(found)


def write_prompts(path: Path, texts: list[str]) -> Path:
    """A JSONL file with one problem a line; the reward does not read the answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": text, "answer": "-"}) + "\n" for text in texts), encoding="utf-8")
    return path


def letter_share(completion: str) -> float:
    """The reward of every arm: the share of lower-case letters, which differs within nearly every group."""
    return sum(character.islower() for character in completion) / max(len(completion), 1)


def completion_lengths(workload: Workload, seed: int = 0) -> list[int]:
    """Lengths of the rows where nothing is sampled: all equal when forced, else geometric with mean 77, cut off."""
    if workload.forced:
        return [workload.completion_tokens] * workload.rows
    draw = random.Random(seed)
    ends = (1 + int(draw.expovariate(1.0) / 0.0131) for _ in range(workload.rows))  # -log(1 - 1/77) = 0.0131
    return [min(end, workload.completion_tokens) for end in ends]
