"""What a task hands over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from upweight.errors import UserError
from upweight.types import Demonstration, Problem

Need = Literal["problems", "demonstrations"]


@dataclass(frozen=True)
class TaskData:
    """The rows of one task of the mixture, and its weight there.

    `heldout` shares no question with `problems` or `demonstrations` and is there to be evaluated on. `skipped`
    counts the source's rows that are in none of the three: bad ones, and repetitions of a held-out question.
    """

    name: str
    weight: float
    problems: Sequence[Problem]
    heldout: Sequence[Problem]
    demonstrations: Sequence[Demonstration]
    skipped: int


def check_enough_demonstrations(task: str, wanted: int, available: int) -> None:
    """Raises UserError when a generated task cannot make as many demonstrations as its config asks for."""
    if wanted > available:
        raise UserError(
            f"data.demonstrations is {wanted}, but this {task} task has only {available} distinct training problems: "
            "ask for fewer demonstrations or make the problems larger"
        )
