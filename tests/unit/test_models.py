"""Models and tokenizers from scratch, and what is refused."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from upweight.config import InitConfig, ModelConfig
from upweight.errors import UserError
from upweight.models.build import build_tokenizer
from upweight.models.load import check_head, device_of, load_model, save_model

SMALL = {"width": 16, "layers": 1, "heads": 2, "context": 32}
CHAR = build_tokenizer(InitConfig(tokens=("<answer>", "</answer>")), ["é"])


@given(st.text(string.printable[:95] + "\né"))
def test_a_character_tokenizer_gives_back_what_it_took(text: str) -> None:
    ids = CHAR(text, add_special_tokens=False)["input_ids"]
    assert CHAR.decode(ids, skip_special_tokens=True) == text
    assert CHAR.unk_token_id not in ids


def test_listed_tokens_are_one_token_each() -> None:
    ids = CHAR("<answer>46</answer>", add_special_tokens=False)["input_ids"]
    assert CHAR.convert_ids_to_tokens(ids) == ["<answer>", "4", "6", "</answer>"]
    assert CHAR.decode([*ids, CHAR.eos_token_id], skip_special_tokens=True) == "<answer>46</answer>"
    assert CHAR("☃", add_special_tokens=False)["input_ids"] == [CHAR.unk_token_id]


def test_a_bpe_tokenizer_reads_any_text() -> None:
    init = InitConfig(tokenizer="bpe", vocabulary_size=300)
    tokenizer = build_tokenizer(init, ["the cat and the hat"] * 5)
    assert len(tokenizer) <= 300
    ids = tokenizer("the hat ☃", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "the hat ☃"
    assert len(ids) < len("the hat ☃".encode())
    with pytest.raises(UserError, match="at least 259"):
        load_model(ModelConfig(init=InitConfig(tokenizer="bpe", vocabulary_size=100)))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_saved_model_loads_with_transformers(architecture: str, tmp_path: Path) -> None:
    model, tokenizer = load_model(ModelConfig(init=InitConfig(architecture=architecture, **SMALL)), seed=4)
    save_model(model, tokenizer, tmp_path)
    loaded, again = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer.encode("12+34=")])
    assert again.encode("12+34=") == ids[0].tolist()
    assert again.chat_template == tokenizer.chat_template
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    ours, kept = load_model(ModelConfig(path=str(tmp_path)))
    assert torch.equal(ours(ids).logits, model(ids).logits)
    assert kept.encode("1 + 2 = 3\nand") == tokenizer.encode("1 + 2 = 3\nand")


def test_weights_come_from_the_seed_and_disturb_no_other_randomness() -> None:
    def weights(seed: int) -> torch.Tensor:
        return next(load_model(ModelConfig(init=InitConfig(**SMALL)), seed=seed)[0].parameters()).detach()

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_head_that_caps_its_logits_is_refused() -> None:
    config = AutoConfig.for_model(
        "gemma2", vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, intermediate_size=16, final_logit_softcapping=0.05,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UserError, match="changes its logits"):
        check_head(model)


def test_a_device_that_is_not_there_is_refused() -> None:
    if not torch.cuda.is_available():
        assert device_of(ModelConfig(path="x")).type == "cpu"
        with pytest.raises(UserError, match=r"model\.device is 'cuda'"):
            device_of(ModelConfig(path="x", device="cuda"))
