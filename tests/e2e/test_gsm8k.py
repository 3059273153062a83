"""GSM8K through the chat path: a tiny random model with a byte-pair vocabulary makes two GRPO steps on it."""

from __future__ import annotations

from pathlib import Path

from upweight import api


def test_two_grpo_steps(shared_data: Path, tmp_path: Path) -> None:
    run = api.train(
        {
            "name": "gsm8k",
            "runs_dir": str(tmp_path),
            "steps": 2,
            "algorithm": {"name": "grpo", "kl_coef": 0.01},
            "model": {"init": {"width": 32, "layers": 1, "heads": 2, "context": 1024, "tokenizer": "bpe"}},
            "data": {"task": "gsm8k", "path": str(shared_data / "gsm8k")},
            "rewards": {"parts": {"correct": "number"}},
            "batch": {"prompts": 2, "group_size": 4},
            "sampling": {"max_completion_tokens": 16},
            "evaluate": {"every": 2, "problems": 8},
        }
    )
    steps = [line for line in run.metrics() if "train/loss" in line]
    assert [line["step"] for line in steps] == [0, 1]
    assert all(line["train/skipped_steps"] == 0 for line in steps)
    assert all(0 <= line["rollout/accuracy"] <= 1 for line in steps)
    ledger = run.ledger(1)
    assert ledger.num_rows == 8
    assert len(set(ledger["group"].to_pylist())) == 2
    assert (run.model_dir / "model.safetensors").exists()
