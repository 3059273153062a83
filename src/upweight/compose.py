"""From a config to a session: the only place that picks implementations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.algorithms import Algorithm
from upweight.chat import check_template, stop_ids
from upweight.config import Config
from upweight.encode import Encoder
from upweight.errors import UserError
from upweight.evaluate import Evaluator
from upweight.learners.gloo import GlooLearner
from upweight.learners.local import LocalLearner
from upweight.learners.port import Learner
from upweight.models.forward import context_length
from upweight.models.load import load_model
from upweight.records.run_dir import open_run
from upweight.rewards.score import make_rewards
from upweight.rollouts import RolloutMaker
from upweight.run import Run
from upweight.samplers.native import NativeSampler
from upweight.samplers.port import Sampler
from upweight.sources import DatasetSource, RolloutSource, Source
from upweight.tasks.data import Need, TaskData
from upweight.tasks.load import load_data
from upweight.tasks.order import DrawOrder
from upweight.train import Session
from upweight.types import SamplingParams


def build_session(config: Config, resume: bool = False) -> Session:
    """Everything that the config names, checked; the run's folder is entered last, when nothing can go wrong before it.

    Raises UserError for whatever of the config cannot be had.
    """
    quiet_libraries()
    if config.threads:
        torch.set_num_threads(config.threads)
    method = config.algorithm.resolve()
    data = load_data(config.data, config.seed, need_of(method))
    model, tokenizer = load_model(config.model, texts_of(data), config.seed)
    encoder = make_encoder(config, model, tokenizer)
    maker = make_maker(config, model, tokenizer, encoder) if config.rewards.parts else None
    source = make_source(config, method, data, encoder, maker)
    evaluator = make_evaluator(config, data, encoder, maker) if config.evaluate.every else None
    folder = open_run(config, resume)
    learner = make_learner(config, method, model, tokenizer)
    return Session(config, method, source, learner, evaluator, Run(config, folder, learner))


def need_of(method: Algorithm) -> Need:
    """Which rows of the data a method learns from."""
    return "demonstrations" if method.source == "dataset" else "problems"


def texts_of(data: Sequence[TaskData]) -> Iterator[str]:
    """The text of every message: what a from-scratch tokenizer must be able to write."""
    for task in data:
        rows = chain(task.problems, task.heldout)
        for messages in chain((row.messages for row in rows), (row.messages for row in task.demonstrations)):
            yield from (message["content"] for message in messages)


def make_encoder(config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of a model whose stop token and chat template were found to be sound."""
    stops = stop_ids(tokenizer, model.generation_config.eos_token_id)
    check_template(tokenizer, stops)
    return Encoder(tokenizer, stops, context_length(model), config.data.on_bad_row)


def make_maker(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
) -> RolloutMaker:
    """Sampler and rewards. The sampler has a copy of the model, so that a sync is a real one."""
    sampling = config.sampling
    sampler = make_sampler(copy.deepcopy(model), tokenizer, encoder.stop_ids, sampling.max_rows)
    params = SamplingParams(sampling.temperature, sampling.max_completion_tokens, sampling.stop)
    return RolloutMaker(sampler, tokenizer, make_rewards(config.rewards), params, config.rewards.on_failure)


def make_sampler(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: frozenset[int], max_rows: int = 512
) -> Sampler:
    """The sampler that owns `model` from now on."""
    return NativeSampler(model.requires_grad_(False), tokenizer, stops, max_rows)


def make_source(
    config: Config, method: Algorithm, data: Sequence[TaskData], encoder: Encoder, maker: RolloutMaker | None
) -> Source:
    """The dataset's rows, or rollouts for its problems."""
    weights = [task.weight for task in data]
    if method.source == "dataset":
        rows = [encoder.demonstrations(task.demonstrations, task.name) for task in data]
        return DatasetSource(rows, DrawOrder([len(r) for r in rows], weights, config.seed), config.batch.rows)
    assert maker is not None  # the config insists on rewards where a method needs them
    prompts = [encoder.prompts(task.problems, task.name) for task in data]
    return RolloutSource(
        datasets=prompts,
        order=DrawOrder([len(p) for p in prompts], weights, config.seed),
        maker=maker,
        prompts_per_step=config.batch.prompts,
        group_size=config.batch.group_size,
        seed=config.seed,
        shuffled=config.rewards.shuffled,
    )


def make_evaluator(config: Config, data: Sequence[TaskData], encoder: Encoder, maker: RolloutMaker | None) -> Evaluator:
    """The evaluator on the first held-out problems of every task. Raises UserError where there are none."""
    if maker is None:
        raise UserError('evaluation needs to know what is right: add for example [rewards.parts] correct = "number"')
    heldout = [problem for task in data for problem in task.heldout[: config.evaluate.problems]]
    if not heldout:
        raise UserError(
            "evaluate.every is set but the data has no held-out problems: set data.heldout or evaluate.every=0"
        )
    prompts = encoder.prompts(heldout[: config.evaluate.problems], "held-out")
    return Evaluator(prompts, maker, config.evaluate, config.seed)


def measure_model(config: Config) -> dict[str, float]:
    """Held-out accuracy of the model that a config names, by its data, rewards and `[evaluate]`; trains nothing."""
    quiet_libraries()
    if config.threads:
        torch.set_num_threads(config.threads)
    data = load_data(config.data, config.seed, "problems")
    model, tokenizer = load_model(config.model, texts_of(data), config.seed)
    encoder = make_encoder(config, model, tokenizer)
    evaluator = make_evaluator(config, data, encoder, make_maker(config, model, tokenizer, encoder))
    return evaluator.measure()


def make_learner(
    config: Config, method: Algorithm, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Learner:
    """One process, or several that share the rows of each step."""
    if config.learner.ranks == 1:
        return local_learner(config, method, model, tokenizer)
    return GlooLearner(partial(learner_from_config, config), config.learner.ranks)


def learner_from_config(config: Config) -> LocalLearner:
    """The same learner in every process: a config is all that a rank needs."""
    quiet_libraries()
    method = config.algorithm.resolve()
    data = load_data(config.data, config.seed, need_of(method))
    model, tokenizer = load_model(config.model, texts_of(data), config.seed)
    return local_learner(config, method, model, tokenizer)


def local_learner(
    config: Config, method: Algorithm, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LocalLearner:
    """The learner of one process; the starting model is kept when a term or a metric will ask for it."""
    reference = method.needs("ref_logprobs") or config.records.kl_every > 0
    return LocalLearner(
        model,
        tokenizer,
        method.active_terms(),
        reference=copy.deepcopy(model).requires_grad_(False) if reference else None,
        temperature=config.sampling.temperature if method.source == "rollouts" else 1.0,
        total_steps=config.steps * method.steps_per_batch(),
        optimizer=config.optimizer,
        limits=config.learner,
    )


def quiet_libraries() -> None:
    """Leaves progress and warnings to upweight: a library's bars and hints would bury them."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
