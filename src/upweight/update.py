"""From a batch to new weights: annotate, derived columns, token weights, inner epochs and minibatches.

This runs on the controller and is the same for every host of the learner. All statistics of the batch are computed
here, on the whole batch; the learner only ever sees numbers that belong to single tokens, rows or units.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from upweight.algorithms import Algorithm, Term, columns_of
from upweight.columns import padded_columns, ragged
from upweight.learners.port import Learner, Which
from upweight.objectives.tokens import token_weights
from upweight.phases import PASS_OF, phase
from upweight.records.batch_metrics import batch_metrics, derived_metrics, token_metrics
from upweight.records.update_metrics import combine_steps, step_metrics
from upweight.types import Annotated, Batch, StepStats, annotated

Rows = TypeVar("Rows", bound=Batch)


class Updater:
    """Turns batches into optimizer steps, and remembers the options that move from one batch to the next."""

    def __init__(self, learner: Learner, algorithm: Algorithm, *, skip_inert: bool = True) -> None:
        self.learner, self.algorithm, self.skip_inert = learner, algorithm, skip_inert
        self.carried = {carry.option: algorithm.options()[carry.option] for carry in algorithm.active_carries()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return {"carried": dict(self.carried)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.carried = dict(state["carried"])

    def update(
        self, batch: Batch, key: tuple[int, int], extra: Collection[str] = ()
    ) -> tuple[Annotated, dict[str, float]]:
        """Makes the optimizer steps of one batch: one for each minibatch of each inner epoch.

        `key` is (seed, step) and decides the minibatches. `extra` names columns wanted beside those that the
        algorithm declares. Returns the annotated batch, which then also has what the model said of each token
        (`logprobs`, `entropy`, ...) and `push/TERM` as they were the first time that the token was used, and metrics.
        """
        method = self.algorithm.with_options(self.carried)
        metrics = batch_metrics(main_rows(batch))
        metrics |= {f"train/carried/{name}": float(value) for name, value in self.carried.items()}
        rows = annotate(self.learner, method, batch, extra)
        parts = list(parts_of(method, rows, key, self.skip_inert and not extra))
        rows = with_old_logprobs(self.learner, method, rows, parts[1:])
        steps: list[dict[str, float]] = []
        seen: dict[str, list[Tensor]] = {}
        for part in parts:
            minibatch = with_statistics(self.learner, method, rows.select(part.index)).select(part.kept)
            if not steps and not method.reads_before("old_logprobs"):
                minibatch = without_column(minibatch, "old_logprobs")
            result = self.learner.step(minibatch, part.weights)
            steps.append(step_metrics(minibatch, result) | _statistics(method, minibatch))
            if len(steps) == 1:
                first = annotated(minibatch, result.outputs)
            if part.epoch == 0:
                _remember(seen, [part.index[i] for i in part.kept], result, rows)
        self._move(method, rows, step=key[1])
        rows = with_first_as_old(annotated(rows, seen))
        metrics |= token_metrics(main_rows(first)) | derived_metrics(main_rows(rows)) | combine_steps(steps)
        return rows, metrics

    def _move(self, method: Algorithm, rows: Annotated, step: int) -> None:
        """What moves after a batch: carried options, and the reference when its time has come."""
        columns = padded_columns(main_rows(rows))
        for carry in method.active_carries():
            self.carried[carry.option] = float(carry.call({**columns, "value": self.carried[carry.option]}))
        if method.reference_every and (step + 1) % method.reference_every == 0:
            self.learner.move_reference(method.reference_mix)


def annotate(learner: Learner, method: Algorithm, batch: Batch, extra: Collection[str] = ()) -> Annotated:
    """The batch with the columns that the method declares, and no pass for a column that it does not.

    Derived columns are those of the main stream; the rows of other streams get zeros, which no term reads.
    """
    main = main_rows(batch)
    rows = annotated(main, scored_columns(learner, method, main, extra))
    columns = padded_columns(rows)
    for step in method.active_derived():
        columns[step.column] = step.call(columns)
    lengths, derived = rows.lengths(), {step.column for step in method.active_derived()}
    tokens, by_row = dict(rows.token_columns), dict(rows.row_columns)
    for name in sorted(derived - {"loss_mask"}):
        value = columns[name]
        if name == "advantages" and value.dim() == 1:
            value = value[:, None] * columns["loss_mask"]
        if value.dim() == 2:
            tokens[name] = ragged(value.double(), lengths)
        else:
            by_row[f"used/{name}" if name in batch.row_columns else name] = value
    rows = annotated(replace(rows, loss_mask=ragged(columns["loss_mask"], lengths), row_columns=by_row), tokens)
    return rows if len(rows) == len(batch) else _among_all(rows, batch)


def scored_columns(
    learner: Learner, method: Algorithm, rows: Batch, extra: Collection[str]
) -> dict[str, Sequence[Tensor]]:
    """The columns that take a pass of a model: of the policy before the update, the reference, the critic.

    Old log-probs are scored here where a derived column reads them; otherwise see `with_old_logprobs`.
    """
    wanted: dict[str, Which] = {}
    if method.reads_before("old_logprobs"):
        wanted["old_logprobs"] = "policy"
    if method.needs("ref_logprobs") or ("ref_logprobs" in extra and method.model == "policy"):
        wanted["ref_logprobs"] = "reference"
    if method.critic:
        wanted["old_values"] = "critic"
    return {name: _score(learner, rows, which) for name, which in wanted.items()}


@dataclass(frozen=True)
class Part:
    """The rows of one optimizer step: `index` in the batch, `kept` those of them that need a pass, and their weights.

    The weights were divided over all of `index`, so that leaving rows out changes no denominator.
    """

    epoch: int
    index: list[int]
    kept: list[int]
    weights: dict[str, list[Tensor]]


def parts_of(method: Algorithm, rows: Annotated, key: tuple[int, int], skip_inert: bool) -> Iterator[Part]:
    """The optimizer steps of a batch, in order."""
    for epoch in range(method.inner_epochs):
        for index in minibatches(rows, method.minibatches, (*key, epoch)):
            minibatch = rows.select(index)
            weights = weights_of(method, minibatch)
            kept = moving_rows(method, minibatch, weights) if skip_inert else list(range(len(index)))
            yield Part(epoch, index, kept, {name: [w[i] for i in kept] for name, w in weights.items()})


def with_old_logprobs(learner: Learner, method: Algorithm, rows: Annotated, later: Sequence[Part]) -> Annotated:
    """The log-probs before the update, of the rows that later steps than the first need; elsewhere NaN.

    In the first step old is current, so that its rows need no pass, and a batch of one step needs none at all.
    """
    if "old_logprobs" in rows.token_columns or not method.reads_within("old_logprobs") or not later:
        return rows
    index = sorted({part.index[i] for part in later for i in part.kept})
    column = [torch.full((length,), torch.nan) for length in rows.lengths()]
    for row, values in zip(index, _score(learner, rows.select(index), "policy"), strict=True):
        column[row] = values
    return annotated(rows, {"old_logprobs": column})


def with_first_as_old(rows: Annotated) -> Annotated:
    """The ledger's old log-probs: those of the first step's rows are what that step itself found."""
    if "old_logprobs" not in rows.token_columns:
        return rows
    pairs = zip(rows.token_columns["old_logprobs"], rows.token_columns["logprobs"], strict=True)
    return annotated(rows, {"old_logprobs": [now if bool(old.isnan().any()) else old for old, now in pairs]})


def without_column(rows: Annotated, name: str) -> Annotated:
    """The rows without a token column."""
    return replace(rows, token_columns={other: c for other, c in rows.token_columns.items() if other != name})


def _score(learner: Learner, rows: Batch, which: Which) -> Sequence[Tensor]:
    with phase(PASS_OF[which]):
        return learner.score(rows, which)


def main_rows(batch: Rows) -> Rows:
    """The rows of the main stream."""
    index = [i for i, stream in enumerate(batch.streams) if stream == "main"]
    return batch if len(index) == len(batch) else batch.select(index)


def minibatches(rows: Batch, count: int, key: tuple[int, ...]) -> Iterator[list[int]]:
    """A seeded partition of each stream's groups into `count` optimizer steps, as row indices; groups stay whole."""
    if count == 1:
        yield list(range(len(rows)))
        return
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    parts: list[list[Tensor]] = []
    for stream in dict.fromkeys(rows.streams):
        own = torch.tensor([other == stream for other in rows.streams])
        groups = torch.unique(rows.group_ids[own])
        pieces = np.array_split(rng.permutation(len(groups)), min(count, len(groups)))
        parts.append([own & torch.isin(rows.group_ids, groups[torch.from_numpy(piece)]) for piece in pieces])
    for i in range(max(map(len, parts))):
        chosen = torch.stack([pieces[i] for pieces in parts if i < len(pieces)]).any(0)
        yield torch.nonzero(chosen).flatten().tolist()


