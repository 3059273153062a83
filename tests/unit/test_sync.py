"""A sync that went wrong is noticed, whichever way it went wrong."""

from __future__ import annotations

import pytest
import torch

from upweight.config import InitConfig, ModelConfig
from upweight.learners.local import LocalLearner
from upweight.models.load import load_model
from upweight.models.networks import PolicyNetwork
from upweight.samplers.native import NativeSampler
from upweight.sync import SyncError, check_mismatch, checksum, prove_sync
from upweight.types import Prompt

PROBE = Prompt("probe", (), (5, 6, 7), "", {})


def pair() -> tuple[LocalLearner, NativeSampler]:
    init = InitConfig(width=16, layers=1, heads=2, context=16)
    policy, tokenizer = load_model(ModelConfig(init=init))
    other, _ = load_model(ModelConfig(init=init), seed=1)
    learner = LocalLearner(PolicyNetwork(policy, tokenizer), ())
    return learner, NativeSampler(other, tokenizer, frozenset({1}))


def test_a_good_sync_is_proven() -> None:
    learner, sampler = pair()
    sampler.load(learner.weights(), 3)
    prove_sync(learner, sampler, 3, PROBE)


def test_a_load_that_never_came_is_noticed() -> None:
    learner, sampler = pair()
    sampler.load(learner.weights(), 3)
    with pytest.raises(SyncError, match="policy version 3, not 4"):
        prove_sync(learner, sampler, 4, PROBE)


def test_one_changed_bit_is_noticed() -> None:
    learner, sampler = pair()
    sampler.load(learner.weights(), 3)
    with torch.no_grad():
        weight = next(iter(sampler.model.parameters()))
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    with pytest.raises(SyncError, match="the copy was incomplete"):
        prove_sync(learner, sampler, 3, PROBE)


def test_another_forward_pass_is_noticed() -> None:
    learner, sampler = pair()
    sampler.load(learner.weights(), 3)
    learner.temperature = 0.5
    sampler.score = lambda prefix, temperature: torch.log_softmax(torch.arange(99.0), -1)  # type: ignore[method-assign]
    with pytest.raises(SyncError, match="although their weights agree"):
        prove_sync(learner, sampler, 3, PROBE)


def test_checksums_differ_by_weight_and_dtype() -> None:
    a, b = torch.randn(5), torch.randn(5)
    assert checksum([("w", a)]) == checksum([("w", a.clone())])
    assert checksum([("w", a)]) != checksum([("w", b)])
    assert checksum([("w", a.bfloat16())]) != checksum([("w", b.bfloat16())])


def test_a_mismatch_above_the_limit_names_likely_causes() -> None:
    check_mismatch({"train/sampler_mismatch_mean": 0.05}, 0.1)
    with pytest.raises(SyncError, match="stale weights"):
        check_mismatch({"train/sampler_mismatch_mean": 0.2}, 0.1)
