"""Which groups of completions are worth a place in the batch, as a bool for each row."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def mixed_outcomes(correct: Bool[Tensor, " rows"], group_ids: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """0 < number of correct rows in the group < G

    Dynamic sampling (DAPO 2503.14476, eq. 11). It asks for correctness and not for differing rewards: a group that is
    all wrong has nothing to prefer, even where a punishment of length makes its rewards differ.
    """
    _, index, counts = torch.unique(group_ids, return_inverse=True, return_counts=True)
    right = torch.zeros_like(counts).index_add(0, index, correct.to(counts.dtype))
    return ((right > 0) & (right < counts))[index]
