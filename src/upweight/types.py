"""What travels through a step, one frozen dataclass a stage.

    Problem -> Prompt -> Completion -> Rollout -> Batch -> Annotated

A task yields problems (something to answer), demonstrations (something to imitate), or answers that were judged:
pairs of a better and a worse one, single ones with a label, and solutions of which every step is judged. A problem
becomes a prompt when it is tokenised, a prompt is answered by completions, a scored completion is a rollout, the rows
of one step are a batch, and a batch with the columns that its algorithm declared is annotated. No field means "not
yet": what is not known at a stage has no place in that stage's type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

Message = Mapping[str, str]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Problem:
    """A question with an answer that can be checked: chat messages that end with the user's turn."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Demonstration:
    """A conversation to imitate: every assistant turn in it is trained, everything else is context."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one question, which is `messages` up to the user's turn: `chosen` is the better one.

    `margin` says by how much it is better, on the scale of the score that a reward model learns; 0 where unknown.
    """

    id: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float


@dataclass(frozen=True)
class LabelledCompletion:
    """An answer to `messages`, which end with the user's turn: `label` says whether it is wanted."""

    id: str
    messages: tuple[Message, ...]
    completion: str
    label: bool


@dataclass(frozen=True)
class JudgedSteps:
    """A solution of `messages`, which end with the user's turn, step by step, as text without the `separator`.

    `labels[j]` is how right step j is: 1 right, 0 wrong, and anything between for a share. Each step, the last one
    too, is ended by the separator.
    """

    id: str
    messages: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    separator: str = "\n"

    @property
    def text(self) -> str:
        """The whole solution."""
        return "".join(step + self.separator for step in self.steps)


@dataclass(frozen=True)
class Prompt:
    """A tokenised problem; `token_ids` ends where the first sampled token goes."""

    id: str
    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]
    answer: str
    fields: Mapping[str, Any]


class SampleKey(NamedTuple):
    """Names one completion for ever; the randomness of its tokens depends on nothing else."""

    seed: int
    step: int
    draw: int
    member: int
    turn: int = 0


@dataclass(frozen=True)
class SamplingParams:
    """The distribution that tokens are drawn from, and when to stop. `temperature` 0 means greedy."""

    temperature: float = 1.0
    max_completion_tokens: int = 256
    stop: tuple[str, ...] = ()
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Request:
    """One completion asked of a sampler."""

    prefix_ids: tuple[int, ...]
    key: SampleKey
    params: SamplingParams


@dataclass(frozen=True)
class Completion:
    """What the sampler answered; `logprobs[t]` is that of `token_ids[t]` under the distribution it was drawn from.

    `finish_reason` is "stop" when the last token is an end-of-sequence token or completes a stop string, and
    "length" when the budget or the context ran out first.
    """

    key: SampleKey
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int


class Step(NamedTuple):
    """A step of a completion: the token that it ends with, counted from the first, and what it earned."""

    token: int
    reward: float


@dataclass(frozen=True)
class Rollout:
    """A finished, scored answer to a prompt. `token_ids`, `loss_mask` and `behavior_logprobs` are equally long.

    A token that the policy did not choose (a tool's answer) has mask False, and nan for the log-prob that it has not.
    `text` is all of it. `steps` has the parts of the reward that score steps, before their weights. `draw` is the
    position of the prompt in the stream of prompts: rollouts of one draw are a group, and `member` counts within it.
    """

    prompt: Prompt
    text: str
    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    behavior_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    reward: float
    reward_parts: Mapping[str, float]
    policy_version: int
    draw: int
    member: int
    steps: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The rows of one step, ragged at rest: one 1-D tensor a row and field.

    With N rows, row i having P_i prompt tokens and T_i tokens in its completion region:

    - `prompt_ids[i]`: long [P_i]; `token_ids[i]`: long [T_i]; `loss_mask[i]`: bool [T_i], False where the
      policy did not choose the token;
    - `group_ids`: long [N], equal for rows that answer the same draw of a prompt;
    - `unit_ids`: long [N], equal for rows that the loss couples and that may therefore not be separated;
    - `streams`: the stream of each row: "main" (these come first), or the name of one that only some terms sum over;
    - `token_columns[name][i]`: [T_i] and `row_columns[name]`: [N], whatever else is known;
    - `counts`: what happened to completions that did not become rows;
    - `failures`: of completions whose reward failed, what they were ("id"), the part, the kind of failure, its message
      and its traceback.
    """

    ids: Sequence[str]
    prompt_ids: Sequence[Tensor]
    token_ids: Sequence[Tensor]
    loss_mask: Sequence[Tensor]
    group_ids: Tensor
    unit_ids: Tensor
    streams: Sequence[str]
    token_columns: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    row_columns: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    failures: Sequence[Mapping[str, str]] = ()

    def __len__(self) -> int:
        return len(self.token_ids)

    def lengths(self) -> list[int]:
        """T_i of each row."""
        return [len(row) for row in self.token_ids]

    def select(self, rows: Sequence[int]) -> Self:
        """The batch of the given rows, in the given order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return replace(
            self,
            ids=[self.ids[i] for i in rows],
            prompt_ids=[self.prompt_ids[i] for i in rows],
            token_ids=[self.token_ids[i] for i in rows],
            loss_mask=[self.loss_mask[i] for i in rows],
            group_ids=self.group_ids[index],
            unit_ids=self.unit_ids[index],
            streams=[self.streams[i] for i in rows],
            token_columns={name: [column[i] for i in rows] for name, column in self.token_columns.items()},
            row_columns={name: column[index] for name, column in self.row_columns.items()},
        )


class Annotated(Batch):
    """A batch that carries `advantages` and every other column that its algorithm declared; see `annotated`."""


def annotated(batch: Batch, columns: Mapping[str, Sequence[Tensor]]) -> Annotated:
    """`batch` with token columns added, each checked once: one [T_i] tensor a row, NaN where it was not computed.

    Raises ValueError on a column of another shape: alignment is a law, not a hope.
    """
    for name, column in columns.items():
        lengths = [tuple(row.shape) for row in column]
        if lengths != [(length,) for length in batch.lengths()]:
            raise ValueError(f"column {name!r} is not aligned with the completion tokens of its batch")
    return Annotated(
        ids=batch.ids,
        prompt_ids=batch.prompt_ids,
        token_ids=batch.token_ids,
        loss_mask=batch.loss_mask,
        group_ids=batch.group_ids,
        unit_ids=batch.unit_ids,
        streams=batch.streams,
        token_columns={**batch.token_columns, **columns},
        row_columns=batch.row_columns,
        counts=batch.counts,
        failures=batch.failures,
    )


@dataclass(frozen=True)
class StepStats:
    """What one optimizer step did. The lists are aligned with the rows that it was given.

    `outputs` is what the model said of each token before the step: `logprobs` and `entropy` (nats) of a policy,
    `values` of its critic, `scores` of a reward model. `pushes[term][i][t]` is minus the gradient of that term of the
    loss with respect to the token's log-prob: the weight on grad log pi, the number that every method reduces to (for
    a term that reads no log-prob, with respect to the output that it reads). `grad_norms` is by optimizer: "policy",
    and "critic" where there is one. `skipped` is True when the loss or a gradient was not finite and the weights were
    left alone.
    """

    loss: float
    term_losses: Mapping[str, float]
    grad_norms: Mapping[str, float]
    learning_rate: float
    skipped: bool
    outputs: Mapping[str, Sequence[Tensor]]
    pushes: Mapping[str, Sequence[Tensor]]
