"""Rows of data as token ids, with every row that does not fit counted and never cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from upweight.chat import Encoded, encode_answer, encode_demonstration, encode_prompt
from upweight.errors import UserError
from upweight.models.reward import step_tokens
from upweight.tasks.bad_rows import BadRows, OnBadRow
from upweight.types import Demonstration, JudgedSteps, LabelledCompletion, Message, PreferencePair, Problem, Prompt

LONG_ENOUGH_TO_SHOW = 20_000  # rows; fewer take a few seconds at most

Item = TypeVar("Item", Problem, Demonstration, PreferencePair, LabelledCompletion, JudgedSteps)
Made = TypeVar("Made")


@dataclass(frozen=True)
class EncodedRow:
    """A tokenised prompt with its completion: mask False where the token is not the assistant's."""

    id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]


@dataclass(frozen=True)
class Unit:
    """The rows that a loss couples, and what is known of each: `columns[name][i]` belongs to `rows[i]`.

    `token_columns[name][i]` has one number for each of its tokens.
    """

    rows: tuple[EncodedRow, ...]
    columns: Mapping[str, tuple[float | bool, ...]]
    token_columns: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoder:
    """Renders and tokenises for one model. `context` is the longest sequence that it can read.

    Each method raises UserError by the policy for bad rows, and where no row is left.
    """

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    context: int
    on_bad_row: OnBadRow

    def prompts(self, problems: Sequence[Problem], where: str) -> list[Prompt]:
        """Prompts that leave room for a completion."""
        return self._each(self._prompt, problems, where)

    def demonstrations(self, demonstrations: Sequence[Demonstration], where: str) -> list[Unit]:
        """Units of one row, whose assistant turns are trained."""
        return self._each(self._demonstration, demonstrations, where)

    def pairs(self, pairs: Sequence[PreferencePair], where: str) -> list[Unit]:
        """Units of two rows, ID+ and ID-, after the same prompt: `chosen` is True for the first, `margin` is both's.

        A pair whose answers come to the same tokens is a bad row.
        """
        return self._each(self._pair, pairs, where)

    def labels(self, labels: Sequence[LabelledCompletion], where: str) -> list[Unit]:
        """Units of one row with its `label`."""
        return self._each(self._labelled, labels, where)

    def steps(self, judged: Sequence[JudgedSteps], where: str) -> list[Unit]:
        """Units of one row with `step_labels`; the loss mask is True where a step ends and nowhere else.

        Each step is tokenised by itself and the separator after it, so that no merge moves the token at which a step
        ends, and no end-of-sequence token follows. A row that does not fit whole is a bad row: cut, it would lose
        labels.
        """
        return self._each(self._steps, judged, where)

    def _each(self, encode: Callable[[Item], Made], items: Sequence[Item], where: str) -> list[Made]:
        bad = BadRows(self.on_bad_row, where)
        encoded = []
        console = Console(stderr=True)
        silent = len(items) < LONG_ENOUGH_TO_SHOW or not console.is_terminal
        for item in track(items, f"tokenising {where}", console=console, transient=True, disable=silent):
            try:
                encoded.append(encode(item))
            except ValueError as error:
                bad.add(item.id, str(error))
        bad.finish(len(items))
        if not encoded:
            raise UserError(f"{where}: no usable row is left to learn from or to evaluate on")
        return encoded

    def _prompt(self, problem: Problem) -> Prompt:
        ids = encode_prompt(self.tokenizer, problem.messages)
        self._check(ids, len(ids) + 1)
        return Prompt(problem.id, problem.messages, ids, problem.answer, problem.fields)

    def _demonstration(self, demonstration: Demonstration) -> Unit:
        encoded = encode_demonstration(self.tokenizer, demonstration.messages, self.stop_ids)
        return Unit((self._row(demonstration.id, encoded),), {})

    def _pair(self, pair: PreferencePair) -> Unit:
        chosen = self._answer(f"{pair.id}+", pair.messages, pair.chosen)
        rejected = self._answer(f"{pair.id}-", pair.messages, pair.rejected)
        if chosen.prompt_ids != rejected.prompt_ids:
            raise ValueError("its chosen and its rejected answer come after different prompts once they are tokens")
        if chosen.token_ids == rejected.token_ids:
            raise ValueError("its chosen and its rejected answer come to the same tokens")
        return Unit((chosen, rejected), {"chosen": (True, False), "margin": (pair.margin, pair.margin)})

    def _labelled(self, labelled: LabelledCompletion) -> Unit:
        row = self._answer(labelled.id, labelled.messages, labelled.completion)
        return Unit((row,), {"label": (labelled.label,)})

    def _steps(self, judged: JudgedSteps) -> Unit:
        tokens, ends = step_tokens(self.tokenizer, judged.steps, judged.separator)
        row = self._row(judged.id, (encode_prompt(self.tokenizer, judged.messages), tokens, ends))
        labels = iter(judged.labels)
        return Unit((row,), {}, {"step_labels": (tuple(next(labels) if end else 0.0 for end in ends),)})

    def _answer(self, id: str, messages: Sequence[Message], completion: str) -> EncodedRow:
        """A row of which the completion alone is trained: what the assistant said before it is prompt."""
        answered = (*messages, {"role": "assistant", "content": completion})
        return self._row(id, encode_answer(self.tokenizer, answered, self.stop_ids))

    def _row(self, id: str, encoded: Encoded) -> EncodedRow:
        prompt, tokens, mask = encoded
        self._check((*prompt, *tokens), len(prompt) + len(tokens))
        return EncodedRow(id, prompt, tokens, mask)

    def _check(self, ids: Sequence[int], needed: int) -> None:
        """Raises ValueError, with a reason for the row, for tokens that the model cannot learn from."""
        if not ids:
            raise ValueError("it has no tokens")
        if needed > self.context:
            raise ValueError(f"it needs {needed} tokens, more than the model's context of {self.context}")
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            raise ValueError("it has characters that the tokenizer does not know")
