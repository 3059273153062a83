"""Scored completions as rows of a dataset, in the shapes that the loader of rows reads without conversion.

A completion becomes a row only when what training will read of its text is sound; every other one is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import lcm
from typing import Any, Literal

from upweight.encode import Encoder
from upweight.errors import UserError
from upweight.rewards.score import Rewards
from upweight.types import LabelledCompletion, Message, PreferencePair, Prompt, Rollout

Kind = Literal["demonstrations", "pairs", "labels"]
Keep = Literal["correct", "all", "wrong"]
COUNTS = (
    "problems",  # that were answered
    "unsolved",  # of them, without a correct completion
    "without_pair",  # of them, without a pair, where pairs are wanted
    "sampled",  # completions that were scored
    "correct",
    "tokens",  # in all of them
    "failed_rewards",  # completions whose reward failed
    "cut_off",  # by the token budget or the context
    "unusable",  # of those that are wanted: blank, or refused when their text is read back
    "duplicates",  # left out
    "retokenised",  # of those in the file: their text comes to other tokens than were sampled
)


@dataclass(frozen=True)
class Wanted:
    """Rows of which kind, of which completions: `samples` are drawn for a problem, `most` rows of it are written."""

    kind: Kind
    samples: int
    keep: Keep
    dedupe: bool
    most: int | None


@dataclass(frozen=True)
class Answer:
    """A scored completion that ended by itself.

    `token_ids` are those of its text when it is trained on, `same_tokens` whether they are those that were sampled.
    """

    prompt: Prompt
    member: int
    text: str
    token_ids: tuple[int, ...]
    correct: bool
    reward: float
    parts: Mapping[str, float]
    same_tokens: bool


@dataclass
class Harvest:
    """The rows so far, and what became of all other completions. The encoder must raise for a bad row."""

    wanted: Wanted
    encoder: Encoder
    rewards: Rewards
    plain: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, group: Sequence[Rollout]) -> None:
        """Takes the completions of one problem."""
        correct = sum(self.rewards.is_correct(rollout.reward_parts) for rollout in group)
        self.counts["problems"] += 1
        self.counts["sampled"] += len(group)
        self.counts["correct"] += correct
        self.counts["unsolved"] += correct == 0
        self.counts["tokens"] += sum(len(rollout.token_ids) for rollout in group)
        answers = [answer for answer in map(self._answer, group) if answer is not None]
        if self.wanted.dedupe:
            different = distinct(answers)
            self.counts["duplicates"] += len(answers) - len(different)
            answers = different
        if self.wanted.kind == "pairs":
            self._add_pairs(answers)
            return
        make_row = label_row if self.wanted.kind == "labels" else demonstration_row
        for answer in answers[: self.wanted.most]:
            self.rows.append(make_row(answer, self.plain))
            self.counts["retokenised"] += not answer.same_tokens

    def summary(self) -> dict[str, Any]:
        """What there is, and why there is not more."""
        counts = {name: self.counts[name] for name in COUNTS}
        return {"kind": self.wanted.kind, "rows": len(self.rows), "accuracy": self.accuracy(), **counts}

    def accuracy(self) -> float:
        """Share of all completions that are correct, cut off or not."""
        return self.counts["correct"] / max(self.counts["sampled"], 1)

    def _answer(self, rollout: Rollout) -> Answer | None:
        """The completion as it will be read, unless it is not wanted or cannot be read as it was written."""
        correct = self.rewards.is_correct(rollout.reward_parts)
        if rollout.finish_reason == "length":
            self.counts["cut_off"] += 1
            return None
        if self.wanted.keep != "all" and correct != (self.wanted.keep == "correct"):
            return None
        tokens = self._token_ids(rollout)
        if tokens is None:
            self.counts["unusable"] += 1
            return None
        same = tokens == rollout.token_ids
        parts = rollout.reward_parts
        return Answer(rollout.prompt, rollout.member, rollout.text, tokens, correct, rollout.reward, parts, same)

    def _token_ids(self, rollout: Rollout) -> tuple[int, ...] | None:
        """The completion's tokens as training will have them, stop token included; None for a row that it refuses."""
        if not rollout.text.strip():
            return None
        row = LabelledCompletion(rollout.prompt.id, rollout.prompt.messages, rollout.text, True)
        try:
            (unit,) = self.encoder.labels([row], "")
        except UserError:  # its reason is that of one text among thousands: it is counted
            return None
        return unit.rows[0].token_ids

    def _add_pairs(self, answers: Sequence[Answer]) -> None:
        sides = [[answer for answer in answers if answer.correct is wanted] for wanted in (True, False)]
        pairs = list(islice(filter(self._is_pair, pairings(*sides)), self.wanted.most))
        self.counts["without_pair"] += not pairs
        self.counts["retokenised"] += len({a.member for pair in pairs for a in pair if not a.same_tokens})
        self.rows += [pair_row(chosen, rejected, self.plain) for chosen, rejected in pairs]

    def _is_pair(self, sides: tuple[Answer, Answer]) -> bool:
        chosen, rejected = sides
        row = PreferencePair(chosen.prompt.id, chosen.prompt.messages, chosen.text, rejected.text, margin=0.0)
        try:
            self.encoder.pairs([row], "")
        except UserError:  # the same tokens, or a template that changes the prompt with the answer
            return False
        return True


