"""How large a model and its data are, and roughly what a run will need: memory by part, seconds by phase.

No weights are loaded and nothing is fetched but a model's config: a model is looked at on torch's meta device, where
tensors have shapes but no numbers. The estimates are for orientation; each formula is written out where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from upweight.config import DataConfig, ModelConfig
from upweight.errors import UserError
from upweight.models.build import build_config, build_tokenizer
from upweight.models.head import CHUNK_BYTES
from upweight.tasks.data import Need
from upweight.tasks.files import is_local
from upweight.tasks.load import load_data
from upweight.types import Demonstration, LabelledCompletion, PreferencePair, Problem

Unit = Problem | Demonstration | PreferencePair | LabelledCompletion

LIBRARIES_BYTES = 600 * 2**20  # Python, torch and transformers before the first tensor of ours
CORE_FLOPS = 25e9  # nominal float32 rate of one core in large matrix products
GPU_FLOPS = {2: 100e12, 4: 20e12, 8: 5e12}  # nominal rate of a large GPU, by bytes of a number
SECONDS_PER_LAYER = 3e-4  # nominal cost of calling one layer, however little it computes
ADAM_MOMENTS = 2
ASSUMED_PROMPT_TOKENS = 128  # where the data is not at hand
ASSUMED_ROW_TOKENS = 512
CHARACTERS_PER_TOKEN = 3.5  # of a subword tokenizer, on plain text
LOOKED_AT = 256  # rows whose length is looked at


@dataclass(frozen=True)
class DataLook:
    """What is known of the data without a connection. `units` is None when it would have to be fetched.

    A unit is a problem, a demonstration, a labelled completion, or a pair, which is two rows. Token counts are means a
    row, guessed from characters; `completion_tokens` is 0 where completions are sampled.
    """

    units: int | None
    prompt_tokens: float
    completion_tokens: float
    texts: tuple[str, ...]


@dataclass(frozen=True)
class ModelSize:
    """What the estimates need to know of a model. `kv_width` is kv heads times head size.

    `trunk_parameters` are those without an output head of its own: what a critic or a reward model is made of.
    """

    parameters: int
    trunk_parameters: int
    layers: int
    width: int
    kv_width: int
    mlp_width: int
    vocabulary: int
    context: int | None
    bytes_per_number: int


@dataclass(frozen=True)
class Load:
    """What a run asks of its model; tokens are at most or on average, as the plan has found them.

    `rows_at_once` are decoded together, each `sequence_tokens` long at the end. `microbatch_tokens` share a forward
    pass, of which `scored_tokens` go through the output head. `critic` is one with a trunk of its own; a `scorer` is a
    reward model, which has no output head.
    """

    ranks: int
    reference: bool
    critic: bool
    scorer: bool
    sampler: bool
    rows_at_once: int
    sequence_tokens: int
    microbatch_tokens: int
    scored_tokens: int


def look_at_data(data: DataConfig, need: Need, model: ModelConfig, seed: int) -> DataLook:
    """Counts and lengths of data that is generated or lies in files; nothing is fetched.

    Raises UserError for local data that is missing or cannot be read.
    """
    if not all(_is_at_hand(task) for task in data.mixture):
        return DataLook(None, ASSUMED_PROMPT_TOKENS, 0 if need == "problems" else ASSUMED_ROW_TOKENS, ())
    tasks = load_data(data, seed, need)
    units = [unit for task in tasks for unit in getattr(task, need)]
    looked = [row for unit in units[:: max(1, len(units) // LOOKED_AT)] for row in _rows(unit)]
    asked = sum(_tokens(text, model) for prompt, _ in looked for text in prompt) / len(looked)
    # A completion that is learned from ends with a stop token.
    answers = [1 + _tokens(answer, model) for _, answer in looked if answer is not None]
    texts = tuple(message["content"] for task in tasks for messages in task.conversations() for message in messages)
    return DataLook(len(units), asked, sum(answers) / len(looked), texts)


def _rows(unit: Unit) -> list[tuple[list[str], str | None]]:
    """The prompt's texts and the answer of each row of a unit; a problem has no answer yet."""
    texts = [message["content"] for message in unit.messages]
    if isinstance(unit, Demonstration):
        return [(texts[:-1], texts[-1])]  # the last turn is the answer to imitate
    if isinstance(unit, PreferencePair):
        return [(texts, unit.chosen), (texts, unit.rejected)]
    return [(texts, unit.completion if isinstance(unit, LabelledCompletion) else None)]


def _is_at_hand(task: object) -> bool:
    paths = [getattr(task, name, None) for name in ("path", "heldout_path")]
    return all(Path(path).expanduser().exists() or is_local(path) for path in paths if path is not None)


def _tokens(text: str, model: ModelConfig) -> float:
    """A guess: exact for a character tokenizer, which has one token for each of its `tokens` too."""
    if model.init is None or model.init.tokenizer != "char":
        return len(text) / CHARACTERS_PER_TOKEN
    return len(text) - sum(text.count(token) * (len(token) - 1) for token in model.init.tokens)


