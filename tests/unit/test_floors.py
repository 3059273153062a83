"""Floors against numbers worked by hand, and the size of a model against its weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from upweight.ceilings import Ceilings, Machine, Shape
from upweight.config import ModelConfig
from upweight.floors import Floors
from upweight.models.load import load_model
from upweight.phases import Clock, count, decode_step, phase
from upweight.sizes import ModelSize, size_of

SIZE = ModelSize(
    parameters=1200,
    trunk_parameters=1100,
    matmul_parameters=1000,
    head_parameters=100,
    layers=2,
    width=8,
    query_width=8,
    kv_width=4,
    mlp_width=32,
    vocabulary=50,
    context=64,
    bytes_per_number=2,
)
CEILINGS = Ceilings(
    Machine("it", "2", 2, "cpu"),
    Shape(1, 1, 1, 1),
    decode_flops={"bfloat16": 4_000.0},
    training_flops={"float32": 10_000.0, "bfloat16": 20_000.0},
    bandwidth=1_000.0,
)
FLOORS = Floors(CEILINGS, SIZE, sampler_dtype="bfloat16", learner_dtype="float32")


def worked(name: str, useful: int, floors: Floors = FLOORS) -> float | None:
    with Clock() as clock:
        count(name, processed=10 * useful, useful=useful)
    return floors.seconds(name, clock)


def test_passes_over_whole_sequences() -> None:
    assert worked("prefill", 30) == pytest.approx(2 * 1000 * 30 / 20_000)
    assert worked("forward_backward", 30) == pytest.approx(6 * 1000 * 30 / 10_000)
    assert worked("old_pass", 30) == worked("ref_pass", 30) == pytest.approx(2 * 1000 * 30 / 10_000)
    assert worked("critic_pass", 30) == pytest.approx(2 * 900 * 30 / 10_000)


def test_a_critic_of_its_own_is_trained_too_and_a_scorer_has_no_head() -> None:
    critic, scorer = replace(FLOORS, critic=True), replace(FLOORS, scorer=True)
    assert worked("forward_backward", 30, critic) == pytest.approx(6 * (1000 + 900) * 30 / 10_000)
    assert worked("old_pass", 30, critic) == worked("old_pass", 30)
    assert worked("forward_backward", 30, scorer) == pytest.approx(6 * 900 * 30 / 10_000)
    assert critic.optimizer() == pytest.approx(28 * (1200 + 1100) / 1000)
    assert scorer.optimizer() == pytest.approx(28 * 1100 / 1000)


def test_decoding_is_bound_by_memory_or_by_arithmetic_step_by_step() -> None:
    with Clock() as clock:
        decode_step(8, 1, 10)  # 2,000 bytes of weights and 10 * 2 * 2 * 4 * 2 of the cache: more than 2,000 flops
        decode_step(8, 8, 0)  # 16,000 flops take longer than 2,000 bytes
    assert FLOORS.seconds("decode", clock) == pytest.approx((2000 + 10 * 32) / 1000 + 16_000 / 4_000)


def test_each_optimizer_step_moves_28_bytes_a_parameter() -> None:
    with Clock() as clock:
        for _ in range(3):
            with phase("optimizer"):
                pass
    assert FLOORS.seconds("optimizer", clock) == pytest.approx(3 * 28 * 1200 / 1000)


def test_a_phase_without_matmuls_or_that_was_not_has_no_floor() -> None:
    assert worked("reward", 30) is None
    with Clock() as clock, phase("sync"):
        pass
    assert FLOORS.seconds("sync", clock) is None
    assert FLOORS.seconds("prefill", clock) is None
    assert FLOORS.seconds("decode", clock) is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_matmul_parameters_are_the_products_that_a_token_goes_through(architecture: str) -> None:
    model, _ = load_model(ModelConfig(init={"architecture": architecture, "width": 16, "layers": 2, "heads": 2}))
    weights = 0

    def weigh(module: torch.nn.Module, *_: object) -> None:
        nonlocal weights
        weights += module.weight.numel()  # type: ignore[union-attr, operator]

    for module in model.modules():
        if type(module).__name__ in ("Linear", "Conv1D"):
            module.register_forward_hook(weigh)
    model(input_ids=torch.tensor([[1]]))
    size = size_of(model)
    assert size.matmul_parameters == weights
    assert size.head_parameters == size.vocabulary * 16
    assert size.trunk_matmul_parameters == weights - size.vocabulary * 16
