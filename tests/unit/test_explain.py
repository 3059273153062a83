"""Formulas against hand-written ones, weights against the code's own, differences against the records."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upweight.algorithms import Algorithm, Call, Derived, Term, options_of
from upweight.catalogue import describe_method, differences, example, explained_row, method_row, summary
from upweight.config import Config
from upweight.configfile import make_config
from upweight.explain import explain
from upweight.formulas import SYMBOLS, formula, stated, symbol_lines, term_text, weight_text, with_values
from upweight.objectives import advantages, kl, likelihood, policy, preference
from upweight.objectives.tokens import REDUCTIONS, TOKEN_REDUCTIONS, token_weights
from upweight.presets import PRESETS, algorithm

NAMES = sorted(PRESETS)


def config(**tables: Any) -> Config:
    base: dict[str, Any] = {
        "name": "tiny",
        "steps": 10,
        "algorithm": "grpo",
        "model": {"init": {}},
        "data": {"task": "arithmetic"},
        "rewards": {"parts": {"correct": "number", "form": {"function": "format", "weight": 0.1}}},
        "batch": {"prompts": 6, "group_size": 4, "rows": 10},
        "sampling": {"max_completion_tokens": 24},
    }
    return make_config(base | tables)


def calls(method: Algorithm) -> list[Call]:
    steps = (*method.derived, *method.filters, *method.statistics, *method.carries)
    return [*(step.call for step in steps), *(term.loss for term in method.terms)]


# --- formulas -------------------------------------------------------------------------------------------------------


def silent(rewards: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
    return scale * rewards


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Call(likelihood.nll), "-log pi"),
        (
            Call(policy.clipped_surrogate, {"clip_high": 0.28, "dual_clip": 3.0}),
            "-min(min(rho, inf) A, clip(rho, 1 - 0.2, 1 + 0.28) A), at most 3 |A| where A < 0",
        ),
        (Call(kl.penalty), "exp(-u) + u - 1"),
        (Call(kl.penalty, {"kl_estimator": "k2"}), "u^2 / 2"),
        (Call(kl.penalty, {"kl_estimator": "weighted_k3"}), "rho (exp(-u) + u - 1)"),
        (
            Call(advantages.gae, {"gamma": 0.9}),
            "sum_k (0.9 * 0.95)^k d_{t+k}, d_t = r_t + 0.9 V_{t+1} - V_t, V_{T+1} = V_T [truncated and false]",
        ),
        (
            Call(preference.dpo, {"label_smoothing": 0.1}),
            "-(1 - 0.1) log sigma(m) - 0.1 log sigma(-m), m = 0.1 (chosen sum_t u - rejected sum_t u)",
        ),
        (Call(silent), "silent(rewards, scale=2.0)"),
    ],
)
def test_formula(call: Call, text: str) -> None:
    assert formula(call) == text


def test_only_whole_words_are_options_and_a_subscript_t_is_none_of_the_word() -> None:
    assert with_values("std std_eps std_t, a_std mystd", {"std": "sample"}) == "sample std_eps sample_t, a_std mystd"
    assert with_values("a b", {"a": 2, "b": 0.5}) == "2 * 0.5"
    assert with_values("r - c", {"c": -1.0}) == "r - (-1)"
    assert with_values("min(x, c)", {"c": math.inf}) == "min(x, inf)"
    # A value that is itself the name of an option stays as it is.
    assert with_values("a b", {"a": "b", "b": 3}) == "b 3"


@pytest.mark.parametrize("name", NAMES)
def test_a_formula_names_every_option_of_its_function_and_leaves_none_of_them_open(name: str) -> None:
    for call in calls(PRESETS[name]):
        for option in options_of(call.function):
            assert re.search(rf"\b{option}(_t)?\b", stated(call)), f"{call.function.__name__} does not say {option}"
        if stated(call) in options_of(call.function):
            continue  # the option names the function whose formula it is
        marked = with_values(
            stated(call), {option: f"<{place}>" for place, option in enumerate(options_of(call.function))}
        )
        assert not [option for option in options_of(call.function) if re.search(rf"\b{option}\b", marked)]


def test_symbols_are_told_where_they_occur_and_those_that_their_meanings_need() -> None:
    told = [line.split(":")[0] for line in symbol_lines(["loss = 1 * sum_{i,t} 1/sum T [ -rho A ]"])]
    assert told == ["pi", "old", "rho", "A", "T"]
    assert symbol_lines(["rewards = max(0, x)"]) == []
    # Defined in the formula itself, and therefore not again.
    assert not [line for line in symbol_lines(["P = exp(x), L = budget, -L + P"]) if line[0] in "LP"]


@pytest.mark.parametrize("name", NAMES)
def test_every_short_name_in_a_formula_has_a_meaning(name: str) -> None:
    method = PRESETS[name]
    texts = [formula(call) for call in calls(method)]
    known = {
        *SYMBOLS,
        *(name for text in texts for name in re.findall(r"\b([A-Za-z]+)(?:_t)?(?: = |,? the mean)", text)),
    }
    for text in texts:
        for symbol in re.findall(r"(?<![\w.'])([A-Za-z])(?![\w'])", text.partition(", where a ")[0]):
            # Small letters are bound by the formula: sums over t and k, "b the mean", "a word".
            assert symbol in known or symbol in "abkt", f"{symbol} in {text}"


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", TOKEN_REDUCTIONS)
@given(lengths=st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any))
def test_the_weight_in_words_is_the_weight_that_is_computed(reduction: Any, lengths: list[int]) -> None:
    mask = torch.arange(5)[None, :] < torch.tensor(lengths)[:, None]
    groups = torch.tensor([0, 0, 1, 1])
    weights = token_weights(mask, reduction, groups, 7)
    words = weight_text(reduction, 7).replace("sum T", "total").replace("sum_g T", "of_group")
    words = re.sub(r"(?<=\w) (?=\w)", " * ", words)
    for row, length in enumerate(lengths):
        if not length:
            continue
        of_group = sum(lengths[:2] if row < 2 else lengths[2:])
        numbers = {"N": sum(map(bool, lengths)), "T_i": length, "total": sum(lengths), "of_group": of_group}
        numbers["groups"] = bool(sum(lengths[:2])) + bool(sum(lengths[2:]))
        assert weights[row, 0].item() == pytest.approx(eval(words, {}, numbers))


def test_every_reduction_has_a_weight() -> None:
    assert all(weight_text(reduction, 0).startswith("1/") for reduction in REDUCTIONS)


def test_term_says_of_which_rows_it_is_a_sum() -> None:
    loss = Call(likelihood.nll)
    assert term_text(Term("a", loss, "token_mean", 0.5), 0) == "0.5 * sum_{i,t} 1/sum T [ -log pi ]"
    assert term_text(Term("a", loss, "token_mean", rows="chosen"), 0).startswith("1 * sum_{i,t: chosen} ")
    assert term_text(Term("a", loss, "token_mean", stream="pretrain"), 0).startswith("1 * sum_{i,t: pretrain} ")
    assert term_text(Term("a", loss, "constant_length"), 9).startswith("1 * sum_{i,t} 1/(N 9) ")
    assert term_text(Term("a", loss, "row_mean"), 9).startswith("1 * sum_{i} 1/N ")


# --- a config -------------------------------------------------------------------------------------------------------


def test_grpo_with_a_kl_term_as_one_would_write_it() -> None:
    text = explain(config(algorithm={"name": "grpo", "kl_coef": 0.04, "clip_high": 0.3, "std": "sample"}))
    sections = dict(part.split("\n", 1) for part in text.split("\n\n")[1:])
    assert sections["tokens"].startswith("  4 completions for each of 6 prompts a batch from arithmetic, sampled by")
    assert sections["columns of a batch, one after the other"].splitlines() == [
        "  rewards = 1 * correct + 0.1 * form, correct = number, form = format",
        "  advantages = (r - mean_g(r)) / (deviation_g(r, sample) + 1e-08), "
        "where a deviation of kind none divides by 1",
    ]
    assert sections["the loss of one optimizer step"].splitlines() == [
        "  loss = 1 * sum_{i,t} 1/(N T_i) [ -min(min(rho, inf) A, clip(rho, 1 - 0.2, 1 + 0.3) A), "
        "at most inf |A| where A < 0 ]",
        "       + 0.04 * sum_{i,t} 1/(N T_i) [ exp(-u) + u - 1 ]",
    ]
    assert "ref: " in sections["where"]
    assert "one pass of the starting model, which a term" in sections["passes"]


@pytest.mark.parametrize(
    ("options", "shown", "hidden"),
    [
        ({}, "advantages", "sampler_weights"),
        (
            {"sampler_correction": "token_mask", "correction_high": 4.0},
            "token_mask weight of w = old / mu within [0, 4]",
            "none weight",
        ),
        ({"overlong_filter": True}, "loss_mask = loss_mask and not truncated", "missing"),
        ({"missing_eos_penalty": 0.5}, "rewards = r - 0.5 where truncated, else r", "loss_mask"),
        ({"kl_reward_coef": 0.02}, "rewards = r - 0.02 sum_t k1", "exp(-u)"),
        ({"entropy_coef": 0.01}, "+ 0.01 * sum_{i,t} 1/(N T_i) [ -H ]", "exp(-u)"),
        ({"dynamic_sampling": True}, "kept are groups with 0 < number of correct rows in", "rewards = r"),
        ({"reduction": "constant_length"}, "1/(N 24)", "1/(N L)"),
        ({"reduction": "constant_length", "constant_length": 50}, "1/(N 50)", "24)"),
        ({"minibatches": 3, "inner_epochs": 2}, "6 a batch: 2 times over 3 minibatches of at most 2", "on all of its"),
        (
            {"kl_coef": 0.1, "reference_every": 4, "reference_mix": 0.6},
            "0.6 * policy + 0.4 * reference, after every 4th batch",
            "kl_target",
        ),
        (
            {"kl_reward_coef": 0.02, "kl_target": 6.0},
            "kl_reward_coef = value (1 + clip(KL / 6 - 1, -0.2, 0.2) N / 10000)",
            "exp(-u)",
        ),
    ],
)
def test_what_is_on_is_shown_and_nothing_else(options: dict[str, Any], shown: str, hidden: str) -> None:
    text = explain(config(algorithm={"name": "grpo", **options}))
    assert shown in text
    assert hidden not in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sft", "the assistant's, in 10 demonstrations a batch from arithmetic"),
        ("dpo", "the chosen and the rejected completions of 10 pairs a batch"),
        ("kto", "reference_point = max(0, mean over rows of sum_t u), every prompt with the next row's completion"),
        ("orpo", "+ 0.1 * sum_{pairs} 1/pairs [ -log sigma(log(odds of chosen"),
        (
            "reinforce_baseline",
            "running_mean = 0.9 value + (1 - 0.9) mean(r), where value is the one it had, 0 at first",
        ),
        ("ppo", "one pass of the critic"),
    ],
)
def test_other_sources(name: str, said: str) -> None:
    assert said in explain(config(algorithm=name))


def test_a_stream_beside_the_batch() -> None:
    text = explain(
        config(
            algorithm={"name": "ppo", "pretrain_coef": 2.0}, pretrain={"path": "old.jsonl"}, batch={"pretrain_rows": 5}
        )
    )
    assert "as the stream pretrain: 5 demonstrations from old.jsonl" in text
    assert "+ 2 * sum_{i,t: pretrain} 1/sum T [ -log pi ]" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_explained(name: str) -> None:
    text = explain(config(algorithm=name))
    assert all(formula(term.loss) in text for term in PRESETS[name].active_terms())
    assert all(f"{step.column} = {formula(step.call)}" in text for step in PRESETS[name].active_derived())


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_has_neighbours_that_differ_from_it(name: str) -> None:
    method = PRESETS[name]
    assert method.neighbours or name == "sft"
    assert name not in method.neighbours
    for other in method.neighbours:
        assert differences(method, PRESETS[other]), f"{name} and {other} are the same"


def test_differences_are_those_of_the_records() -> None:
    grpo = PRESETS["grpo"]
    assert differences(grpo, grpo) == []
    changed = grpo.with_options(
        {"clip_high": 0.3, "minibatches": 2, "reduction": "token_mean", "dynamic_sampling": True}
    )
    found = {one.what: (one.here, one.there) for one in differences(grpo, changed)}
    assert found == {
        "clip_high": ("0.2", "0.3"),
        "minibatches": ("1", "2"),
        "reduction": ("seq_mean_token_mean", "token_mean"),
        "dynamic_sampling": ("false", "true"),
        "filter mixed_outcomes": ("", "0 < number of correct rows in the group < G"),
    }
    other = replace(grpo, derived=(Derived("advantages", Call(advantages.leave_one_out)),), critic=True)
    swapped = {one.what: (one.there, one.here) for one in differences(other, grpo)}
    assert {one.what: (one.here, one.there) for one in differences(grpo, other)} == swapped
    assert swapped["advantages"][1] == "r - mean of r over the others of the group"
    assert swapped["critic"] == ("no", "yes")


@pytest.mark.parametrize("name", NAMES)
def test_traps_are_short(name: str) -> None:
    assert len(PRESETS[name].traps) <= 3
    assert all(20 < len(trap) < 180 and not trap.endswith(".") for trap in PRESETS[name].traps)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_data(name: str) -> None:
    method = PRESETS[name]
    row = json.loads(json.dumps(explained_row(method, name), allow_nan=False))
    assert row["name"] == name
    assert {key: float(value) if value == "inf" else value for key, value in row["options"].items()} == method.options()
    assert set(row["differences"]) == set(method.neighbours)
    assert [term["coefficient"] for term in row["terms"]] == [term.coefficient for term in method.terms]
    assert set(method_row(method)) < set(row)


def test_cells_of_the_table() -> None:
    ppo, gspo, kto = summary(PRESETS["ppo"]), summary(PRESETS["gspo"]), summary(PRESETS["kto"])
    assert (ppo["weight"], ppo["ratio"], ppo["clip"]) == ("gae, whiten", "pi / old", "clip_low 0.2, clip_high 0.2")
    assert ppo["KL"] == "in token_rewards, kl_reward_coef 0.02"
    assert ppo["extras"] == "critic, reference, term value, 4 optimizer steps a batch"
    assert gspo["ratio"] == "exp(mean over t of log rho_t)"
    assert (kto["learns from"], kto["KL"], kto["clip"]) == ("labels", "within the loss", "none")
    on = summary(PRESETS["grpo"].with_options({"kl_coef": 0.1, "dynamic_sampling": True}))
    assert (on["KL"], on["extras"]) == ("kl_coef 0.1", "reference, filter mixed_outcomes, term kl")


def test_a_method_in_words() -> None:
    text = "\n".join(describe_method(PRESETS["dr_grpo"], "dr_grpo"))
    assert "1/(N L)" in text
    assert (
        "\ndiffers from grpo\n  reduction: constant_length; there: seq_mean_token_mean\n  std: none; there: population"
        in text
    )
    assert "  kl_coef: loss + kl_coef * sum_{i,t} 1/(N L) [ exp(-u) + u - 1 ]" in text
    assert "  algorithm.dual_clip = inf" in text
    assert f"traps\n  {PRESETS['dr_grpo'].traps[0]}" in text
    assert text.endswith("upweight train examples/arithmetic/grpo.toml name=arithmetic-dr_grpo algorithm=dr_grpo")


def test_example_of_a_method_from_a_dataset_of_demonstrations_needs_no_model_before_it() -> None:
    assert example("sft") == ["upweight train examples/arithmetic/sft.toml name=arithmetic-sft algorithm=sft"]
    assert len(example("dpo")) == 2
    assert algorithm("dpo").source == "pairs"


def test_gates_and_tools_are_told() -> None:
    parts = {"correct": {"function": "number", "needs": "form"}, "form": "format"}
    text = explain(config(algorithm="grpo", rewards={"parts": parts}, turns={"tool": "calculator", "limit": 3}))
    assert "  correct = 0 where form < 1\n" in text
    assert "  answered by calculator up to 2 times, in words that are not trained\n" in text
