"""The stranger's test: what the README says about own data works as it stands there, within ten lines of TOML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import upweight

ROOT = Path(__file__).resolve().parents[2]
# A model from scratch, and only two small steps.
TINY = (
    "model={init={width=16, layers=1, heads=2, context=128}}",
    "steps=2",
    "batch={prompts=2, group_size=2}",
    "sampling.max_completion_tokens=8",
    "data.heldout=4",
    "evaluate={every=2, problems=4}",
    "threads=1",
)


def blocks_of_the_readme() -> dict[str, str]:
    """The fenced blocks of the section on own data, by their language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Train on your own data")[1].split("\n## ")[0]
    return dict(re.findall(r"```(json|python|toml)\n(.*?)```", section, re.DOTALL))


def without_model(toml: str) -> str:
    """The file without its model, which would have to be fetched."""
    assert "\nmodel.path = " in toml
    return re.sub(r"^model\.path = .*\n", "", toml, flags=re.MULTILINE)


def test_the_readmes_own_files_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of_the_readme()
    assert len(blocks["toml"].strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    row = json.loads(blocks["json"].splitlines()[0])
    rows = [{**row, "prompt": f"{row['prompt']} ({number})"} for number in range(20)]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("rewards.py").write_text(blocks["python"])
    Path("mine.toml").write_text(without_model(blocks["toml"]))
    run = upweight.train("mine.toml", *TINY)
    assert [line["step"] for line in run.metrics() if "train/loss" in line] == [0, 1]
    assert set(run.ledger(1).column("part/correct").to_pylist()) <= {0.0, 1.0}
    assert (run.model_dir / "config.json").is_file()


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## From Python")[1]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    smaller = f'"seed=1", "steps=2", "threads=1", "evaluate.problems=4", "runs_dir={tmp_path}"'
    assert '"seed=1"' in code
    monkeypatch.chdir(ROOT)
    exec(code.replace('"seed=1"', smaller), {})
    accuracy, folder_and_lines = capsys.readouterr().out.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert folder_and_lines == f"{tmp_path}/arithmetic-sft 3"  # two steps and an evaluation


def test_the_shipped_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    toml = (ROOT / "examples/own_data/train.toml").read_text()
    assert len(toml.strip().splitlines()) <= 10
    copy = tmp_path / "train.toml"
    copy.write_text(without_model(toml))
    run = upweight.train(copy, *TINY, f"runs_dir={tmp_path / 'runs'}")
    rows = run.ledger(1).to_pylist()
    assert [row["rewards"] for row in rows] == pytest.approx([r["part/correct"] + 0.2 * r["part/brief"] for r in rows])
    assert all(row["part/brief"] == 1 for row in rows)  # eight tokens are short
