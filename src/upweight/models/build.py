"""A model from scratch: random weights in a known architecture, and a tokenizer made for it."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from upweight.config import InitConfig
from upweight.errors import UserError

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"

# One user turn, then one assistant turn that ends with the stop token; further turns simply follow.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def build_tokenizer(init: InitConfig, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A character tokenizer over printable ASCII and the characters of `texts`, or a BPE trained on `texts`.

    `init.tokens` are one token each in both.
    """
    if init.tokenizer == "char":
        alphabet = sorted(set(string.printable[:95]) | {"\n"} | {c for text in texts for c in text})
        words = [PAD, EOS, UNK, *init.tokens, *(c for c in alphabet if c not in init.tokens)]
        core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
        core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        core.decoder = decoders.Fuse()
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        core.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=init.vocabulary_size - len(init.tokens),
                special_tokens=[PAD, EOS, UNK],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
    core.add_tokens(list(init.tokens))
    core.add_special_tokens([PAD, EOS, UNK])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=EOS, unk_token=UNK, chat_template=CHAT_TEMPLATE
    )


def build_config(init: InitConfig, vocabulary: int, pad_id: int, eos_id: int) -> Any:
    """The Hugging Face config of the architecture at the asked size, with tied embeddings."""
    common = {"vocab_size": vocabulary, "pad_token_id": pad_id, "eos_token_id": eos_id, "bos_token_id": None}
    mlp_width = init.mlp_width or 4 * init.width
    if init.architecture == "gpt2":
        return AutoConfig.for_model(
            "gpt2",
            n_embd=init.width,
            n_layer=init.layers,
            n_head=init.heads,
            n_inner=mlp_width,
            n_positions=init.context,
            **common,
        )
    return AutoConfig.for_model(
        init.architecture,
        hidden_size=init.width,
        num_hidden_layers=init.layers,
        num_attention_heads=init.heads,
        num_key_value_heads=init.kv_heads or init.heads,
        head_dim=init.width // init.heads,
        intermediate_size=mlp_width,
        max_position_embeddings=init.context,
        tie_word_embeddings=True,
        **common,
    )


def build_model(
    init: InitConfig, texts: Iterable[str], seed: int, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model with weights drawn from `seed`, and its tokenizer. The global random state is left as it was.

    Raises UserError when a bpe vocabulary is too small to hold all bytes.
    """
    if init.tokenizer == "bpe" and init.vocabulary_size < 259 + len(init.tokens):
        raise UserError("model.init.vocabulary_size: a bpe vocabulary needs at least 259 entries beside init.tokens")
    tokenizer = build_tokenizer(init, texts)
    config = build_config(init, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model, tokenizer
