"""GRPO and its kin: a completion is worth what it is against the others for its prompt."""

from __future__ import annotations

from upweight.algorithms import Call, Derived
from upweight.methods.chain import from_rewards, from_rollouts, without_shaped_rewards
from upweight.objectives import advantages, policy

GRPO = from_rollouts(
    "grpo",
    "reward relative to the group, clipped ratio, mean of per-sequence means",
    "2402.03300",
    from_rewards(advantages.group_relative),
    Call(policy.clipped_surrogate),
    "seq_mean_token_mean",
    neighbours=("dr_grpo", "dapo", "gspo", "rloo", "gdpo", "grpo_process", "grpo_trl"),
    traps=(
        "neither TRL nor verl runs this by default: `grpo_trl` and `grpo_verl` are what they run",
        (
            "divided by its length, a long wrong answer is pushed down less a token; divided by the deviation, "
            "prompts that are nearly always or nearly never solved count more"
        ),
        'k3 as a loss has the gradient of KL(ref || pi); that of KL(pi || ref) is kl_estimator = "weighted_k3"',
    ),
)
DR_GRPO = from_rollouts(
    "dr_grpo",
    "GRPO without the division by the group's deviation and by each completion's length",
    "2503.20783",
    from_rewards(advantages.group_relative, std="none"),
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
DAPO = from_rollouts(
    "dapo",
    "GRPO with a higher upper clip, token mean, only groups of mixed outcome, and soft length punishment",
    "2503.14476",
    from_rewards(advantages.group_relative),
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
GSPO = from_rollouts(
    "gspo",
    "GRPO with one ratio a sequence, the geometric mean of its tokens' ratios, clipped as a whole",
    "2507.18071",
    from_rewards(advantages.group_relative),
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
GSPO_TOKEN = from_rollouts(
    "gspo_token",
    "GSPO whose gradient goes through each token, so that advantages may differ between tokens",
    "2507.18071",
    from_rewards(advantages.group_relative),
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
CISPO = from_rollouts(
    "cispo",
    "the clipped ratio is a constant weight on the likelihood, so no token is ever silenced",
    "2506.13585",
    from_rewards(advantages.group_relative),
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
GDPO = without_shaped_rewards(
    from_rollouts(
        "gdpo",
        "GRPO of several rewards: each part is relative to its own group, then weighted, summed, scaled by the batch",
        "2601.05242",
        (
            Derived("advantages", Call(advantages.sum_of_relative)),
            Derived("advantages", Call(advantages.batch_scaled), switch="batch_norm"),
        ),
        Call(policy.clipped_surrogate),
        "seq_mean_token_mean",
        switches={"batch_norm": True},
        neighbours=("grpo",),
        traps=(
            (
                "GRPO adds the parts up before it divides by the deviation, so that the part that varies most decides; "
                "weights that suited it mean something else here"
            ),
            (
                "punishments of length and KL in the reward belong to no part, so there are none: make a part of the "
                "one, and take kl_coef for the other"
            ),
            (
                "TRL's normalize_then_sum divides by sample deviations plus 1e-4 in both steps: set std, std_eps, "
                "batch_std and batch_eps for that"
            ),
        ),
    )
)

GRPO_TRL = from_rollouts(
    "grpo_trl",
    "what TRL's GRPOTrainer does by default: sample deviation, token mean, no KL",
    "TRL 1.16",
    from_rewards(advantages.group_relative, std="sample", std_eps=1e-4),
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
GRPO_VERL = from_rollouts(
    "grpo_verl",
    "what verl's GRPO does by default: sample deviation, token mean, dual clip, no KL",
    "verl b178a3c",
    from_rewards(advantages.group_relative, std="sample", std_eps=1e-6),
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
