"""Preferences: pairs and marked completions, and the reward model that is learned from pairs."""

from __future__ import annotations

from upweight.algorithms import Algorithm, Call, Statistic, Term
from upweight.objectives import likelihood, preference

DPO = Algorithm(
    name="dpo",
    title="raise the chosen completion above the rejected one, both relative to the reference",
    paper="2305.18290",
    source="pairs",
    terms=(Term("policy", Call(preference.dpo), "unit_mean"),),
    neighbours=("simpo", "kto", "reward_model"),
    traps=(
        "log-probs are summed; where a library averages them, beta means something else",
        "both log-probs may fall while their difference grows: watch the log-probs of the chosen completions too",
    ),
)
SIMPO = Algorithm(
    name="simpo",
    title="preference by mean log-prob with a target margin and no reference",
    paper="2405.14734",
    source="pairs",
    terms=(Term("policy", Call(preference.simpo), "unit_mean"),),
    neighbours=("dpo", "orpo"),
    traps=(
        "TRL's defaults, beta 0.1 and gamma 0.5, are not the paper's",
        "no reference holds the policy: a learning rate that suits dpo may be too high",
    ),
)
ORPO = Algorithm(
    name="orpo",
    title="likelihood of the chosen completion and its odds over the rejected one, no reference",
    paper="2403.07691",
    source="pairs",
    terms=(
        Term("policy", Call(likelihood.nll), "token_mean", rows="chosen"),
        Term("odds", Call(preference.odds_ratio), "unit_mean", coefficient=0.1),
    ),
    neighbours=("sft", "simpo"),
    traps=("the likelihood is a mean over all chosen tokens of the step, not of each row's mean",),
)
KTO = Algorithm(
    name="kto",
    title="single completions marked good or bad, each against a reference point of the whole step",
    paper="2402.01306",
    source="labels",
    statistics=(Statistic("reference_point", Call(preference.reference_point), mismatched=True),),
    terms=(Term("policy", Call(preference.kto), "row_mean"),),
    neighbours=("dpo",),
    traps=(
        "the reference point needs the completions of other prompts: a minibatch of one row has none",
        "where one label is much more frequent than the other, its weight has to be lower",
    ),
)
REWARD_MODEL = Algorithm(
    name="reward_model",
    title="a scalar head that scores the chosen completion above the rejected one (Bradley-Terry)",
    paper="2203.02155",
    source="pairs",
    model="reward",
    terms=(Term("policy", Call(preference.bradley_terry), "unit_mean"),),
    neighbours=("dpo",),
    traps=(
        "scores are settled up to a constant of each prompt, unless centring is on",
        "the score is read at the last token: a completion that lacks its end-of-sequence token is another one",
    ),
)
