"""Losses of pairs and of labelled completions: one number a unit or a row, from sums over its tokens.

A unit loss sees the columns of the chosen and of the rejected rows, [units, T] each; prompts are not part of them.
In formulas u = log(pi / ref), sum_t and mean_t run over trained tokens, and sigma is the logistic function.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from upweight.objectives.tokens import Mask, Rows, Tokens, last_trained, masked

Units = Float[Tensor, " units"]
UnitTokens = Float[Tensor, "units T"]
UnitMask = Bool[Tensor, "units T"]


def dpo(
    chosen_logprobs: UnitTokens,
    rejected_logprobs: UnitTokens,
    chosen_ref_logprobs: UnitTokens,
    rejected_ref_logprobs: UnitTokens,
    chosen_loss_mask: UnitMask,
    rejected_loss_mask: UnitMask,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Units:
    """-(1 - label_smoothing) log sigma(m) - label_smoothing log sigma(-m), m = beta (chosen sum_t u - rejected sum_t u)

    DPO (2305.18290, eq. 7); label smoothing is cDPO's belief that a pair is the wrong way round. Sums, not means: a
    mean is another method. log 2 where pi is ref; the weight on a pair is large when it is ranked wrongly.
    """
    chosen = _row_sum(chosen_logprobs - chosen_ref_logprobs, chosen_loss_mask)
    rejected = _row_sum(rejected_logprobs - rejected_ref_logprobs, rejected_loss_mask)
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def simpo(
    chosen_logprobs: UnitTokens,
    rejected_logprobs: UnitTokens,
    chosen_loss_mask: UnitMask,
    rejected_loss_mask: UnitMask,
    simpo_beta: float = 2.5,
    simpo_gamma: float = 1.375,
) -> Units:
    """-log sigma(simpo_beta (chosen mean_t log pi - rejected mean_t log pi) - simpo_gamma)

    SimPO (2405.14734, eq. 6): no reference, and a margin that the mean log-probs have to differ by.
    """
    margin = _row_mean(chosen_logprobs, chosen_loss_mask) - _row_mean(rejected_logprobs, rejected_loss_mask)
    return -logsigmoid(simpo_beta * margin - simpo_gamma)


def odds_ratio(
    chosen_logprobs: UnitTokens, rejected_logprobs: UnitTokens, chosen_loss_mask: UnitMask, rejected_loss_mask: UnitMask
) -> Units:
    """-log sigma(log(odds of chosen / odds of rejected)), odds = P / (1 - P), P = exp(mean_t log pi)

    The second term of ORPO (2403.07691, eq. 7); the first is the likelihood of the chosen rows. A mean log-prob above
    minus the precision of its type counts as that, so that certainty has finite odds (and no gradient).
    """
    chosen = _log_odds(_row_mean(chosen_logprobs, chosen_loss_mask))
    return -logsigmoid(chosen - _log_odds(_row_mean(rejected_logprobs, rejected_loss_mask)))


def kto(
    logprobs: Tokens,
    ref_logprobs: Tokens,
    loss_mask: Mask,
    label: Bool[Tensor, " rows"],
    reference_point: Rows | Float[Tensor, ""],
    kto_beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Rows:
    """desirable_weight sigma(-h) if label else undesirable_weight sigma(h), h = kto_beta (sum_t u - reference_point)

    KTO (2402.01306, eq. 8): a completion is good or bad by itself, and counts by how far it is above or below the
    reference point, which is a constant of the gradient.
    """
    gain = kto_beta * (_row_sum(logprobs - ref_logprobs, loss_mask) - reference_point.detach())
    return torch.where(label, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain))


def reference_point(logprobs: Tokens, ref_logprobs: Tokens, loss_mask: Mask) -> Float[Tensor, ""]:
    """max(0, mean over rows of sum_t u)

    KTO's estimate of KL(pi || ref), from prompts paired with completions of other prompts. A number without
    gradient; rows without a trained token do not count.
    """
    rows = loss_mask.any(-1).sum().clamp(min=1)
    return (_row_sum(logprobs - ref_logprobs, loss_mask).sum() / rows).clamp(min=0).detach()


def bradley_terry(
    chosen_scores: UnitTokens,
    rejected_scores: UnitTokens,
    chosen_loss_mask: UnitMask,
    rejected_loss_mask: UnitMask,
    chosen_margin: Units,
    centring: float = 0.0,
) -> Units:
    """-log sigma(r_chosen - r_rejected - margin) + centring (r_chosen + r_rejected)^2

    A reward model's loss (InstructGPT 2203.02155, eq. 1; margin Llama 2 2307.09288; centring 2312.09244), r being the
    score at the last trained token. Without centring, adding a constant to all scores changes nothing.
    """
    chosen = _row_sum(chosen_scores, last_trained(chosen_loss_mask))
    rejected = _row_sum(rejected_scores, last_trained(rejected_loss_mask))
    return -logsigmoid(chosen - rejected - chosen_margin) + centring * (chosen + rejected) ** 2


def _row_sum(values: Tokens, loss_mask: Mask) -> Rows:
    return masked(values, loss_mask).sum(-1)


def _row_mean(values: Tokens, loss_mask: Mask) -> Rows:
    return _row_sum(values, loss_mask) / loss_mask.sum(-1).clamp(min=1)


def _log_odds(logprob: Rows) -> Rows:
    below_certain = logprob.clamp(max=-torch.finfo(logprob.dtype).eps)
    return below_certain - torch.log(-torch.expm1(below_certain))
