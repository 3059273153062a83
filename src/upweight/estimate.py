"""How large a model and its data are, and how many seconds a run will roughly take, by phase.

No weights are loaded and nothing is fetched but a model's config: a model is looked at on torch's meta device, where
tensors have shapes but no numbers. Only the machine's rates are measured, once (see `ceilings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from upweight.ceilings import Ceilings, Machine, Shape, cached_ceilings, shape_of
from upweight.config import Config, DataConfig, ModelConfig
from upweight.errors import UserError
from upweight.floors import Floors
from upweight.models.build import build_config, build_tokenizer
from upweight.models.load import device_of, load_tokenizer
from upweight.phases import DecodeStep
from upweight.sizes import ModelSize, size_of
from upweight.tasks.data import Need
from upweight.tasks.files import is_local
from upweight.tasks.load import load_data
from upweight.types import Demonstration, JudgedSteps, LabelledCompletion, PreferencePair, Problem

Unit = Problem | Demonstration | PreferencePair | LabelledCompletion | JudgedSteps

# What runs reach of their floors, by phase, beside what the calls cost: docs/benchmarks.md, workload B at medium.
ACHIEVED = {
    "prefill": 0.5, "decode": 0.25, "old_pass": 0.45, "ref_pass": 0.45, "critic_pass": 0.45, "forward_backward": 0.45,
    "optimizer": 0.3
}  # fmt: skip
SECONDS_PER_LAYER = 1e-4  # cost of calling one layer, however little it computes
BACKWARD_CALLS = 3  # a forward pass with its backward one, in calls of a forward pass
BFLOAT16_PAYS = 2.0  # from this ratio of the rates of large products on; the small ones between them gain nothing
GPU_FLOPS = {"bfloat16": 100e12, "float32": 20e12, "float64": 5e12}  # nominal rates of a large GPU
GPU_BANDWIDTH = 2e12
ASSUMED_PROMPT_TOKENS = 128  # where the data is not at hand
ASSUMED_ROW_TOKENS = 512
CHARACTERS_PER_TOKEN = 3.5  # of a subword tokenizer, on plain text
LOOKED_AT = 256  # rows whose length is looked at


@dataclass(frozen=True)
class DataLook:
    """What is known of the data without a connection. `units` is None when it would have to be fetched.

    A unit is a problem, a demonstration, a labelled completion, or a pair, which is two rows. Token counts are means a
    row, guessed from characters where no tokenizer is at hand; `completion_tokens` is 0 where completions are sampled.
    """

    units: int | None
    prompt_tokens: float
    completion_tokens: float
    texts: tuple[str, ...]


def look_at_data(data: DataConfig, need: Need, model: ModelConfig, seed: int) -> DataLook:
    """Counts and lengths of data that is generated or lies in files; nothing is fetched.

    Raises UserError for local data that is missing or cannot be read.
    """
    if not all(_is_at_hand(task) for task in data.mixture):
        return DataLook(None, ASSUMED_PROMPT_TOKENS, 0 if need == "problems" else ASSUMED_ROW_TOKENS, ())
    tasks = load_data(data, seed, need)
    units = [unit for task in tasks for unit in getattr(task, need)]
    looked = [row for unit in units[:: max(1, len(units) // LOOKED_AT)] for row in _rows(unit)]
    tokens = _counter(model)
    asked = sum(tokens(text) for prompt, _ in looked for text in prompt) / len(looked)
    # A completion that is learned from ends with a stop token.
    answers = [1 + tokens(answer) for _, answer in looked if answer is not None]
    texts = tuple(message["content"] for task in tasks for messages in task.conversations() for message in messages)
    return DataLook(len(units), asked, sum(answers) / len(looked), texts)


def _rows(unit: Unit) -> list[tuple[list[str], str | None]]:
    """The prompt's texts and the answer of each row of a unit; a problem has no answer yet."""
    texts = [message["content"] for message in unit.messages]
    if isinstance(unit, Demonstration):
        return [(texts[:-1], texts[-1])]  # the last turn is the answer to imitate
    if isinstance(unit, PreferencePair):
        return [(texts, unit.chosen), (texts, unit.rejected)]
    if isinstance(unit, JudgedSteps):
        return [(texts, unit.text)]
    return [(texts, unit.completion if isinstance(unit, LabelledCompletion) else None)]


