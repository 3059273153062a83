"""`upweight algorithms` and `upweight explain`, and that what they advise can be done."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.e2e.commands import call, read
from upweight.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "threads=1",
    "steps=1",
    "batch={prompts=4, group_size=2, rows=4}",
    "evaluate.every=0",
    "records.tensorboard=false",
)
OWN = '''
from upweight import Algorithm, Call, Derived, Term


def to_best(rewards, scale=0.5):
    """scale (r - max(r))"""
    return scale * (rewards - rewards.max())


def likelihood(logprobs, advantages):
    return -advantages * logprobs


MINE = Algorithm(
    name="mine",
    title="what others do, against the best of them",
    paper="ours",
    source="rollouts",
    derived=(Derived("advantages", Call(to_best)),),
    terms=(Term("policy", Call(likelihood), "seq_mean_token_sum"),),
    neighbours=("reinforce",),
)
'''


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(read(capsys, "algorithms", "--json"))
    assert [row["name"] for row in rows] == list(PRESETS)
    for row in rows:
        options = {key: float(value) if value == "inf" else value for key, value in row["options"].items()}
        assert options == PRESETS[row["name"]].options()
    lines = read(capsys, "algorithms").splitlines()
    for head in ("learns from", "weight", "ratio", "clip", "reduction", "KL", "extras", "paper"):
        assert head in lines[1]
    assert all(any(f" {name} " in line for line in lines) for name in PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_one_method(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = read(capsys, "algorithms", name)
    assert text.startswith(f"{name}: {PRESETS[name].title}")
    assert all(f"\ndiffers from {other}\n" in text for other in PRESETS[name].neighbours)
    assert all(trap in text for trap in PRESETS[name].traps)
    row = json.loads(read(capsys, "algorithms", name, "--json"))
    assert row["name"] == name
    assert all(line in text for line in [*row["formula"], *row["example"]])


def test_an_unknown_method_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("algorithms", "grppo") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "did you mean 'grpo'" in err


def test_a_method_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    reference = f"{tmp_path}/mine.py:MINE"
    text = read(capsys, "algorithms", reference)
    assert "advantages = 0.5 (r - max(r))" in text
    assert "[ likelihood(logprobs, advantages) ]" in text  # no docstring: the call
    assert "  advantages: scale (r - max(r)); there: r\n" in text
    assert text.endswith(f"name=arithmetic-MINE algorithm={reference}\n")
    assert json.loads(read(capsys, "algorithms", reference, "--json"))["options"]["scale"] == 0.5
    overrides = (f"algorithm={reference}", "algorithm.scale=0.25")
    explained = read(capsys, "explain", "examples/arithmetic/grpo.toml", *overrides)
    assert "advantages = 0.25 (r - max(r))" in explained


def test_explain_shows_the_numbers_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = read(
        capsys, "explain", "examples/arithmetic/grpo.toml", "algorithm.kl_coef=0.07", "algorithm.clip_high=0.31"
    )
    assert "clip(rho, 1 - 0.2, 1 + 0.31)" in text
    assert "+ 0.07 * sum_{i,t} 1/(N T_i) [ exp(-u) + u - 1 ]" in text


def test_explain_of_a_pipeline_has_a_formula_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    text = read(capsys, "explain", "examples/countdown/sft_grpo.toml", "grpo.algorithm.clip_low=0.15")
    sft, grpo = text.split("countdown/grpo: grpo, ")
    assert sft.startswith("countdown/sft: sft, ")
    assert "[ -log pi ]" in sft
    assert "1 - 0.15" in grpo


@pytest.mark.parametrize("name", ["sft", "ppo", "dapo", "kto", "reward_model"])
def test_the_example_of_a_method_trains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = json.loads(read(capsys, "algorithms", name, "--json"))["example"]
    small = [*TINY, f"runs_dir={tmp_path}"]
    for place, command in enumerate(commands):
        program, *arguments = shlex.split(command)
        assert program == "upweight"
        # A model that knows nothing has no group of mixed outcome, so the filter would wait for ever.
        start = [f"model.path={tmp_path}/arithmetic-sft/final"] if place else ["model.init.width=16"]
        off = ["algorithm.dynamic_sampling=false"] if name == "dapo" and place else []
        assert call(*arguments, *start, *off, *small) == 0
    assert (tmp_path / f"arithmetic-{name}/final/config.json").is_file()
