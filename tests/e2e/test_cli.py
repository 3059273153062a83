"""Every command, as a user calls it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from tests.e2e.commands import call, read
from upweight.cli import _printable, app

ROOT = Path(__file__).resolve().parents[2]
TINY = """
name = "tiny"
runs_dir = "{runs}"
steps = 2
threads = 1
algorithm = "sft"
model.init = {{ width = 16, layers = 1, heads = 2, context = 32, tokens = ["<answer>", "</answer>"] }}
data = {{ task = "arithmetic", digits = 1, demonstrations = 20 }}
rewards.parts.correct = {{ function = "number", options = {{ tag = "answer" }} }}
batch.rows = 4
sampling.max_completion_tokens = 6
evaluate = {{ every = 2, problems = 8 }}
records.tensorboard = false
"""
STAGES = """
[[stages]]
name = "sft"
[[stages]]
name = "grpo"
algorithm = "grpo"
batch = { prompts = 2, group_size = 2 }
[measure]
problems = 4
samples = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, a pipeline, and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(TINY.format(runs=folder / "runs"))
    (folder / "stages.toml").write_text(TINY.format(runs=folder / "runs").replace('"tiny"', '"two"') + STAGES)
    rows = [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(5)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert call("train", folder / "tiny.toml") == 0
    return folder


def test_train_prints_a_summary_on_stdout_and_progress_on_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert call("train", folder / "tiny.toml", "name=again", "steps=1") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("again: 1 steps of sft in ")
    assert re.search(r"greedy: \d+\.\d% \(.*\) -> \d+\.\d%", out)
    assert out.splitlines()[-1] == f"model: {folder}/runs/again/final"
    assert "again step 1/1" in err
    assert "again step" not in out


def test_a_run_is_not_overwritten_but_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "runs/tiny/metrics.jsonl").read_bytes()
    assert call("train", folder / "tiny.toml") == 2
    assert "--resume" in capsys.readouterr().err
    assert call("train", folder / "tiny.toml", "--resume") == 0
    assert (folder / "runs/tiny/metrics.jsonl").read_bytes() == before


def test_pipeline_prints_accuracy_by_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = read(capsys, "pipeline", folder / "stages.toml", "grpo.steps=1")
    assert all(f" {name} " in out for name in ("base", "sft", "grpo"))
    summary = json.loads((folder / "runs/two/summary.json").read_text())
    assert f"{summary['accuracy']['grpo']['sampled']:.1%}" in out
    assert len((folder / "runs/two/grpo/metrics.jsonl").read_text().splitlines()) == 2  # the step and its evaluation


def test_plan_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = read(capsys, "plan", folder / "tiny.toml", "batch.rows=5")
    assert "each step: 5 rows" in out
    (plan,) = json.loads(read(capsys, "plan", folder / "tiny.toml", "--json"))["runs"]
    assert plan["batch"]["rows"] == 4


