"""Every metric is explained, and every explanation can be found."""

from __future__ import annotations

import pytest

from upweight.records.alarms import RULES
from upweight.records.glossary import METRICS, describe, glossary_markdown


def test_keys_are_described_by_name_or_by_pattern() -> None:
    assert describe("train/loss") is METRICS["train/loss"]
    assert describe("reward/part/correct") is METRICS["reward/part/{name}"]
    assert describe("reward/part/a/b c\n") is METRICS["reward/part/{name}"]
    assert describe("train/term/kl") is METRICS["train/term/{name}"]


@pytest.mark.parametrize("key", ["", "loss", "train/loss/", "reward/part/", "xreward/part/a", "time/step_second"])
def test_an_unknown_key_is_a_key_error(key: str) -> None:
    with pytest.raises(KeyError):
        describe(key)


def test_the_table_has_a_row_for_each_metric() -> None:
    table = glossary_markdown()
    lines = table.splitlines()
    assert len(lines) == len(METRICS) + 2
    for key, metric in METRICS.items():
        row = next(line for line in lines if line.startswith(f"| `{key}` |"))
        assert row.replace("\\|", "").count("|") == 5
        assert f"| {metric.unit} |" in row
    assert table.endswith("|\n")


def test_each_metric_is_filled_in() -> None:
    for key, metric in METRICS.items():
        assert metric.unit, key
        assert len(metric.meaning) > 10 or key.startswith("time/"), key
        assert metric.better in ("", "higher", "lower"), key
        assert "{}" not in metric.meaning, key


def test_seconds_are_exactly_the_times_that_resume_is_exempt_from() -> None:
    for key, metric in METRICS.items():
        assert key.startswith("time/") == (metric.unit in ("seconds", "tokens/s")), key


def test_alarms_watch_metrics_that_exist() -> None:
    for rule in RULES.values():
        describe(rule.metric)
