"""The same rows through TRL's trainers and through ours: one loss and one gradient, to 1e-5.

`make test-trl` runs this in an environment of its own. Where the two differ by intent, the difference is asserted as
well, with the option or preset that reproduces TRL's number.
"""

from __future__ import annotations

import importlib.metadata
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

try:
    VERSION = importlib.metadata.version("trl")
except importlib.metadata.PackageNotFoundError:
    VERSION = ""
if VERSION != "1.16.0":
    found = f"trl {VERSION} is installed" if VERSION else "trl is not installed"
    pytest.skip(f"compares with trl 1.16.0, but {found}: run `make test-trl`", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.agreement import trl_side

from tests.agreement import our_side
from tests.agreement.cases import Case, Number, demonstrations, preferences, rollouts
from upweight.models.reward import reward_model_from
from upweight.presets import algorithm

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its dependencies' own

TOLERANCE = 1e-5
ROUNDING = 5e-7  # of a float32 sum whose summands are of order one, however small the sum
SAMPLE_STD = {"std": "sample", "std_eps": 1e-4}
architectures = pytest.mark.parametrize("architecture", ["llama", "qwen2"])


def assert_same(ours: Number, theirs: Number) -> None:
    assert theirs.gradient.norm() > 0
    assert ours.loss == pytest.approx(theirs.loss, rel=TOLERANCE, abs=ROUNDING)
    assert distance(ours, theirs) < TOLERANCE


def distance(ours: Number, theirs: Number) -> float:
    """The gap between the gradients, relative to TRL's."""
    return float((ours.gradient - theirs.gradient).norm() / theirs.gradient.norm())


# --- likelihood -----------------------------------------------------------------------------------------------------


@architectures
def test_sft_of_texts(architecture: str, tmp_path: Path) -> None:
    case = demonstrations(architecture).with_whole_masks()
    assert_same(our_side.number(case, algorithm("sft")), trl_side.sft_of_texts(case, tmp_path))


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_sft_of_labels_with_holes_in_several_microbatches(accumulation: int, tmp_path: Path) -> None:
    case = demonstrations("llama")
    assert_same(our_side.number(case, algorithm("sft")), trl_side.sft_of_labels(case, tmp_path, accumulation))


# --- group relative -------------------------------------------------------------------------------------------------

PLAIN_DAPO = {"overlong_share": 0.0, "overlong_filter": False, "dynamic_sampling": False}

# name: TRL's options, our preset, our options
GRPO_CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "what TRL does by default": ({}, "grpo_trl", {}),
    "the paper's reduction and KL": (
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
        "grpo",
        {"kl_coef": 0.04, **SAMPLE_STD},
    ),
    "the KL that TRL adds by default, weighted by the ratio": (
        {"beta": 0.04},
        "grpo_trl",
        {"kl_coef": 0.04, "kl_estimator": "weighted_k3"},
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "scale_rewards": "none", "max_completion_length": 16},
        "dr_grpo",
        {},
    ),
    "dr_grpo with the deviation that TRL keeps by default": (
        {"loss_type": "dr_grpo", "max_completion_length": 100},
        "dr_grpo",
        {"constant_length": 100, **SAMPLE_STD},
    ),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, "dapo", {**PLAIN_DAPO, **SAMPLE_STD}),
    "sequence level": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        "gspo",
        SAMPLE_STD,
    ),
    "sequence level with a wide clip": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.1},
        "gspo",
        {"clip_low": 0.1, "clip_high": 0.1, **SAMPLE_STD},
    ),
    "gspo_token": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.1},
        "gspo_token",
        {"clip_low": 0.1, "clip_high": 0.1, **SAMPLE_STD},
    ),
    "two-sided delta": ({"delta": 1.3}, "grpo_trl", {"delta": 1.3}),
    "entropy bonus of a token mean": ({"entropy_coef": 0.1}, "grpo_trl", {"entropy_coef": 0.1}),
    "cispo, whose epsilon_high is a cap and not a distance from 1": (
        {"loss_type": "cispo", "epsilon_high": 1.2},
        "cispo",
        {"clip_high": 0.2, **SAMPLE_STD},
    ),
    "cispo by TRL's default, which caps every ratio at 0.2": (
        {"loss_type": "cispo"},
        "cispo",
        {"clip_high": -0.8, **SAMPLE_STD},
    ),
}


@architectures
@pytest.mark.parametrize("name", GRPO_CASES)
def test_grpo(architecture: str, name: str, tmp_path: Path) -> None:
    options, preset, own = GRPO_CASES[name]
    case = rollouts(architecture)
    assert_same(
        our_side.number(case, algorithm(preset, own), old=True), trl_side.Grpo(case, tmp_path, **options).loss()
    )


def test_the_papers_grpo_is_not_what_trl_does_by_default(tmp_path: Path) -> None:
    case = rollouts("llama")
    theirs = trl_side.Grpo(case, tmp_path).loss()
    assert distance(our_side.number(case, algorithm("grpo"), old=True), theirs) > 0.05


@pytest.mark.parametrize(("scale", "preset"), [("group", "grpo_trl"), ("none", "dr_grpo")])
def test_grpo_advantages(scale: str, preset: str, tmp_path: Path) -> None:
    case = rollouts("llama")
    theirs = trl_side.Grpo(case, tmp_path, scale_rewards=scale).advantages()
    torch.testing.assert_close(row_advantages(case, preset), theirs.double(), rtol=TOLERANCE, atol=1e-6)