def distinct(answers: Iterable[Answer]) -> list[Answer]:
    """The first of those answers to one problem that training could not tell apart."""
    return list({answer.token_ids: answer for answer in reversed(list(answers))}.values())[::-1]


def pairings(chosen: Sequence[Answer], rejected: Sequence[Answer]) -> Iterator[tuple[Answer, Answer]]:
    """Every (chosen, rejected) once, in an order whose beginning uses every answer about equally often.

    Pair k is (k mod a, k + k // lcm(a, b) mod b): a diagonal until it closes, then the one beside it.
    """
    a, b = len(chosen), len(rejected)
    for k in range(a * b):
        yield chosen[k % a], rejected[(k + k // lcm(a, b)) % b]


def is_plain(messages: Sequence[Message]) -> bool:
    """Whether a prompt is one message of the user, so that its text says it all."""
    return len(messages) == 1 and messages[0].keys() == {"role", "content"} and messages[0]["role"] == "user"


def demonstration_row(answer: Answer, plain: bool) -> dict[str, Any]:
    """`prompt` and `completion`; a conversation with earlier turns of the assistant is `messages`, as sft wants it."""
    row = _problem(answer.prompt, plain) | {"completion": answer.text} | _verdict(answer)
    if all(message["role"] != "assistant" for message in answer.prompt.messages):
        return row
    whole = [*row.pop("prompt"), {"role": "assistant", "content": row.pop("completion")}]
    return {"messages": whole, **row}


def label_row(answer: Answer, plain: bool) -> dict[str, Any]:
    """`prompt`, `completion`, and `label`: whether it is correct."""
    return _problem(answer.prompt, plain) | {"completion": answer.text, "label": answer.correct} | _verdict(answer)


def pair_row(chosen: Answer, rejected: Answer, plain: bool) -> dict[str, Any]:
    """`prompt`, `chosen` and `rejected`, which are answers to the same problem."""
    row = _problem(chosen.prompt, plain)
    row.pop("margin", None)  # a column of the problem; beside a pair it would be read as the pair's
    return row | {
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_reward": chosen.reward,
        "rejected_reward": rejected.reward,
        "id": f"{chosen.prompt.id}#{chosen.member}>{rejected.member}",
    }


def _problem(prompt: Prompt, plain: bool) -> dict[str, Any]:
    """The problem with all its columns, so that the rows can be held out and answered too."""
    messages = [dict(message) for message in prompt.messages]
    asked = messages[0]["content"] if plain else messages
    return {**prompt.fields, "prompt": asked, "answer": prompt.answer}


def _verdict(answer: Answer) -> dict[str, Any]:
    return {"reward": answer.reward, "parts": dict(answer.parts), "id": f"{answer.prompt.id}#{answer.member}"}
