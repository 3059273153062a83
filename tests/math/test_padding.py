"""What every function of `objectives/` keeps: padding cannot leak, rows may be reordered, inputs stay as they were."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.math.numeric import slope
from tests.math.reference import assert_close
from upweight.objectives import (
    advantages,
    controllers,
    correction,
    filters,
    kl,
    likelihood,
    policy,
    preference,
    shaping,
    steps,
    value,
)

MODULES = (advantages, controllers, correction, filters, kl, likelihood, policy, preference, shaping, steps, value)
PUBLIC = [
    function
    for module in MODULES
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
]
# Helpers that are no columns, and two that speak of groups and of steps and not of rows.
OTHERS = (advantages.deviations, advantages.constant_groups, steps.aggregate_steps)
FUNCTIONS = [f for f in PUBLIC if f not in OTHERS]
MASKED = [f for f in FUNCTIONS if any(p.endswith("loss_mask") for p in inspect.signature(f).parameters)]
OPTIONS: dict[str, list[dict[str, object]]] = {
    "importance_weights": [{"sampler_correction": mode} for mode in ("token_mask", "sequence_mask", "geometric_mask")],
    "adaptive_coefficient": [{"kl_target": 0.5}],
    "kl_in_rewards": [{"kl_reward_coef": 0.1}],
    "kl_in_token_rewards": [{"kl_reward_coef": 0.1}],
    "gae": [{"gamma": 0.9, "lam": 0.9, "bootstrap_truncated": True}],
    "sequence_surrogate": [{"ratio": "mean", "clip_high": 0.5, "clip_low": 0.5}, {"ratio": "sum"}],
    "minus_baseline": [{"baseline": "batch"}, {"baseline": "group"}, {"baseline": "running"}],
}
CASES = [pytest.param(f, o, id=f"{f.__name__}-{o}") for f in FUNCTIONS for o in OPTIONS.get(f.__name__, [{}])]
MASKED_CASES = [pytest.param(f, o, id=f"{f.__name__}-{o}") for f in MASKED for o in OPTIONS.get(f.__name__, [{}])]

ROWS = 6
BOOL_ROWS, INT_ROWS = ("correct", "truncated", "label"), {"group_ids": [4, 1, 4, 1, 9, 9], "token_budget": [3] * ROWS}
FLOAT_ROWS = ("rewards", "reference_point", "chosen_margin", "step_total")


def columns(seed: int, mask: Tensor) -> dict[str, Tensor]:
    """Every column that a function may ask for, from one seed; those of tokens are cut to the width of the mask."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = {name: numbers(ROWS) > 0 for name in BOOL_ROWS}
    found |= {name: torch.tensor(values) for name, values in INT_ROWS.items()}
    found |= {name: numbers(ROWS) for name in FLOAT_ROWS}
    names = {p for f in FUNCTIONS for p, q in inspect.signature(f).parameters.items() if q.default is q.empty}
    for name in sorted(names - set(found) - {"value"}):
        found[name] = mask if name.endswith("loss_mask") else -numbers(ROWS, 4)[:, : mask.shape[1]].abs()
    return found | {"value": torch.tensor(0.3, dtype=torch.float64)}


def call(function: Callable[..., Tensor], given_columns: dict[str, Tensor], options: dict[str, object]) -> Tensor:
    names = [p for p, q in inspect.signature(function).parameters.items() if q.default is q.empty]
    if function is advantages.batch_scaled:  # the advantages of rows
        given_columns = {"advantages": given_columns["rewards"]}
    return torch.as_tensor(function(**{name: given_columns[name] for name in names}, **options))


def is_of_tokens(column: Tensor) -> bool:
    return column.dim() == 2 and column.dtype == torch.float64


masks = st.lists(st.booleans(), min_size=ROWS * 4, max_size=ROWS * 4).map(
    lambda cells: torch.tensor(cells).view(ROWS, 4)
)


