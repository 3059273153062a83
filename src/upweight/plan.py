"""What a run will do, in numbers and in words, before anything runs: no weights are loaded and nothing is sampled.

A config holds choices only; what follows from them is here: how many completions, rows, tokens and optimizer steps,
which passes are made and why others are not, and roughly how much memory and time it takes.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from upweight.algorithms import Algorithm
from upweight.config import Config, ModelConfig
from upweight.errors import UserError
from upweight.estimate import (
    DataLook,
    Load,
    ModelSize,
    look_at_data,
    memory_parts,
    model_size,
    nominal_flops,
    pass_seconds,
)
from upweight.records.progress import duration


@dataclass(frozen=True)
class BatchPlan:
    """Batch arithmetic. `rows` are the completions, or rows of the dataset, of one batch; a step uses one batch.

    `tokens` are those of a batch with its prompts: at most where completions are sampled, about where they are data.
    """

    steps: int
    prompts: int | None
    group_size: int | None
    rows: int
    prompt_tokens: float
    completion_tokens: float
    tokens: int
    optimizer_steps_per_batch: int
    rows_per_optimizer_step: int
    microbatches: int
    optimizer_steps: int
    total_rows: int
    data_rows: int | None
    epochs: float | None


@dataclass(frozen=True)
class Plan:
    """All of it. `memory_bytes` and `seconds` are rough, by part, and empty when `unknown` says why they are."""

    name: str
    algorithm: str
    batch: BatchPlan
    passes: tuple[str, ...]
    model: ModelSize | None
    memory_bytes: dict[str, int]
    seconds: dict[str, float]
    machine: str
    unknown: str

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able tables."""
        return asdict(self)


def make_plan(config: Config, model: ModelConfig | None = None) -> Plan:
    """The plan of a run. `model` is looked at instead of the config's, which may not exist yet (a later stage's).

    Raises UserError for local data that cannot be read; a model that cannot be looked at only leaves the estimates
    out.
    """
    method = config.algorithm.resolve()
    look = look_at_data(config, method, model or config.model)
    batch = batch_plan(config, method, look)
    flops, machine = nominal_flops(config.model, config.threads or os.cpu_count() or 1)
    size, unknown = None, ""
    try:
        size = model_size(model or config.model, look.texts)
    except UserError as error:
        unknown = str(error)
    return Plan(
        name=config.name,
        algorithm=method.name,
        batch=batch,
        passes=passes(config, method),
        model=size,
        memory_bytes=memory_parts(size, _load(config, method, batch, size)) if size else {},
        seconds=_seconds(config, method, batch, size, flops) if size else {},
        machine=machine,
        unknown=unknown,
    )


