"""Judged steps: the loss of a process reward model, and one number for a solution from those of its steps."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from upweight.objectives.tokens import Tokens

Aggregate = Literal["product", "min", "last", "mean"]


def step_cross_entropy(scores: Tokens, step_labels: Tokens) -> Tokens:
    """-(y log sigma(score_t) + (1 - y) log sigma(-score_t)), y = step_labels

    A process reward model's loss a token, which counts where a step ends (2305.20050; Math-Shepherd 2312.08935). The
    same as the cross-entropy of two classes whose logits differ by the score; y may lie between 0 and 1, such as the
    share of roll-outs from a step that come to the right answer.
    """
    return -(step_labels * logsigmoid(scores) + (1 - step_labels) * logsigmoid(-scores))


def aggregate_steps(steps: Float[Tensor, " steps"], aggregate: Aggregate = "product") -> Float[Tensor, ""]:
    """aggregate of the steps' probabilities

    "product" is the chance that all are right if they were independent (2305.20050), "min" the weakest step
    (Math-Shepherd 2312.08935); it was also tried with the "last" and the "mean" (V20). 0 where there is no step: a
    product of nothing would be 1, and saying nothing the best of solutions.
    """
    if not len(steps):
        return steps.new_zeros(())
    if aggregate == "product":
        return steps.prod()
    if aggregate == "min":
        return steps.min()
    return steps[-1] if aggregate == "last" else steps.mean()
