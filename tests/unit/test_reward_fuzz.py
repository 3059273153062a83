"""Every parser of completions against texts that hypothesis makes up; `bench/fuzz.py` does the same for longer."""

from __future__ import annotations

import time

import bench.fuzz
import pytest
from bench.fuzz import PARSERS, fuzz


@pytest.mark.parametrize("name", PARSERS)
def test_no_text_breaks_or_stalls_a_parser(name) -> None:
    found = fuzz(name, 40)
    assert not found.failure
    assert found.examples >= 40


@pytest.mark.parametrize(
    ("parser", "failure"),
    [
        (lambda text: float(text or 0), "ValueError"),
        (lambda text: float("nan"), "returned nan"),
        (lambda text: time.sleep(0.03) or 0.0, "took 0.0"),
    ],
)
def test_what_breaks_is_found(monkeypatch, parser, failure) -> None:
    monkeypatch.setitem(PARSERS, "bad", parser)
    monkeypatch.setattr(bench.fuzz, "SECONDS", 0.02)
    assert failure in fuzz("bad", 40).failure
