"""From a config to a session: the only place that picks implementations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.algorithms import Algorithm
from upweight.allocator import keep_freed_memory
from upweight.ceilings import Ceilings, run_ceilings, shape_of
from upweight.chat import check_template, stop_ids
from upweight.config import Config
from upweight.encode import Encoder
from upweight.errors import UserError
from upweight.evaluate import Evaluator, PairEvaluator, StepEvaluator
from upweight.floors import Floors
from upweight.learners.gloo import GlooLearner
from upweight.learners.local import LocalLearner
from upweight.learners.port import Learner
from upweight.memory import forget_peak
from upweight.models.forward import context_length
from upweight.models.load import device_of, load_model
from upweight.models.networks import Network, PolicyNetwork, RewardNetwork, make_critic
from upweight.models.reward import load_reward_model, reward_model_from
from upweight.models.trunk import Layout
from upweight.passes import own_critic
from upweight.probes import decided, frozen_choices
from upweight.records.run_dir import open_run
from upweight.rewards.make import LoadModel, make_rewards
from upweight.rewards.model import load_model_reward
from upweight.rewards.process_model import load_process_reward
from upweight.rollouts import RolloutMaker
from upweight.run import Run
from upweight.samplers.native import NativeSampler
from upweight.samplers.port import Sampler
from upweight.sizes import ModelSize, size_of
from upweight.sources import DatasetSource, MixedSource, RolloutSource, Source
from upweight.tasks.data import Need, TaskData
from upweight.tasks.load import load_data
from upweight.tasks.order import DrawOrder
from upweight.train import Session
from upweight.turns import make_turns
from upweight.types import SamplingParams
from upweight.update import Updater


def build_session(config: Config, resume: bool = False) -> Session:
    """Everything that the config names, checked; the run's folder is entered last, when nothing can go wrong before it.

    Raises UserError for whatever of the config cannot be had.
    """
    quiet_libraries()
    keep_freed_memory()
    forget_peak()
    config = frozen_choices(config, resume)
    method = config.algorithm.resolve()
    data, beside = load_all(config, method)
    model, tokenizer = load_model(config.model, texts_of([*data, *beside]), config.seed)
    config = decided(config, model, tokenizer)
    encoder = make_encoder(config, model, tokenizer)
    maker = make_maker(config, model, tokenizer, encoder) if config.rewards.parts else None
    source = make_source(config, method, data, encoder, maker)
    if beside and method.streams():
        pretrain = make_dataset(config, "demonstrations", beside, encoder, config.batch.pretrain_rows)
        source = MixedSource(source, {"pretrain": pretrain})
    evaluator: Evaluator | PairEvaluator | StepEvaluator | None = None
    if config.evaluate.every and method.model == "reward":
        evaluator = make_judge_evaluator(config, method, data, encoder)
    elif config.evaluate.every:
        evaluator = make_evaluator(config, data, encoder, maker)
    folder = open_run(config, resume)
    size = size_of(model)
    shape = shape_of(size, min(config.batch.prompts * config.batch.group_size, config.sampling.max_rows))
    learner = make_learner(config, method, model, tokenizer)
    updater = Updater(learner, method, skip_inert=config.learner.skip_inert)
    ceilings = run_ceilings(folder.ceilings_path, shape, device_of(config.model), computed_in(config))
    floors = floors_of(config, method, size, ceilings)
    run = Run(config, folder, learner, {"source": source, "updater": updater}, floors)
    return Session(config, source, learner, updater, evaluator, run)


def floors_of(config: Config, method: Algorithm, size: ModelSize, ceilings: Ceilings) -> Floors:
    """What the speeds of a run are compared with; its "auto" are decided."""
    dtype = computed_in(config)
    return Floors(
        ceilings,
        replace(size, bytes_per_number=getattr(torch, dtype).itemsize),
        sampler_dtype=dtype,
        learner_dtype=dtype,
        critic=own_critic(config, method),
        scorer=method.model == "reward",
    )


def computed_in(config: Config) -> str:
    """The type of matrix products by its name; `compute.dtype` is decided."""
    return config.model.dtype if config.compute.dtype == "float32" else config.compute.dtype


def need_of(method: Algorithm) -> Need:
    """Which rows of the data a method learns from."""
    return "problems" if method.source == "rollouts" else method.source


def load_all(config: Config, method: Algorithm) -> tuple[Sequence[TaskData], Sequence[TaskData]]:
    """The data that the method learns from, and that of the stream `pretrain`, if there is one."""
    data = load_data(config.data, config.seed, need_of(method))
    beside = load_data(config.pretrain, config.seed, "demonstrations") if config.pretrain else ()
    return data, beside


def texts_of(data: Sequence[TaskData]) -> Iterator[str]:
    """The text of every message and completion: what a from-scratch tokenizer must be able to write."""
    for task in data:
        for messages in task.conversations():
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
    own = in_compute_dtype(copy.deepcopy(model), config)
    sampler = make_sampler(own, tokenizer, encoder.stop_ids, sampling.max_rows)
    params = SamplingParams(sampling.temperature, sampling.max_completion_tokens, sampling.stop)
    return maker_of(config, sampler, encoder, params)


def maker_of(config: Config, sampler: Sampler, encoder: Encoder, params: SamplingParams) -> RolloutMaker:
    """A sampler with the rewards and tools of a config, reward models loaded."""
    tokenizer, failing = encoder.tokenizer, config.rewards
    models: dict[str, LoadModel] = {
        "reward_model": partial(load_model_reward, policy_tokenizer=tokenizer),
        "process_reward_model": partial(load_process_reward, policy_tokenizer=tokenizer),
    }
    rewards = make_rewards(config.rewards, models)
    turns = make_turns(config.turns, config.rewards, tokenizer, encoder.stop_ids, encoder.context)
    if turns is not None:
        params = replace(params, stop=(*params.stop, *turns.stop))
    return RolloutMaker(sampler, tokenizer, rewards, params, failing.on_failure, failing.max_failed_share, turns)


def make_sampler(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: frozenset[int], max_rows: int = 512
) -> Sampler:
    """The sampler that owns `model` from now on."""
    return NativeSampler(model.requires_grad_(False), tokenizer, stops, max_rows)


def make_source(
    config: Config, method: Algorithm, data: Sequence[TaskData], encoder: Encoder, maker: RolloutMaker | None
) -> Source:
    """The dataset's rows, or rollouts for its problems."""
    need = need_of(method)
    if need != "problems":
        return make_dataset(config, need, data, encoder, config.batch.rows)
    weights = [task.weight for task in data]
    assert maker is not None  # the config insists on rewards where a method needs them
    prompts = [encoder.prompts(task.problems, task.name) for task in data]
    return RolloutSource(
        datasets=prompts,
        order=DrawOrder([len(p) for p in prompts], weights, config.seed),
        maker=maker,
        prompts_per_step=config.batch.prompts,
        group_size=config.batch.group_size,
        seed=config.seed,
        filters=[step.call for step in method.active_filters()],
        refill_limit=config.batch.refill_limit,
        shuffled=config.rewards.shuffled,
    )


