"""What a run will do, in numbers and in words, before anything runs: no weights are loaded and nothing is sampled.

A config holds choices only; what follows from them is here: how many completions, rows, tokens and optimizer steps,
which passes are made and why others are not, and roughly how much memory and time it takes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from upweight.algorithms import Algorithm
from upweight.compose import computed_in, floors_of
from upweight.config import Config, ModelConfig
from upweight.errors import UserError
from upweight.estimate import (
    DataLook,
    assumed,
    decode_seconds,
    in_words,
    look_at_data,
    model_size,
    optimizer_seconds,
    pass_seconds,
    plan_ceilings,
)
from upweight.floors import Floors
from upweight.footprint import Load, memory_parts
from upweight.passes import keeps_reference, own_critic, passes, scores_old
from upweight.records.progress import duration
from upweight.sizes import ModelSize

UNITS = {
    "rollouts": "prompt",
    "demonstrations": "demonstration",
    "pairs": "pair",
    "labels": "labelled completion",
    "steps": "judged solution",
}
ROWS_OF_UNIT = {"pairs": 2}


@dataclass(frozen=True)
class BatchPlan:
    """Batch arithmetic. `rows` are the completions, or rows of the dataset, of one batch; a step uses one batch.

    A `unit` is a prompt with its group, or a demonstration, a labelled completion, or a pair, which is two rows.
    `tokens` are those of the rows with their prompts: at most where completions are sampled, about where they are data;
    `different_tokens` count a prompt once for the rows that share it. `beside_rows` are demonstrations of other
    streams, and `beside_tokens` theirs.
    """

    steps: int
    unit: str
    units: int
    prompts: int | None
    group_size: int | None
    rows: int
    beside_rows: int
    beside_tokens: int
    prompt_tokens: float
    completion_tokens: float
    tokens: int
    different_tokens: int
    optimizer_steps_per_batch: int
    rows_per_optimizer_step: int
    microbatches: int
    optimizer_steps: int
    total_rows: int
    data_units: int | None
    epochs: float | None


@dataclass(frozen=True)
class Plan:
    """All of it. `memory_bytes` and `seconds` are rough, by part, and empty when `unknown` says why they are."""

    name: str
    algorithm: str
    batch: BatchPlan
    passes: tuple[str, ...]
    model: ModelSize | None = None
    memory_bytes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    machine: str = ""
    unknown: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able tables."""
        return asdict(self)


def make_plan(config: Config, model: ModelConfig | None = None) -> Plan:
    """The plan of a run. `model` is looked at instead of the config's, which may not exist yet (a later stage's).

    Raises UserError for local data that cannot be read; a model that cannot be looked at only leaves the estimates
    out.
    """
    method = config.algorithm.resolve()
    start = model or config.model
    look = look_at_data(config.data, "problems" if method.source == "rollouts" else method.source, start, config.seed)
    beside = look_at_data(config.pretrain, "demonstrations", start, config.seed) if config.pretrain else None
    batch = batch_plan(config, method, look, beside if method.streams() else None)
    plan = Plan(config.name, method.name, batch, passes(config, method))
    try:
        size = model_size(start, (*look.texts, *(beside.texts if beside else ())))
    except UserError as error:
        return replace(plan, unknown=str(error))
    ceilings = plan_ceilings(config, size, _rows_at_once(config, method, batch))
    config = assumed(config, ceilings)
    load, floors = _load(config, method, batch, size), floors_of(config, method, size, ceilings)
    return replace(
        plan,
        model=size,
        memory_bytes=memory_parts(size, load),
        seconds=_seconds(config, method, batch, floors),
        machine=in_words(floors.ceilings, floors.learner_dtype),
    )


def batch_plan(config: Config, method: Algorithm, look: DataLook, beside: DataLook | None = None) -> BatchPlan:
    """The arithmetic of a batch, of the optimizer steps made with it, and of the whole run.

    `beside` is the data of another stream, which adds rows to every batch.
    """
    sampled = method.source == "rollouts"
    units = config.batch.prompts if sampled else config.batch.rows
    a_unit = config.batch.group_size if sampled else ROWS_OF_UNIT.get(method.source, 1)
    rows = units * a_unit
    completion = config.sampling.max_completion_tokens if sampled else look.completion_tokens
    tokens = math.ceil(rows * (look.prompt_tokens + completion))
    more = config.batch.pretrain_rows if beside else 0
    more_tokens = math.ceil(more * (beside.prompt_tokens + beside.completion_tokens)) if beside else 0
    in_step = math.ceil(units / method.minibatches) * a_unit
    return BatchPlan(
        steps=config.steps,
        unit=UNITS[method.source],
        units=units,
        prompts=units if sampled else None,
        group_size=config.batch.group_size if sampled else None,
        rows=rows,
        beside_rows=more,
        beside_tokens=more_tokens,
        prompt_tokens=look.prompt_tokens,
        completion_tokens=completion,
        tokens=tokens,
        different_tokens=math.ceil(units * look.prompt_tokens + rows * completion),
        optimizer_steps_per_batch=method.steps_per_batch(),
        rows_per_optimizer_step=in_step,
        microbatches=math.ceil((tokens + more_tokens) * in_step / rows / config.learner.tokens_per_microbatch),
        optimizer_steps=config.steps * method.steps_per_batch(),
        total_rows=config.steps * rows,
        data_units=look.units,
        epochs=config.steps * units / look.units if look.units else None,
    )


def _eval_answers(config: Config, method: Algorithm) -> int:
    if not config.evaluate.every or method.model == "reward":
        return 0
    return config.evaluate.problems * (1 + config.evaluate.samples)


