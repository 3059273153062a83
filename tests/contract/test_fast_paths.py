"""Each technique of the learner, on and off: the same gradient, norm-wise within 1e-10 in float64, 1e-5 in float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.contract import tiny
from upweight.errors import UserError
from upweight.models import attention, head, layout
from upweight.models.llama import read_blocks
from upweight.models.networks import PolicyNetwork
from upweight.models.trunk import Layout, Trunk, proven_blocks
from upweight.presets import PRESETS
from upweight.types import Batch
from upweight.update import Updater, annotate, moving_rows, weights_of

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
LLAMAS = ("llama", "qwen2", "qwen3")


def rows_of(prompts: list[int], completions: list[int], shared: int, seed: int = 0) -> Batch:
    """Rows of given lengths; each prompt is that of `shared` rows after one another."""
    draw = torch.Generator().manual_seed(seed)
    given = [torch.randint(0, 90, (length,), generator=draw) for length in prompts]
    tokens = [torch.randint(0, 90, (length,), generator=draw) for length in completions]
    tokens[1][3] = 0  # the padding token, sampled: transformers never moves its embedding by what it reads
    return Batch(
        ids=[f"row{i}" for i in range(len(tokens))],
        prompt_ids=[given[i // shared] for i in range(len(tokens))],
        token_ids=tokens,
        loss_mask=[torch.ones(len(row), dtype=torch.bool) for row in tokens],
        group_ids=torch.arange(len(tokens)) // shared,
        unit_ids=torch.arange(len(tokens)),
        streams=["main"] * len(tokens),
    )


ROWS = rows_of([5, 9, 1], [7, 30, 1, 12, 12, 3, 2, 25, 9], shared=3)


def gradient(model: PreTrainedModel, rows: Batch, **options: object) -> Tensor:
    """Of a sum of log-probs and entropies in which every token has a weight of its own."""
    network = PolicyNetwork(model, None, temperature=0.7, layout=Layout(**options))  # type: ignore[arg-type]
    model.zero_grad()
    columns = network.outputs(rows)
    loss = sum((torch.cat(columns[name]) * _weights(rows, name)).sum() for name in ("logprobs", "entropy"))
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _weights(rows: Batch, name: str) -> Tensor:
    return torch.randn(sum(rows.lengths()), generator=torch.Generator().manual_seed(len(name)))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("architecture", LLAMAS)
def test_sharing_prompts(architecture: str, dtype: str) -> None:
    model, _ = tiny.tiny_model(architecture, dtype)
    assert proven_blocks(model) is not None
    plain = gradient(model, ROWS, kind="padded")
    assert distance(gradient(model, ROWS, kind="shared"), plain) < TOLERANCE[dtype]
    assert distance(gradient(model, ROWS, kind="shared", checkpointing=True), plain) < TOLERANCE[dtype]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_checkpointing(architecture: str) -> None:
    model, _ = tiny.tiny_model(architecture, "float64")
    plain = gradient(model, ROWS, kind="padded")
    assert distance(gradient(model, ROWS, kind="padded", checkpointing=True), plain) < TOLERANCE["float64"]
    assert not any(module.training for module in model.modules() if "Dropout" in type(module).__name__)


@pytest.mark.parametrize("positions", ["predicting", "own"])
def test_states_after_and_before_a_token(positions: str) -> None:
    model, _ = tiny.tiny_model("qwen2", "float64")
    found = [
        Trunk(model, Layout(kind))(ROWS.prompt_ids, ROWS.token_ids, positions)  # type: ignore[arg-type]
        for kind in ("shared", "padded")
    ]
    assert distance(*(states.detach() for states in found)) < 1e-12


def test_a_prompt_is_computed_once_and_hardly_anything_is_padded() -> None:
    trunk = Trunk(tiny.tiny_model("llama")[0], Layout("shared"))
    trunk(ROWS.prompt_ids, ROWS.token_ids, "predicting")
    assert trunk.tokens.useful == (5 + 9 + 1) + sum(length - 1 for length in ROWS.lengths())
    assert trunk.tokens.useful <= trunk.tokens.processed <= 17 / 16 * trunk.tokens.useful
    trunk(ROWS.prompt_ids, ROWS.token_ids, "own")
    assert trunk.tokens.useful == (5 + 9 + 1) + sum(ROWS.lengths())


def test_batches_of_near_sizes_have_tensors_of_one_size() -> None:
    """Every length from 33 tokens on to 64 leaves 16 sizes; what fills a stream up is looked at by nobody."""
    ids = torch.ones(64, dtype=torch.long)
    streams = [layout.stream_of([ids[:1]], [ids[:length]], predicting=False) for length in range(32, 64)]
    assert [stream.useful for stream in streams] == list(range(33, 65))
    assert {len(stream.ids) for stream in streams} == set(range(34, 65, 2))
    for stream in streams:
        assert int(stream.picked.max()) < stream.useful
        for tile in stream.tiles:
            filling = tile.keys >= stream.useful
            assert not filling.any() or (filling.all() and tile.keys.shape[1] == 1)


@pytest.mark.parametrize(("cells", "block"), [(1, 1), (200, 4), (2**18, 128)])
def test_tiles_of_any_size(monkeypatch: pytest.MonkeyPatch, cells: int, block: int) -> None:
    model, _ = tiny.tiny_model("qwen2", "float64")
    plain = gradient(model, ROWS, kind="padded")
    monkeypatch.setattr(layout, "TILE_CELLS", cells)
    monkeypatch.setattr(layout, "LENGTH_SPREAD", 0.0)
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    assert distance(gradient(model, ROWS, kind="shared"), plain) < TOLERANCE["float64"]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_chunks_of_the_head(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    model, _ = tiny.tiny_model("llama", dtype)
    plain = gradient(model, ROWS)
    monkeypatch.setattr(head, "CHUNK_BYTES", 3 * 99 * 8)
    assert distance(gradient(model, ROWS), plain) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].source == "rollouts"])
def test_skipping_inert_rows(name: str) -> None:
    """A constant group is left out, with every other weight as it was; the gradient stays."""
    method = PRESETS[name].with_options({"minibatches": 1})
    learner = tiny.learner(method)
    rows = tiny.batch_for(method)
    rewards = torch.where(torch.arange(len(rows)) < 4, 1.0, rows.row_columns["rewards"])
    rows = annotate(learner, method, replace(rows, row_columns={**rows.row_columns, "rewards": rewards}))
    weights = weights_of(method, rows)
    found = []
    index = moving_rows(method, rows, weights)
    for kept in (range(len(rows)), index):
        learner.zero_grad()
        own = {name: [column[i] for i in kept] for name, column in weights.items()}
        learner.backward(rows.select(kept), own, [[i] for i in range(len(kept))])
        found.append(tiny.gradient(learner).clone())
    assert distance(found[1], found[0]) < 1e-12
    silent = {i for i, advantages in enumerate(rows.token_columns["advantages"]) if not bool(advantages.any())}
    assert set(index) == set(range(len(rows))) - (set() if method.critic else silent)


def test_the_ledger_says_what_was_not_computed() -> None:
    method = PRESETS["grpo"]
    learner = tiny.learner(method)
    rows = tiny.batch_for(method)
    rewards = torch.where(torch.arange(len(rows)) < 4, 1.0, rows.row_columns["rewards"])
    rows = replace(rows, row_columns={**rows.row_columns, "rewards": rewards})
    found, _ = Updater(learner, method).update(rows, (0, 0))
    assert all(bool(torch.isnan(column).all()) for column in found.token_columns["logprobs"][:4])
    assert all(bool((column == 0).all()) for column in found.token_columns["push/policy"][:4])
    assert all(bool(torch.isfinite(column).all()) for column in found.token_columns["logprobs"][4:])
    whole, _ = Updater(tiny.learner(method), method, skip_inert=False).update(rows, (0, 0))
    assert all(bool(torch.isfinite(column).all()) for column in whole.token_columns["logprobs"])


def test_bfloat16_computes_on_float32_masters() -> None:
    """Another rounding of the same gradient, whatever the layout; the weights and their gradients stay float32."""
    model, _ = tiny.tiny_model("llama")
    exact = gradient(model, ROWS)
    for kind in ("shared", "padded"):
        rough = gradient(model, ROWS, kind=kind, dtype=torch.bfloat16)
        assert rough.dtype == torch.float32
        assert 1e-4 < distance(rough, exact) < 0.1


@pytest.mark.parametrize("architecture", ["granite", "smollm3", "gemma"])
def test_models_that_only_look_alike_keep_their_own_forward(architecture: str) -> None:
    """Scaled residuals, layers without positions, another activation: what the names of modules do not tell."""
    extra = {"granite": {"residual_multiplier": 0.3}, "smollm3": {"no_rope_layers": [1, 0]}}
    config = AutoConfig.for_model(
        architecture, vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, head_dim=8, pad_token_id=0, bos_token_id=None, eos_token_id=1,
        **extra.get(architecture, {}),
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    assert proven_blocks(model) is None
    assert Trunk(model, Layout()).kind == "padded"
    with pytest.raises(UserError, match="layout"):
        Trunk(model, Layout("shared"))


def test_windows_that_hide_tokens_are_not_the_family() -> None:
    config = AutoConfig.for_model(
        "mistral", vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, sliding_window=8, max_position_embeddings=64,
    )  # fmt: skip
    assert read_blocks(AutoModelForCausalLM.from_config(config)) is None
    config.sliding_window = None
    assert read_blocks(AutoModelForCausalLM.from_config(config)) is not None
