"""Models in and out: Hugging Face folders, Hub ids, or from scratch; always with their tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from upweight.config import ModelConfig
from upweight.errors import UserError
from upweight.models.build import build_model
from upweight.models.forward import context_length


def load_model(
    config: ModelConfig, texts: Iterable[str] = (), seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a config names, in evaluation mode, and its tokenizer. `texts` feed a from-scratch tokenizer.

    Evaluation mode is for good: dropout would make the log-probs of a token differ between two passes.
    Raises UserError when there is no such model, or when its logits are not a linear head on its last hidden state.
    """
    dtype = getattr(torch, config.dtype)
    made = build_model(config.init, texts, seed, dtype) if config.init else _from_pretrained(config, dtype)
    model: PreTrainedModel = made[0]
    tokenizer: PreTrainedTokenizerBase = made[1]
    model.eval().to(device_of(config))
    check_head(model)
    return model, tokenizer


def device_of(config: ModelConfig) -> torch.device:
    """Where the model lives. Raises UserError for a device that this machine does not have."""
    backends = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = ("cuda" if backends["cuda"] else "cpu") if config.device == "auto" else config.device
    if not backends[name]:
        raise UserError(f"model.device is {name!r}, but PyTorch finds no such device here: choose another, or 'auto'")
    return torch.device(name)


def _from_pretrained(config: ModelConfig, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = str(config.path)
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise UserError(f"model.path: {path} has no config.json, so it is no Hugging Face model folder")
    where = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    try:
        tokenizer = load_tokenizer(path, **where)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa", **where)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model.path: cannot load {path!r}, neither a local folder nor a Hub id: {reason}") from None
    return model, tokenizer


def load_tokenizer(path: str, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id, as it was saved.

    `AutoTokenizer` of transformers 5 ignores the class that a Qwen2 folder declares and splits text as Qwen2 does: a
    tokenizer made from scratch would come back without its spaces, silently.
    """
    declared = Path(path) / "tokenizer_config.json"
    if declared.is_file() and json.loads(declared.read_bytes()).get("tokenizer_class") == "TokenizersBackend":
        return PreTrainedTokenizerFast.from_pretrained(path, **where)
    return AutoTokenizer.from_pretrained(path, **where)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raises UserError unless logits = W h + b, which is what the chunked head computes.

    Some architectures scale or cap their logits after the head; training them with another formula than they are
    sampled with would be a silent error.
    """
    ids = torch.arange(min(4, context_length(model)), device=model.device)[None]
    expected = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    actual = torch.nn.functional.linear(hidden, head.weight, getattr(head, "bias", None))
    if not torch.allclose(actual, expected.to(actual.dtype), rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{type(model).__name__} changes its logits after the output head (a scale or a cap), which upweight does "
            "not reproduce; use a model with a plain linear head"
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
