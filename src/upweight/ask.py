"""A finished model is asked: held-out accuracy with pass@k, or answers to a prompt. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upweight.chat import check_template, encode_prompt, stop_ids
from upweight.compose import make_encoder, make_evaluator, make_maker, make_sampler, quiet_libraries, texts_of
from upweight.config import Config, ModelConfig
from upweight.configfile import apply_overrides, make_config, read_toml
from upweight.errors import UserError, nearest
from upweight.evaluate import Evaluator, pass_at_k, sampled_metrics
from upweight.memory import forget_peak, peak_memory
from upweight.models.forward import context_length
from upweight.models.load import load_model
from upweight.tasks.load import TASKS, load_data
from upweight.types import Request, SampleKey, SamplingParams

# How answers are judged when nobody says otherwise.
TASK_REWARDS: dict[str, Mapping[str, Any]] = {
    "arithmetic": {"function": "number", "options": {"tag": "answer"}},
    "countdown": {"function": "countdown"},
    "gsm8k": {"function": "number"},
    "reasoning_gym": {"function": "gym"},
    "rows": {"function": "number"},
}
_EVALUATE = ("temperature", "top_p", "top_k")  # keys of [evaluate] that a caller may set


@dataclass(frozen=True)
class Sample:
    """One answer: its text without special tokens, how it ended ("stop" or "length"), its length in tokens."""

    text: str
    finish_reason: str
    tokens: int


def evaluate(
    model: str | Path,
    task: str | None = None,
    *options: str,
    config: str | Path | None = None,
    reward: str | None = None,
    k: int = 0,
    problems: int = 256,
    **sampling: Any,
) -> dict[str, Any]:
    """Held-out accuracy of a model: greedy and, with `k`, mean@k and pass@1 .. pass@k from k sampled answers.

    What it is asked comes from `task`, a task's name or a file of rows (then all of its rows), with `key=value`
    options; or from the data and rewards of a run's config; with neither, from the run whose folder the model lies
    in. `reward` is `function` or `name=function`. `sampling` may have temperature, top_p, top_k,
    max_completion_tokens and seed.
    Raises UserError when nothing says what to ask, or it cannot be had.
    """
    quiet_libraries()
    forget_peak()
    tables = question_tables(str(model), task, options, config, reward)
    settings = _evaluation_config(tables, sampling, problems)
    evaluator = _evaluator(settings, every_row=task is not None and task not in TASKS)
    found = {"model": str(model), "problems": len(evaluator.prompts), "samples": k, **evaluator.measure()}
    if k:
        found |= sampled_accuracy(evaluator.correct_counts(k), k)
    return {key.removeprefix("eval/"): value for key, value in found.items()} | peak_memory()


def sampled_accuracy(correct: Sequence[int], k: int) -> dict[str, float]:
    """mean@k with its interval, and pass@1 .. pass@k, from how many of k answers to each problem are correct."""
    rates = {f"pass@{j}": sum(pass_at_k(k, count, j) for count in correct) / len(correct) for j in range(1, k + 1)}
    return sampled_metrics(correct, k) | rates


def question_tables(
    model: str, task: str | None, options: Sequence[str], config: str | Path | None, reward: str | None
) -> dict[str, Any]:
    """The tables of a config that asks a model what the caller wants; see `evaluate`."""
    if task is not None and config is not None:
        raise UserError("give either --task or --config, not both: each says what to ask")
    tables = _run_tables(model, options, config) if task is None else _task_tables(task, options)
    if reward is not None:
        name, _, function = reward.rpartition("=")
        tables["rewards"] = {"parts": {name or "correct": {"function": function}}}
    return {**tables, "steps": 1, "algorithm": "reinforce", "model": {"path": model}}


def _run_tables(model: str, options: Sequence[str], config: str | Path | None) -> dict[str, Any]:
    """What a run's config says about questions and answers; a file of rows is then looked for from the same folder."""
    path = Path(config) if config is not None else _config_of_run(model)
    asked = read_toml(path)
    kept = ("data", "rewards", "turns", "sampling", "seed", "threads")
    return apply_overrides({key: asked[key] for key in kept if key in asked}, options)


