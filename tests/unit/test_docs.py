"""The pages made from the code are up to date and complete."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from upweight.algorithms import PRESETS
from upweight.config import Config
from upweight.configfile import load_config, parse_override
from upweight.records.glossary import METRICS
from upweight.tables import config_keys

DOCS = Path(__file__).resolve().parents[2] / "docs"
MADE: dict[str, str] = runpy.run_path(str(DOCS / "build.py"))["pages"]()


@pytest.mark.parametrize("name", sorted(MADE))
def test_page_is_as_the_code_makes_it(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == MADE[name], f"docs/{name} is stale: run `make docs`"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_is_documented_with_all_its_options(name: str) -> None:
    section = re.search(rf"^## `{name}`$(.*?)(?=^## |\Z)", MADE["algorithms.md"], re.DOTALL | re.MULTILINE)
    assert section is not None
    for option in PRESETS[name].options():
        assert f"`algorithm.{option}`" in section[1]


@pytest.mark.parametrize("key", sorted(METRICS))
def test_metric_is_documented(key: str) -> None:
    assert f"| `{key}` |" in MADE["metrics.md"]


def test_every_config_key_is_documented() -> None:
    leaves = set(_leaves(load_config(DOCS.parent / "examples/arithmetic/sft.toml").model_dump()))
    missing = [key for key in leaves if f"| `{key}` |" not in MADE["config.md"]]
    assert not missing
    assert leaves <= config_keys()


def _leaves(value: dict[str, Any], place: str = "") -> list[str]:
    """Dotted keys as the documentation has them: tasks at `data`, parts of the reward under NAME."""
    found: list[str] = []
    for name, inner in value.items():
        key = f"{place}.{name}" if place else name
        if key == "data.mixture":
            found += [leaf for task in inner for leaf in _leaves(task, "data")]
        elif key == "rewards.parts":
            found += [leaf for part in inner.values() for leaf in _leaves(part, "rewards.parts.NAME")]
        elif isinstance(inner, dict) and key not in ("algorithm", "rewards.parts.NAME.options"):
            found += _leaves(inner, key)
        else:
            found.append(key)
    return found


def test_every_config_key_has_a_meaning() -> None:
    rows = [line for line in MADE["config.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert not [row for row in rows if row.endswith("|  |")]


def test_every_section_of_the_config_is_a_heading() -> None:
    for name, field in Config.model_fields.items():
        if hasattr(field.annotation, "model_fields") and name != "algorithm":
            assert f"## `[{name}]`" in MADE["config.md"]


def test_links_between_pages_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), f"{page.name} links to {target}"


def test_overrides_in_the_text_are_well_formed() -> None:
    for word in re.findall(r"(?<=\s)[a-z_.]+=[^\s`']+", (DOCS / "commands.md").read_text(encoding="utf-8")):
        keys, _ = parse_override(word)
        assert keys
