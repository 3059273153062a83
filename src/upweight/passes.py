"""Which passes a batch takes through which model, and why others are not made, in words."""

from __future__ import annotations

from upweight.algorithms import Algorithm, Call, base_column, columns_of
from upweight.config import Config


def passes(config: Config, method: Algorithm) -> tuple[str, ...]:
    """What is computed for each batch, and why other things are not."""
    training = f"training: one forward and one backward pass over every row, {_times(method.inner_epochs)} a batch"
    if method.critic:
        training += ", of the policy " + ("with its value head" if config.critic.share_trunk else "and of the critic")
    found = (
        _sampling(config, method),
        _old_pass(method),
        _reference_pass(config, method),
        "one pass of the critic, for the values before the update" if method.critic else "",
        *_statistic_passes(method),
        training,
        _evaluation(config, method),
    )
    return tuple(line for line in found if line)


def scores_old(method: Algorithm) -> bool:
    """Whether the policy scores a batch before its first optimizer step, as `update.with_old_logprobs` decides it."""
    later = method.steps_per_batch() > 1 and method.reads_within("old_logprobs")
    return later or method.reads_before("old_logprobs")


def keeps_reference(config: Config, method: Algorithm) -> bool:
    """Whether a second copy of the starting model is held, for the loss or for a metric."""
    return method.needs("ref_logprobs") or (config.records.kl_every > 0 and method.model == "policy")


def own_critic(config: Config, method: Algorithm) -> bool:
    """Whether a critic with a trunk of its own is trained beside the policy."""
    return method.critic and not config.critic.share_trunk


def _sampling(config: Config, method: Algorithm) -> str:
    if method.source != "rollouts":
        return "no sampling: the rows are a dataset's"
    text = f"sampling: each prompt is read once for its {config.batch.group_size} completions"
    if method.active_filters():
        text += (
            f", for up to {config.batch.refill_limit} times as many prompts as a batch holds, since groups that the "
            "filter refuses are replaced; how many is not known before"
        )
    return f"{text}; the sampler has a copy of the policy, loaded and proven after every step"


def _old_pass(method: Algorithm) -> str:
    if method.reads_before("old_logprobs"):
        return f"one pass for old log-probs, read by {_readers(method, 'old_logprobs')}"
    if not method.reads_within("old_logprobs"):
        return "no pass for old log-probs: the objective has no ratio" if method.source == "rollouts" else ""
    if scores_old(method):
        return f"one pass for old log-probs, since {method.steps_per_batch()} optimizer steps use a batch"
    return "no pass for old log-probs: one optimizer step a batch, so old is current"


def _reference_pass(config: Config, method: Algorithm) -> str:
    if method.model == "reward":
        return "no pass of the starting model: a reward model has no reference"
    every = config.records.kl_every
    if method.needs("ref_logprobs"):
        moved = f"; it becomes {method.reference_mix:g} of the policy and the rest of itself every "
        moves = f"{moved}{method.reference_every} batches" if method.reference_every else ""
        if method.reads_within("ref_logprobs"):
            return f"one pass of the starting model, which a term of the loss compares with{moves}"
        return f"one pass of the starting model, read by {_readers(method, 'ref_logprobs')}{moves}"
    because = "kl_coef is 0" if any(term.name == "kl" for term in method.terms) else f"{method.name} has no KL term"
    if not every:
        return f"no pass of the starting model, and no copy of it: {because} and records.kl_every is 0"
    return (
        f"no pass of the starting model for the loss ({because}), but one every {every} steps for the metric "
        "train/kl_to_start; records.kl_every = 0 saves it and a copy of the model"
    )


def _readers(method: Algorithm, column: str) -> str:
    """The derived columns and moving options that read a column."""
    steps = [(step.column, step.call) for step in method.active_derived()]
    steps += [(carry.option, carry.call) for carry in method.active_carries()]
    return " and ".join(dict.fromkeys(name for name, call in steps if _reads(call, column)))


def _reads(call: Call, column: str) -> bool:
    return column in map(base_column, columns_of(call.function))


def _statistic_passes(method: Algorithm) -> list[str]:
    """A statistic is of the policy as it is when a minibatch begins, so that there is a pass for each."""
    found = []
    for statistic in method.statistics:
        of = "the policy"
        rows = "each minibatch"
        if statistic.mismatched:
            rows = "each minibatch with every prompt before the next row's completion"
            of += " and one of the starting model" if method.needs("ref_logprobs") else ""
        found.append(f"one pass of {of} over {rows}, for {statistic.column}")
    return found


def _evaluation(config: Config, method: Algorithm) -> str:
    settings = config.evaluate
    if not settings.every:
        return "no held-out evaluation: evaluate.every is 0"
    when = f"at the start, every {settings.every} steps and at the end"
    if method.model == "reward":
        held_out = {"pairs": "both completions of at most {} held-out pairs", "steps": "at most {} held-out solutions"}
        return f"evaluation: {held_out[method.source].format(settings.problems)} are scored, {when}"
    sampled = f" and {settings.samples} sampled answers" if settings.samples else ""
    return (
        f"evaluation: one greedy{sampled or ' answer'} to each of at most {settings.problems} held-out problems, {when}"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