def with_statistics(learner: Learner, method: Algorithm, minibatch: Annotated) -> Annotated:
    """The minibatch with the numbers that a term needs to know of it before its first backward pass."""
    found = dict(minibatch.row_columns)
    for statistic in method.statistics:
        rows = mismatched(minibatch) if statistic.mismatched else minibatch
        columns: dict[str, Sequence[Tensor]] = {"logprobs": _score(learner, rows, "policy")}
        if statistic.mismatched and method.needs("ref_logprobs"):
            columns["ref_logprobs"] = _score(learner, rows, "reference")
        value = statistic.call(padded_columns(annotated(rows, columns)))
        found[statistic.column] = torch.as_tensor(value).expand(len(minibatch))
    return replace(minibatch, row_columns=found)


def _statistics(method: Algorithm, minibatch: Annotated) -> dict[str, float]:
    columns = (statistic.column for statistic in method.statistics)
    return {f"train/statistic/{name}": float(minibatch.row_columns[name].double().mean()) for name in columns}


def mismatched(rows: Annotated) -> Annotated:
    """Every prompt with the completion of the row before (of the last, for the first), and no token columns."""
    turned = [len(rows) - 1, *range(len(rows) - 1)]
    return replace(
        rows,
        token_ids=[rows.token_ids[i] for i in turned],
        loss_mask=[rows.loss_mask[i] for i in turned],
        token_columns={},
    )


