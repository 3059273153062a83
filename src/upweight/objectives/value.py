"""What a critic minimises, and how good it is. `values[t]` is V of the state before token t."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from upweight.objectives.advantages import deviations
from upweight.objectives.tokens import Mask, Tokens


def clipped_value_loss(values: Tokens, old_values: Tokens, returns: Tokens, value_clip: float = 0.2) -> Tokens:
    """max((V - returns)^2, (clip(V, old V - value_clip, old V + value_clip) - returns)^2) / 2

    The pessimistic of two errors: the gradient V - returns vanishes once V has moved by more than the clip and away
    from where the clipped value would be worse (V09; not in the PPO paper but in its code). An infinite clip is the
    squared error.
    """
    clipped = values.clamp(old_values - value_clip, old_values + value_clip)
    return torch.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2


def explained_variance(returns: Tokens, values: Tokens, loss_mask: Mask) -> Float[Tensor, ""]:
    """1 - variance(returns - V) / variance(returns) over all trained tokens

    1 for a perfect critic, 0 for a constant one, negative for one that is worse. 0 where all returns are equal.
    """
    returns = returns.double()
    _, total = deviations(returns, loss_mask, "population")
    _, unexplained = deviations(returns - values.double(), loss_mask, "population")
    return torch.where(total > 0, 1 - unexplained / total, torch.zeros_like(total))