def test_plan_of_a_pipeline_knows_models_that_do_not_exist_yet(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = json.loads(read(capsys, "plan", folder / "stages.toml", "name=fresh", "--json"))["runs"]
    assert [plan["name"] for plan in plans] == ["fresh/sft", "fresh/grpo"]
    assert plans[0]["model"] == plans[1]["model"]
    assert not (folder / "runs/fresh").exists()


def test_eval_asks_what_the_run_trained_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(read(capsys, "eval", folder / "runs/tiny/final", "-k", 3, "--problems", 7, "--json"))
    assert (found["problems"], found["samples"]) == (7, 3)
    assert found["greedy_low"] <= found["greedy"] <= found["greedy_high"]
    assert found["pass@1"] == pytest.approx(found["sampled"])
    assert found["pass@1"] <= found["pass@2"] <= found["pass@3"]
    text = read(capsys, "eval", folder / "runs/tiny/final", "-k", 2, "--problems", 7)
    assert "mean@2" in text
    assert "pass@2" in text


def test_eval_agrees_with_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(read(capsys, "eval", folder / "runs/tiny/final", "--problems", 8, "--json"))
    summary = json.loads((folder / "runs/tiny/summary.json").read_text())
    assert found["greedy"] == summary["eval"]["greedy"]
    assert found["completion_tokens"] == summary["eval"]["completion_tokens"]


def test_eval_of_a_named_task_and_of_a_file_of_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder / "runs/tiny/final"
    short = ("--max-completion-tokens", 4, "--json")
    named = json.loads(read(capsys, "eval", model, "digits=1", "--task", "arithmetic", "--problems", 3, *short))
    assert named["problems"] == 3
    assert named["completion_tokens"] <= 4
    rows = json.loads(read(capsys, "eval", model, "--task", folder / "rows.jsonl", *short))
    assert rows["problems"] == 5
    # A pattern that every text matches shows that the reward is the one that was asked for.
    (folder / "all.py").write_text("def right(completion: str) -> float:\n    return 1.0\n")
    all_right = (model, "--task", folder / "rows.jsonl", "--reward", f"{folder}/all.py:right")
    assert json.loads(read(capsys, "eval", *all_right, *short))["greedy"] == 1.0


def test_sample_prints_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder / "runs/tiny/final"
    wanted = ("--max-completion-tokens", 5, "--seed", 3)
    found = json.loads(read(capsys, "sample", model, "1+2=", "-n", 3, *wanted, "--json"))
    texts = [one["text"] for one in found["completions"]]
    assert len(set(texts)) > 1
    assert all(one["tokens"] <= 5 and one["finish_reason"] in ("stop", "length") for one in found["completions"])
    assert json.loads(read(capsys, "sample", model, "1+2=", "-n", 3, *wanted, "--json")) == found
    greedy = json.loads(read(capsys, "sample", model, "1+2=", "-n", 2, "--temperature", 0, *wanted, "--json"))
    assert len({one["text"] for one in greedy["completions"]}) == 1
    plain = read(capsys, "sample", model, "1+2=", *wanted)
    assert _printable(texts[0]) in plain


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert _printable("a\x1b[2Jb\r[red]\n") == "a\\x1b[2Jb\\r[red]\n"


MISTAKES = {
    "no such file": (["train", "no-such.toml"], "no-such.toml"),
    "unknown key": (["train", "tiny.toml", "optimizer.lrr=1"], "did you mean 'lr'"),
    "no override": (["plan", "tiny.toml", "steps"], "key=value"),
    "a pipeline is no run": (["train", "stages.toml"], "upweight pipeline"),
    "a run is no pipeline": (["pipeline", "tiny.toml"], "[[stages]]"),
    "no such model": (["sample", "runs/nothing/final", "x"], "cannot load"),
    "nothing to ask": (["eval", "elsewhere"], "--task"),
    "unknown task": (["eval", "runs/tiny/final", "--task", "arithmetik"], "did you mean 'arithmetic'"),
    "two tasks": (["eval", "runs/tiny/final", "--task", "gsm8k", "--config", "tiny.toml"], "not both"),
    "long prompt": (["sample", "runs/tiny/final", "1" * 40], "context"),
    "bad option of a task": (["eval", "runs/tiny/final", "--task", "arithmetic", "digit=1"], "did you mean 'digits'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    mistake: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    arguments, said = MISTAKES[mistake]
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("upweight: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    "arguments", [["train"], ["no-such-command"], ["sample", "m", "p", "-n", "0"], ["plan", "--no"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_interrupted_run_says_how_to_go_on(folder: Path) -> None:
    command = [sys.executable, "-c", "from upweight.cli import main; main()", "train", str(folder / "tiny.toml")]
    command += ["name=stopped", "steps=100000", "evaluate.every=0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    metrics = folder / "runs/stopped/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("--resume")
    assert f"{folder}/tiny.toml name=stopped steps=100000" in err.splitlines()[-1]


def documented_commands() -> list[str]:
    """The lines in fenced blocks of README and docs that call `upweight`."""
    found: set[str] = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        fenced = False
        for line in page.read_text(encoding="utf-8").splitlines():
            fenced ^= line.startswith("```")
            if fenced and line.startswith("upweight "):
                found.add(line)
    return sorted(found)


@pytest.mark.parametrize("line", documented_commands())
def test_documented_command_parses(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    parameters = command.make_context(name, list(arguments)).params
    if name in ("train", "pipeline", "plan", "explain") and parameters["config"].startswith("examples/"):
        monkeypatch.chdir(ROOT)
        read(capsys, "explain" if name == "explain" else "plan", parameters["config"], *(parameters["overrides"] or ()))


def test_there_are_documented_commands() -> None:
    assert {line.split()[1] for line in documented_commands()} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
