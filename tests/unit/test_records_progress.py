"""Progress is shown on its stream, never on stdout."""

from __future__ import annotations

import io

import pytest

from upweight.records.progress import BarProgress, PlainProgress, duration, numbers, open_progress


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


METRICS = {"reward/mean": 0.5, "rollout/accuracy": 0.25, "train/loss": -0.1, "time/tokens_per_second": 12345.6}


def test_plain_lines_come_at_the_start_now_and_then_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress("grpo", 100, 0, stream, seconds=10, clock=clock) as progress:
        for step in range(100):
            clock.now += 1.5
            progress.update(step, METRICS)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "grpo step 1/100  reward 0.500  accuracy 25.0%  12,346 tokens/s  2 min 28 s left"
    assert [line.split()[2] for line in lines[:3]] == ["1/100", "8/100", "15/100"]
    assert lines[-1].startswith("grpo step 100/100 ")
    assert lines[-1].endswith(" 0 s left")


def test_time_left_of_a_resumed_run_counts_its_own_steps_only() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress("sft", 100, 90, stream, clock=clock) as progress:
        clock.now += 5
        progress.update(90, {})
    assert stream.getvalue() == "sft step 91/100  45 s left\n"


def test_a_note_is_a_line_of_its_own() -> None:
    stream = io.StringIO()
    with PlainProgress("sft", 10, 0, stream) as progress:
        progress.note("[red]alarm[/red]")
    assert stream.getvalue() == "[red]alarm[/red]\n"


def test_the_bar_shows_steps_numbers_and_notes_and_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    progress = open_progress("grpo [x]", 40, start=10, stream=stream)
    assert isinstance(progress, BarProgress)
    with progress:
        progress.update(11, METRICS)
        progress.note("evaluation [bold]0.5")
    text = stream.getvalue()
    assert "grpo [x]" in text
    assert "12/40" in text
    assert "evaluation [bold]0.5" in text
    assert capsys.readouterr().out == ""


def test_without_a_terminal_lines_are_plain() -> None:
    assert isinstance(open_progress("x", 3, stream=io.StringIO()), PlainProgress)


def test_stderr_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress("x", 1) as progress:
        progress.update(0, {})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("x step 1/1")


def test_the_loss_is_shown_only_without_a_reward() -> None:
    assert numbers(METRICS) == "reward 0.500  accuracy 25.0%  12,346 tokens/s"
    assert numbers({"train/loss": 1.5}) == "loss 1.5000"
    assert numbers({"reward/mean": float("nan")}) == "reward nan"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_run_with_a_time_limit_has_no_more_time_left_than_that() -> None:
    stream, now = io.StringIO(), iter([0.0, 0.0, 10.0])
    with PlainProgress("run", 1000, 0, stream, clock=lambda: next(now), limit=25.0) as progress:
        progress.update(9, {})
    assert "15 s left" in stream.getvalue()
