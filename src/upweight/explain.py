"""The loss that a config will minimise, written out with its numbers: every column that it is made of, then the sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil

from upweight.algorithms import Algorithm
from upweight.config import Config, DataConfig
from upweight.formulas import formula, loss_lines, symbol_lines, value_text
from upweight.passes import passes


def explain(config: Config) -> str:
    """The objective of a run in text: its tokens, its columns in order, the loss of one optimizer step, the passes.

    What is switched off is left out. A formula is the first line of a function's docstring, options by their values.
    """
    method = config.algorithm.resolve()
    length = 0
    if any(term.reduction == "constant_length" for term in method.active_terms()):
        length = method.constant_length or config.sampling.max_completion_tokens
    before = [*_rewards(config, method), *_columns(method)]
    loss, after = loss_lines(method, length), list(_after(method))
    sections = (
        ("", [f"{config.name}: {method.name}, {method.title}"]),
        ("tokens", _tokens(config, method)),
        ("columns of a batch, one after the other", before),
        ("statistics of a minibatch, before its first backward pass", list(_statistics(method))),
        ("the loss of one optimizer step", loss),
        ("after each batch", after),
        ("where", symbol_lines([*before, *_statistics(method), *loss, *after])),
        ("optimizer steps", [_steps(config, method)]),
        ("passes", passes(config, method)),
    )
    return "\n\n".join(_section(title, lines) for title, lines in sections if lines)


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)] if title else lines)


def _tokens(config: Config, method: Algorithm) -> list[str]:
    batch, sampling = config.batch, config.sampling
    lines = {
        "demonstrations": f"the assistant's, in {batch.rows} demonstrations a batch from {_names(config.data)}",
        "pairs": f"the chosen and the rejected completions of {batch.rows} pairs a batch from {_names(config.data)}",
        "labels": f"{batch.rows} completions a batch from {_names(config.data)}, each marked good or bad",
        "steps": f"the ends of steps, each judged, in {batch.rows} solutions a batch from {_names(config.data)}",
        "rollouts": (
            f"{batch.group_size} completions for each of {batch.prompts} prompts a batch from {_names(config.data)}, "
            f"sampled by the current policy at temperature {value_text(sampling.temperature)}, at most "
            f"{sampling.max_completion_tokens} tokens each"
        ),
    }
    found = [lines[method.source]]
    if config.turns.tool is not None and method.source == "rollouts":
        replies = config.turns.limit - 1
        found.append(f"answered by {config.turns.tool} up to {replies} times, in words that are not trained")
    for step in method.active_filters():
        most = f"from at most {batch.refill_limit * batch.prompts} prompts a batch"
        found.append(f"kept are groups with {formula(step.call)}; others are replaced, {most}")
    for stream in method.streams():
        source = _names(config.pretrain) if config.pretrain else "nowhere"
        found.append(f"beside them, as the stream {stream}: {batch.pretrain_rows} demonstrations from {source}")
    return found


def _names(data: DataConfig) -> str:
    return " and ".join(getattr(task, "path", task.task) for task in data.mixture)


def _rewards(config: Config, method: Algorithm) -> Iterator[str]:
    if method.source != "rollouts":
        return
    parts = config.rewards.parts.items()
    total = " + ".join(f"{value_text(part.weight)} * {name}" for name, part in parts)
    named = ", ".join(f"{name} = {part.function}" for name, part in parts if part.function != name)
    yield f"rewards = {total}{', ' if named else ''}{named}"
    yield from (f"{name} = 0 where {part.needs} < 1" for name, part in parts if part.needs is not None)
    if config.rewards.shuffled:
        yield "rewards = rewards, permuted among all completions of the batch"


def _columns(method: Algorithm) -> Iterator[str]:
    yield from (f"{step.column} = {formula(step.call)}" for step in method.active_derived())


def _statistics(method: Algorithm) -> Iterator[str]:
    for statistic in method.statistics:
        rows = ", every prompt with the next row's completion" if statistic.mismatched else ""
        yield f"{statistic.column} = {formula(statistic.call)}{rows}"


def _after(method: Algorithm) -> Iterator[str]:
    for carry in method.active_carries():
        start = value_text(method.options()[carry.option])
        yield f"{carry.option} = {formula(carry.call)}, where value is the one it had, {start} at first"
    if method.reference_every and method.needs("ref_logprobs"):
        mix, rest = value_text(method.reference_mix), value_text(round(1 - method.reference_mix, 10))
        yield f"reference = {mix} * policy + {rest} * reference, after every {method.reference_every}th batch"


def _steps(config: Config, method: Algorithm) -> str:
    unit = {"rollouts": "groups", "pairs": "pairs"}.get(method.source, "rows")
    units = config.batch.prompts if method.source == "rollouts" else config.batch.rows
    each = ceil(units / method.minibatches)
    if method.steps_per_batch() == 1:
        return f"one a batch, on all of its {units} {unit}"
    whole = f"all of its {units} {unit}"
    cut = f"{method.minibatches} minibatches of at most {each} {unit}" if method.minibatches > 1 else whole
    over = f"{method.inner_epochs} times over " if method.inner_epochs > 1 else ""
    return f"{method.steps_per_batch()} a batch: {over}{cut}"
