"""metrics.jsonl is valid JSON and can be cut back; trackers get what they can show."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from upweight.errors import UserError
from upweight.records.trackers import MetricsLog, TensorBoardTracker, WandbTracker, cut_metrics, read_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four records, two of them of step 1."""
    path = tmp_path / "run" / "metrics.jsonl"
    log = MetricsLog(path)
    for record in ({"step": 0, "a": 0.1}, {"step": 1, "a": 0.2}, {"step": 1, "eval/greedy": 1.0}, {"step": 2}):
        log.append(record)
    log.close()
    return path


def test_records_come_back(path: Path) -> None:
    assert read_metrics(path) == [
        {"step": 0, "a": 0.1}, {"step": 1, "a": 0.2}, {"step": 1, "eval/greedy": 1.0}, {"step": 2}
    ]  # fmt: skip


def test_a_line_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 0, "x": 1 / 3})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "x": 0.3333333333333333}\n'
    log.close()


def test_an_opened_log_goes_on_where_it_ended(path: Path) -> None:
    log = MetricsLog(path)
    log.append({"step": 3})
    log.close()
    assert [record["step"] for record in read_metrics(path)] == [0, 1, 1, 2, 3]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m")
    log.append({"step": 0, "x": float("nan"), "y": [float("inf"), 1.0], "z": {"w": -float("inf")}})
    log.close()
    text = (tmp_path / "m").read_text()
    assert json.loads(text, parse_constant=refuse) == {"step": 0, "x": None, "y": [None, 1.0], "z": {"w": None}}


def test_a_record_needs_its_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m")
    with pytest.raises(ValueError, match="step"):
        log.append({"a": 1.0})
    log.close()


@pytest.mark.parametrize(("step", "left"), [(0, 0), (1, 1), (2, 3), (3, 4), (9, 4)])
def test_cut_keeps_the_steps_before_byte_for_byte(path: Path, step: int, left: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("ab") as file:
        file.write(b'{"step": 0, "to')
    cut_metrics(path, step)
    assert path.read_bytes() == b"".join(lines[:left])
    assert [item.name for item in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_torn_line_without_its_end_is_dropped_even_if_it_is_json(path: Path) -> None:
    """Only a newline says that a record has ended."""
    with path.open("ab") as file:
        file.write(b'{"step": 0}')
    assert len(read_metrics(path)) == 4


def test_cut_without_a_file_is_nothing(tmp_path: Path) -> None:
    cut_metrics(tmp_path / "metrics.jsonl", 3)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("line", ["{broken", "[1]", "{}", "\xff"])
def test_a_broken_line_in_the_middle_is_named(path: Path, line: str) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = line.encode("latin-1") + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="line 2"):
        read_metrics(path)


def test_a_full_disk_is_a_user_error_and_the_log_still_closes(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        log.append({"step": 0})
        with pytest.raises(UserError, match=r"could not be written.*--resume"):
            log.append({"step": 1, "x": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.close()
    assert read_metrics(tmp_path / "m") == [{"step": 0}]


def test_a_log_that_cannot_be_opened_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written"):
        MetricsLog(tmp_path)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_finite_scalars_and_purges_a_given_up_future(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    for step in range(4):
        first.log(step, {"reward/mean": float(step), "step": step, "train/loss": float("nan")})
    first.close()
    assert scalars(tmp_path) == {"reward/mean": [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]}
    second = TensorBoardTracker(tmp_path, purge_step=2)
    second.log(2, {"reward/mean": 20.0})
    second.close()
    assert scalars(tmp_path) == {"reward/mean": [(0, 0.0), (1, 1.0), (2, 20.0)]}


def test_wandb_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install "upweight\[wandb\]"'):
        WandbTracker("p", "n", {}, tmp_path)


def test_wandb_gets_steps_and_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for the client, which would want a network."""
    calls: list[Any] = []
    run = SimpleNamespace(log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("end"))

    def init(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    tracker = WandbTracker("p", "n", {"seed": 1}, tmp_path / "run")
    tracker.log(3, {"reward/mean": 0.5})
    tracker.close()
    folder = str(tmp_path / "run")
    assert calls == [
        {"project": "p", "name": "n", "config": {"seed": 1}, "dir": folder, "resume": "auto"},
        (3, {"reward/mean": 0.5}),
        "end",
    ]
    assert (tmp_path / "run").is_dir()