def _config_of_run(model: str) -> Path:
    """The config of the run that the model lies in: runs/NAME/final, or runs/NAME/checkpoints/step-N/policy."""
    for folder in list(Path(model).resolve().parents)[:3]:
        if (folder / "config.toml").is_file():
            return folder / "config.toml"
    raise UserError(f"{model} is not inside a run, so say what to ask it: --task arithmetic, or --config FILE")


def _task_tables(task: str, options: Sequence[str]) -> dict[str, Any]:
    if task not in TASKS and not Path(task).suffix and "/" not in task:
        raise UserError(f"unknown task {task!r}{nearest(task, TASKS)}; rows of your own are a path such as rows.jsonl")
    named: dict[str, Any] = {"task": task} if task in TASKS else {"task": "rows", "path": task}
    data = apply_overrides(named, options)
    part = dict(TASK_REWARDS[named["task"]])
    if data.get("tags") is False:
        del part["options"]
    return {"data": data, "rewards": {"parts": {"correct": part}}}


def _evaluation_config(tables: Mapping[str, Any], chosen: Mapping[str, Any], problems: int) -> Config:
    given = {key: value for key, value in chosen.items() if value is not None}
    unknown = set(given) - {*_EVALUATE, "max_completion_tokens", "seed"}
    if unknown:
        raise TypeError(f"evaluate() has no argument {min(unknown)!r}")
    budget = {key: given[key] for key in ("max_completion_tokens",) if key in given}
    own = {key: given[key] for key in _EVALUATE if key in given}
    return make_config(
        {
            **tables,
            "seed": given.get("seed", tables.get("seed", 0)),
            "sampling": {**tables.get("sampling", {}), **budget},
            "evaluate": {"every": 1, "problems": problems, **own},
        },
        "evaluation",
    )


def _evaluator(config: Config, every_row: bool) -> Evaluator:
    """The evaluator of the config's model, on held-out problems or, for a file named for this, on all its rows."""
    data = load_data(config.data, config.seed, "problems")
    if every_row:
        data = tuple(replace(task, heldout=task.problems) for task in data)
    model, tokenizer = load_model(config.model, texts_of(data), config.seed)
    encoder = make_encoder(config, model, tokenizer)
    return make_evaluator(config, data, encoder, make_maker(config, model, tokenizer, encoder))


def sample(model: str | Path, prompt: str, n: int = 1, **options: Any) -> list[str]:
    """`n` answers to a user's message, as text; options as in `sample_completions`."""
    return [answer.text for answer in sample_completions(model, prompt, n, **options)]


def sample_completions(
    model: str | Path,
    prompt: str,
    n: int = 1,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_completion_tokens: int = 256,
    seed: int = 0,
) -> list[Sample]:
    """`n` answers to a user's message, in the model's chat template; temperature 0 is greedy.

    Raises UserError when there is no such model, or the prompt leaves no room for an answer.
    """
    quiet_libraries()
    policy, tokenizer = load_model(ModelConfig(path=str(model)))
    stops = stop_ids(tokenizer, policy.generation_config.eos_token_id)
    check_template(tokenizer, stops)
    ids, room = encode_prompt(tokenizer, [{"role": "user", "content": prompt}]), context_length(policy)
    if not 0 < len(ids) < room:
        raise UserError(
            f"the prompt has {len(ids)} tokens, and the model's context of {room} must hold it and an answer"
        )
    params = SamplingParams(temperature, max_completion_tokens, (), top_p, top_k)
    requests = [Request(ids, SampleKey(seed, 0, 0, index), params) for index in range(n)]
    answers = sorted(make_sampler(policy, tokenizer, stops).sample(requests), key=lambda answer: answer.key)
    texts = [str(tokenizer.decode(list(answer.token_ids), skip_special_tokens=True)) for answer in answers]
    return [Sample(text, a.finish_reason, len(a.token_ids)) for text, a in zip(texts, answers, strict=True)]
