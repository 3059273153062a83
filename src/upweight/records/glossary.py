"""What every key of `metrics.jsonl` means; the documentation's table is made from this one.

Keys that start with `time/` or `speed/` measure the clock and are the only ones that a resumed run does not reproduce.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A measured number: its unit, what it says, and whether `higher` or `lower` is better, when either is."""

    unit: str
    meaning: str
    better: Literal["", "higher", "lower"] = ""


_LOW = "lower end of the 95% interval of {}"
_HIGH = "upper end of the 95% interval of {}"

# What `upweight.phases` tells apart; together they are the step.
_PHASES = {
    "prefill": "reading the prompts into the sampler's cache",
    "decode": "drawing the completions token by token",
    "reward": "scoring the completions",
    "old_pass": "the policy's log-probs before the update, and the passes of a statistic",
    "ref_pass": "the starting model's log-probs",
    "critic_pass": "the critic's values before the update",
    "forward_backward": "losses and gradients of the optimizer steps",
    "optimizer": "clipping the gradients and moving the weights",
    "sync": "handing the new weights to the sampler, and proving that they arrived",
    "other": "whatever is left of the step: building the batch, advantages, metrics",
}

METRICS: dict[str, Metric] = {
    "step": Metric("count", "index of the step, from 0; a step uses one batch"),
    "reward/mean": Metric("reward", "mean reward of the completions of the batch", "higher"),
    "reward/std": Metric("reward", "standard deviation (population) of the rewards of the batch"),
    "reward/part/{name}": Metric("reward", "mean of one named part of the reward, before its weight", "higher"),
    "train/loss": Metric(
        "loss",
        "loss of the optimizer steps of the batch, averaged over them; 0 for a centred "
        "advantage at the first step, so judge a policy gradient by its reward",
    ),
    "train/term/{name}": Metric("loss", "one term's share of the loss, its coefficient included"),
    "train/grad_norm/{name}": Metric("norm", "the same of another part of what is trained, such as the critic"),
    "train/grad_norm": Metric("norm", "norm of the gradient before clipping, averaged over the optimizer steps"),
    "train/learning_rate": Metric("1", "learning rate, averaged over the optimizer steps of the batch"),
    "train/skipped_steps": Metric("count", "optimizer steps left out because loss or gradient was not finite", "lower"),
    "train/ratio_min": Metric("ratio", "smallest probability ratio pi / old among the trained tokens"),
    "train/ratio_max": Metric("ratio", "largest probability ratio pi / old among the trained tokens"),
    "train/clip_share": Metric("share", "trained tokens with an advantage that the clip keeps from being pushed"),
    "train/carried/{name}": Metric("1", "an option that moves from batch to batch, as this batch used it"),
    "train/statistic/{name}": Metric("1", "a number of a minibatch that its loss is given: KTO's reference point"),
    "train/explained_variance": Metric(
        "share", "1 - Var(returns - values) / Var(returns) over the trained tokens: what the critic knew", "higher"
    ),
    "train/pair_accuracy": Metric(
        "share",
        "pairs whose chosen completion stands above the rejected one: by score, or by log-prob less the reference's",
        "higher",
    ),
    "train/pair_margin": Metric("1", "mean of by how much", "higher"),
    "train/sampler_weight_mean": Metric("ratio", "mean weight of the sampler's correction over the trained tokens"),
    "train/sampler_rejected_share": Metric("share", "trained tokens that the sampler's correction rejects", "lower"),
    "reward/used_mean": Metric("reward", "mean reward after shaping and KL, as the advantage saw it"),
    "train/entropy": Metric("nats", "mean entropy of the policy at the trained tokens, before the update"),
    "train/kl_to_start": Metric(
        "nats",
        "mean over trained tokens of the k3 estimate of KL(pi || starting model), or the moving reference where "
        "there is one; measured every `records.kl_every` steps, or always where the loss needs it",
    ),
    "train/sampler_mismatch_mean": Metric(
        "nats",
        "mean over trained tokens of |log-prob reported by the sampler - the "
        "learner's|, both of the same policy version",
        "lower",
    ),
    "train/sampler_mismatch_max": Metric("nats", "the same, largest over the trained tokens", "lower"),
    "rollout/accuracy": Metric("share", "completions whose answer is correct", "higher"),
    "rollout/completion_tokens": Metric("tokens", "mean number of sampled tokens in a completion"),
    "rollout/truncated_share": Metric("share", "completions cut off by the token budget before they ended", "lower"),
    "rollout/repetition_share": Metric(
        "share",
        "completions of 8 tokens or more in which fewer than half of the 4-grams of token ids are distinct",
        "lower",
    ),
    "rollout/constant_group_share": Metric(
        "share",
        "groups of at least two completions that all have the same reward: "
        "a group-relative advantage learns nothing from them",
        "lower",
    ),
    "rollout/zero_reward_share": Metric("share", "completions with reward exactly 0", "lower"),
    "rollout/failed_rewards": Metric("count", "completions for which the reward function failed", "lower"),
    "rollout/failed/{name}": Metric(
        "count",
        "failed rewards of one kind: timeout, memory, crash (its process died), error (it raised), not_a_number, "
        "refusal (it cannot judge the row)",
        "lower",
    ),
    "rollout/dropped": Metric("count", "completions left out of the batch", "lower"),
    "rollout/wasted_share": Metric("share", "completions sampled for the batch but left out of it", "lower"),
    "eval/greedy": Metric("share", "held-out problems answered correctly at temperature 0", "higher"),
    "eval/greedy_low": Metric("share", _LOW.format("eval/greedy")),
    "eval/greedy_high": Metric("share", _HIGH.format("eval/greedy")),
    "eval/sampled": Metric("share", "held-out accuracy of sampled answers, mean over samples and problems", "higher"),
    "eval/sampled_low": Metric("share", _LOW.format("eval/sampled")),
    "eval/sampled_high": Metric("share", _HIGH.format("eval/sampled")),
    "eval/part/{name}": Metric("reward", "mean of one named reward part over the held-out greedy answers", "higher"),
    "eval/pair_accuracy": Metric("share", "held-out pairs whose chosen completion is scored above the other", "higher"),
    "eval/pair_accuracy_low": Metric("share", _LOW.format("eval/pair_accuracy")),
    "eval/pair_accuracy_high": Metric("share", _HIGH.format("eval/pair_accuracy")),
    "eval/step_accuracy": Metric(
        "share", "held-out steps that a process reward model calls right or wrong as they are", "higher"
    ),
    "eval/step_accuracy_low": Metric("share", _LOW.format("eval/step_accuracy")),
    "eval/step_accuracy_high": Metric("share", _HIGH.format("eval/step_accuracy")),
    "eval/solution_accuracy": Metric("share", "held-out solutions of which it does so with every step", "higher"),
    "eval/solution_accuracy_low": Metric("share", _LOW.format("eval/solution_accuracy")),
    "eval/solution_accuracy_high": Metric("share", _HIGH.format("eval/solution_accuracy")),
    "eval/completion_tokens": Metric("tokens", "mean length of the held-out greedy answers"),
    "eval/truncated_share": Metric("share", "held-out greedy answers cut off by the token budget", "lower"),
    **{f"time/{name}_seconds": Metric("seconds", meaning, "lower") for name, meaning in _PHASES.items()},
    "speed/{name}_floor_share": Metric(
        "share", "least time that the phase could have taken on this machine, over the time it took", "higher"
    ),
    "speed/{name}_useful_share": Metric(
        "share", "of the tokens that went through the model in the phase, those that were needed", "higher"
    ),
    "speed/{name}_tokens": Metric("tokens", "tokens that went through the model in the phase, padding included"),
    "time/rollout_seconds": Metric("seconds", "making the batch: drawing the completions and scoring them", "lower"),
    "time/update_seconds": Metric("seconds", "annotating the batch and making its optimizer steps", "lower"),
    "time/step_seconds": Metric("seconds", "the whole step", "lower"),
    "time/tokens_per_second": Metric("tokens/s", "trained tokens of the batch per second of the whole step", "higher"),
}

_PATTERNS = {
    re.compile(re.escape(key).replace(r"\{name\}", ".+"), re.DOTALL): metric
    for key, metric in METRICS.items()
    if "{name}" in key
}


def describe(key: str) -> Metric:
    """The metric that a key of `metrics.jsonl` stands for, `{name}` resolved. Raises KeyError for an unknown one."""
    if key in METRICS and "{name}" not in key:
        return METRICS[key]
    for pattern, metric in _PATTERNS.items():
        if pattern.fullmatch(key):
            return metric
    raise KeyError(key)


def glossary_markdown() -> str:
    """All metrics as a Markdown table."""
    rows = [f"| `{key}` | {m.unit} | {_cell(m.meaning)} | {m.better} |" for key, m in METRICS.items()]
    return "\n".join(["| metric | unit | meaning | better |", "|---|---|---|---|", *rows]) + "\n"


def _cell(text: str) -> str:
    """Text in which no character ends the table's cell."""
    return text.replace("|", "\\|")