def make_dataset(
    config: Config, need: Need, data: Sequence[TaskData], encoder: Encoder, units_per_step: int
) -> DatasetSource:
    """The encoded demonstrations, pairs, labelled rows or judged steps of every task."""
    encode = {
        "demonstrations": lambda task: encoder.demonstrations(task.demonstrations, task.name),
        "pairs": lambda task: encoder.pairs(task.pairs, task.name),
        "labels": lambda task: encoder.labels(task.labels, task.name),
        "steps": lambda task: encoder.steps(task.steps, task.name),
    }[need]
    units = [encode(task) for task in data]
    order = DrawOrder([len(u) for u in units], [task.weight for task in data], config.seed)
    return DatasetSource(units, order, units_per_step)


def make_judge_evaluator(
    config: Config, method: Algorithm, data: Sequence[TaskData], encoder: Encoder
) -> PairEvaluator | StepEvaluator:
    """The evaluator of a reward model on what is held out of its kind of data. Raises UserError where there is none."""
    most = config.evaluate.problems
    pairs = [pair for task in data for pair in task.heldout_pairs][:most]
    judged = [solution for task in data for solution in task.heldout_steps][:most]
    if not pairs and not judged:
        raise UserError(
            f"evaluate.every is set but no {method.source} are held out: set data.heldout or evaluate.every=0"
        )
    if judged:
        return StepEvaluator(encoder.steps(judged, "held-out"))
    return PairEvaluator(encoder.pairs(pairs, "held-out"))


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
    """Held-out accuracy of the model that a config names, by its data, rewards and `[evaluate]`; trains nothing.

    Of a reward model, how many held-out pairs it ranks, or steps it calls, as they were marked.
    """
    quiet_libraries()
    method = config.algorithm.resolve()
    if method.model == "reward":
        return _measure_reward_model(config, method)
    data = load_data(config.data, config.seed, "problems")
    model, tokenizer = load_model(config.model, texts_of(data), config.seed)
    config = decided(config, model, tokenizer)
    encoder = make_encoder(config, model, tokenizer)
    evaluator = make_evaluator(config, data, encoder, make_maker(config, model, tokenizer, encoder))
    return evaluator.measure()


