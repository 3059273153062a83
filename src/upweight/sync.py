"""Proof that the sampler holds the learner's policy, after every load and over every batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from upweight.learners.port import Learner
from upweight.samplers.port import Sampler
from upweight.types import Batch, Prompt

# How far the probe's scores may be apart, relative to the score, where the sampler computes in a lower precision.
PROBE_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


class SyncError(RuntimeError):
    """The sampler does not sample from the learner's policy: a bug or a fault of the machine, not the user's."""


def prove_sync(learner: Learner, sampler: Sampler, version: int, probe: Prompt) -> None:
    """Raises SyncError unless version, checksum of the weights and the score of a probe prompt agree in both.

    The probe asks both for the log-prob of one token after the prompt, at the learner's temperature. A sampler in a
    lower precision must hold the learner's weights rounded to it, bit for bit; its score may differ by more.
    """
    if sampler.version != version:
        raise SyncError(f"the sampler holds policy version {sampler.version}, not {version}: its load was lost")
    own = dict(sampler.weights())
    given = ((name, tensor.to(own[name].dtype) if name in own else tensor) for name, tensor in learner.weights())
    if checksum(given) != checksum(own.items()):
        raise SyncError(f"weights of version {version} differ between learner and sampler: the copy was incomplete")
    token = probe.token_ids[-1]
    row = Batch(
        ids=["probe"],
        prompt_ids=[torch.tensor(probe.token_ids)],
        token_ids=[torch.tensor([token])],
        loss_mask=[torch.tensor([True])],
        group_ids=torch.zeros(1, dtype=torch.long),
        unit_ids=torch.zeros(1, dtype=torch.long),
        streams=["main"],
    )
    learned = learner.score(row, "policy")[0].item()
    sampled = sampler.score(probe.token_ids, learner.temperature)[token].item()
    tolerance = max(PROBE_TOLERANCE.get(weight.dtype, 1e-3) for weight in own.values())
    if not abs(learned - sampled) <= tolerance * max(1.0, abs(learned)):
        raise SyncError(
            f"the probe prompt scores {learned:.6f} in the learner and {sampled:.6f} in the sampler although their "
            "weights agree: the two run different models, layouts or precisions"
        )


def checksum(weights: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """For each weight the sum of its bits read as integers: one pass over memory, and equal for equal weights."""
    return {
        name: int(tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64))
        for name, tensor in weights
    }


def check_mismatch(metrics: dict[str, float], limit: float) -> None:
    """Raises SyncError when the sampler's log-probs of its own tokens are further from the learner's than `limit`."""
    mismatch = metrics.get("train/sampler_mismatch_mean", 0.0)
    if mismatch > limit:
        raise SyncError(
            f"log-probs of the same tokens differ by {mismatch:.4f} nats on average between sampler and learner (limit "
            f"sampling.max_mismatch = {limit}): stale weights, another temperature, or a lower precision in one of them"
        )
