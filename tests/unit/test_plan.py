"""The plan's arithmetic against the run's own functions and against numbers worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from upweight.ceilings import Ceilings, Machine, Shape
from upweight.compose import build_session
from upweight.config import Config, ModelConfig
from upweight.configfile import make_config
from upweight.errors import UserError
from upweight.estimate import (
    ACHIEVED,
    BACKWARD_CALLS,
    SECONDS_PER_LAYER,
    decode_seconds,
    in_words,
    model_size,
    nominal_gpu,
    optimizer_seconds,
    pass_seconds,
    plan_ceilings,
)
from upweight.floors import Floors
from upweight.learners.local import LocalLearner
from upweight.models.load import load_model
from upweight.passes import keeps_reference, passes, scores_old
from upweight.plan import describe, make_plan
from upweight.sizes import ModelSize, kv_bytes
from upweight.sources import RolloutSource
from upweight.train import Session
from upweight.types import Batch
from upweight.update import annotate, main_rows, minibatches, parts_of, with_old_logprobs

TINY: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "context": 32, "tokens": ("<answer>", "</answer>")}


SIZE = ModelSize(
    parameters=1000,
    trunk_parameters=600,
    matmul_parameters=900,
    head_parameters=400,
    layers=2,
    width=8,
    query_width=8,
    kv_width=4,
    mlp_width=32,
    vocabulary=50,
    context=64,
    bytes_per_number=4,
)


def config(**tables: Any) -> Config:
    base: dict[str, Any] = {
        "steps": 10,
        "algorithm": "grpo",
        "threads": 1,
        "model": {"init": TINY},
        "data": {"task": "arithmetic", "digits": 1, "demonstrations": 20},
        "rewards": {"parts": {"correct": "number"}},
        "batch": {"prompts": 6, "group_size": 4, "rows": 10},
        "sampling": {"max_completion_tokens": 8},
    }
    return make_config(base | tables)


def test_batch_of_rollouts_worked_by_hand() -> None:
    plan = make_plan(config(algorithm={"name": "grpo", "inner_epochs": 2, "minibatches": 3}))
    batch = plan.batch
    assert (batch.rows, batch.total_rows) == (6 * 4, 10 * 6 * 4)
    assert (batch.optimizer_steps_per_batch, batch.optimizer_steps) == (2 * 3, 10 * 2 * 3)
    assert batch.rows_per_optimizer_step == 2 * 4
    # `7+5=` is four character tokens and a completion at most eight.
    assert batch.prompt_tokens == 4
    assert batch.tokens == 24 * (4 + 8)
    assert batch.epochs == pytest.approx(10 * 6 / batch.data_units)


def test_batch_of_demonstrations_counts_the_stop_token_and_tags_as_one_token_each() -> None:
    batch = make_plan(config(algorithm="sft")).batch
    assert (batch.rows, batch.prompts, batch.data_units, batch.epochs) == (10, None, 20, 5.0)
    # <answer>, one or two digits, </answer>, and the stop token.
    assert 4 <= batch.completion_tokens <= 5
    assert batch.prompt_tokens == 4


def test_optimizer_steps_and_rows_are_those_that_the_update_makes(tmp_path: Path) -> None:
    chosen = config(
        algorithm={"name": "grpo", "minibatches": 4},
        runs_dir=str(tmp_path),
        records={"tensorboard": False},
        rewards={"parts": {"correct": {"function": "number", "options": {"tag": "answer"}}}},
    )
    batch = make_plan(chosen).batch
    session = build_session(chosen)
    session.source.sync(session.learner, 0)
    rows = session.source.next(0)
    cut = list(minibatches(rows, session.updater.algorithm.minibatches, (0, 0, 0)))
    assert len(rows) == batch.rows
    assert len(cut) == batch.optimizer_steps_per_batch
    assert max(map(len, cut)) == batch.rows_per_optimizer_step
    assert isinstance(session.learner, LocalLearner)
    assert session.learner.total_steps == batch.optimizer_steps


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_model_size_is_that_of_the_loaded_model(architecture: str, tmp_path: Path) -> None:
    chosen = ModelConfig(init={**TINY, "architecture": architecture, "kv_heads": None})
    model, tokenizer = load_model(chosen)
    size = model_size(chosen)
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.trunk_parameters == sum(p.numel() for p in model.base_model.parameters())
    assert (size.layers, size.width, size.vocabulary) == (2, 16, len(tokenizer))
    model.save_pretrained(tmp_path)
    assert model_size(ModelConfig(path=str(tmp_path), dtype="float64")).parameters == size.parameters


def test_model_size_loads_no_weights() -> None:
    # In float32 this model would take 250 GB.
    assert model_size(ModelConfig(init={"width": 8192, "layers": 80, "heads": 64})).parameters > 60e9


def test_kv_cache_is_as_large_as_the_samplers() -> None:
    init = {**TINY, "heads": 4, "kv_heads": 2}
    model, _ = load_model(ModelConfig(init=init))
    cache = model(input_ids=torch.zeros(1, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 7 * kv_bytes(model_size(ModelConfig(init=init))) == held


def test_passes_of_ppo_and_what_they_cost() -> None:
    plan = make_plan(config(algorithm={"name": "ppo", "minibatches": 1}))
    said = "\n".join(plan.passes)
    assert "one pass for old log-probs, read by token_rewards" in said
    assert "one pass of the starting model, read by token_rewards" in said
    assert "one pass of the critic" in said
    assert "of the policy and of the critic" in said
    assert {"old log-probs", "starting model's log-probs", "the critic's values"} <= set(plan.seconds)
    shared = make_plan(config(algorithm={"name": "ppo", "minibatches": 1}, critic={"share_trunk": True}))
    assert not [part for part in shared.memory_bytes if "critic" in part]
    assert plan.seconds["training"] == pytest.approx(2 * shared.seconds["training"], rel=0.1)


def test_pretraining_rows_are_counted_beside_the_batch() -> None:
    tables: dict[str, Any] = {
        "algorithm": {"name": "ppo", "pretrain_coef": 1.0},
        "pretrain": {"task": "arithmetic", "digits": 1, "demonstrations": 20},
        "batch": {"prompts": 6, "group_size": 4, "pretrain_rows": 8},
    }
    batch = make_plan(config(**tables)).batch
    assert (batch.rows, batch.beside_rows) == (24, 8)
    assert 8 * (4 + 4) <= batch.beside_tokens <= 8 * (4 + 5)
    assert make_plan(config(**tables | {"algorithm": "ppo"})).batch.beside_rows == 0


def test_a_pair_is_two_rows_of_one_prompt() -> None:
    plan = make_plan(config(algorithm={"name": "dpo", "minibatches": 2}))
    batch = plan.batch
    assert (batch.units, batch.rows, batch.rows_per_optimizer_step, batch.total_rows) == (10, 20, 10, 200)
    assert (batch.data_units, batch.epochs) == (20, 5.0)
    assert batch.prompt_tokens == 4
    assert 20 * (4 + 4) <= batch.tokens <= 20 * (4 + 5)
    assert "each step: 10 pairs = 20 rows" in "\n".join(describe(plan))


def test_a_statistic_costs_a_pass_of_each_model_for_every_minibatch() -> None:
    plan = make_plan(config(algorithm="kto"))
    assert "one pass of the policy and one of the starting model over each minibatch" in "\n".join(plan.passes)
    assert plan.seconds["reference_point"] == pytest.approx(2 * plan.seconds["starting model's log-probs"])
    assert plan.batch.rows == 10


def test_the_passes_are_those_that_the_update_makes(tmp_path: Path) -> None:
    for name in ("grpo", "ppo", "rloo_trl", "dapo", "dpo", "kto"):
        chosen = config(
            algorithm=name, name=name, runs_dir=str(tmp_path), records={"tensorboard": False, "kl_every": 0}
        )
        method = chosen.algorithm.resolve()
        session = build_session(chosen)
        batch = batch_of_any(session)
        rows = annotate(session.learner, method, main_rows(batch))
        later = list(parts_of(method, rows, (0, 0), skip_inert=False))[1:]
        made = set(with_old_logprobs(session.learner, method, rows, later).token_columns)
        said = "\n".join(passes(chosen, method))
        assert ("old_logprobs" in made) == ("one pass for old log-probs" in said) == scores_old(method)
        assert ("ref_logprobs" in made) == ("one pass of the starting model" in said)
        assert ("old_values" in made) == ("one pass of the critic" in said)
        assert keeps_reference(chosen, method) == (session.learner.reference is not None)  # type: ignore[attr-defined]


def batch_of_any(session: Session) -> Batch:
    """A batch without the filters of the method, which a model that knows nothing could not pass."""
    if isinstance(session.source, RolloutSource):
        session.source.filters = ()
    session.source.sync(session.learner, 0)
    return session.source.next(0)


def test_a_shared_prompt_and_checkpointing_take_less_memory() -> None:
    tables: dict[str, Any] = {"data": {"task": "arithmetic", "digits": 9, "demonstrations": 20}}
    plain = make_plan(config(**tables)).memory_bytes["activations of one micro-batch"]
    padded = make_plan(config(**tables, learner={"layout": "padded"})).memory_bytes["activations of one micro-batch"]
    kept = make_plan(config(**tables, learner={"gradient_checkpointing": True})).memory_bytes
    cut = make_plan(config(**tables, learner={"tokens_per_microbatch": 50})).memory_bytes
    assert kept["activations of one micro-batch"] < plain < padded
    assert cut["activations of one micro-batch"] < plain / 4
    batch = make_plan(config(**tables)).batch
    assert batch.different_tokens == pytest.approx(6 * batch.prompt_tokens + 24 * 8, abs=1)
    assert batch.tokens == pytest.approx(24 * (batch.prompt_tokens + 8), abs=1)


def test_bfloat16_is_cheaper_to_compute_in_and_costs_a_copy_of_the_weights() -> None:
    plain = make_plan(config()).memory_bytes
    lower = make_plan(config(compute={"dtype": "bfloat16"})).memory_bytes
    assert lower["policy"] == plain["policy"]
    assert lower["sampler's copy of the policy"] == plain["sampler's copy of the policy"] / 2
    assert lower["KV cache"] == plain["KV cache"] / 2
    assert "weights as they are multiplied" in lower
    assert "weights as they are multiplied" not in plain


def test_tokens_are_counted_by_the_tokenizer_of_a_local_model(tmp_path: Path) -> None:
    from upweight.models.load import save_model

    save_model(*load_model(ModelConfig(init=TINY)), tmp_path)
    assert make_plan(config(model={"path": str(tmp_path)})).batch.prompt_tokens == 4


def test_memory_names_only_what_is_there() -> None:
    sft = make_plan(config(algorithm="sft", rewards={}, records={"kl_every": 0}))
    assert not {"reference", "KV cache", "sampler's copy of the policy"} & set(sft.memory_bytes)
    assert "reference" in make_plan(config(records={"kl_every": 10})).memory_bytes
    assert (
        "reference"
        in make_plan(config(records={"kl_every": 0}, algorithm={"name": "grpo", "kl_coef": 0.1})).memory_bytes
    )


CEILINGS = Ceilings(Machine("it", "2", 3, "cpu"), Shape(1, 1, 1, 1), {"float32": 50.0}, {"float32": 100.0}, 10.0)
FLOORS = Floors(CEILINGS, SIZE, "float32", "float32")


def test_seconds_are_the_floors_over_what_is_reached_and_the_calls() -> None:
    a_call = 2 * SECONDS_PER_LAYER
    trained = pass_seconds(FLOORS, "forward_backward", tokens=7, passes=3)
    assert trained == pytest.approx(6 * 900 * 7 / 100 / ACHIEVED["forward_backward"] + 3 * BACKWARD_CALLS * a_call)
    scored = pass_seconds(FLOORS, "old_pass", tokens=7, passes=3)
    assert scored == pytest.approx(2 * 900 * 7 / 100 / ACHIEVED["old_pass"] + 3 * a_call)
    assert optimizer_seconds(FLOORS, 4) == pytest.approx(4 * 28 * 1000 / 10 / ACHIEVED["optimizer"])


def test_seconds_of_decoding_come_in_waves() -> None:
    # Five rows, at most four at once, two tokens each after prompts of three: weights and cache over the bandwidth.
    cached = 2 * 2 * 4 * 4
    read = sum(900 * 4 + live * (3 + step) * cached for live in (4, 1) for step in (0, 1))
    expected = read / 10 / ACHIEVED["decode"] + 2 * 2 * 2 * SECONDS_PER_LAYER
    assert decode_seconds(FLOORS, 5, 4, 3.0, 2) == pytest.approx(expected)


def test_ceilings_of_a_plan_are_those_of_the_device_and_the_threads() -> None:
    chosen = config(threads=2)
    threads = torch.get_num_threads()
    assert plan_ceilings(chosen, SIZE, 4).machine.threads == 2
    assert torch.get_num_threads() == threads
    assert "2 threads: " in in_words(plan_ceilings(chosen, SIZE, 4), "float32")
    if not torch.cuda.is_available():
        elsewhere = config(model={"init": TINY, "device": "cuda", "dtype": "bfloat16"})
        assert plan_ceilings(elsewhere, SIZE, 4) == nominal_gpu()
        assert in_words(nominal_gpu(), "bfloat16").startswith("a large GPU, nominal: 100,000 GFLOP/s")


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, "no pass for old log-probs: one optimizer step a batch"),
        ({"algorithm": "reinforce"}, "no pass for old log-probs: the objective has no ratio"),
        ({"algorithm": {"name": "grpo", "inner_epochs": 2}}, "one pass for old log-probs, since 2 optimizer steps"),
        ({"records": {"kl_every": 0}}, "no pass of the starting model, and no copy of it: kl_coef is 0"),
        ({"records": {"kl_every": 7}}, "one every 7 steps for the metric"),
        ({"algorithm": {"name": "grpo", "kl_coef": 0.1}}, "one pass of the starting model, which a term"),
        ({"algorithm": "sft"}, "no sampling: the rows are a dataset's"),
        ({"evaluate": {"every": 5, "samples": 3}}, "one greedy and 3 sampled answers to each of at most 256"),
        ({}, "no held-out evaluation"),
        ({"algorithm": "dapo"}, "for up to 20 times as many prompts"),
        ({"algorithm": "dapo"}, "sampling, without what the filter refuses"),
        ({"algorithm": {"name": "grpo", "kl_coef": 0.1, "reference_every": 5}}, "it becomes 1 of the policy"),
        ({"algorithm": {"name": "grpo", "sampler_correction": "token_mask"}}, "old log-probs, read by sampler_weights"),
        ({"algorithm": "reward_model", "rewards": {}}, "no pass of the starting model: a reward model has no"),
        ({"algorithm": "reward_model", "evaluate": {"every": 2}}, "both completions of at most 256 held-out pairs"),
        ({}, "6 prompts x 4 completions = 24 completions, at most 192 sampled tokens"),
        ({"data": {"path": "some/where"}}, "the size of the data is unknown"),
    ],
)
def test_words(tables: dict[str, Any], said: str) -> None:
    assert said in "\n".join(describe(make_plan(config(**tables))))


def test_model_out_of_reach_leaves_the_arithmetic() -> None:
    plan = make_plan(config(model={"path": "nobody/no-such-model"}))
    text = "\n".join(describe(plan))
    assert "24 completions" in text
    assert "memory and time are unknown" in text
    assert "no-such-model" in text
    assert plan.memory_bytes == plan.seconds == {}


def test_model_that_an_earlier_run_will_leave_is_not_looked_for_on_the_hub() -> None:
    assert (
        "there is no folder 'runs/first/final', or not yet"
        in make_plan(config(model={"path": "runs/first/final"})).unknown
    )


def test_missing_file_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="no-such-file"):
        make_plan(config(data={"path": "./no-such-file.jsonl"}))


def test_plan_is_json_able() -> None:
    plan = make_plan(config())
    read = json.loads(json.dumps(plan.to_dict()))
    assert read["batch"]["rows"] == 24
    assert read["model"]["layers"] == 2