def _is_at_hand(task: object) -> bool:
    paths = [getattr(task, name, None) for name in ("path", "heldout_path")]
    return all(Path(path).expanduser().exists() or is_local(path) for path in paths if path is not None)


def _counter(model: ModelConfig) -> Callable[[str], float]:
    """Counts the tokens of a text, by the model's tokenizer where that is in a local folder.

    Exact for a character tokenizer too, which has one token for each of its `tokens`; else a guess.
    """
    if model.init is not None and model.init.tokenizer == "char":
        tokens = model.init.tokens
        return lambda text: len(text) - sum(text.count(token) * (len(token) - 1) for token in tokens)
    if model.path is not None and Path(model.path).is_dir():
        with suppress(OSError, ValueError):  # a folder without a tokenizer is refused when the run begins
            tokenizer = load_tokenizer(model.path, trust_remote_code=model.trust_remote_code)
            return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return lambda text: len(text) / CHARACTERS_PER_TOKEN


def model_size(model: ModelConfig, texts: Iterable[str] = ()) -> ModelSize:
    """The size of the model that a config names, without its weights. `texts` decide a character vocabulary.

    Raises UserError when there is no such model, or no connection to ask for it.
    """
    config = _init_config(model, texts) if model.init is not None else _read_config(model)
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    return size_of(shell, getattr(torch, model.dtype))


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


def plan_ceilings(config: Config, size: ModelSize, decode_rows: int) -> Ceilings:
    """What the machine that the plan is for can do: measured here, or nominal for a device that is not here."""
    try:
        device = device_of(config.model)
    except UserError:
        return nominal_gpu()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(config.threads if isinstance(config.threads, int) else before)
        return cached_ceilings(shape_of(size, decode_rows), device, config.model.dtype)
    finally:
        torch.set_num_threads(before)


def assumed(config: Config, ceilings: Ceilings) -> Config:
    """The config with a guess in place of what a run would find out by a trial: `compute.dtype = "auto"`."""
    flops = ceilings.training_flops
    lower = config.model.dtype == "float32" and flops["bfloat16"] > BFLOAT16_PAYS * flops["float32"]
    dtype = config.compute.dtype if config.compute.dtype != "auto" else "bfloat16" if lower else "float32"
    return config.model_copy(update={"compute": config.compute.model_copy(update={"dtype": dtype})})


def nominal_gpu() -> Ceilings:
    """The ceilings of a large GPU, nominally."""
    flops = GPU_FLOPS
    machine = Machine("a large GPU, nominal", torch.__version__, torch.get_num_threads(), "cuda")
    return Ceilings(machine, Shape(0, 0, 0, 0), flops, flops, GPU_BANDWIDTH)


def pass_seconds(floors: Floors, name: str, tokens: float, passes: float) -> float:
    """Seconds of a phase that takes sequences through a model in so many forward passes, backward ones within them.

    floor / ACHIEVED, and the calls of the layers, which is what a tiny model's time is made of.
    """
    calls = passes * floors.size.layers
    if name == "forward_backward":
        calls *= BACKWARD_CALLS * (2 if floors.critic else 1)
    return (floors.products(name, tokens) or 0.0) / ACHIEVED[name] + calls * SECONDS_PER_LAYER


def decode_seconds(floors: Floors, rows: int, rows_at_once: int, prompt_tokens: float, tokens: int) -> float:
    """Seconds of `tokens` decoding steps for `rows` completions, of which `rows_at_once` are decoded together."""
    found = 0.0
    for first in range(0, rows, rows_at_once):
        live = min(rows_at_once, rows - first)
        steps = [DecodeStep(live, live, round(live * (prompt_tokens + step))) for step in range(tokens)]
        found += floors.decode(steps) / ACHIEVED["decode"] + tokens * floors.size.layers * SECONDS_PER_LAYER
    return found


def optimizer_seconds(floors: Floors, steps: float) -> float:
    """Seconds of so many optimizer steps."""
    return steps * floors.optimizer() / ACHIEVED["optimizer"]


def in_words(ceilings: Ceilings, dtype: str) -> str:
    """The ceilings that an estimate was made with."""
    machine, flops = ceilings.machine, ceilings.training_flops[dtype]
    where = f"{machine.name}, {machine.threads} thread{'s' if machine.threads > 1 else ''}" * (machine.device == "cpu")
    return f"{where or machine.name}: {flops / 1e9:,.0f} GFLOP/s in {dtype}, {ceilings.bandwidth / 1e9:,.1f} GB/s"
