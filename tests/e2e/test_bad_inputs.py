"""What a user can get wrong: one clear line, exit code 2, no traceback, nothing lost. One row a mistake.

Every case starts from the same good run and spoils one thing; `says` must be in the line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from upweight import checkpoint
from upweight.cli import main
from upweight.config import InitConfig, ModelConfig
from upweight.configfile import merge
from upweight.models.load import load_model, save_model

ROWS = [{"prompt": f"say {i}", "answer": str(i)} for i in range(8)]
REWARD = """
def good(completion, answer): return len(completion) % 3 / 2
def raises(completion): raise KeyError("no such thing")
def nan(completion): return float("nan")
def text(completion): return "very good"
def needs_more(completion, colour): return 1.0
"""


def good_tables(folder: Path) -> dict[str, Any]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "reward.py").write_text(REWARD)
    return {
        "name": "run",
        "runs_dir": str(folder / "runs"),
        "steps": 2,
        "algorithm": "grpo",
        "model": {"init": {"width": 16, "layers": 1, "heads": 2, "context": 32}},
        "data": {"path": str(folder / "rows.jsonl")},
        "rewards": {"parts": {"good": f"{folder / 'reward.py'}:good"}},
        "batch": {"prompts": 2, "group_size": 2},
        "sampling": {"max_completion_tokens": 4},
        "records": {"tensorboard": False},
    }


def run(folder: Path, tables: dict[str, Any], *arguments: str) -> int:
    (folder / "config.toml").write_text(tomli_w.dumps(tables))
    with pytest.raises(SystemExit) as exit_:
        main(["train", str(folder / "config.toml"), *arguments])
    return int(exit_.value.code or 0)


def one_line(captured: Any) -> str:
    """The last line on stderr, which must be the message and nothing of a traceback."""
    assert "Traceback" not in captured.err + captured.out
    lines = captured.err.strip().splitlines()
    assert lines, "nothing was said"
    assert lines[-1].startswith("upweight: ")
    return lines[-1]


def change(**tables: Any) -> Callable[[Path, dict[str, Any]], dict[str, Any]]:
    return lambda _folder, good: merge(good, tables)


def rows(text: str, **tables: Any) -> Callable[[Path, dict[str, Any]], dict[str, Any]]:
    def spoil(folder: Path, good: dict[str, Any]) -> dict[str, Any]:
        (folder / "rows.jsonl").write_text(text)
        return merge(good, tables)

    return spoil


def reward(function: str) -> Callable[[Path, dict[str, Any]], dict[str, Any]]:
    return lambda folder, good: merge(good, {"rewards": {"parts": {"good": f"{folder / 'reward.py'}:{function}"}}})


def model(**attributes: Any) -> Callable[[Path, dict[str, Any]], dict[str, Any]]:
    """A saved model whose tokenizer has something changed about it."""

    def spoil(folder: Path, good: dict[str, Any]) -> dict[str, Any]:
        init = InitConfig(width=16, layers=1, heads=2, context=32)
        policy, tokenizer = load_model(ModelConfig(init=init))
        for name, value in attributes.items():
            setattr(tokenizer, name, value)
        save_model(policy, tokenizer, folder / "model")
        return {**good, "model": {"path": str(folder / "model")}}

    return spoil


NEVER_STOPS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
NOT_A_PREFIX = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
TWO_BOS = (
    "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
)

CASES: dict[str, tuple[Callable[[Path, dict[str, Any]], dict[str, Any]], str]] = {
    "unknown key": (change(stepz=3), "did you mean 'steps'"),
    "unknown nested key": (change(optimizer={"lrr": 1.0}), "optimizer.lrr (did you mean 'lr'"),
    "wrong type": (change(steps="many"), "steps: Input should be a valid integer, not 'many'"),
    "out of range": (change(optimizer={"lr": -1.0}), "optimizer.lr"),
    "missing data file": (change(data={"path": "./no/such.jsonl"}), "such.jsonl"),
    "empty dataset": (rows(""), "rows.jsonl"),
    "broken json": (rows('{"prompt": "a", "answer": "b"}\n{"prompt": \n'), "line 2"),
    "rows without an answer": (rows('{"prompt": "a"}\n'), "answer"),
    "sft rows without a completion": (change(algorithm="sft"), "line 1"),
    "every row is bad": (rows('{"x": 1}\n', data={"on_bad_row": "skip"}), "no rows to train on"),
    "unknown task": (change(data={"task": "arithmetics"}), "arithmetic"),
    "group of one": (change(batch={"group_size": 1}), "group_size must be at least 2"),
    "more minibatches than prompts": (change(algorithm={"name": "grpo", "minibatches": 5}), "algorithm.minibatches"),
    "prompt longer than the context": (rows(json.dumps({"prompt": "x" * 99, "answer": "1"})), "context of 32"),
    "unknown algorithm": (change(algorithm="gpro"), "did you mean 'grpo'"),
    "unknown option": (change(algorithm={"name": "grpo", "clip_hi": 0.3}), "did you mean 'clip_high'"),
    "a choice that is none": (change(algorithm={"name": "grpo", "std": "populaton"}), "is not one of population"),
    "k3 in the reward": (
        change(algorithm={"name": "ppo", "kl_reward_estimator": "k3"}),
        "k3 is refused: in the reward its gradient",
    ),
    "k2 in the reward": (change(algorithm={"name": "rloo", "kl_reward_estimator": "k2"}), "k2 is refused"),
    "a reference that nothing reads": (change(algorithm={"name": "grpo", "reference_every": 5}), "nothing reads"),
    "a reference mixed by nothing": (change(algorithm={"name": "dpo", "reference_mix": 0.0}), "above 0 and at most 1"),
    "a second stream from nowhere": (change(algorithm={"name": "ppo", "pretrain_coef": 0.1}), "in [pretrain]"),
    "a length that is nobody's": (
        change(algorithm={"name": "sft", "reduction": "constant_length"}),
        "algorithm.constant_length has no default",
    ),
    "an algorithm's file that is not there": (change(algorithm="nowhere.py:mine"), "nowhere.py does not exist"),
    "a file whose object is no algorithm": (
        lambda folder, good: merge(good, {"algorithm": f"{folder / 'reward.py'}:good"}),
        "is a function, not an upweight.Algorithm",
    ),
    "pairs without a rejected answer": (
        rows('{"prompt": "1", "chosen": "2"}\n', algorithm="dpo"),
        "line 1",
    ),
    "labels that are none": (
        rows('{"prompt": "1", "completion": "2", "label": "good"}\n', algorithm="kto"),
        "line 1",
    ),
    "a task without pairs": (
        lambda _folder, good: {**good, "algorithm": "dpo", "data": {"task": "countdown"}},
        "has no pairs",
    ),
    "pairs evaluated with none held out": (
        rows(
            '{"prompt": "1", "chosen": "2", "rejected": "3"}\n{"prompt": "2", "chosen": "3", "rejected": "1"}\n',
            algorithm="reward_model",
            evaluate={"every": 1},
        ),
        "no pairs are held out",
    ),
    "option of another kind": (change(algorithm={"name": "grpo", "clip_low": "much"}), "clip_low must be like 0.2"),
    "top_p in training": (change(sampling={"top_p": 0.9}), "log-probs would not be those"),
    "no such model": (lambda _, good: {**good, "model": {"path": "./no/model"}}, "cannot load './no/model'"),
    "model and init": (change(model={"path": "somewhere"}), "either model.path or a [model.init]"),
    "tokenizer without EOS": (model(eos_token=None), "no end-of-sequence token"),
    "template that never stops": (model(chat_template=NEVER_STOPS), "stop token"),
    "template whose prompt is no prefix": (model(chat_template=NOT_A_PREFIX), "prefix"),
    "second BOS": (model(bos_token="<unk>", chat_template=TWO_BOS), "second BOS"),
    "reward raises": (reward("raises"), "KeyError: 'no such thing'"),
    "reward is nan": (reward("nan"), "returned nan, not a finite number"),
    "reward is text": (reward("text"), "returned the text 'very good'"),
    "reward reads a missing field": (reward("needs_more"), "no field 'colour'"),
    "no such reward function": (reward("godo"), "godo"),
    "no such reward file": (change(rewards={"parts": {"good": "nowhere.py:good"}}), "nowhere.py"),
    "evaluation without held-out rows": (change(evaluate={"every": 1}), "no held-out problems"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, says = CASES[name]
    spoilt = spoil(tmp_path, good_tables(tmp_path))
    assert run(tmp_path, spoilt) == 2
    assert says in one_line(capsys.readouterr())


def test_the_good_run_is_good(tmp_path: Path) -> None:
    assert run(tmp_path, good_tables(tmp_path)) == 0


def test_no_reward_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = good_tables(tmp_path)
    del tables["rewards"]
    assert run(tmp_path, tables) == 2
    assert "learns from rewards" in one_line(capsys.readouterr())


def test_a_character_that_a_loaded_tokenizer_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = model()(tmp_path, good_tables(tmp_path))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "☃", "answer": "1"}) + "\n")
    assert run(tmp_path, tables) == 2
    assert "does not know" in one_line(capsys.readouterr())


def test_no_config_file_and_a_broken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(tmp_path / "none.toml")])
    assert "no such config file" in one_line(capsys.readouterr())
    (tmp_path / "broken.toml").write_text("steps = = 3")
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(tmp_path / "broken.toml")])
    assert "not a TOML file" in one_line(capsys.readouterr())


def test_an_override_without_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, good_tables(tmp_path), "steps") == 2
    assert "not of the form key=value" in one_line(capsys.readouterr())


def test_a_run_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = good_tables(tmp_path)
    assert run(tmp_path, tables) == 0
    before = (tmp_path / "runs" / "run" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert run(tmp_path, tables) == 2
    assert "--resume" in one_line(capsys.readouterr())
    assert run(tmp_path, merge(tables, {"optimizer": {"lr": 1.0}}), "--resume") == 2
    assert "optimizer.lr was" in one_line(capsys.readouterr())
    assert (tmp_path / "runs" / "run" / "metrics.jsonl").read_bytes() == before


def test_a_failing_reward_may_be_dropped_or_zero(tmp_path: Path) -> None:
    tables = good_tables(tmp_path)
    (tmp_path / "reward.py").write_text(
        "calls = []\ndef good(completion):\n    calls.append(1)\n    return 1 / (len(calls) % 4)\n"
    )
    good = {"function": f"{tmp_path / 'reward.py'}:good", "isolate": False}
    for policy in ("drop", "zero"):
        rewards = {"on_failure": policy, "max_failed_share": 0.25, "parts": {"good": good}}
        spoilt = merge(tables, {"name": policy, "rewards": rewards, "batch": {"group_size": 4}})
        assert run(tmp_path, spoilt) == 0
        lines = (tmp_path / "runs" / policy / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["rollout/failed_rewards"] for line in lines] == [2, 2]
        assert [json.loads(line)["rollout/dropped"] for line in lines] == ([2, 2] if policy == "drop" else [0, 0])


def test_a_loss_that_is_not_finite_stops_the_run_with_its_weights_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = good_tables(tmp_path)
    (tmp_path / "reward.py").write_text(
        "import itertools\nn = itertools.count()\ndef good(completion):\n    return 1e200 * next(n)\n"
    )
    tables |= {"steps": 9, "algorithm": "reinforce", "learner": {"max_skipped_steps": 3}}
    assert run(tmp_path, tables) == 2
    assert "not finite in 3 steps in a row" in one_line(capsys.readouterr())
    found = checkpoint.latest(tmp_path / "runs" / "run" / "checkpoints")
    assert found is not None
    assert found[1]["step"] == 3


def test_a_full_disk_during_a_checkpoint_loses_nothing(tmp_path: Path) -> None:
    """A real limit on the size of files: the checkpoint of step 2 does not fit, that of step 1 is intact."""
    tables = merge(good_tables(tmp_path), {"steps": 3, "checkpoint": {"every": 1}, "records": {"ledger_every": 0}})
    assert run(tmp_path, merge(tables, {"max_seconds": 1e-9})) == 0  # stops after one step
    (tmp_path / "config.toml").write_text(tomli_w.dumps(tables))
    program = (
        "import resource, sys; from upweight.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "train", str(tmp_path / "config.toml"), "--resume"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "checkpoint" in failed.stderr.strip().splitlines()[-1]
    assert run(tmp_path, tables, "--resume") == 0
