"""Methods made outside the package, as CONTRIBUTING shows them: they train, and their options reach the mathematics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import upweight
from upweight.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
name = "own"
runs_dir = "runs"
steps = 2
threads = 1
algorithm = {algorithm}
model.init = {{ width = 16, layers = 1, heads = 2, context = 32 }}
data = {{ task = "arithmetic", digits = 1, tags = false }}
rewards.parts.short = "brief.py:short"
batch = {{ prompts = 3, group_size = 3 }}
sampling.max_completion_tokens = 6
records = {{ tensorboard = false, kl_every = 0 }}
"""
REWARD = '''
def short(completion: str) -> float:
    """Differs between completions, so that there is something to learn."""
    return float(len(completion)) / 7 + completion.count("1")
'''


def own_file() -> str:
    """The file that CONTRIBUTING shows."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if block.startswith('"""mine.py')
    ]
    return block


def train(folder: Path, algorithm: str, name: str) -> Any:
    (folder / "mine.py").write_text(own_file())
    (folder / "brief.py").write_text(REWARD)
    (folder / f"{name}.toml").write_text(CONFIG.format(algorithm=algorithm))
    return upweight.train(folder / f"{name}.toml", f"name={name}")


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tensors(run: Any, step: int, *names: str) -> list[list[torch.Tensor]]:
    """Columns of the ledger of a step, one tensor a row."""
    table = run.ledger(step)
    return [[torch.tensor(row, dtype=torch.float64) for row in table.column(name).to_pylist()] for name in names]


@pytest.mark.parametrize(("options", "scale"), [("", 1.0), (", scale = 0.25", 0.25)])
def test_an_advantage_of_ones_own(options: str, scale: float, tmp_path: Path) -> None:
    run = train(tmp_path, f'{{ name = "mine.py:BEST"{options} }}', f"best{scale}")
    assert [line["step"] for line in run.metrics() if "train/loss" in line] == [0, 1]
    for step in (0, 1):
        rewards = torch.tensor(run.ledger(step).column("rewards").to_pylist(), dtype=torch.float64)
        expected = scale * (rewards - rewards.max())
        assert expected.min() < 0
        for row, advantage in zip(tensors(run, step, "advantages")[0], expected, strict=True):
            assert torch.allclose(row, advantage.expand_as(row), atol=1e-6)


@pytest.mark.parametrize(("options", "power"), [("", 0.5), (", power = 2.0", 2.0)])
def test_a_surrogate_of_ones_own(options: str, power: float, tmp_path: Path) -> None:
    run = train(tmp_path, f'{{ name = "mine.py:TEMPERED"{options} }}', f"tempered{power}")
    assert [line["step"] for line in run.metrics() if "train/loss" in line] == [0, 1]
    # At the first optimizer step the ratio is 1, so that the push of a token is power * A / N.
    advantages, pushes = tensors(run, 0, "advantages", "push/policy")
    assert max(float(row.abs().max()) for row in advantages) > 0
    for push, advantage in zip(pushes, advantages, strict=True):
        assert torch.allclose(push, power * advantage / len(advantages), atol=1e-5)


def test_its_options_are_checked_like_those_of_a_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'scale'"):
        train(tmp_path, '{ name = "mine.py:BEST", scal = 0.5 }', "misspelt")
    with pytest.raises(UserError, match="did you mean 'BEST'"):
        train(tmp_path, '"mine.py:BSET"', "misspelt")
    with pytest.raises(UserError, match=r"is a function, not an upweight\.Algorithm"):
        train(tmp_path, '"mine.py:to_best"', "misspelt")
