"""Runs that compute in another type than their weights, or with less memory: the same loop, and the proof of sync."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.test_methods import EASY, run

BIG = {"model": {"init": {"width": 64, "layers": 2, "heads": 4, "context": 64}}}


def test_bfloat16_trains_float32_weights(tmp_path: Path) -> None:
    done = run(tmp_path, "grpo", **{**EASY, **BIG}, compute={"dtype": "bfloat16"})
    saved = load_file(done.model_dir / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    rounding = [line["train/sampler_mismatch_mean"] for line in done.metrics()]
    assert all(0 < mismatch < 0.05 for mismatch in rounding), "sampler and learner round alike, but not the same"


def test_auto_is_frozen_in_the_runs_config(tmp_path: Path) -> None:
    done = run(tmp_path, "sft", **BIG, compute={"dtype": "auto"}, threads="auto")
    written = (done.dir / "config.toml").read_text()
    assert 'dtype = "auto"' not in written
    assert 'threads = "auto"' not in written


@pytest.mark.parametrize("layout", ["shared", "padded", "packed"])
def test_layouts_and_checkpointing_train_alike(tmp_path: Path, layout: str) -> None:
    plain = run(tmp_path / "plain", "sft", **BIG)
    other = run(tmp_path / "other", "sft", **BIG, learner={"layout": layout, "gradient_checkpointing": True})
    for one, two in zip(plain.metrics(), other.metrics(), strict=True):
        assert one["train/loss"] == pytest.approx(two["train/loss"], rel=1e-5)
        assert one["train/grad_norm"] == pytest.approx(two["train/grad_norm"], rel=1e-3)
