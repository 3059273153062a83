"""Our pass for log-probs alone: the learner's, without gradient, over rows that are given."""

from __future__ import annotations

import time

import torch
from bench.arms.ours_setup import session_of
from bench.jobs import Job, Measured, Place
from bench.workloads import completion_lengths

from upweight.sources import RolloutSource
from upweight.train import Session
from upweight.types import Batch


def rows_of(session: Session, job: Job) -> Batch:
    """Random completions of the workload's lengths after its prompts."""
    source = session.source
    assert isinstance(source, RolloutSource)
    draw = torch.Generator().manual_seed(job.repeat)
    group = torch.arange(job.shape.prompts).repeat_interleave(job.shape.group_size)
    prompts = [torch.tensor(source.datasets[0][i].token_ids) for i in group.tolist()]
    completions = [torch.randint(3, 77, (length,), generator=draw) for length in completion_lengths(job.shape)]
    return Batch(
        ids=[str(i) for i in range(len(group))],
        prompt_ids=prompts,
        token_ids=completions,
        loss_mask=[torch.ones(len(row), dtype=torch.bool) for row in completions],
        group_ids=group,
        unit_ids=torch.arange(len(group)),
        streams=["main"] * len(group),
    )


def run(job: Job, place: Place) -> Measured:
    """Seconds for the log-probs of all completions."""
    session = session_of(job, place, 1)
    rows = rows_of(session, job)
    seconds = []
    for _ in range(job.steps):
        start = time.perf_counter()
        session.learner.score(rows, "policy")
        seconds.append(time.perf_counter() - start)
    return Measured(seconds, [sum(rows.lengths())] * job.steps)
