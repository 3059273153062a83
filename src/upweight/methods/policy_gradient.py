"""Policy gradients whose baseline is a mean, a batch, or a critic; and what TRL makes of leave-one-out."""

from __future__ import annotations

from upweight.algorithms import Call, Carry, Derived, Term
from upweight.methods.chain import TOKEN_REWARDS, WHITENED, from_rewards, from_rollouts
from upweight.objectives import advantages, controllers, likelihood, policy, shaping, value

REINFORCE = from_rollouts(
    "reinforce",
    "policy gradient with the raw reward, log-probs summed over the completion",
    "Williams 1992",
    from_rewards(advantages.raw_reward),
    Call(policy.weighted_likelihood),
    "seq_mean_token_sum",
    neighbours=("reinforce_baseline", "reinforce_token_mean", "rft"),
    traps=(
        "a constant added to all rewards changes nothing on average and much in variance",
        "the value of the loss means nothing, only its gradient does",
    ),
)
REINFORCE_TOKEN_MEAN = from_rollouts(
    "reinforce_token_mean",
    "signed rewards on the mean log-prob of each completion: REINFORCE with GRPO's length bias",
    "widely taught",
    from_rewards(advantages.raw_reward),
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
REINFORCE_BASELINE = from_rollouts(
    "reinforce_baseline",
    "policy gradient with the reward minus a mean: of the batch, of the group, or a running one",
    "Williams 1992",
    from_rewards(advantages.minus_baseline),
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
RLOO = from_rollouts(
    "rloo",
    "policy gradient with the mean reward of the group's other completions as baseline",
    "2402.14740",
    from_rewards(advantages.leave_one_out),
    Call(policy.weighted_likelihood),
    "seq_mean_token_sum",
    neighbours=("reinforce_baseline", "rloo_trl", "grpo"),
    traps=(
        "a KL in the reward comes off before the baseline and is centred with it; OpenRLHF takes it off after",
        "verl and OpenRLHF give the name to this advantage under a clipped token-level loss; TRL's is `rloo_trl`",
    ),
)
REINFORCE_PP = from_rollouts(
    "reinforce_pp",
    "REINFORCE++: returns with KL in the reward, whitened over all tokens of the batch, clipped ratio",
    "2501.03262",
    (*TOKEN_REWARDS, Derived("advantages", Call(advantages.returns_to_go)), WHITENED),
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
REINFORCE_PP_BASELINE = from_rollouts(
    "reinforce_pp_baseline",
    "REINFORCE++ with the group's mean as baseline before whitening, and KL as a k2 loss",
    "2501.03262",
    (*from_rewards(advantages.group_relative, std="none"), WHITENED),
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

PPO = from_rollouts(
    "ppo",
    "clipped ratio with advantages of a learned value function, KL to the reference in the reward",
    "1707.06347",
    (
        *TOKEN_REWARDS,
        Derived("token_rewards", Call(shaping.whiten_rewards), switch="whiten_rewards"),
        Derived("advantages", Call(advantages.gae)),
        Derived("returns", Call(advantages.value_targets)),
        WHITENED,
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

RLOO_TRL = from_rollouts(
    "rloo_trl",
    "what TRL's RLOOTrainer does by default: a clipped ratio of whole-sequence products, KL in the reward",
    "TRL 1.16",
    from_rewards(advantages.leave_one_out),
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
