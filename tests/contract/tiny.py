"""Tiny models and batches that the contract tests share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from upweight.algorithms import Algorithm, choices_of
from upweight.batches import join
from upweight.config import InitConfig, LearnerConfig, ModelConfig, OptimizerConfig
from upweight.learners.local import LocalLearner
from upweight.models.forward import head_inputs
from upweight.models.head import token_logprobs
from upweight.models.load import load_model
from upweight.models.networks import Network, PolicyNetwork, RewardNetwork, make_critic
from upweight.models.reward import reward_model_from
from upweight.models.trunk import Layout, Trunk
from upweight.presets import PRESETS
from upweight.types import Annotated, Batch, annotated
from upweight.update import Part, with_old_logprobs

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
TEMPERATURE = 0.7
BUDGET = 24


def tiny_model(
    architecture: str, dtype: str = "float32", seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of 2 layers whose weights are large enough that its distributions are far from uniform."""
    init = InitConfig(architecture=architecture, width=32, layers=2, heads=4, kv_heads=2, mlp_width=64, context=96)
    model, tokenizer = load_model(ModelConfig(init=init, dtype=dtype), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    if dtype == "float64":
        wide_norms(model)
    return model, tokenizer


def reward_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The reward model that `model` becomes, its norms as wide as the model's."""
    made, own = reward_model_from(model, tokenizer)
    if made.dtype == torch.float64:
        wide_norms(made)
    return made, own


class WideNorm(nn.Module):
    """The norm of the Llama family in the type of its input."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)


def wide_norms(model: PreTrainedModel) -> None:
    """Lets the norms compute in float64: transformers rounds them to float32 whatever the model's type.

    What is compared is then rounding alone, at 1e-10 rather than at 1e-7.
    """
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.__class__ = WideNorm


def score_rows(
    model: PreTrainedModel,
    prompt_ids: Sequence[Tensor],
    token_ids: Sequence[Tensor],
    temperature: float,
    pad_multiple: int = 1,
    kind: str = "padded",
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probs and entropies of each row's completion tokens, both with gradient, ragged: [T_i] each."""
    hidden = Trunk(model, Layout(kind, pad_multiple))(prompt_ids, token_ids, "predicting")
    logprobs, entropy = token_logprobs(*head_inputs(model, hidden, token_ids), temperature)
    lengths = [len(tokens) for tokens in token_ids]
    return list(logprobs.split(lengths)), list(entropy.split(lengths))


def network(method: Algorithm, dtype: str = "float64", share_trunk: bool = False, **options: Any) -> Network:
    """What the method trains; a critic whose values are far from zero."""
    model, tokenizer = tiny_model("llama", dtype)
    layout = Layout(**options)
    if method.model == "reward":
        return RewardNetwork(*reward_model(model, tokenizer), layout=layout)
    critic = make_critic(model, share_trunk) if method.critic else None
    if critic is not None:
        with torch.no_grad():
            critic.head.weight.normal_(generator=torch.Generator().manual_seed(2))
    return PolicyNetwork(model, tokenizer, critic=critic, temperature=TEMPERATURE, layout=layout)


@cache
def reference(dtype: str = "float64") -> PolicyNetwork:
    """Another model than the policy."""
    model, tokenizer = tiny_model("llama", dtype, seed=1)
    return PolicyNetwork(model.requires_grad_(False), tokenizer, temperature=TEMPERATURE)


def learner(
    method: Algorithm,
    dtype: str = "float64",
    pad_multiple: int = 1,
    kind: str = "shared",
    tokens_per_microbatch: int = 10**6,
    share_trunk: bool = False,
    lr: float = 1e-3,
) -> LocalLearner:
    """A learner whose reference differs from its policy and which never clips its gradient."""
    optimizer = OptimizerConfig(lr=lr, max_grad_norm=1e9)
    return LocalLearner(
        network(method, dtype, share_trunk, pad_multiple=pad_multiple, kind=kind),
        method.active_terms(),
        reference=reference(dtype) if method.reference_every == 0 else own_reference(dtype),
        reference_moves=method.reference_every > 0,
        total_steps=10,
        optimizers={"policy": optimizer, "critic": optimizer},
        limits=LearnerConfig(tokens_per_microbatch=tokens_per_microbatch),
    )


def own_reference(dtype: str) -> PolicyNetwork:
    """A reference that nobody else holds, since it will move."""
    return reference.__wrapped__(dtype)


def batch(rows: int = 8, group_size: int = 4, seed: int = 0, source: str = "rollouts") -> Batch:
    """Rows of very different lengths with holes in the loss mask, and whatever columns such a source brings.

    Rollouts come in groups with rewards of many values, of which half is earned by steps and which have two parts; of
    pairs each two rows are a unit; of judged solutions every trained token ends a step.
    """
    draw = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    size = {"pairs": 2, "rollouts": group_size}.get(source, 1)
    prompts = [torch.randint(5, 90, (integer(1, 12),), generator=draw) for _ in range(rows // size)]
    lengths = [integer(1, 20) for _ in range(rows)]
    masks = [torch.rand(length, generator=draw) < 0.9 for length in lengths]
    for mask in masks:
        mask[-1] = True  # the last token is sampled, never a tool's
    places = torch.arange(rows)
    columns = {
        "rollouts": {
            "rewards": torch.rand(rows, generator=draw, dtype=torch.float64) * 2 - 0.5,
            "correct": places % 3 == 0,
            "truncated": places % 4 == 3,
            "token_budget": torch.full((rows,), BUDGET),
        },
        "pairs": {"chosen": places % 2 == 0, "margin": (places // 2).double() / 4},
        "labels": {"label": places % 3 > 0},
        "steps": {},
        "demonstrations": {},
    }[source]
    behavior = [-3 * torch.rand(length, generator=draw, dtype=torch.float64) for length in lengths]
    if source == "rollouts":  # what fills a hole was said by a tool: nobody sampled it
        behavior = [row.masked_fill(~mask, torch.nan) for row, mask in zip(behavior, masks, strict=True)]
    tokens = {"rollouts": {"behavior_logprobs": behavior}, "steps": {"step_labels": [-row / 3 for row in behavior]}}
    if source == "rollouts":
        ends = [mask & (torch.rand(len(mask), generator=draw) < 0.4) for mask in masks]
        earned = [torch.rand(len(end), generator=draw, dtype=torch.float64) * end for end in ends]
        for end in ends:
            end[-1] = True  # where the outcome is rewarded
        tokens["rollouts"] |= {"step_rewards": earned, "step_ends": [end.double() for end in ends]}
        weights = {"part_weight/one": 1.0, "part_weight/other": -0.5}
        columns |= {"step_total": columns["rewards"] / 2, "part/one": columns["rewards"], "part/other": places % 5 / 4}
        columns |= {name: torch.full((rows,), weight, dtype=torch.float64) for name, weight in weights.items()}
    return Batch(
        ids=[f"row{i}" for i in range(rows)],
        prompt_ids=[prompts[i // size] for i in range(rows)],
        token_ids=[torch.randint(5, 90, (length,), generator=draw) for length in lengths],
        loss_mask=masks,
        group_ids=places // size,
        unit_ids=places // 2 if source == "pairs" else places,
        streams=["main"] * rows,
        token_columns=tokens.get(source, {}),
        row_columns=columns,
    )


def batch_for(method: Algorithm, rows: int = 8, seed: int = 0) -> Batch:
    """A batch of the kind that the method learns from, with rows of every extra stream."""
    main = batch(rows, seed=seed, source=method.source)
    for stream in method.streams():
        main = join(main, batch(3, seed=seed + 1, source="demonstrations"), stream)
    return main


def every_term(name: str) -> Algorithm:
    """A preset with each of its optional terms switched on."""
    preset = PRESETS[name]
    return preset.with_options({option: 0.3 for option in preset.options() if option.endswith("_coef")})


# What turns an option on whose default is off, or changes one that matters to how a step is divided.
TURNED_ON = {
    "overlong_share": 0.6,
    "missing_eos_penalty": 0.5,
    "kl_target": 6.0,
    "dual_clip": 1.5,
    "delta": 1.3,
    "reference_every": 1,
    "label_smoothing": 0.1,
    "centring": 0.1,
    "gamma": 0.9,
    "constant_length": 7,
}


def variants(name: str) -> Iterator[Algorithm]:
    """A preset with every term, and one option of it after the other turned on or given another of its choices."""
    base = every_term(name)
    yield base
    choices = {"reduction": ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "constant_length")}
    choices["reduction"] += ("group_token_mean",)
    for call in base.calls():
        choices |= choices_of(call.function)
    for option, value in base.options().items():
        others = (not value,) if isinstance(value, bool) else choices.get(option, (TURNED_ON.get(option, value),))
        for other in others:
            if other != value:
                length = {"constant_length": 7} if other == "constant_length" else {}
                yield base.with_options({option: other, **length})


def shown(method: Algorithm) -> str:
    """A method by its name and what differs from its preset with every term."""
    base = every_term(method.name).options()
    return f"{method.name} { ({k: v for k, v in method.options().items() if base[k] != v and v != inf}) }"


def with_old(learner: Any, method: Algorithm, rows: Annotated) -> Annotated:
    """The rows with old log-probs of all of them, where a later step of the method would read them."""
    every = list(range(len(rows)))
    return with_old_logprobs(learner, method, rows, [Part(1, every, every, {})])


def off_policy(rows: Annotated, seed: int = 3) -> Annotated:
    """Old log-probs and values that are some way from the current ones, so that some are clipped and some are not."""
    draw = torch.Generator().manual_seed(seed)
    moved = {
        name: [x + 0.3 * torch.randn(x.shape, generator=draw, dtype=x.dtype) for x in rows.token_columns[name]]
        for name in ("old_logprobs", "old_values")
        if name in rows.token_columns
    }
    return annotated(rows, moved)


def gradient(learner: Any) -> torch.Tensor:
    """The whole gradient, of critic too, as one vector."""
    local = getattr(learner, "local", learner)
    parameters = [p for group in local.network.parameters().values() for p in group]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def factory(method: Algorithm, **options: Any) -> Any:
    """A picklable maker of the learner of a method, for hosts that build it in every process."""
    return partial(learner, method, **options)