@pytest.mark.parametrize(("function", "options"), MASKED_CASES)
@settings(max_examples=8)
@given(mask=masks, seed=st.integers(0, 9), garbage=st.sampled_from([1e6, -1e6, 1e300]))
def test_what_stands_outside_the_mask_cannot_leak(
    function: Callable[..., Tensor], options: dict[str, object], mask: Tensor, seed: int, garbage: float
) -> None:
    clean = columns(seed, mask)
    dirty = {name: torch.where(mask, c, garbage) if is_of_tokens(c) else c for name, c in clean.items()}
    expected, found = call(function, clean, options), call(function, dirty, options)
    assert torch.equal(found, expected)
    if found.dim() == 2:
        assert found[~mask].count_nonzero() == 0


GRADED = ("logprobs", "chosen_logprobs", "rejected_logprobs", "chosen_scores", "rejected_scores")
LOSSES = [case for case in MASKED_CASES if case.values[0].__module__.endswith(("policy", "preference"))]
LOSSES = [case for case in LOSSES if case.values[0] is not preference.reference_point]


@pytest.mark.parametrize(("function", "options"), LOSSES)
@settings(max_examples=8)
@given(mask=masks, seed=st.integers(0, 9))
def test_the_gradient_outside_the_mask_is_exactly_zero(
    function: Callable[..., Tensor], options: dict[str, object], mask: Tensor, seed: int
) -> None:
    dirty = {name: torch.where(mask, c, 1e6) if is_of_tokens(c) else c for name, c in columns(seed, mask).items()}
    for name in set(GRADED) & set(inspect.signature(function).parameters):
        leaf = dirty[name].clone().requires_grad_()
        found = slope(call(function, {**dirty, name: leaf}, options).sum(), leaf)
        assert found[~mask].count_nonzero() == 0
        assert torch.isfinite(found).all()


@pytest.mark.parametrize(("function", "options"), MASKED_CASES)
@settings(max_examples=8)
@given(mask=masks, seed=st.integers(0, 9))
def test_columns_of_padding_change_nothing(
    function: Callable[..., Tensor], options: dict[str, object], mask: Tensor, seed: int
) -> None:
    narrow = columns(seed, mask)
    wide = {
        name: torch.nn.functional.pad(c, (0, 2), value=0 if c.dtype == torch.bool else 5.0) if c.dim() == 2 else c
        for name, c in narrow.items()
    }
    expected, found = call(function, narrow, options), call(function, wide, options)
    assert_close(found[:, :4] if found.dim() == 2 else found, expected, 1e-9)


@pytest.mark.parametrize(("function", "options"), CASES)
@settings(max_examples=8)
@given(mask=masks, seed=st.integers(0, 9), order=st.permutations(range(ROWS)))
def test_rows_may_stand_in_any_order(
    function: Callable[..., Tensor], options: dict[str, object], mask: Tensor, seed: int, order: list[int]
) -> None:
    straight = columns(seed, mask)
    turned = {name: c[order] if c.dim() else c for name, c in straight.items()}
    expected, found = call(function, straight, options), call(function, turned, options)
    assert_close(found, expected[order] if expected.dim() else expected, 1e-9)


DERIVING = [case for case in CASES if case.values[0].__module__.endswith(("advantages", "shaping", "correction"))]
DERIVING += [case for case in CASES if case.values[0] in (controllers.adaptive_coefficient, value.explained_variance)]


@pytest.mark.parametrize(("function", "options"), DERIVING)
@settings(max_examples=8)
@given(mask=masks, seed=st.integers(0, 9))
def test_columns_of_the_batch_are_computed_in_double_precision(
    function: Callable[..., Tensor], options: dict[str, object], mask: Tensor, seed: int
) -> None:
    single = {name: c.float() if c.is_floating_point() else c for name, c in columns(seed, mask).items()}
    double = {name: c.double() if c.is_floating_point() else c for name, c in single.items()}
    found, expected = call(function, single, options), call(function, double, options)
    assert torch.equal(found, expected)
    assert found.dtype in (torch.float64, torch.bool)


@pytest.mark.parametrize(("function", "options"), CASES)
def test_inputs_stay_as_they_were(function: Callable[..., Tensor], options: dict[str, object]) -> None:
    before = columns(1, torch.arange(4)[None] < torch.tensor([4, 1, 0, 3, 2, 4])[:, None])
    copies = {name: c.clone() for name, c in before.items()}
    call(function, before, options)
    assert all(torch.equal(before[name], copies[name]) for name in before)
