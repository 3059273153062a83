"""Process supervision: rewards for steps and not for outcomes alone, and the model that gives them."""

from __future__ import annotations

from upweight.algorithms import Algorithm, Call, Derived, Term
from upweight.methods.chain import KL_IN_REWARDS, from_rollouts
from upweight.objectives import advantages, policy, shaping, steps

# What is taken off the reward of a whole completion is paid at its last token, which is then an end in every row.
OUTCOME_ENDS = tuple(
    Derived("step_ends", Call(shaping.outcome_ends), switch=switch)
    for switch in ("overlong_share", "missing_eos_penalty", "kl_reward_coef")
)

GRPO_PROCESS = from_rollouts(
    "grpo_process",
    "GRPO with process supervision: a token is worth the relative rewards of all steps that end at or after it",
    "2402.03300",
    (
        KL_IN_REWARDS,
        *OUTCOME_ENDS,
        Derived("token_rewards", Call(shaping.process_rewards)),
        Derived("advantages", Call(advantages.process_relative)),
    ),
    Call(policy.clipped_surrogate),
    "seq_mean_token_mean",
    neighbours=("grpo",),
    traps=(
        (
            "advantages are sums: where a right step is above the mean, more of them pay, needed or not; cap them, or "
            "reward a right step with 0 and a wrong one with less"
        ),
        "mean and deviation are of all steps of the group: a completion of many steps counts as often as it has steps",
        (
            "without a part that scores steps it is `grpo`; what shapes the reward, a KL in it too, is one more entry "
            "at each last token"
        ),
    ),
)
PROCESS_REWARD_MODEL = Algorithm(
    name="process_reward_model",
    title="a scalar head that tells right steps from wrong ones, at the separator that ends each",
    paper="2305.20050",
    source="steps",
    model="reward",
    terms=(Term("policy", Call(steps.step_cross_entropy), "token_mean"),),
    neighbours=("reward_model",),
    traps=(
        "a score is read at the separator: it and the cutting of steps must be those of training, merged into nothing",
        (
            "what comes after a wrong step is a convention of the data: wrong too in Math-Shepherd, without a label in "
            "PRM800K"
        ),
        "trained on last steps alone it is an outcome reward model; a row that is cut would lose labels",
    ),
)
