"""The command line in this process, for the tests that need nothing of a process of its own."""

from __future__ import annotations

import pytest

from upweight.cli import main


def call(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def read(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Stdout of a command that must succeed."""
    capsys.readouterr()
    assert call(*arguments) == 0
    return capsys.readouterr().out