def model_size(model: ModelConfig, texts: Iterable[str] = ()) -> ModelSize:
    """The size of the model that a config names, without its weights. `texts` decide a character vocabulary.

    Raises UserError when there is no such model, or no connection to ask for it.
    """
    config = _init_config(model, texts) if model.init is not None else _read_config(model)
    text = config.get_text_config()
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    heads = text.num_attention_heads
    head = shell.get_output_embeddings()
    own_head = head is not None and head.weight is not shell.get_input_embeddings().weight
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    parameters = sum(parameter.numel() for parameter in shell.parameters())
    return ModelSize(
        parameters=parameters,
        trunk_parameters=parameters - (sum(p.numel() for p in head.parameters()) if own_head else 0),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        mlp_width=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
        bytes_per_number=getattr(torch, model.dtype).itemsize,
    )


def _init_config(model: ModelConfig, texts: Iterable[str]) -> Any:
    init = model.init
    assert init is not None
    # Training a bpe takes time and ends at the size that was asked for, unless the texts are few.
    vocabulary = len(build_tokenizer(init, texts)) if init.tokenizer == "char" else init.vocabulary_size
    return build_config(init, vocabulary, pad_id=0, eos_id=1)


def _read_config(model: ModelConfig) -> Any:
    path = str(model.path)
    if path.count("/") > 1 and not Path(path).is_dir():
        raise UserError(f"model.path: there is no folder {path!r}, or not yet")
    try:
        return AutoConfig.from_pretrained(path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model.path: cannot look at {path!r}: {reason}") from None


def memory_parts(size: ModelSize, load: Load) -> dict[str, int]:
    """Bytes by part, all ranks together, when each is at its largest; they do not all peak at once."""
    whole, trunk = (count * size.bytes_per_number for count in (size.parameters, size.trunk_parameters))
    model = trunk if load.scorer else whole
    networks = 2 if load.critic else 1
    parts = {
        "policy": load.ranks * model,
        "gradient": load.ranks * model,
        "AdamW moments": load.ranks * ADAM_MOMENTS * model,
        "critic, its gradient and AdamW moments": load.ranks * (2 + ADAM_MOMENTS) * trunk * load.critic,
        "reference": load.ranks * whole * load.reference,
        "activations of one micro-batch": load.ranks * networks * load.microbatch_tokens * activation_bytes(size),
        "log-prob head": load.ranks * head_bytes(size, load.scored_tokens) * (not load.scorer),
        "Python and libraries": load.ranks * LIBRARIES_BYTES,
    }
    if load.sampler:
        parts["sampler's copy of the policy"] = whole
        parts["KV cache"] = load.rows_at_once * load.sequence_tokens * kv_bytes(size)
        # Logits and log-probs in float32, probabilities and their running sum in float64.
        parts["sampler's next-token distributions"] = load.rows_at_once * size.vocabulary * (4 + 4 + 8 + 8)
    return {name: count for name, count in parts.items() if count}


def activation_bytes(size: ModelSize) -> int:
    """Bytes that a layer stack keeps for the backward pass of one token.

    A layer keeps its two normalised inputs and their sources, queries, the attention's output and two residuals (8
    widths), keys and values, and about four vectors of the MLP.
    """
    return size.layers * (8 * size.width + 2 * size.kv_width + 4 * size.mlp_width) * size.bytes_per_number


def head_bytes(size: ModelSize, tokens: int) -> int:
    """The log-prob head's chunk: logits, probabilities and their gradient, never more than three chunks."""
    return 3 * min(CHUNK_BYTES, tokens * size.vocabulary * max(4, size.bytes_per_number))


def kv_bytes(size: ModelSize) -> int:
    """Bytes of keys and values of one token in all layers."""
    return 2 * size.layers * size.kv_width * size.bytes_per_number


def nominal_flops(model: ModelConfig, cores: int) -> tuple[float, str]:
    """Flops a second where the model will live, and the same in words. Float64 runs at half the rate on a CPU."""
    size = getattr(torch, model.dtype).itemsize
    if model.device == "cpu" or (model.device == "auto" and not torch.cuda.is_available()):
        rate = CORE_FLOPS * (0.5 if size == 8 else 1.0)
        return cores * rate, f"{rate / 1e9:g} GFLOP/s on each of {cores} CPU {'core' if cores == 1 else 'cores'}"
    return GPU_FLOPS[size], f"{GPU_FLOPS[size] / 1e12:g} TFLOP/s of a GPU"


def pass_seconds(size: ModelSize, flops: float) -> Callable[[float, float], float]:
    """A function (flops per parameter, forward passes) -> seconds at a rate in flops a second.

    Large models are bound by arithmetic, flops / rate; tiny ones by the calls, layers * a nominal cost.
    """

    def seconds(flops_per_parameter: float, passes: float) -> float:
        return flops_per_parameter * size.parameters / flops + passes * size.layers * SECONDS_PER_LAYER

    return seconds
