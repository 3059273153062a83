"""Reward models: built from a language model, loaded from a folder, and asked for the scores of finished rows.

All are transformers' sequence-classification models with one output, `score`, on the last hidden state. That of a
process reward model is read where a step ends, as the log-odds that it is right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from upweight.errors import UserError
from upweight.models.forward import context_length, hidden_rows
from upweight.models.head import scalar_head
from upweight.models.load import load_tokenizer

PAD = "<pad>"


def reward_model_from(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A reward model with the trunk of a causal language model, in evaluation mode, and its tokenizer.

    The weights are copies; the score head is small and drawn from `seed`, and the global random state is left as it
    was. transformers scores the last token that is not the padding token, so that token may not also end a row:
    where it does, or where there is none, the tokenizer returned has a new one, and the same ids otherwise.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoModelForSequenceClassification.from_config(
            config, dtype=model.dtype, attn_implementation=model.config._attn_implementation
        )
        made.base_model.load_state_dict(model.base_model.state_dict())
        if tokenizer.pad_token_id >= made.config.get_text_config().vocab_size:
            made.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)
    made.config.pad_token_id = tokenizer.pad_token_id
    return made.eval().to(model.device), tokenizer


def load_reward_model(
    path: str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The reward model of a Hugging Face folder (or Hub id), in evaluation mode, and its tokenizer.

    Raises UserError when there is none, when it has not exactly one output, when its weights lack the score head
    (the folder of a language model), or when its answer is not a linear head on its last hidden state.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").exists():
        raise UserError(f"reward model: {path} has no config.json, so it is no Hugging Face model folder")
    try:
        tokenizer = load_tokenizer(path)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"reward model: cannot load {path!r}, neither a local folder nor a Hub id: {reason}") from None
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"]))
        raise UserError(f"reward model: {path} lacks the weights {missing}; train one with the preset reward_model")
    if model.config.num_labels != 1:
        raise UserError(f"reward model: {path} has {model.config.num_labels} outputs, but a reward is one number")
    model.eval().to(device)
    _check_score(model)
    return model, tokenizer


def score_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that makes the score. Raises UserError for a model that has no such layer."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"{type(model).__name__} has no linear head `score` on its last hidden state, so it cannot serve as a "
            "reward model; use one that AutoModelForSequenceClassification makes of a causal language model"
        )
    return head


def step_tokens(
    tokenizer: PreTrainedTokenizerBase, steps: Sequence[str], separator: str
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The ids of a solution, each step tokenised by itself and the separator after it, and which of them end a step.

    A process reward model is trained and asked in this form, whatever a policy's tokens were. Raises ValueError for a
    separator that comes to no tokens.
    """
    closing = _ids(tokenizer, separator)
    if not closing:
        raise ValueError(f"the separator {separator!r} comes to no tokens, so there is none at which a step ends")
    ids: list[int] = []
    ends: list[bool] = []
    for step in steps:
        ids += [*_ids(tokenizer, step), *closing]
        ends += [False] * (len(ids) - len(ends) - 1) + [True]
    return tuple(ids), tuple(ends)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def reads_tokens_of(tokenizer: PreTrainedTokenizerBase, policy: PreTrainedTokenizerBase) -> bool:
    """Whether every token of the policy is the same one in the tokenizer's vocabulary, which may have more."""
    vocabulary = tokenizer.get_vocab()
    return all(vocabulary.get(token) == index for token, index in policy.get_vocab().items())


def score_completions(
    model: PreTrainedModel,
    prompt_ids: Sequence[Tensor],
    token_ids: Sequence[Tensor],
    tokens_per_microbatch: int = 16384,
    pad_multiple: int = 1,
) -> list[float]:
    """The reward model's score after the last token of each row, `prompt_ids[i]` [P_i] then `token_ids[i]` [T_i].

    A completion may be empty, a row may not. Rows of like length share a forward pass of at most
    `tokens_per_microbatch` padded tokens. Raises UserError for a row that the model cannot read: longer than its
    context, or with ids of another vocabulary.
    """
    rows = [torch.cat(pair) for pair in zip(prompt_ids, token_ids, strict=True)]
    before, last = [row[:-1] for row in rows], [row[-1:] for row in rows]
    return [score.item() for score in score_tokens(model, before, last, tokens_per_microbatch, pad_multiple)]


@torch.no_grad()
def score_tokens(
    model: PreTrainedModel,
    prompt_ids: Sequence[Tensor],
    token_ids: Sequence[Tensor],
    tokens_per_microbatch: int = 16384,
    pad_multiple: int = 1,
) -> list[Tensor]:
    """The reward model's scores after each token of `token_ids[i]`, [T_i], in rows as `score_completions` has them."""
    rows = [torch.cat(pair) for pair in zip(prompt_ids, token_ids, strict=True)]
    _check_rows(model, rows)
    scores = [torch.empty(0)] * len(rows)
    for index in _by_length([len(row) for row in rows], tokens_per_microbatch):
        before, after = [prompt_ids[i] for i in index], [token_ids[i] for i in index]
        hidden, _ = hidden_rows(model, before, after, "own", pad_multiple)
        found = scalar_head(hidden, score_head(model)).cpu().split([len(tokens) for tokens in after])
        for i, values in zip(index, found, strict=True):
            scores[i] = values
    return scores


def _by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows of each forward pass, longest first, `rows * longest row` within the budget."""
    pieces: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not pieces or (len(pieces[-1]) + 1) * lengths[pieces[-1][0]] > budget:
            pieces.append([])
        pieces[-1].append(row)
    return pieces


def _check_rows(model: PreTrainedModel, rows: Sequence[Tensor]) -> None:
    longest, context = max(map(len, rows), default=0), context_length(model)
    if longest > context:
        raise UserError(f"a row of {longest} tokens is longer than the reward model's context of {context}")
    vocabulary = model.config.get_text_config().vocab_size
    if any(int(row.max()) >= vocabulary for row in rows):
        raise UserError(
            f"token ids go beyond the reward model's vocabulary of {vocabulary}: it was made for another tokenizer"
        )


@torch.no_grad()
def _check_score(model: PreTrainedModel) -> None:
    """Raises UserError unless the model's answer is `score` of its last hidden state, as `score_completions` says."""
    pad = model.config.get_text_config().pad_token_id
    ids = torch.tensor([token for token in range(5) if token != pad][:4], device=model.device)
    expected = model(input_ids=ids[None], use_cache=False).logits.float().item()
    (actual,) = score_completions(model, [ids[:0]], [ids])
    if not math.isclose(actual, expected, rel_tol=2e-2, abs_tol=1e-3):
        raise UserError(f"{type(model).__name__} changes its score after the head, which upweight does not reproduce")
