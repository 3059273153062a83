"""What the tests of the mathematics share: tensors by hand, and equality to a stated tolerance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upweight.objectives.tokens import pad


def f64(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Ragged rows as one float64 tensor; padding is NaN-free but far from any real value."""
    return pad([f64(row) for row in rows], fill=-7.0)


def mask_of(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf)[0]


def assert_close(actual: Tensor, expected: Tensor | Sequence[float] | float, atol: float = 1e-12) -> None:
    """Equal to an absolute tolerance; vectors printed with 6 decimals are compared with `atol=6e-7`."""
    wanted = expected if isinstance(expected, Tensor) else torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach().double(), wanted.double(), atol=atol, rtol=0)


PRINTED = 6e-7
