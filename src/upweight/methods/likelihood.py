"""Imitation: of demonstrations, or of what was rewarded."""

from __future__ import annotations

from upweight.algorithms import Algorithm, Call, Term
from upweight.methods.chain import from_rewards, from_rollouts
from upweight.objectives import advantages, likelihood, policy

SFT = Algorithm(
    name="sft",
    title="supervised fine-tuning: every demonstrated token has weight 1",
    paper="maximum likelihood",
    source="demonstrations",
    terms=(Term("policy", Call(likelihood.nll), "token_mean"),),
    neighbours=("rft",),
    traps=(
        (
            "a mean over each row's own mean weighs tokens otherwise than a mean over all tokens: `reduction` says "
            "which, and it is taken over the whole optimizer step"
        ),
        "a demonstration that was cut off before its end teaches a model never to stop",
    ),
)
RFT = from_rollouts(
    "rft",
    "rejection sampling: imitate own completions with weight max(r, 0)",
    "2308.01825",
    from_rewards(advantages.positive_part),
    Call(policy.weighted_likelihood),
    "seq_mean_token_mean",
    neighbours=("sft", "reinforce"),
    traps=(
        "divides by all completions and not by those that earn something: where few are right, the step is small",
        "easy problems are right often and come to dominate; a small reward for form alone is imitated as well",
    ),
)
