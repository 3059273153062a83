"""Plugins of pytest for bench/mutate.py: one notes what tests call, the other runs some of them in an order."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


@dataclass(eq=False)
class Calls:
    """A pytest plugin: the functions of objectives/ that each test calls, or its file on import, and its seconds."""

    package: str
    of_test: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)

    def note(self, frame: FrameType, event: str, _: object) -> None:
        """What sys.setprofile calls at every call."""
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(self.package):
            self.called.add(f"{Path(path).stem}.{frame.f_code.co_name}")

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        """Notes what a file calls when it is imported."""
        return (yield from self.noted(collector.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Notes what a test calls and how long it takes."""
        start = time.perf_counter()
        report = yield from self.noted(item.nodeid)
        self.seconds[item.nodeid] = time.perf_counter() - start
        return report

    def noted(self, name: str) -> Generator[None, Any, Any]:
        """The rest of a hook, with calls noted for `name`."""
        self.called = set()
        sys.setprofile(self.note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            self.of_test[name] = sorted(self.called)

    def answer(self) -> dict[str, Any]:
        """Calls and seconds of each test."""
        files = {test: self.of_test.get(test.partition("::")[0], []) for test in self.seconds}
        return {"calls": {t: sorted({*self.of_test[t], *files[t]}) for t in self.seconds}, "seconds": self.seconds}


@dataclass(eq=False)
class Selected:
    """A pytest plugin: runs the given tests in the given order and remembers the first that failed."""

    order: dict[str, int]
    failed: str = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves the selected tests, in order."""
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported has noticed something too."""
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes the first failure."""
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def answer(self) -> dict[str, Any]:
        """The first test that failed, if any did."""
        return {"by": self.failed}
