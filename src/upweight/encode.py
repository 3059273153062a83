"""Problems and demonstrations as token ids, with every row that does not fit counted and never cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from upweight.chat import encode_demonstration, encode_prompt
from upweight.errors import UserError
from upweight.tasks.bad_rows import BadRows, OnBadRow
from upweight.types import Demonstration, Problem, Prompt

Row = TypeVar("Row")


@dataclass(frozen=True)
class DemonstrationRow:
    """A tokenised demonstration: mask False where the token is not the assistant's."""

    id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]


@dataclass(frozen=True)
class Encoder:
    """Renders and tokenises for one model. `context` is the longest sequence that it can read."""

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    context: int
    on_bad_row: OnBadRow

    def prompts(self, problems: Sequence[Problem], where: str) -> list[Prompt]:
        """Prompts that leave room for a completion. Raises UserError by the policy for bad rows."""
        bad = BadRows(self.on_bad_row, where)
        prompts = []
        for problem in problems:
            try:
                ids = encode_prompt(self.tokenizer, problem.messages)
            except ValueError as error:
                bad.add(problem.id, str(error))
                continue
            fault = self._fault(ids, len(ids) + 1)
            if fault:
                bad.add(problem.id, fault)
            else:
                prompts.append(Prompt(problem.id, problem.messages, ids, problem.answer, problem.fields))
        bad.finish(len(problems))
        return _some(prompts, where)

    def demonstrations(self, demonstrations: Sequence[Demonstration], where: str) -> list[DemonstrationRow]:
        """Rows whose assistant turns are trained. Raises UserError by the policy for bad rows."""
        bad = BadRows(self.on_bad_row, where)
        rows = []
        for demonstration in demonstrations:
            try:
                prompt, tokens, mask = encode_demonstration(self.tokenizer, demonstration.messages, self.stop_ids)
            except ValueError as error:
                bad.add(demonstration.id, str(error))
                continue
            fault = self._fault((*prompt, *tokens), len(prompt) + len(tokens))
            if fault:
                bad.add(demonstration.id, fault)
            else:
                rows.append(DemonstrationRow(demonstration.id, tuple(prompt), tuple(tokens), tuple(mask)))
        bad.finish(len(demonstrations))
        return _some(rows, where)

    def _fault(self, ids: Sequence[int], needed: int) -> str | None:
        if not ids:
            return "it has no tokens"
        if needed > self.context:
            return f"it needs {needed} tokens, more than the model's context of {self.context}"
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            return "it has characters that the tokenizer does not know"
        return None


def _some(rows: list[Row], where: str) -> list[Row]:
    if not rows:
        raise UserError(f"{where}: no usable row is left to learn from or to evaluate on")
    return rows