def _measure_reward_model(config: Config, method: Algorithm) -> dict[str, float]:
    model, tokenizer = load_reward_model(str(config.model.path), device=device_of(config.model))
    encoder = Encoder(tokenizer, stop_ids(tokenizer, None), context_length(model), config.data.on_bad_row)
    evaluator = make_judge_evaluator(config, method, load_data(config.data, config.seed, need_of(method)), encoder)
    return evaluator(LocalLearner(RewardNetwork(model, tokenizer), (), limits=config.learner), version=0)


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
    data, beside = load_all(config, method)
    model, tokenizer = load_model(config.model, texts_of([*data, *beside]), config.seed)
    return local_learner(config, method, model, tokenizer)


def local_learner(
    config: Config, method: Algorithm, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LocalLearner:
    """The learner of one process; the starting model is kept when a term or a metric will ask for it."""
    network = make_network(config, method, model, tokenizer)
    reference = None
    if method.needs("ref_logprobs") or (config.records.kl_every > 0 and method.model == "policy"):
        start = copy.deepcopy(model).requires_grad_(False)
        reference = PolicyNetwork(start, tokenizer, temperature=_temperature(config, method), layout=_layout(config))
    own = config.critic.model_dump(include={"lr", "schedule"}, exclude_none=True)
    critic = config.optimizer.model_copy(update=own)
    return LocalLearner(
        network,
        method.active_terms(),
        reference=reference,
        reference_moves=method.reference_every > 0,
        total_steps=config.steps * method.steps_per_batch(),
        optimizers={"policy": config.optimizer, "critic": critic},
        limits=config.learner,
    )


def make_network(
    config: Config, method: Algorithm, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Network:
    """What is trained: the policy, with a critic where the method has one, or a reward model made of it."""
    if method.model == "reward":
        return RewardNetwork(*reward_model_from(model, tokenizer, config.seed), layout=_layout(config))
    critic = make_critic(model, config.critic.share_trunk) if method.critic else None
    temperature = _temperature(config, method)
    return PolicyNetwork(model, tokenizer, critic=critic, temperature=temperature, layout=_layout(config))


def _temperature(config: Config, method: Algorithm) -> float:
    return config.sampling.temperature if method.source == "rollouts" else 1.0


def in_compute_dtype(model: PreTrainedModel, config: Config) -> PreTrainedModel:
    """The model itself, its weights in the type that is computed in, as a sampler has them."""
    moved: Any = model.to(dtype=compute_dtype(config) or model.dtype)  # type: ignore[call-arg]
    return moved


def compute_dtype(config: Config) -> torch.dtype | None:
    """What matrix products are made in, where that is not the type of the weights."""
    return torch.bfloat16 if config.compute.dtype == "bfloat16" else None


def _layout(config: Config) -> Layout:
    learner = config.learner
    return Layout(learner.layout, learner.pad_multiple, compute_dtype(config), learner.gradient_checkpointing)


def quiet_libraries() -> None:
    """Leaves progress and warnings to upweight: a library's bars and hints would bury them."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
