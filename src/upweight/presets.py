"""The table of methods. A new one is a row here, made of functions of `objectives/`; nothing else knows its name.

Every method that learns from rollouts has the same chain of derived columns, of which most is switched off: shaped
rewards, the advantage that is the method's own, correction of the sampler's mismatch, masking of cut-off
completions; and the same optional terms, a KL penalty and an entropy bonus. Defaults are those of the paper where
it states them; where implementations differ, `traps` says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upweight.algorithms import Algorithm, Call, Carry, Derived, Filter, Statistic, Term
from upweight.errors import UserError, nearest
from upweight.objectives import (
    advantages,
    controllers,
    correction,
    filters,
    kl,
    likelihood,
    policy,
    preference,
    shaping,
    value,
)
from upweight.objectives.tokens import Reduction
from upweight.userfile import load_object

# --- what all methods that learn from rollouts share ---------------------------------------------------------------

_SHAPED = (
    Derived("rewards", Call(shaping.soft_overlong, {"overlong_share": 0.0}), switch="overlong_share"),
    Derived("rewards", Call(shaping.missing_eos), switch="missing_eos_penalty"),
)
_KL_IN_REWARDS = Derived("rewards", Call(shaping.kl_in_rewards), switch="kl_reward_coef")
_TOKEN_REWARDS = (
    Derived("token_rewards", Call(shaping.terminal_rewards)),
    Derived("token_rewards", Call(shaping.kl_in_token_rewards), switch="kl_reward_coef"),
)
_CORRECTED = (
    Derived("sampler_weights", Call(correction.importance_weights), switch="sampler_correction"),
    Derived("advantages", Call(correction.corrected), switch="sampler_correction"),
    Derived("loss_mask", Call(shaping.mask_truncated), switch="overlong_filter"),
)
_ADAPTIVE_KL = Carry("kl_reward_coef", Call(controllers.adaptive_coefficient), switch="kl_target")
_MIXED_GROUPS = Filter(Call(filters.mixed_outcomes), switch="dynamic_sampling")
_WHITENED = Derived("advantages", Call(advantages.whiten), switch="whiten")


def _advantage(function: Any, **options: Any) -> tuple[Derived, ...]:
    """Rewards with KL taken off, then one advantage a completion."""
    return (_KL_IN_REWARDS, Derived("advantages", Call(function, options)))


def _from_rollouts(
    name: str,
    title: str,
    paper: str,
    advantage: tuple[Derived, ...],
    loss: Call,
    reduction: Reduction,
    *,
    more_terms: tuple[Term, ...] = (),
    carries: tuple[Carry, ...] = (),
    switches: Mapping[str, bool] | None = None,
    options: Mapping[str, Any] | None = None,
    **record: Any,
) -> Algorithm:
    """A policy-gradient method: the shared chain around its own advantage, its own loss and the optional terms."""
    method = Algorithm(
        name=name,
        title=title,
        paper=paper,
        source="rollouts",
        derived=(*_SHAPED, *advantage, *_CORRECTED),
        filters=(_MIXED_GROUPS,),
        terms=(
            Term("policy", loss, reduction),
            *more_terms,
            Term("kl", Call(kl.penalty), reduction, coefficient=0.0),
            Term("entropy", Call(policy.entropy_bonus), reduction, coefficient=0.0),
        ),
        carries=(_ADAPTIVE_KL, *carries),
        switches={"dynamic_sampling": False, "overlong_filter": False, **(switches or {})},
        **record,
    )
    return method.with_options(options or {})


# --- likelihood -----------------------------------------------------------------------------------------------------

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
RFT = _from_rollouts(
    "rft",
    "rejection sampling: imitate own completions with weight max(r, 0)",
    "2308.01825",
    _advantage(advantages.positive_part),
    Call(policy.weighted_likelihood),
    "seq_mean_token_mean",
    neighbours=("sft", "reinforce"),
    traps=(
        "divides by all completions and not by those that earn something: where few are right, the step is small",
        "easy problems are right often and come to dominate; a small reward for form alone is imitated as well",
    ),
)

# --- policy gradient without a critic -------------------------------------------------------------------------------

REINFORCE = _from_rollouts(
    "reinforce",
    "policy gradient with the raw reward, log-probs summed over the completion",
    "Williams 1992",
    _advantage(advantages.raw_reward),
    Call(policy.weighted_likelihood),
    "seq_mean_token_sum",
    neighbours=("reinforce_baseline", "reinforce_token_mean", "rft"),
    traps=(
        "a constant added to all rewards changes nothing on average and much in variance",
        "the value of the loss means nothing, only its gradient does",
    ),
)
REINFORCE_TOKEN_MEAN = _from_rollouts(
    "reinforce_token_mean",
    "signed rewards on the mean log-prob of each completion: REINFORCE with GRPO's length bias",
    "widely taught",
    _advantage(advantages.raw_reward),
    Call(policy.weighted_likelihood),
    "seq_mean_token_mean",
    neighbours=("reinforce", "grpo"),
    traps=(
        (
            "divided by its length, a completion's log-prob has no longer the gradient of the expected reward: the "
            "tokens of long wrong answers are pushed down less"
        ),
    ),
)
REINFORCE_BASELINE = _from_rollouts(
    "reinforce_baseline",
    "policy gradient with the reward minus a mean: of the batch, of the group, or a running one",
    "Williams 1992",
    _advantage(advantages.minus_baseline),
    Call(policy.weighted_likelihood),
    "seq_mean_token_sum",
    carries=(Carry("running_mean", Call(controllers.moving_average)),),
    neighbours=("reinforce", "rloo"),
    traps=(
        (
            'the mean of the batch judges hard and easy prompts alike; baseline = "group" asks of each prompt what it '
            "usually gets"
        ),
        (
            "the means of batch and group contain the reward that they judge, which scales the gradient by (n - 1) / "
            'n; "running" does not'
        ),
    ),
)
RLOO = _from_rollouts(
    "rloo",
    "policy gradient with the mean reward of the group's other completions as baseline",
    "2402.14740",
    _advantage(advantages.leave_one_out),
    Call(policy.weighted_likelihood),
    "seq_mean_token_sum",
    neighbours=("reinforce_baseline", "rloo_trl", "grpo"),
    traps=(
        "a KL in the reward comes off before the baseline and is centred with it; OpenRLHF takes it off after",
        "verl and OpenRLHF give the name to this advantage under a clipped token-level loss; TRL's is `rloo_trl`",
    ),
)
REINFORCE_PP = _from_rollouts(
    "reinforce_pp",
    "REINFORCE++: returns with KL in the reward, whitened over all tokens of the batch, clipped ratio",
    "2501.03262",
    (*_TOKEN_REWARDS, Derived("advantages", Call(advantages.returns_to_go)), _WHITENED),
    Call(policy.clipped_surrogate),
    "token_mean",
    switches={"whiten": True},
    neighbours=("reinforce_pp_baseline", "ppo"),
    traps=(
        (
            "whitening counts tokens, so long completions weigh more in mean and deviation; verl divides by the "
            "sample deviation (whiten_std)"
        ),
        "whitened advantages do not feel the scale of the rewards, unless there is a KL in them",
    ),
)
REINFORCE_PP_BASELINE = _from_rollouts(
    "reinforce_pp_baseline",
    "REINFORCE++ with the group's mean as baseline before whitening, and KL as a k2 loss",
    "2501.03262",
    (*_advantage(advantages.group_relative, std="none"), _WHITENED),
    Call(policy.clipped_surrogate),
    "token_mean",
    switches={"whiten": True},
    options={"kl_estimator": "k2"},
    neighbours=("reinforce_pp", "grpo"),
    traps=(
        (
            "the mean over tokens that whitening takes off is not 0 although each group's mean is, so that a group of "
            "equal rewards is pushed a little"
        ),
    ),
)

# --- policy gradient with a critic ----------------------------------------------------------------------------------

PPO = _from_rollouts(
    "ppo",
    "clipped ratio with advantages of a learned value function, KL to the reference in the reward",
    "1707.06347",
    (
        *_TOKEN_REWARDS,
        Derived("token_rewards", Call(shaping.whiten_rewards), switch="whiten_rewards"),
        Derived("advantages", Call(advantages.gae)),
        Derived("returns", Call(advantages.value_targets)),
        _WHITENED,
    ),
    Call(policy.clipped_surrogate),
    "token_mean",
    more_terms=(
        Term("value", Call(value.clipped_value_loss), "token_mean"),
        Term("pretrain", Call(likelihood.nll), "token_mean", coefficient=0.0, stream="pretrain"),
    ),
    switches={"whiten": True, "whiten_rewards": False},
    options={"kl_reward_coef": 0.02},
    critic=True,
    minibatches=4,
    neighbours=("reinforce_pp", "grpo"),
    traps=(
        "TRL pays the reward one position after the end-of-sequence token: the same at lam = 1, not below",
        "a completion that was cut off counts as ended, unless bootstrap_truncated is on",
        "kl_target is in nats of a whole completion; verl's controller measures nats a token",
    ),
)

# --- group relative -------------------------------------------------------------------------------------------------

GRPO = _from_rollouts(
    "grpo",
    "reward relative to the group, clipped ratio, mean of per-sequence means",
    "2402.03300",
    _advantage(advantages.group_relative),
    Call(policy.clipped_surrogate),
    "seq_mean_token_mean",
    neighbours=("dr_grpo", "dapo", "gspo", "rloo", "grpo_trl"),
    traps=(
        "neither TRL nor verl runs this by default: `grpo_trl` and `grpo_verl` are what they run",
        (
            "divided by its length, a long wrong answer is pushed down less a token; divided by the deviation, "
            "prompts that are nearly always or nearly never solved count more"
        ),
        'k3 as a loss has the gradient of KL(ref || pi); that of KL(pi || ref) is kl_estimator = "weighted_k3"',
    ),
)
DR_GRPO = _from_rollouts(
    "dr_grpo",
    "GRPO without the division by the group's deviation and by each completion's length",
    "2503.20783",
    _advantage(advantages.group_relative, std="none"),
    Call(policy.clipped_surrogate),
    "constant_length",
    neighbours=("grpo", "rloo"),
    traps=(
        "gradients are smaller than GRPO's by mean length over L and by the deviation: find the learning rate anew",
        (
            "TRL's loss of that name keeps the division by the deviation; verl's divides by the padded width and not "
            "by rows"
        ),
    ),
)
DAPO = _from_rollouts(
    "dapo",
    "GRPO with a higher upper clip, token mean, only groups of mixed outcome, and soft length punishment",
    "2503.14476",
    _advantage(advantages.group_relative),
    Call(policy.clipped_surrogate, {"clip_low": 0.2, "clip_high": 0.28}),
    "token_mean",
    switches={"dynamic_sampling": True, "overlong_filter": True},
    options={"overlong_share": 0.2},
    minibatches=4,
    neighbours=("grpo", "cispo"),
    traps=(
        (
            "the filter asks for correctness and not for different rewards: the length punishment makes those of an "
            "all-wrong group differ"
        ),
        "L is the whole budget and the punished band its last share: 20480 and 4096 in the paper",
        (
            "what the filter refuses was sampled for nothing; elsewhere the name often means the clip or the "
            "reduction alone"
        ),
    ),
)
GSPO = _from_rollouts(
    "gspo",
    "GRPO with one ratio a sequence, the geometric mean of its tokens' ratios, clipped as a whole",
    "2507.18071",
    _advantage(advantages.group_relative),
    Call(policy.sequence_surrogate),
    "seq_mean_token_mean",
    minibatches=4,
    neighbours=("grpo", "gspo_token"),
    traps=(
        (
            "s is a geometric mean, so its bounds are a thousand times narrower than those of a token's ratio: 0.2 "
            "would never clip"
        ),
        "under token_mean a row would count by its length",
    ),
)
GSPO_TOKEN = _from_rollouts(
    "gspo_token",
    "GSPO whose gradient goes through each token, so that advantages may differ between tokens",
    "2507.18071",
    _advantage(advantages.group_relative),
    Call(policy.sequence_token_surrogate),
    "seq_mean_token_mean",
    minibatches=4,
    neighbours=("gspo", "grpo"),
    traps=(
        (
            "the same as `gspo` in value, clip and gradient while all tokens of a row share one advantage; verl's "
            "GSPO is this form"
        ),
    ),
)
CISPO = _from_rollouts(
    "cispo",
    "the clipped ratio is a constant weight on the likelihood, so no token is ever silenced",
    "2506.13585",
    _advantage(advantages.group_relative),
    Call(policy.cispo),
    "token_mean",
    minibatches=4,
    neighbours=("grpo", "dapo"),
    traps=(
        (
            "clip_high is relative to 1, as in the paper; TRL's epsilon_high is the cap itself, and verl also clips "
            "below, at 0.8"
        ),
        "the value of the loss has no lower bound and cannot be compared with PPO's",
    ),
)

# --- what other frameworks run by default ---------------------------------------------------------------------------

GRPO_TRL = _from_rollouts(
    "grpo_trl",
    "what TRL's GRPOTrainer does by default: sample deviation, token mean, no KL",
    "TRL 1.16",
    _advantage(advantages.group_relative, std="sample", std_eps=1e-4),
    Call(policy.clipped_surrogate),
    "token_mean",
    options={"kl_estimator": "weighted_k3"},
    neighbours=("grpo", "grpo_verl", "dapo"),
    traps=(
        (
            "TRL divides by the tokens of the whole generation batch, so that its scale depends on how that is cut; "
            "here it is always the optimizer step's"
        ),
        (
            "TRL corrects the sampler's mismatch by default (sequence_mask up to 3); here sampler_correction is off "
            "until it is set"
        ),
    ),
)
GRPO_VERL = _from_rollouts(
    "grpo_verl",
    "what verl's GRPO does by default: sample deviation, token mean, dual clip, no KL",
    "verl b178a3c",
    _advantage(advantages.group_relative, std="sample", std_eps=1e-6),
    Call(policy.clipped_surrogate, {"dual_clip": 3.0}),
    "token_mean",
    neighbours=("grpo", "grpo_trl"),
    traps=(
        (
            "verl also clamps log-ratios to 20, and its older code averages over micro-batches, so that the token "
            "mean depends on their size"
        ),
    ),
)
RLOO_TRL = _from_rollouts(
    "rloo_trl",
    "what TRL's RLOOTrainer does by default: a clipped ratio of whole-sequence products, KL in the reward",
    "TRL 1.16",
    _advantage(advantages.leave_one_out),
    Call(policy.sequence_surrogate, {"ratio": "sum", "clip_low": 0.2, "clip_high": 0.2}),
    "seq_mean_token_mean",
    options={"kl_reward_coef": 0.05},
    neighbours=("rloo", "gspo"),
    traps=(
        (
            "the ratio of a whole completion leaves [0.8, 1.2] after few tokens: with several optimizer steps a batch "
            "nearly all rows are clipped"
        ),
    ),
)

# --- preferences ----------------------------------------------------------------------------------------------------

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

PRESETS: dict[str, Algorithm] = {
    method.name: method
    for method in (
        *(SFT, RFT),
        *(REINFORCE, REINFORCE_TOKEN_MEAN, REINFORCE_BASELINE, RLOO, REINFORCE_PP, REINFORCE_PP_BASELINE),
        *(PPO,),
        *(GRPO, DR_GRPO, DAPO, GSPO, GSPO_TOKEN, CISPO),
        *(GRPO_TRL, GRPO_VERL, RLOO_TRL),
        *(DPO, SIMPO, ORPO, KTO, REWARD_MODEL),
    )
}


def algorithm(name: str, options: Mapping[str, Any] | None = None) -> Algorithm:
    """The preset of that name, or the one in `file.py:name`, with options overridden.

    Raises UserError for an unknown name or option, or a file whose object is no Algorithm.
    """
    if ":" in name:
        method = load_object(name, "algorithm")
        if not isinstance(method, Algorithm):
            raise UserError(f"algorithm {name!r} is a {type(method).__name__}, not an upweight.Algorithm")
    elif name in PRESETS:
        method = PRESETS[name]
    else:
        raise UserError(
            f"unknown algorithm {name!r}{nearest(name, PRESETS)}; a method of your own is written file.py:name"
        )
    return method.with_options(options or {})