def batch_plan(config: Config, method: Algorithm, look: DataLook) -> BatchPlan:
    """The arithmetic of a batch, of the optimizer steps made with it, and of the whole run."""
    sampled = method.source == "rollouts"
    units = config.batch.prompts if sampled else config.batch.rows
    rows = units * config.batch.group_size if sampled else units
    completion = config.sampling.max_completion_tokens if sampled else look.completion_tokens
    row_tokens = look.prompt_tokens + completion
    in_step = math.ceil(units / method.minibatches) * (rows // units)
    drawn = config.steps * units
    return BatchPlan(
        steps=config.steps,
        prompts=units if sampled else None,
        group_size=config.batch.group_size if sampled else None,
        rows=rows,
        prompt_tokens=look.prompt_tokens,
        completion_tokens=completion,
        tokens=math.ceil(rows * row_tokens),
        optimizer_steps_per_batch=method.steps_per_batch(),
        rows_per_optimizer_step=in_step,
        microbatches=math.ceil(in_step * row_tokens / config.learner.tokens_per_microbatch),
        optimizer_steps=config.steps * method.steps_per_batch(),
        total_rows=config.steps * rows,
        data_rows=look.rows,
        epochs=drawn / look.rows if look.rows else None,
    )


def passes(config: Config, method: Algorithm) -> tuple[str, ...]:
    """What is computed for each batch, and why other things are not."""
    steps = method.steps_per_batch()
    if method.source == "rollouts":
        yes = f"sampling: each prompt is read once for its {config.batch.group_size} completions"
        sampling = f"{yes}; the sampler has a copy of the policy, loaded and proven after every step"
    else:
        sampling = "no sampling: the rows are a dataset's"
    if not method.needs("old_logprobs"):
        old = "no pass for old log-probs: the objective has no ratio"
    elif steps > 1:
        old = f"one pass for old log-probs, since {steps} optimizer steps use a batch"
    else:
        old = "no pass for old log-probs: one optimizer step a batch, so old is current"
    training = f"training: one forward and one backward pass over every row, {_times(method.inner_epochs)} a batch"
    found = (sampling, old, _reference_pass(config, method), training, _evaluation(config))
    return tuple(line for line in found if line)


def _reference_pass(config: Config, method: Algorithm) -> str:
    every = config.records.kl_every
    if method.needs("ref_logprobs"):
        return "one pass of the starting model, which a term of the loss compares with"
    because = "kl_coef is 0" if any(term.name == "kl" for term in method.terms) else f"{method.name} has no KL term"
    if not every:
        return f"no pass of the starting model, and no copy of it: {because} and records.kl_every is 0"
    return (
        f"no pass of the starting model for the loss ({because}), but one every {every} steps for the metric "
        "train/kl_to_start; records.kl_every = 0 saves it and a copy of the model"
    )


def _evaluation(config: Config) -> str:
    settings = config.evaluate
    if not settings.every:
        return "no held-out evaluation: evaluate.every is 0"
    sampled = f" and {settings.samples} sampled answers" if settings.samples else ""
    return (
        f"evaluation: one greedy{sampled or ' answer'} to each of at most {settings.problems} held-out problems, "
        f"at the start, every {settings.every} steps and at the end"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _eval_answers(config: Config) -> int:
    return config.evaluate.problems * (1 + config.evaluate.samples) if config.evaluate.every else 0


def _load(config: Config, method: Algorithm, batch: BatchPlan, size: ModelSize) -> Load:
    sampled = batch.rows if method.source == "rollouts" else 0
    widest = max(sampled, config.evaluate.problems * max(1, config.evaluate.samples) if config.evaluate.every else 0)
    longest = math.ceil(batch.prompt_tokens) + config.sampling.max_completion_tokens
    row_tokens = batch.prompt_tokens + batch.completion_tokens
    tokens = min(config.learner.tokens_per_microbatch, math.ceil(batch.rows_per_optimizer_step * row_tokens))
    return Load(
        ranks=config.learner.ranks,
        reference=method.needs("ref_logprobs") or config.records.kl_every > 0,
        sampler=bool(config.rewards.parts),
        rows_at_once=min(config.sampling.max_rows, widest),
        sequence_tokens=min(longest, size.context or longest),
        microbatch_tokens=tokens,
        scored_tokens=math.ceil(tokens * batch.completion_tokens / row_tokens),
    )


def _seconds(config: Config, method: Algorithm, batch: BatchPlan, size: ModelSize, flops: float) -> dict[str, float]:
    """Seconds of the whole run by phase: 2 flops a parameter and token read or sampled, 6 when trained on."""
    seconds = pass_seconds(size, flops)
    longest, most = config.sampling.max_completion_tokens, config.sampling.max_rows
    per_epoch = batch.microbatches * method.minibatches
    scored = seconds(2 * batch.tokens, per_epoch)
    found = {"training": batch.steps * method.inner_epochs * seconds(6 * batch.tokens, 3 * per_epoch)}
    if method.source == "rollouts":
        prefill = (batch.prompts or 0) * batch.prompt_tokens
        sampled = seconds(2 * (prefill + batch.rows * longest), longest * math.ceil(batch.rows / most))
        found["sampling"] = batch.steps * sampled
    if method.needs("old_logprobs") and method.steps_per_batch() > 1:
        found["old log-probs"] = batch.steps * scored
    every = 1 if method.needs("ref_logprobs") else config.records.kl_every
    if every:
        found["starting model's log-probs"] = math.ceil(batch.steps / every) * scored
    if config.evaluate.every:
        answers = _eval_answers(config)
        once = seconds(2 * answers * longest, longest * (1 + math.ceil(answers / most)))
        found["evaluation"] = (1 + math.ceil(batch.steps / config.evaluate.every)) * once
    return found


def describe(plan: Plan) -> list[str]:
    """The plan in words, one fact a line."""
    lines = [f"{plan.name}: {plan.algorithm}, {_count(plan.batch.steps, 'step')}", *_describe_batch(plan.batch)]
    lines += [f"  {line}" for line in plan.passes]
    if plan.model is None:
        return [*lines, f"memory and time are unknown, since the model could not be looked at: {plan.unknown}"]
    size = plan.model
    context = f", context {size.context:,}" if size.context else ""
    lines.append(
        f"model: {_short(size.parameters)} parameters in {size.layers} layers of width {size.width}, vocabulary "
        f"{size.vocabulary:,}{context}"
    )
    lines.append(f"memory, a rough estimate: {_gib(sum(plan.memory_bytes.values()))}")
    lines += [f"  {_gib(count)} {name}" for name, count in _largest_first(plan.memory_bytes)]
    lines.append(
        f"time, rough and nominal ({plan.machine}; completions as long as they may get): "
        f"{duration(sum(plan.seconds.values()))}"
    )
    return lines + [f"  {duration(spent)} {name}" for name, spent in _largest_first(plan.seconds)]


def _describe_batch(batch: BatchPlan) -> list[str]:
    prompt = f"{batch.prompt_tokens:,.0f} tokens a prompt, {'guessed from the text' if batch.data_rows else 'assumed'}"
    if batch.group_size:
        sampled = math.ceil(batch.rows * batch.completion_tokens)
        lines = [
            f"each step: {_count(batch.prompts or 0, 'prompt')} x {batch.group_size} completions = {batch.rows:,} "
            f"completions, at most {sampled:,} sampled tokens ({batch.tokens:,} with about {prompt})"
        ]
    else:
        lines = [f"each step: {batch.rows:,} rows of the dataset, about {batch.tokens:,} tokens"]
    what = "completions" if batch.group_size else "rows"
    lines.append(
        f"each batch: {_count(batch.optimizer_steps_per_batch, 'optimizer step')} on {batch.rows_per_optimizer_step:,} "
        f"{what}{' each' if batch.optimizer_steps_per_batch > 1 else ''}, in about "
        f"{_count(batch.microbatches, 'micro-batch', 'micro-batches')}"
    )
    total = f"in all: {_count(batch.optimizer_steps, 'optimizer step')}, {batch.total_rows:,} {what}"
    if batch.epochs is None:
        return [*lines, f"{total}; the size of the data is unknown until it is fetched"]
    of = "problems" if batch.group_size else "demonstrations"
    return [*lines, f"{total}, {batch.epochs:.2f} epochs over {batch.data_rows:,} {of}"]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _short(number: int) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _largest_first(parts: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(parts.items(), key=lambda part: -part[1])
