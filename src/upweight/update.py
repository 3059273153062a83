"""From a batch to new weights: annotate, advantages, token weights, inner epochs and minibatches.

This runs on the controller and is the same for every host of the learner. All statistics of the batch are computed
here, on the whole batch; the learner only ever sees numbers that belong to single tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from upweight.algorithms import Algorithm
from upweight.learners.port import Learner
from upweight.objectives.tokens import pad, token_weights
from upweight.records.batch_metrics import token_metrics
from upweight.records.update_metrics import combine_steps, step_metrics
from upweight.types import Annotated, Batch, StepStats, annotated


def update(
    learner: Learner, algorithm: Algorithm, batch: Batch, key: tuple[int, int], extra: Collection[str] = ()
) -> tuple[Annotated, dict[str, float]]:
    """Makes the optimizer steps of one batch: one for each minibatch of each inner epoch.

    `key` is (seed, step) and decides the minibatches. `extra` names columns wanted beside those that the algorithm
    declares. Returns the annotated batch, which then also has `logprobs`, `entropy` and `push/TERM` of each token as
    they were the first time that the token was used, and the metrics of the steps.
    """
    rows = annotate(learner, algorithm, batch, extra)
    steps: list[dict[str, float]] = []
    seen: dict[str, list[Tensor]] = {}
    for epoch in range(algorithm.inner_epochs):
        for index in minibatches(rows, algorithm.minibatches, (*key, epoch)):
            minibatch = rows.select(index)
            result = learner.step(minibatch, weights_of(algorithm, minibatch))
            steps.append(step_metrics(minibatch, result))
            if len(steps) == 1:
                first = annotated(minibatch, {"logprobs": result.logprobs, "entropy": result.entropy})
            if epoch == 0:
                _remember(seen, index, result, len(rows))
    return annotated(rows, seen), {**combine_steps(steps), **token_metrics(first)}


def annotate(learner: Learner, algorithm: Algorithm, batch: Batch, extra: Collection[str] = ()) -> Annotated:
    """The batch with the columns that the algorithm declares, and no pass for a column that it does not.

    Old log-probs need a pass only when several optimizer steps use the batch: in the first, old is current.
    """
    advantages = algorithm.advantage({**batch.row_columns, "group_ids": batch.group_ids})
    columns: dict[str, Sequence[Tensor]] = {
        "advantages": [value * mask for value, mask in zip(advantages.double().unbind(), batch.loss_mask, strict=True)]
    }
    if algorithm.needs("old_logprobs") and algorithm.steps_per_batch() > 1:
        columns["old_logprobs"] = learner.score(batch, "policy")
    if algorithm.needs("ref_logprobs") or "ref_logprobs" in extra:
        columns["ref_logprobs"] = learner.score(batch, "reference")
    return annotated(batch, columns)


def minibatches(rows: Batch, count: int, key: tuple[int, ...]) -> Iterator[list[int]]:
    """A seeded partition of the groups into `count` optimizer steps, as row indices; groups stay whole."""
    if count == 1:
        yield list(range(len(rows)))
        return
    groups = torch.unique(rows.group_ids)
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(len(groups))
    for part in np.array_split(order, min(count, len(groups))):
        chosen = torch.isin(rows.group_ids, groups[torch.from_numpy(part)])
        yield torch.nonzero(chosen).flatten().tolist()


def weights_of(algorithm: Algorithm, minibatch: Batch) -> dict[str, list[Tensor]]:
    """Each term's weight for every token of one optimizer step, before its first backward pass."""
    mask = pad(minibatch.loss_mask).bool()
    weights = {}
    for term in algorithm.active_terms():
        padded = token_weights(mask, term.reduction)
        weights[term.name] = [padded[i, :length] for i, length in enumerate(minibatch.lengths())]
    return weights


def _remember(seen: dict[str, list[Tensor]], index: Sequence[int], result: StepStats, rows: int) -> None:
    columns = {"logprobs": result.logprobs, "entropy": result.entropy}
    columns |= {f"push/{name}": column for name, column in result.pushes.items()}
    for name, column in columns.items():
        whole = seen.setdefault(name, [torch.empty(0)] * rows)
        for row, values in zip(index, column, strict=True):
            whole[row] = values
