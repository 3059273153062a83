"""Rows that share a sequence: same numbers, same gradient, and no row sees another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.contract.tiny import ARCHITECTURES, score_rows, tiny_model
from upweight.errors import UserError
from upweight.models.forward import check_packing
from upweight.models.packing import first_fit_decreasing

Rows = tuple[list[Tensor], list[Tensor]]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(0, 5))
def test_bins_hold_every_row_once_and_no_more_than_they_may(lengths: list[int], spare: int) -> None:
    width = max(lengths) + spare
    bins = first_fit_decreasing(lengths, width)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in members) for members in bins]
    assert max(loads) <= width
    # First fit opens a bin only when nothing else has room: no two bins could be one.
    assert all(a + b > width for i, a in enumerate(loads) for b in loads[:i])


def test_bins_are_filled_longest_first() -> None:
    assert first_fit_decreasing([3, 9, 5, 1, 2], 10) == [[1, 3], [2, 0, 4]]
    with pytest.raises(ValueError, match="11 tokens does not fit a bin of 10"):
        first_fit_decreasing([3, 11], 10)


def rows(seed: int = 0) -> Rows:
    """One long row, many short ones, and two of a single completion token."""
    draw = torch.Generator().manual_seed(seed)
    lengths = [(6, 18), (3, 5), (1, 1), (2, 7), (4, 1), (1, 9), (5, 4), (3, 3)]
    prompts, tokens = ([torch.randint(5, 90, (pair[i],), generator=draw) for pair in lengths] for i in (0, 1))
    return prompts, tokens


def with_gradient(model: PreTrainedModel, given: Rows, **layout: bool | int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropies, and the gradient of a weighted sum of both as one vector."""
    logprobs, entropy = (torch.cat(x) for x in score_rows(model, *given, 0.7, **layout))
    weights = torch.randn(2, len(logprobs), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    (weights[0] * logprobs + weights[1] * entropy).sum().backward()
    return logprobs.detach(), entropy.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("pad_multiple", [1, 16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_score_and_push_as_padded_ones_do(architecture: str, pad_multiple: int) -> None:
    model, _ = tiny_model(architecture, "float64")
    padded = with_gradient(model, rows())
    packed = with_gradient(model, rows(), kind="packed", pad_multiple=pad_multiple)
    torch.testing.assert_close(packed[0], padded[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(packed[1], padded[1], rtol=0, atol=1e-12)
    assert (packed[2] - padded[2]).norm() < 1e-12 * padded[2].norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_row_tells_the_others_nothing(architecture: str) -> None:
    """Other tokens in one row move no bit of any other row's log-probs; every row in turn, prompt and completion."""
    model, _ = tiny_model(architecture)
    prompts, tokens = rows()
    with torch.no_grad():
        before, _ = score_rows(model, prompts, tokens, 0.7, kind="packed")
        for i in range(len(tokens)):
            changed = [[(x + 1) if j == i else x for j, x in enumerate(column)] for column in (prompts, tokens)]
            after, _ = score_rows(model, changed[0], changed[1], 0.7, kind="packed")
            assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [
                j != i for j in range(len(tokens))
            ]


def test_packing_shares_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would pass if every row kept a sequence of its own."""
    model, _ = tiny_model("llama")
    shapes = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    score_rows(model, *rows(), 1.0)
    score_rows(model, *rows(), 1.0, kind="packed")
    assert (shapes[0], shapes[-1]) == ((8, 24), (4, 24))


def test_sliding_windows_slide_within_their_row() -> None:
    config = AutoConfig.for_model(
        "qwen2", vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=96, use_sliding_window=True, sliding_window=4,
        max_window_layers=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="sdpa").eval()
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    padded, packed = with_gradient(model, rows()), with_gradient(model, rows(), kind="packed")
    torch.testing.assert_close(packed[0], padded[0], rtol=0, atol=1e-12)
    assert (packed[2] - padded[2]).norm() < 1e-12 * padded[2].norm()


def test_a_model_that_leaks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture in ARCHITECTURES:
        check_packing(tiny_model(architecture)[0])
    config = AutoConfig.for_model(
        "mamba", vocab_size=96, hidden_size=16, num_hidden_layers=1, state_size=4, use_mambapy=False
    )
    torch.manual_seed(0)
    mamba = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UserError, match="lets rows that share a sequence see one another"):
        check_packing(mamba)
