"""A reward model from pairs to a Hugging Face folder, and as a batched reward of other methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.e2e.test_methods import TINY
from upweight import api
from upweight.errors import UserError


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model and, beside it, the policy that it was made from."""
    folder = tmp_path_factory.mktemp("judge")
    tables = {**TINY, "runs_dir": str(folder), "steps": 3, "evaluate": {"every": 3, "problems": 8}}
    api.train({**tables, "name": "policy", "algorithm": "sft", "evaluate": {}})
    start = {"model": {"path": str(folder / "policy" / "final")}}
    done = api.train({**tables, **start, "name": "judge", "algorithm": "reward_model"})
    assert set(done.summary["eval"]) == {"pair_accuracy", "pair_accuracy_low", "pair_accuracy_high"}
    return done.model_dir


def rl(reward_model: Path, folder: Path, algorithm: str, **parts: Any) -> api.FinishedRun:
    start = reward_model.parents[1] / "policy" / "final"
    quality = {"function": "reward_model", "options": {"path": str(reward_model)}}
    tables = {**TINY, "runs_dir": str(folder), "algorithm": algorithm, "model": {"path": str(start)}}
    return api.train({**tables, "rewards": {"parts": {"quality": quality, **parts}}})


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_its_score_is_the_reward(reward_model: Path, algorithm: str, tmp_path: Path) -> None:
    """Of every rollout in the ledger, what transformers itself says of prompt and completion together."""
    run = rl(reward_model, tmp_path, algorithm, length={"function": "number", "weight": 0.0})
    table = run.ledger(1).to_pydict()
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    for prompt, tokens, reward, part in zip(
        table["prompt_ids"], table["token_ids"], table["rewards"], table["part/quality"], strict=True
    ):
        with torch.no_grad():
            expected = model(torch.tensor([prompt + tokens])).logits.item()
        assert reward == pytest.approx(expected, abs=1e-5)
        assert part == reward
    assert len(set(table["rewards"])) > 8
    assert "reward/part/length" in run.metrics()[0]


def test_a_centre_is_taken_off(reward_model: Path, tmp_path: Path) -> None:
    plain = rl(reward_model, tmp_path / "plain", "grpo").metrics()[0]["reward/mean"]
    options = {"path": str(reward_model), "centre": 2.5}
    moved = rl(reward_model, tmp_path / "moved", "grpo", quality={"function": "reward_model", "options": options})
    assert moved.metrics()[0]["reward/mean"] == pytest.approx(plain - 2.5)


def test_a_model_of_another_vocabulary_reads_the_text_in_its_own_template(reward_model: Path, tmp_path: Path) -> None:
    """The same score as for the same text in the same template, though the policy's ids are others."""
    tables = {**TINY, "runs_dir": str(tmp_path), "steps": 1, "algorithm": "sft"}
    init = {**TINY["model"]["init"], "tokens": ["<odd>"]}
    other = api.train({**tables, "name": "other", "model": {"init": init}}).model_dir
    quality = {"function": "reward_model", "options": {"path": str(reward_model)}}
    changed = {"model": {"path": str(other)}, "rewards": {"parts": {"quality": quality}}, "algorithm": "grpo"}
    table = api.train({**tables, **changed, "name": "rl"}).ledger(0).to_pydict()
    policy, judge = (AutoTokenizer.from_pretrained(path) for path in (other, reward_model))
    assert policy.encode("7") != judge.encode("7")
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    prompt, tokens, reward = table["prompt_ids"][0], table["token_ids"][0], table["rewards"][0]
    asked = policy.decode(prompt, skip_special_tokens=True)
    turns = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": policy.decode(tokens, skip_special_tokens=True)},
    ]
    ids = judge.apply_chat_template(turns, tokenize=True, return_dict=False)
    with torch.no_grad():
        assert reward == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"rewards\.parts\.quality\.options needs path"),
        ({"path": "nowhere/at/all"}, "cannot load 'nowhere/at/all'"),
        ({"path": "x", "center": 1.0}, r"no option 'center' \(did you mean 'centre'\?\)"),
        ({"path": "x", "centre": "much"}, "centre must be a number"),
    ],
)
def test_what_is_no_reward_model(reward_model: Path, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        rl(reward_model, tmp_path, "grpo", quality={"function": "reward_model", "options": options})


def test_a_language_model_is_no_reward_model(reward_model: Path, tmp_path: Path) -> None:
    options = {"path": str(reward_model.parents[1] / "policy" / "final")}
    with pytest.raises(UserError, match=r"lacks the weights score\.weight"):
        rl(reward_model, tmp_path, "grpo", quality={"function": "reward_model", "options": options})


def test_a_pipeline_makes_a_reward_model_and_learns_from_it(tmp_path: Path) -> None:
    """Each stage is measured by what it is: a policy by its answers, a reward model by the pairs that it ranks."""
    shared = {key: value for key, value in TINY.items() if key not in ("steps", "rewards")}
    judge = {"function": "reward_model", "options": {"path": str(tmp_path / "line" / "judge" / "final")}}
    tables = {
        **shared,
        "name": "line",
        "runs_dir": str(tmp_path),
        "rewards": {"parts": {"correct": {"function": "number", "weight": 0.0}}},
        "measure": {"problems": 8, "samples": 2},
        "stages": [
            {"name": "sft", "algorithm": "sft", "steps": 2},
            {"name": "judge", "algorithm": "reward_model", "steps": 2},
            {"name": "grpo", "from": "sft", "algorithm": "grpo", "steps": 2, "rewards": {"parts": {"judge": judge}}},
        ],
    }
    path = tmp_path / "line.toml"
    path.write_text(tomli_w.dumps(tables))
    accuracy = api.pipeline(path)["accuracy"]
    assert set(accuracy["judge"]) == {"pair_accuracy", "pair_accuracy_low", "pair_accuracy_high"}
    assert "greedy" in accuracy["sft"]
    assert "part/judge" in accuracy["grpo"]
