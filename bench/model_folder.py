"""The weights that every arm of a run loads: one folder a size, float32, made once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from bench.workloads import CHARACTERS, CONTEXT, SIZES
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from upweight.config import InitConfig
from upweight.models.build import CHAT_TEMPLATE, EOS, PAD, UNK, build_config
from upweight.models.load import save_model


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, 77 in all; a message is rendered as its text."""
    words = [PAD, EOS, UNK, *CHARACTERS]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([PAD, EOS, UNK])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=EOS, unk_token=UNK, chat_template=CHAT_TEMPLATE
    )


def make_model(size: str, folder: Path, seed: int = 0) -> Path:
    """A folder with random weights of that size and the tokenizer; left alone when it is there already."""
    if (folder / "config.json").exists():
        return folder
    shape = SIZES[size]
    tokenizer = character_tokenizer()
    init = InitConfig(
        architecture="qwen2",
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        mlp_width=shape.mlp_width,
        context=CONTEXT,
    )
    config = build_config(init, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    beside = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    save_model(model, tokenizer, beside)
    if AutoTokenizer.from_pretrained(beside)(CHARACTERS)["input_ids"] != list(range(3, 77)):
        raise ValueError(f"the tokenizer in {beside} does not give each character its token")
    beside.rename(folder)
    return folder


if __name__ == "__main__":
    make_model(sys.argv[1], Path(sys.argv[2]))
