"""A loss as the update sums it, and its derivative by differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from upweight.objectives.tokens import Reduction, token_weights


def weighed(
    loss: Tensor,
    mask: Tensor,
    reduction: Reduction,
    group_ids: Tensor | None = None,
    constant_length: int | None = None,
) -> Tensor:
    """(weights * loss).sum(), as one optimizer step over these rows does it."""
    return (token_weights(mask, reduction, group_ids, constant_length) * loss).sum()


def slope(loss: Tensor, leaf: Tensor) -> Tensor:
    """The derivative of a scalar by a leaf; the graph may be used again."""
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


def finite_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Central differences of a scalar function, one coordinate at a time."""
    found = torch.zeros_like(at)
    for index in range(at.numel()):
        nudge = torch.zeros(at.numel(), dtype=at.dtype)
        nudge[index] = step
        nudge = nudge.view_as(at)
        found.view(-1)[index] = (function(at + nudge) - function(at - nudge)) / (2 * step)
    return found