def weights_of(method: Algorithm, minibatch: Batch) -> dict[str, list[Tensor]]:
    """Each term's weight, its coefficient included, for everything of one optimizer step, before its first backward.

    A token's weight in [T_i]; a row's, or that of a row's unit, in [1].
    """
    return {term.name: _weights(method, term, minibatch) for term in method.active_terms()}


def _weights(method: Algorithm, term: Term, rows: Batch) -> list[Tensor]:
    part = torch.tensor([stream == term.stream for stream in rows.streams])
    if term.rows:
        part &= rows.row_columns[term.rows]
    if term.level != "token":
        counted = len(torch.unique(rows.unit_ids[part])) if term.level == "unit" else int(part.sum())
        return list((part.double() * term.coefficient / max(counted, 1))[:, None])
    length = method.constant_length
    if term.reduction == "constant_length" and not length:
        length = int(rows.row_columns["token_budget"].max())
    mask = padded_columns(rows)["loss_mask"] & part[:, None]
    weights = token_weights(mask, term.reduction, rows.group_ids, length)
    return ragged(term.coefficient * weights, rows.lengths())


def moving_rows(method: Algorithm, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]) -> list[int]:
    """The rows that can move the weights; the gradient of the others is exactly 0, and they need no pass.

    A row is inert when every term either gives it no weight, or multiplies by its advantages, all 0: those of a group
    whose rewards are equal. Weights were divided before, so that leaving rows out changes no denominator. Some row is
    always left, so that the step is made. Gain: see docs/speed.md.
    """
    inert = torch.ones(len(rows), dtype=torch.bool)
    for term in method.active_terms():
        weightless = _all_zero(weights[term.name])
        by_advantage = "advantages" in columns_of(term.loss.function)
        inert &= weightless | _all_zero(rows.token_columns["advantages"]) if by_advantage else weightless
    return torch.nonzero(~inert).flatten().tolist() or [0]


def _all_zero(column: Sequence[Tensor]) -> Tensor:
    return torch.tensor([not bool(row.any()) for row in column])


def _among_all(rows: Annotated, batch: Batch) -> Annotated:
    """The annotated main rows among all rows of the batch, which they are the first of."""
    rest = batch.select([i for i, stream in enumerate(batch.streams) if stream != "main"])
    missing = len(rest)
    tokens = {
        name: [*column, *(torch.zeros(length, dtype=column[0].dtype) for length in rest.lengths())]
        for name, column in rows.token_columns.items()
    }
    by_row = {name: torch.cat([value, value.new_zeros(missing)]) for name, value in rows.row_columns.items()}
    whole = replace(batch, loss_mask=[*rows.loss_mask, *rest.loss_mask], row_columns=by_row)
    return annotated(whole, tokens)


def _remember(seen: dict[str, list[Tensor]], index: Sequence[int], result: StepStats, rows: Batch) -> None:
    columns = {**result.outputs, **{f"push/{name}": column for name, column in result.pushes.items()}}
    for name, column in columns.items():
        # What was not computed is not known; what did not take part was not pushed.
        unknown = 0.0 if name.startswith("push/") else torch.nan
        whole = seen.setdefault(name, [torch.full((length,), unknown) for length in rows.lengths()])
        for row, values in zip(index, column, strict=True):
            whole[row] = values
