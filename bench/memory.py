"""How near the plan's memory comes to the peak of a run: each case in a process of its own, a table of ratios.

PYTHONPATH=. .venv/bin/python bench/memory.py            # all cases, some minutes
PYTHONPATH=. .venv/bin/python bench/memory.py grpo       # those whose name has "grpo" in it
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.workloads import prompt_texts

SIZES = {
    "1M": {"width": 128, "layers": 4, "heads": 4, "kv_heads": 2, "mlp_width": 512},
    "6M": {"width": 256, "layers": 6, "heads": 4, "kv_heads": 2, "mlp_width": 1024},
    "25M": {"width": 512, "layers": 8, "heads": 8, "kv_heads": 4, "mlp_width": 1536},
    "60M": {"width": 768, "layers": 9, "heads": 12, "kv_heads": 6, "mlp_width": 2304},
    "vocabulary": {"width": 256, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_width": 512},
}
VOCABULARY = 151_936
GRPO = {"algorithm": "grpo", "rewards": {"parts": {"letters": {"function": "bench.workloads:letter_share"}}}}
SFT = {"algorithm": "sft", "batch": {"rows": 32}}
PPO = {**GRPO, "algorithm": "ppo"}
REFERENCE = {**GRPO, "algorithm": {"name": "grpo", "kl_coef": 0.04}}
CHECKPOINTING = {**GRPO, "learner": {"gradient_checkpointing": True}}
BFLOAT16 = {**GRPO, "compute": {"dtype": "bfloat16"}}
PADDED = {**GRPO, "learner": {"layout": "padded"}}
LONG = {**GRPO, "sampling": {"max_completion_tokens": 256}}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"grpo {size}": (size, GRPO) for size in SIZES},
    **{f"grpo bfloat16 {size}": (size, BFLOAT16) for size in ("6M", "25M", "60M", "vocabulary")},
    **{f"sft {size}": (size, SFT) for size in SIZES},
    **{f"grpo with reference {size}": (size, REFERENCE) for size in ("1M", "25M", "60M")},
    **{f"grpo checkpointing {size}": (size, CHECKPOINTING) for size in ("1M", "25M", "60M", "vocabulary")},
    **{f"grpo padded {size}": (size, PADDED) for size in ("1M", "25M")},
    **{f"grpo 256 tokens {size}": (size, LONG) for size in ("1M", "6M", "25M")},
    **{f"ppo {size}": (size, PPO) for size in ("1M", "25M", "60M")},
}

# A completion never ends, so that it is as long as the plan has to assume.
PROGRAM = """
import json, sys
from upweight.compose import build_session
from upweight.configfile import make_config
from upweight.plan import make_plan
from upweight.train import train

config = make_config(json.loads(sys.argv[2]))
if sys.argv[1] == "plan":
    print(json.dumps(make_plan(config).memory_bytes))
else:
    session = build_session(config)
    if hasattr(session.source, "maker"):
        session.source.maker.sampler.stop_ids = frozenset()
    print(json.dumps(train(session)["peak_memory_bytes"]))
"""


def tables(folder: Path, size: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The config of a case: three steps of 8 prompts of 64 tokens with 8 completions of 64, or of 32 such rows."""
    texts = prompt_texts(64, 64)
    rows = [{"prompt": text, "completion": text, "answer": "-"} for text in texts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "runs_dir": str(folder / "runs"),
        "steps": 3,
        "threads": 1,
        "model": {"path": str(make_model(folder / "model", size)), "device": "cpu"},
        "data": {"path": str(folder / "rows.jsonl")},
        "batch": {"prompts": 8, "group_size": 8},
        "sampling": {"max_completion_tokens": 64},
        "records": {"ledger_every": 0, "kl_every": 0, "tensorboard": False},
        **changes,
    }


def make_model(folder: Path, size: str) -> Path:
    """A model with random weights and one token a character; its vocabulary may be larger than that."""
    import torch
    from bench.model_folder import character_tokenizer
    from transformers import AutoModelForCausalLM

    from upweight.config import InitConfig
    from upweight.models.build import build_config
    from upweight.models.load import save_model

    tokenizer = character_tokenizer()
    init = InitConfig(architecture="qwen2", context=2048, **SIZES[size])
    words = VOCABULARY if size == "vocabulary" else len(tokenizer)
    config = build_config(init, words, tokenizer.pad_token_id, tokenizer.eos_token_id)
    save_model(AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer, folder)
    return folder


def measure(size: str, changes: dict[str, Any]) -> tuple[dict[str, int], int]:
    """The plan's bytes by part, and the peak of the run."""
    with tempfile.TemporaryDirectory() as folder:
        config = json.dumps(tables(Path(folder), size, changes))

        def ask(what: str) -> Any:
            command = [sys.executable, "-c", PROGRAM, what, config]
            return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

        return ask("plan"), ask("run")


def main(wanted: str = "") -> None:
    """Prints a Markdown table, one row a case as it is measured."""
    print("| case | plan, MB | peak, MB | plan / peak | parts, MB |\n|---|---|---|---|---|")
    for name, (size, changes) in CASES.items():
        if wanted in name:
            parts, peak = measure(size, changes)
            planned = sum(parts.values())
            listed = ", ".join(f"{part} {count / 1e6:.0f}" for part, count in parts.items())
            row = f"| {name} | {planned / 1e6:.0f} | {peak / 1e6:.0f} | {planned / peak:.2f} | {listed} |"
            print(row, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
