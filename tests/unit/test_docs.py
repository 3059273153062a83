"""The pages made from the code are up to date and complete."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from upweight.api import explain
from upweight.config import Config
from upweight.configfile import load_config, make_config, parse_override
from upweight.formulas import formula
from upweight.presets import PRESETS
from upweight.records.glossary import METRICS, describe
from upweight.rewards.describe import LEARNED
from upweight.rewards.load import BUILTIN
from upweight.tables import config_keys

DOCS = Path(__file__).resolve().parents[2] / "docs"
METHOD_PAGES = ("group_methods.md", "ppo.md", "preferences.md", "process.md")
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


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_is_documented_with_its_formulas_neighbours_and_traps(name: str) -> None:
    section = re.search(rf"^## `{name}`$(.*?)(?=^## |\Z)", MADE["algorithms.md"], re.DOTALL | re.MULTILINE)
    assert section is not None
    method = PRESETS[name]
    said = [
        formula(call) for call in (*(t.loss for t in method.active_terms()), *(d.call for d in method.active_derived()))
    ]
    assert all(text in section[1] for text in [*said, *method.traps])
    assert all(f"Differs from [`{other}`](#{other}):" in section[1] for other in method.neighbours)


def test_presets_stand_in_the_order_of_the_ladder() -> None:
    assert re.findall(r"^## `(\w+)`$", MADE["algorithms.md"], re.MULTILINE) == list(PRESETS)


def documented_configs() -> list[tuple[str, str]]:
    """(page, TOML) of every whole config in the pages on methods, which are written by hand."""
    found: list[tuple[str, str]] = []
    for name in METHOD_PAGES:
        text = (DOCS / name).read_text(encoding="utf-8")
        found += [(name, toml) for toml in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    return found


@pytest.mark.parametrize(("page", "toml"), documented_configs())
def test_documented_config_is_valid_and_has_a_loss(page: str, toml: str) -> None:
    config = make_config(tomllib.loads(toml), page)
    text = explain(config)
    assert all(formula(term.loss) in text for term in config.algorithm.resolve().active_terms())


@pytest.mark.parametrize("page", METHOD_PAGES)
def test_a_page_on_methods_has_configs_and_names_only_what_there_is(page: str) -> None:
    assert page in [name for name, _ in documented_configs()]
    text = (DOCS / page).read_text(encoding="utf-8")
    for metric in re.findall(r"`((?:train|reward|rollout|eval)/[\w/]+)`", text):
        assert describe(metric)
    options = {option for method in PRESETS.values() for option in method.options()}
    for key in re.findall(r"`((?:batch|sampling|critic|data|evaluate|optimizer|records)\.\w+)", text):
        assert key in config_keys(), key
    for option in re.findall(r"`algorithm\.(\w+)", text):
        assert option in options, option


def test_losses_written_in_the_pages_are_those_of_their_configs() -> None:
    text = (DOCS / "preferences.md").read_text(encoding="utf-8")
    (loss,) = re.findall(r"^loss = .*$", text, re.MULTILINE)
    assert loss in explain(make_config(tomllib.loads(dict(reversed(documented_configs()))["preferences.md"])))


def test_the_readmes_loss_is_that_of_its_config() -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    (loss,) = re.findall(r"^loss = .*\n     \+ .*$", text, re.MULTILINE)
    explained = explain(DOCS.parent / "examples/arithmetic/grpo.toml", "algorithm.kl_coef=0.04")
    assert [line.strip() for line in loss.splitlines()] == [
        line.strip() for line in explained.splitlines() if line.strip().startswith(("loss = ", "+ "))
    ]


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


REWARD_PAGES = ("rewards.md", "turns.md", "mathematics.md", "code.md", "process.md", "judge.md", "gym.md")
BASE: dict[str, Any] = {
    "steps": 1,
    "algorithm": "grpo",
    "model": {"path": "runs/start/final"},
    "data": {"path": "rows.jsonl"},
    "rewards": {"parts": {"correct": "number"}},
}


def partial_configs() -> list[tuple[str, str]]:
    """(page, TOML) of every block in the pages on rewards, most of which are parts of a config."""
    texts = {page: (DOCS / page).read_text(encoding="utf-8") for page in REWARD_PAGES}
    return [(page, toml) for page, text in texts.items() for toml in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize(("page", "toml"), partial_configs())
def test_documented_tables_are_valid(page: str, toml: str) -> None:
    make_config(BASE | tomllib.loads(toml), page)


@pytest.mark.parametrize("page", REWARD_PAGES)
def test_pages_on_rewards_are_found_and_name_only_what_there_is(page: str) -> None:
    assert page in [name for name, _ in partial_configs()]
    text = (DOCS / page).read_text(encoding="utf-8")
    assert f"({page})" in (DOCS / "index.md").read_text(encoding="utf-8")
    for key in re.findall(r"`((?:batch|sampling|rewards|turns|data|evaluate|optimizer)\.[a-z_]+)`", text):
        assert key in config_keys(), key


def test_every_reward_has_a_section() -> None:
    sections = re.findall(r"^## `(\w+)`$", MADE["reward_functions.md"], re.MULTILINE)
    assert sections == [*BUILTIN, *LEARNED]
