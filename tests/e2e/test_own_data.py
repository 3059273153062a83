"""The stranger's test: what the README says about own data works as it stands there, within ten lines of TOML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import upweight

ROOT = Path(__file__).resolve().parents[2]
# Instead of the model of the README, which would have to be fetched; and only two steps of it.
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


def test_the_readmes_own_files_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of_the_readme()
    monkeypatch.chdir(tmp_path)
    row = json.loads(blocks["json"].splitlines()[0])
    rows = [{**row, "prompt": f"{row['prompt']} ({number})"} for number in range(20)]
    names = [name for name in re.findall(r"`([\w.]+\.(?:py|toml|jsonl))`", (ROOT / "README.md").read_text())]
    assert {"rewards.py", "mine.toml"} <= set(names)
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("rewards.py").write_text(blocks["python"])
    Path("mine.toml").write_text(blocks["toml"])
    assert len(blocks["toml"].strip().splitlines()) <= 10
    run = upweight.train("mine.toml", *_for(blocks["toml"]))
    assert [line["step"] for line in run.metrics() if "train/loss" in line] == [0, 1]
    assert set(run.ledger(1).column("part/correct").to_pylist()) <= {0.0, 1.0}
    assert (run.model_dir / "config.json").is_file()


def _for(toml: str) -> list[str]:
    """The overrides, with the model as a whole: a dotted `model.path` in the file would stay beside `init`."""
    Path("mine.toml").write_text(re.sub(r"^model\.path = .*\n", "", toml, flags=re.MULTILINE))
    return list(TINY)


def test_the_shipped_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = (ROOT / "examples/own_data/train.toml").read_text().strip().splitlines()
    assert len(lines) <= 10
    copy = tmp_path / "train.toml"
    copy.write_text("\n".join(line for line in lines if not line.startswith("model.path")))
    run = upweight.train(copy, *TINY, f"runs_dir={tmp_path / 'runs'}")
    table = run.ledger(1)
    assert {"part/correct", "part/brief", "rewards"} <= set(table.column_names)
    expected = [
        c + 0.2 * b for c, b in zip(*(table.column(f"part/{n}").to_pylist() for n in ("correct", "brief")), strict=True)
    ]
    assert table.column("rewards").to_pylist() == pytest.approx(expected)
