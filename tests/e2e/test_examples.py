"""Every shipped config is valid, can be planned, and says in its comments what is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import upweight
from upweight.configfile import read_toml
from upweight.rewards.load import resolve
from upweight.rewards.make import JUDGE, MODELS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*.toml"))


@pytest.fixture(autouse=True, scope="session")
def _data_that_examples_make() -> None:
    """What the comments of an example say to run first, where it is a script that writes data."""
    scripts = {
        s for path in EXAMPLES for s in re.findall(r"^#\s+python (\S+)", (ROOT / path).read_text(), re.MULTILINE)
    }
    assert scripts
    for script in scripts:
        subprocess.run([sys.executable, script], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("path", EXAMPLES)
def test_example_is_planned_offline(path: str) -> None:
    plans = upweight.plan(path)
    stages = read_toml(path).get("stages", [None])
    assert len(plans) == len(stages)
    assert all(plan.batch.total_rows > 0 for plan in plans)


@pytest.mark.parametrize("path", EXAMPLES)
def test_rewards_of_an_example_can_be_found(path: str) -> None:
    tables = read_toml(path)
    for table in (tables, *tables.get("stages", ())):
        for part in table.get("rewards", {}).get("parts", {}).values():
            function = part if isinstance(part, str) else part["function"]
            assert function in (JUDGE, *MODELS) or callable(resolve(function))


@pytest.mark.parametrize("path", EXAMPLES)
def test_example_names_its_own_command(path: str) -> None:
    for command, file in re.findall(r"^#\s+upweight (\w+) (\S+)", (ROOT / path).read_text(), re.MULTILINE):
        assert (ROOT / file).is_file()
        assert ("stages" in read_toml(file)) == (command == "pipeline") or command == "plan"


def test_names_of_runs_differ() -> None:
    names = [read_toml(path)["name"] for path in EXAMPLES]
    assert len(set(names)) == len(names)


def test_examples_that_go_on_from_a_model_can_read_what_it_was_made_for() -> None:
    first = upweight.load_config("examples/arithmetic/sft.toml")
    for path in EXAMPLES:
        tables = read_toml(path)
        if tables.get("model", {}).get("path") == f"{first.run_dir}/final":
            config = upweight.load_config(path)
            assert config.data.mixture[0].task == first.data.mixture[0].task
            assert config.sampling.max_completion_tokens == first.sampling.max_completion_tokens