def test_population_deviation_makes_the_papers_advantages_larger(tmp_path: Path) -> None:
    case = rollouts("llama")
    theirs = trl_side.Grpo(case, tmp_path).advantages().double()
    larger = math.sqrt(case.group_size / (case.group_size - 1))
    torch.testing.assert_close(row_advantages(case, "grpo"), larger * theirs, rtol=5e-4, atol=1e-6)


def test_a_row_without_a_trained_token_counts_as_a_row_in_trl_alone(tmp_path: Path) -> None:
    case = rollouts("llama")
    kept = int((~case.batch.row_columns["truncated"]).sum())
    theirs = trl_side.Grpo(case, tmp_path, loss_type="grpo", mask_truncated_completions=True).loss()
    method = algorithm("grpo", {"overlong_filter": True, **SAMPLE_STD})
    ours = our_side.number(case, method, old=True)
    share = kept / len(case.batch)
    assert_same(Number(ours.loss * share, ours.gradient * share), theirs)


def test_trl_divides_each_of_several_steps_by_their_mean_number_of_tokens(tmp_path: Path) -> None:
    case = rollouts("llama")
    half = len(case.batch) // 2
    trl = trl_side.Grpo(case, tmp_path, per_device_train_batch_size=half, steps_per_generation=2)
    tokens = [sum(int(mask.sum()) for mask in case.batch.loss_mask[part]) for part in (slice(half), slice(half, None))]
    rows = range(half)
    ours = our_side.number(case, algorithm("grpo_trl"), old=True, rows=rows)
    factor = tokens[0] / (sum(tokens) / 2)
    assert abs(factor - 1) > 0.01
    assert_same(Number(ours.loss * factor, ours.gradient * factor), trl.loss(slice(half)))


# --- leave one out --------------------------------------------------------------------------------------------------


@architectures
def test_rloo(architecture: str, tmp_path: Path) -> None:
    case = rollouts(architecture).with_whole_masks()
    assert_same(our_side.number(case, algorithm("rloo_trl"), old=True), trl_side.Rloo(case, tmp_path).loss())


@pytest.mark.parametrize(("beta", "preset"), [(0.05, "rloo_trl"), (0.0, "rloo")])
def test_rloo_advantages(beta: float, preset: str, tmp_path: Path) -> None:
    case = rollouts("llama").with_whole_masks()
    theirs = trl_side.Rloo(case, tmp_path, beta=beta).advantages()
    torch.testing.assert_close(row_advantages(case, preset), theirs.double(), rtol=TOLERANCE, atol=1e-5)


def test_the_papers_rloo_has_the_gradient_of_trls_where_the_policy_has_not_moved(tmp_path: Path) -> None:
    case = rollouts("llama").with_whole_masks()
    own = replace(case, old_logprobs=our_side.current_logprobs(case))
    theirs = trl_side.Rloo(own, tmp_path).loss()
    ours = our_side.number(case, algorithm("rloo", {"kl_reward_coef": 0.05}))
    assert distance(ours, theirs) < TOLERANCE
    assert abs(ours.loss - theirs.loss) > 0.1  # -A log pi is no number of interest
    moved = trl_side.Rloo(case, tmp_path / "moved").loss()
    assert distance(ours, moved) > 0.05


# --- preferences ----------------------------------------------------------------------------------------------------


@architectures
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(architecture: str, beta: float, tmp_path: Path) -> None:
    case = preferences(architecture).with_whole_masks()
    assert_same(our_side.number(case, algorithm("dpo", {"beta": beta})), trl_side.dpo(case, tmp_path, beta=beta))


# Seeds for which the reference point is above zero, and for which it is cut off at zero.
@pytest.mark.parametrize(
    ("architecture", "seed", "above"), [("llama", 1, False), ("llama", 11, True), ("qwen2", 9, True)]
)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 1.3)])
def test_kto(architecture: str, seed: int, above: bool, weights: tuple[float, float], tmp_path: Path) -> None:
    case = demonstrations(architecture, seed=seed).with_whole_masks()
    options = dict(zip(("desirable_weight", "undesirable_weight"), weights, strict=True))
    method = algorithm("kto", options)
    theirs, reference_point = trl_side.kto(case, tmp_path, **options)
    assert (reference_point > 0) is above
    assert our_side.reference_point(case, method) == pytest.approx(reference_point, rel=TOLERANCE)
    assert_same(our_side.number(case, method), theirs)


@architectures
@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_reward_model(architecture: str, margins: bool, centring: float, tmp_path: Path) -> None:
    case = preferences(architecture)
    if not margins:
        columns = {**case.batch.row_columns, "margin": torch.zeros(len(case.batch), dtype=torch.float64)}
        case = replace(case, batch=replace(case.batch, row_columns=columns))
    model, _ = reward_model_from(case.policy, case.tokenizer)
    with torch.no_grad():
        model.score.weight.mul_(20)
    method = algorithm("reward_model", {"centring": centring})
    ours = our_side.number(case, method, reward_model=model)
    assert_same(ours, trl_side.reward(model, case, tmp_path, margins, center_rewards_coefficient=centring or None))


def row_advantages(case: Case, preset: str) -> torch.Tensor:
    """The advantage of each row, which every trained token of it has; the first token is one."""
    return torch.stack([row[0] for row in our_side.scored(case, algorithm(preset)).token_columns["advantages"]])
