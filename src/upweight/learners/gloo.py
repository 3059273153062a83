"""Several processes that share the rows of a step and sum their gradients over gloo.

Rank 0 lives in the controller and tells the others what to do; every rank holds a whole policy and makes the same
optimizer step, so the weights never need to be sent. Each rank takes whole units and the token weights are those of
the whole step, so the sum over ranks is the gradient that one process would have found.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from upweight.learners.local import Factory, LocalLearner, Tally
from upweight.learners.microbatches import shares, units_of
from upweight.learners.port import Which
from upweight.phases import phase
from upweight.types import Annotated, Batch, StepStats

TIMEOUT = timedelta(minutes=30)


class GlooLearner:
    """A learner on `ranks` processes of this machine. `factory` builds the same learner in each of them."""

    def __init__(self, factory: Factory, ranks: int) -> None:
        self.ranks = ranks
        self.rendezvous = tempfile.TemporaryDirectory(prefix="upweight-gloo-")
        store = str(Path(self.rendezvous.name) / "store")
        threads = max(1, torch.get_num_threads() // ranks)
        context = mp.get_context("spawn")
        self.workers = [
            context.Process(target=_serve, args=(rank, ranks, store, factory, threads), daemon=True)
            for rank in range(1, ranks)
        ]
        for worker in self.workers:
            worker.start()
        torch.set_num_threads(threads)
        _join(0, ranks, store)
        self.local = factory()
        self.temperature = self.local.temperature

    def score(self, rows: Batch, which: Which) -> list[Tensor]:
        """Each rank scores its units; rank 0 puts the answers together."""
        parts = self._everywhere("score", rows, which)
        scored: list[Tensor] = [torch.empty(0)] * len(rows)
        for index, values in parts:
            for row, own in zip(index, values, strict=True):
                scored[row] = own
        return scored

    def step(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]) -> StepStats:
        """One optimizer step on the summed gradient, made by every rank alike."""
        stats: StepStats = self._everywhere("step", rows, weights)[0]
        return stats

    def move_reference(self, mix: float) -> None:
        """Every rank moves its reference alike."""
        self._everywhere("move_reference", mix)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Rank 0's parameters, which are every rank's."""
        yield from self.local.weights()

    def save(self, folder: Path) -> None:
        """Rank 0's state, which is every rank's."""
        self.local.save(folder)

    def load(self, folder: Path) -> None:
        """Every rank goes on from the same folder."""
        self._everywhere("load", folder)

    def close(self) -> None:
        """Tells the other ranks to end and waits for them."""
        if dist.is_initialized():
            self._everywhere("close")
            dist.destroy_process_group()
        for worker in self.workers:
            worker.join()
        self.rendezvous.cleanup()

    def _everywhere(self, command: str, *arguments: Any) -> list[Any]:
        dist.broadcast_object_list([command, arguments], src=0)
        return _obey(self.local, 0, self.ranks, command, arguments)


def _join(rank: int, ranks: int, store: str) -> None:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # ranks of one machine talk over loopback only
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=TIMEOUT)


def _serve(rank: int, ranks: int, store: str, factory: Factory, threads: int) -> None:
    """A worker's life: build the learner, then do what rank 0 says until told to close."""
    torch.set_num_threads(threads)
    _join(rank, ranks, store)
    learner = factory()
    while True:
        message: list[Any] = [None, None]
        dist.broadcast_object_list(message, src=0)
        command, arguments = message
        _obey(learner, rank, ranks, command, arguments)
        if command == "close":
            dist.destroy_process_group()
            return


def _obey(learner: LocalLearner, rank: int, ranks: int, command: str, arguments: tuple[Any, ...]) -> list[Any]:
    """One command on one rank; rank 0 returns the answers of all."""
    if command == "score":
        rows, which = arguments
        index = [row for unit in _own_units(rows, rank, ranks) for row in unit]
        return _gather((index, learner.score(rows.select(index), which) if index else []), rank, ranks)
    if command == "step":
        return [_step(learner, rank, ranks, *arguments)]
    if command == "load":
        learner.load(*arguments)
    if command == "move_reference":
        learner.move_reference(*arguments)
    return []


def _step(
    learner: LocalLearner, rank: int, ranks: int, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]
) -> StepStats:
    units = _own_units(rows, rank, ranks)
    with phase("forward_backward"):
        learner.zero_grad()
        tally = learner.backward(rows, weights, units)
        for parameters in learner.network.parameters().values():
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
    tallies: list[Any] = [None] * ranks
    dist.all_gather_object(tallies, (units, tally))
    with phase("optimizer"):
        return learner.apply(_merge(tallies, len(rows)))


def _merge(tallies: Sequence[tuple[list[list[int]], Tally]], rows: int) -> Tally:
    """One tally of all ranks: losses are summed, each row's values come from the rank that had it."""
    merged = Tally(rows)
    for units, tally in tallies:
        index = [row for unit in units for row in unit]
        outputs, pushes = (
            {name: [column[row] for row in index] for name, column in columns.items()}
            for columns in (tally.outputs, tally.pushes)
        )
        merged.add(index, tally.term_losses, outputs, pushes)
    return merged


def _own_units(rows: Batch, rank: int, ranks: int) -> list[list[int]]:
    lengths = [len(p) + len(t) for p, t in zip(rows.prompt_ids, rows.token_ids, strict=True)]
    return shares(units_of(rows.unit_ids.tolist()), lengths, ranks)[rank]


def _gather(value: Any, rank: int, ranks: int) -> list[Any]:
    gathered: list[Any] = [None] * ranks
    dist.gather_object(value, gathered if rank == 0 else None)
    return gathered
