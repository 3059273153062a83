"""Phases by a clock whose time the test tells."""

from __future__ import annotations

import contextvars
import threading

import pytest

from upweight.phases import PASS_OF, PHASES, Clock, DecodeStep, Tokens, count, decode_step, phase


class Time:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_every_moment_belongs_to_one_phase() -> None:
    time = Time()
    with Clock(time) as clock:
        time.passes(1)
        with phase("decode"):
            time.passes(2)
            with phase("reward"):
                time.passes(4)
                with phase("prefill"):
                    time.passes(8)
            time.passes(16)
        time.passes(32)
        with phase("decode"):
            time.passes(64)
    assert clock.seconds == {"other": 1 + 32, "decode": 2 + 16 + 64, "reward": 4, "prefill": 8}
    assert clock.entered == {"other": 1, "decode": 2, "reward": 1, "prefill": 1}


def test_a_phase_waits_for_the_work_that_it_started_and_decoding_does_not() -> None:
    time = Time()
    with Clock(time, settle=lambda: time.passes(10)) as clock:
        with phase("prefill"):
            time.passes(1)
        for _ in range(5):
            with phase("decode"):
                time.passes(1)
    assert clock.seconds == {"prefill": 11, "decode": 5, "other": 10}


def test_a_clock_goes_on_where_it_is_entered_again_and_forgets_when_told() -> None:
    time = Time()
    clock = Clock(time)
    for _ in range(2):
        with clock:
            time.passes(1)
        time.passes(1000)
    assert clock.seconds == {"other": 2}
    clock.clear()
    assert clock.seconds == clock.entered == clock.tokens == {}
    assert clock.decode_steps == []


def test_a_whole_phase_takes_in_what_happens_within() -> None:
    time = Time()
    with Clock(time) as clock:
        with phase("sync", whole=True):
            time.passes(1)
            with phase("prefill"), phase("decode", whole=True):
                time.passes(2)
                count("prefill", processed=9, useful=9)
                decode_step(1, 1, 1)
        with phase("prefill"):
            time.passes(4)
    assert clock.seconds == {"other": 0, "sync": 3, "prefill": 4}
    assert clock.tokens == {}
    assert clock.decode_steps == []


def test_tokens_add_up_and_a_decoding_step_counts_its_rows() -> None:
    with Clock() as clock:
        count("forward_backward", processed=10, useful=7)
        count("forward_backward", processed=5, useful=5)
        decode_step(8, 5, 40)
        decode_step(8, 2, 18)
    assert clock.tokens == {"forward_backward": Tokens(15, 12), "decode": Tokens(16, 7)}
    assert clock.decode_steps == [DecodeStep(8, 5, 40), DecodeStep(8, 2, 18)]


def test_without_a_clock_nothing_happens() -> None:
    with phase("decode"):
        count("decode", processed=1, useful=1)
        decode_step(1, 1, 1)


def test_a_clock_ends_with_its_block_and_the_one_around_it_goes_on() -> None:
    time = Time()
    with Clock(time) as outer:
        with Clock(time) as inner, phase("decode"):
            time.passes(1)
        count("decode", processed=1, useful=1)
    count("decode", processed=1, useful=1)
    assert inner.seconds == {"other": 0, "decode": 1}
    assert inner.tokens == {}
    assert outer.tokens == {"decode": Tokens(1, 1)}


def test_an_error_ends_its_phases() -> None:
    time = Time()
    clock = Clock(time)

    def fails() -> None:
        with clock, phase("decode"), phase("sync", whole=True):
            time.passes(1)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    with clock, phase("reward"):
        time.passes(2)
    assert clock.seconds == {"other": 0, "decode": 0, "sync": 1, "reward": 2}


def test_another_thread_has_no_clock_unless_it_is_given_the_context() -> None:
    def work(name: str) -> None:
        count(name, processed=1, useful=1)

    with Clock() as clock:
        context = contextvars.copy_context()
        for thread in (
            threading.Thread(target=work, args=("without",)),
            threading.Thread(target=context.run, args=(work, "with")),
        ):
            thread.start()
            thread.join()
    assert clock.tokens == {"with": Tokens(1, 1)}


def test_passes_are_phases() -> None:
    assert set(PASS_OF.values()) < set(PHASES)
