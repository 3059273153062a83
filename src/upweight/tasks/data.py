"""What a task hands over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from upweight.errors import UserError
from upweight.types import Demonstration, JudgedSteps, LabelledCompletion, Message, PreferencePair, Problem

Need = Literal["demonstrations", "problems", "pairs", "labels", "steps"]

KEYS: dict[Need, str] = {
    "demonstrations": "`messages`, or `prompt` and `completion`",
    "problems": "`prompt` or `messages`, and `answer`",
    "pairs": "`prompt`, `chosen` and `rejected`",
    "labels": "`prompt`, `completion` and `label`",
    "steps": "`prompt`, `completions` and `labels`",
}
"""The keys of a user's row of each kind."""


@dataclass(frozen=True)
class TaskData:
    """The rows of one task of the mixture, and its weight there; a kind that it does not have is empty.

    `heldout`, `heldout_pairs` and `heldout_steps` share no question with the others and are there to be evaluated on.
    `skipped` counts the source's rows that are in none of them: bad ones, and repetitions of a held-out question.
    """

    name: str
    weight: float
    problems: Sequence[Problem]
    heldout: Sequence[Problem]
    demonstrations: Sequence[Demonstration]
    skipped: int
    pairs: Sequence[PreferencePair] = ()
    labels: Sequence[LabelledCompletion] = ()
    heldout_pairs: Sequence[PreferencePair] = ()
    steps: Sequence[JudgedSteps] = ()
    heldout_steps: Sequence[JudgedSteps] = ()

    def conversations(self) -> Iterator[tuple[Message, ...]]:
        """The messages of every row, held-out ones included: what a tokenizer made for this data must be able to write.

        Of a pair both answers are told, of a problem none: its answer is there to be compared with.
        """
        yield from (problem.messages for problem in chain(self.problems, self.heldout))
        yield from (demonstration.messages for demonstration in self.demonstrations)
        for pair in chain(self.pairs, self.heldout_pairs):
            for answer in (pair.chosen, pair.rejected):
                yield (*pair.messages, {"role": "assistant", "content": answer})
        for labelled in self.labels:
            yield (*labelled.messages, {"role": "assistant", "content": labelled.completion})
        for judged in chain(self.steps, self.heldout_steps):
            yield (*judged.messages, {"role": "assistant", "content": judged.text})


def check_enough_demonstrations(task: str, wanted: int, available: int) -> None:
    """Raises UserError when a generated task cannot show as many answers as its config asks for."""
    if wanted > available:
        raise UserError(
            f"data.demonstrations is {wanted}, but this {task} task has only {available} distinct training problems: "
            "ask for fewer demonstrations or make the problems larger"
        )