def _rows_at_once(config: Config, method: Algorithm, batch: BatchPlan) -> int:
    """The most completions that are decoded together."""
    answers = _eval_answers(config, method)
    widest = max(batch.rows if batch.group_size else 0, answers - config.evaluate.problems if answers else 0)
    return min(config.sampling.max_rows, max(widest, config.evaluate.problems if answers else 0))


def _load(config: Config, method: Algorithm, batch: BatchPlan, size: ModelSize) -> Load:
    longest = math.ceil(batch.prompt_tokens) + config.sampling.max_completion_tokens
    share = batch.rows_per_optimizer_step / batch.rows
    shared = size.shareable and config.learner.layout in ("auto", "shared")
    in_step = (batch.different_tokens if shared else batch.tokens) + batch.beside_tokens
    tokens = min(config.learner.tokens_per_microbatch, math.ceil(in_step * share))
    return Load(
        ranks=config.learner.ranks,
        reference=keeps_reference(config, method),
        critic=own_critic(config, method),
        scorer=method.model == "reward",
        sampler=bool(config.rewards.parts),
        rows_at_once=_rows_at_once(config, method, batch),
        sequence_tokens=min(longest, size.context or longest),
        microbatch_tokens=tokens,
        scored_tokens=math.ceil(min(tokens, batch.rows_per_optimizer_step * batch.completion_tokens)),
        shared=shared,
        checkpointing=config.learner.gradient_checkpointing,
        compute_bytes=getattr(torch, computed_in(config)).itemsize,
    )


def _seconds(config: Config, method: Algorithm, batch: BatchPlan, floors: Floors) -> dict[str, float]:
    """Seconds of the whole run by phase, from the floors and what is reached of them.

    What a filter makes the sampler draw again is not in it, since nobody knows how much that is.
    """
    per_epoch = batch.microbatches * method.minibatches
    longest, at_once = config.sampling.max_completion_tokens, config.sampling.max_rows
    tokens, read = batch.different_tokens, batch.units * batch.prompt_tokens

    def scored(name: str) -> float:
        return batch.steps * pass_seconds(floors, name, tokens, per_epoch)

    trained = pass_seconds(floors, "forward_backward", tokens + batch.beside_tokens, per_epoch)
    moved = optimizer_seconds(floors, method.minibatches)
    found = {"training": batch.steps * method.inner_epochs * (trained + moved)}
    if method.source == "rollouts":
        refused = ", without what the filter refuses" if method.active_filters() else ""
        prefill = pass_seconds(floors, "prefill", read, math.ceil(batch.rows / at_once))
        decode = decode_seconds(floors, batch.rows, at_once, batch.prompt_tokens, longest)
        found[f"sampling{refused}"] = batch.steps * (prefill + decode)
    if scores_old(method):
        found["old log-probs"] = scored("old_pass")
    if method.critic:
        found["the critic's values"] = scored("critic_pass")
    every = 1 if method.needs("ref_logprobs") else config.records.kl_every
    if every and keeps_reference(config, method):
        found["starting model's log-probs"] = math.ceil(batch.steps / every) * scored("ref_pass") / batch.steps
    for statistic in method.statistics:
        models = 1 + (statistic.mismatched and method.needs("ref_logprobs"))
        found[statistic.column] = method.inner_epochs * models * scored("old_pass")
    answers = _eval_answers(config, method)
    if answers:
        measured = pass_seconds(floors, "prefill", config.evaluate.problems * batch.prompt_tokens, 1)
        measured += decode_seconds(floors, answers, at_once, batch.prompt_tokens, longest)
        found["evaluation"] = (1 + math.ceil(batch.steps / config.evaluate.every)) * measured
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
        f"time, roughly ({plan.machine}; completions as long as they may get): {duration(sum(plan.seconds.values()))}"
    )
    return lines + [f"  {duration(spent)} {name}" for name, spent in _largest_first(plan.seconds)]


def _describe_batch(batch: BatchPlan) -> list[str]:
    prompt = f"{batch.prompt_tokens:,.0f} tokens a prompt, {'guessed from the text' if batch.data_units else 'assumed'}"
    if batch.group_size:
        sampled = math.ceil(batch.rows * batch.completion_tokens)
        lines = [
            f"each step: {_count(batch.prompts or 0, 'prompt')} x {batch.group_size} completions = {batch.rows:,} "
            f"completions, at most {sampled:,} sampled tokens ({batch.tokens:,} with about {prompt})"
        ]
    else:
        counted = f"{_count(batch.units, batch.unit)} = " if batch.units < batch.rows else ""
        lines = [f"each step: {counted}{batch.rows:,} rows of the dataset, about {batch.tokens:,} tokens"]
    if batch.beside_rows:
        lines.append(f"beside them: {batch.beside_rows:,} rows of [pretrain], about {batch.beside_tokens:,} tokens")
    what = "completions" if batch.group_size else "rows"
    lines.append(
        f"each batch: {_count(batch.optimizer_steps_per_batch, 'optimizer step')} on {batch.rows_per_optimizer_step:,} "
        f"{what}{' each' if batch.optimizer_steps_per_batch > 1 else ''}, in about "
        f"{_count(batch.microbatches, 'micro-batch', 'micro-batches')}"
    )
    total = f"in all: {_count(batch.optimizer_steps, 'optimizer step')}, {batch.total_rows:,} {what}"
    if batch.epochs is None:
        return [*lines, f"{total}; the size of the data is unknown until it is fetched"]
    of = "problems" if batch.group_size else f"{batch.unit}s"
    return [*lines, f"{total}, {batch.epochs:.2f} epochs over {batch.data_units:,} {of}"]


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
