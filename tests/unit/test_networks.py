"""Networks: their columns are the model's own numbers, their parameters are parted, and what is saved comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tests.contract.tiny import ARCHITECTURES, batch, reward_model, tiny_model
from upweight.errors import UserError
from upweight.models import reward
from upweight.models.load import save_model
from upweight.models.networks import Network, PolicyNetwork, RewardNetwork, make_critic
from upweight.models.reward import load_reward_model, reward_model_from, score_completions
from upweight.models.trunk import Layout

ROWS = batch()


def states(trunk: PreTrainedModel, row: int) -> Tensor:
    """Hidden states of one row by itself, [P + T, width]."""
    return trunk(input_ids=torch.cat([ROWS.prompt_ids[row], ROWS.token_ids[row]])[None]).last_hidden_state[0]


def policy(architecture: str, share_trunk: bool, dtype: str = "float64", kind: str = "padded") -> PolicyNetwork:
    """A policy with a critic whose head and trunk are no longer what they were copied from."""
    model, tokenizer = tiny_model(architecture, dtype)
    critic = make_critic(model, share_trunk)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in critic.parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.add_(0.3 * noise.to(parameter))
    return PolicyNetwork(model, tokenizer, critic=critic, temperature=0.7, layout=Layout(kind))


def rewarder(architecture: str, dtype: str = "float64", kind: str = "padded") -> RewardNetwork:
    model, tokenizer = tiny_model(architecture, dtype)
    return RewardNetwork(*reward_model(model, tokenizer), layout=Layout(kind))


def everything(network: Network) -> dict[str, Tensor]:
    """Copies of all weights, whatever holds them."""
    return {f"{k}.{i}": p.detach().clone() for k, ps in network.parameters().items() for i, p in enumerate(ps)}


@pytest.mark.parametrize("kind", ["auto", "padded", "packed"])
@pytest.mark.parametrize("share_trunk", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_columns_of_a_policy_are_the_models_own(architecture: str, share_trunk: bool, kind: str) -> None:
    network = policy(architecture, share_trunk, kind=kind)
    assert network.critic is not None
    columns = network.outputs(ROWS)
    assert set(columns) == {"logprobs", "entropy", "values"}
    trunk = network.model.base_model if share_trunk else network.critic.trunk
    for i, (prompt, tokens) in enumerate(zip(ROWS.prompt_ids, ROWS.token_ids, strict=True)):
        before = slice(len(prompt) - 1, len(prompt) + len(tokens) - 1)
        logits = network.model(input_ids=torch.cat([prompt, tokens])[None]).logits[0, before]
        logprobs = torch.log_softmax(logits / 0.7, -1)
        expected = {
            "logprobs": logprobs.gather(-1, tokens[:, None])[:, 0],
            "entropy": -(logprobs.exp() * logprobs).sum(-1),
            "values": network.critic.head(states(trunk, i)[before])[:, 0],
        }
        for name, column in expected.items():
            torch.testing.assert_close(columns[name][i], column, rtol=1e-10, atol=1e-10)
    for name, alone in (("logprobs", network.logprobs(ROWS)), ("values", network.values(ROWS))):
        assert all(torch.equal(x, y) for x, y in zip(alone, columns[name], strict=True))


@pytest.mark.parametrize("kind", ["auto", "padded", "packed"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_score_is_transformers_own_answer(architecture: str, kind: str) -> None:
    network = rewarder(architecture, kind=kind)
    scores = network.outputs(ROWS)["scores"]
    rows = [torch.cat(pair) for pair in zip(ROWS.prompt_ids, ROWS.token_ids, strict=True)]
    assert [len(row) for row in scores] == ROWS.lengths()
    for row, own, prompt in zip(rows, scores, ROWS.prompt_ids, strict=True):
        answers = [network.model(input_ids=row[None, : len(prompt) + t + 1]).logits.item() for t in range(len(own))]
        assert own.tolist() == pytest.approx(answers, rel=1e-10, abs=1e-12)
    pad = network.model.config.pad_token_id
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    answers = network.model(input_ids=padded, attention_mask=padded != pad).logits[:, 0].tolist()
    assert [own[-1].item() for own in scores] == pytest.approx(answers, rel=1e-10, abs=1e-12)
    assert len({round(answer, 6) for answer in answers}) == len(answers)
    shapes = []
    network.model.base_model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    for budget, passes in ((1, 8), (60, 3), (10**6, 1)):
        shapes.clear()
        found = score_completions(network.model, ROWS.prompt_ids, ROWS.token_ids, tokens_per_microbatch=budget)
        assert found == pytest.approx(answers, rel=1e-10, abs=1e-12)
        assert len(shapes) == passes
        assert all(count == 1 or count * width <= budget for count, width in shapes)


def test_a_network_lays_its_rows_out_as_it_was_told() -> None:
    model, tokenizer = tiny_model("llama")
    critic = make_critic(model, share_trunk=False)
    classifier, own = reward_model_from(model, tokenizer)
    layout = Layout("packed", pad_multiple=32)
    networks = (
        PolicyNetwork(model, tokenizer, critic=critic, layout=layout),
        RewardNetwork(classifier, own, layout=layout),
    )
    shapes = []
    assert critic.trunk is not None
    for trunk in (model.base_model, critic.trunk, classifier.base_model):
        trunk.register_forward_pre_hook(lambda _, __, given: shapes.append(given["input_ids"].shape), with_kwargs=True)
    for network in networks:
        network.outputs(ROWS)
    assert shapes == [(6, 32)] * 3
    assert len(ROWS) == 8


def test_a_model_that_cannot_keep_packed_rows_apart_is_refused() -> None:
    model, tokenizer = tiny_model("llama")
    model.base_model.register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "position_ids": None}), with_kwargs=True
    )
    classifier, own = reward_model_from(model, tokenizer)
    classifier.base_model.register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "position_ids": None}), with_kwargs=True
    )
    for network, given in ((PolicyNetwork, (model, tokenizer)), (RewardNetwork, (classifier, own))):
        network(*given)
        with pytest.raises(UserError, match="see one another"):
            network(*given, layout=Layout("packed"))


@pytest.mark.parametrize("share_trunk", [False, True])
def test_values_begin_at_zero_and_move_what_they_should(share_trunk: bool) -> None:
    model, tokenizer = tiny_model("llama")
    state = torch.get_rng_state()
    network = PolicyNetwork(model, tokenizer, critic=make_critic(model, share_trunk))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.cat(network.values(ROWS)).count_nonzero() == 0
    assert network.critic is not None
    with torch.no_grad():
        network.critic.head.weight.fill_(0.1)
    torch.cat(network.outputs(ROWS)["values"]).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.critic.parameters())
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    trunk = [name for name, _ in model.named_parameters() if "lm_head" not in name]
    assert moved == (trunk if share_trunk else [])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_are_parted(architecture: str) -> None:
    own, shared = policy(architecture, False).parameters(), policy(architecture, True).parameters()
    assert [tuple(p.shape) for p in shared["critic"]] == [(1, 32), (1,)]
    assert not {id(p) for p in own["critic"]} & {id(p) for p in own["policy"]}
    assert len({p.data_ptr() for ps in own.values() for p in ps}) == sum(map(len, own.values()))
    # The embeddings are tied, so the trunk's tensors are all that the policy has: the critic has those and its head.
    assert [p.shape for p in own["critic"]][2:] == [p.shape for p in own["policy"]]
    assert list(PolicyNetwork(*tiny_model(architecture)).parameters()) == ["policy"]


def test_an_output_head_that_is_not_tied_stays_with_the_policy() -> None:
    model, tokenizer = untied()
    assert model.lm_head.weight is not model.base_model.embed_tokens.weight
    network = PolicyNetwork(model, tokenizer, critic=make_critic(model, share_trunk=False))
    assert len(network.parameters()["critic"]) == len(network.parameters()["policy"]) - 1 + 2


def untied() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = tiny_model("llama")
    config = type(model.config).from_dict({**model.config.to_dict(), "tie_word_embeddings": False})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval(), tokenizer


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["alone", "own trunk", "shared trunk", "reward", "untied"])
def test_what_is_saved_comes_back_bit_for_bit(kind: str, dtype: str, tmp_path: Path) -> None:
    def fresh() -> Network:
        if kind == "reward":
            return rewarder("qwen2", dtype)
        if kind == "untied":
            model, tokenizer = untied()
            return PolicyNetwork(model.to(getattr(torch, dtype)), tokenizer)
        network = policy("qwen2", kind == "shared trunk", dtype)
        return network if kind != "alone" else PolicyNetwork(network.model, network.tokenizer)

    network, other = fresh(), fresh()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for ps in network.parameters().values():
            for p in ps:
                p.copy_(torch.randn(p.shape, generator=draw).to(p))
    network.save(tmp_path)
    assert (tmp_path / "critic.safetensors").exists() == ("trunk" in kind)
    assert not any(torch.equal(x, everything(other)[name]) for name, x in everything(network).items())
    state = torch.get_rng_state()
    places = [p.data_ptr() for ps in other.parameters().values() for p in ps]
    other.load(tmp_path)
    # In place: an optimizer that was made before goes on holding the same tensors.
    assert [p.data_ptr() for ps in other.parameters().values() for p in ps] == places
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in everything(network).items():
        assert torch.equal(everything(other)[name], value)
        assert everything(other)[name].dtype == value.dtype == getattr(torch, dtype)
    for name, column in network.outputs(ROWS).items():
        assert all(torch.equal(x, y) for x, y in zip(column, other.outputs(ROWS)[name], strict=True))
        assert column[0].dtype == (torch.float64 if dtype == "float64" else torch.float32)
    if kind == "shared trunk":
        assert set(load_file(tmp_path / "critic.safetensors")) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_reward_model_is_made_from_its_language_model(architecture: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(architecture)
    state = torch.get_rng_state()
    (made, own), (again, _), (other, _) = (reward_model_from(model, tokenizer, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert own.pad_token_id == made.config.pad_token_id == tokenizer.pad_token_id
    assert not made.training
    trunk = model.base_model.state_dict()
    assert all(torch.equal(x, trunk[name]) for name, x in made.base_model.state_dict().items())
    assert not {p.data_ptr() for p in made.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert made.score.weight.any()
    assert torch.equal(made.score.weight, again.score.weight)
    assert not torch.equal(made.score.weight, other.score.weight)

    RewardNetwork(made, own).save(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "policy").eval()
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in made.state_dict().items())
    ids = torch.tensor([own.encode("12+34=")])
    torch.testing.assert_close(loaded(ids).logits, made(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").encode("12+34=") == ids[0].tolist()
    ours, _ = load_reward_model(str(tmp_path / "policy"), dtype=torch.float64)
    assert (ours.dtype, ours.training) == (torch.float64, False)


@pytest.mark.parametrize("pad", ["<eos>", None])
@pytest.mark.parametrize("new", ["<pad>", "<not there yet>"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pad_token_that_ends_rows_is_replaced(
    architecture: str, new: str, pad: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers skips padding at the end: were it the eos token, it would score the token before that."""
    monkeypatch.setattr(reward, "PAD", new)
    model, tokenizer = tiny_model(architecture)
    tokenizer.pad_token = pad
    model.config.pad_token_id = tokenizer.eos_token_id
    made, own = reward_model_from(model, tokenizer)
    assert (own.pad_token, tokenizer.pad_token) == (new, pad)
    before, after = (net.get_input_embeddings().weight for net in (model, made))
    assert len(after) == made.config.vocab_size == len(before) + (new != "<pad>")
    assert torch.equal(after[: len(before)], before)
    RewardNetwork(made, own).save(tmp_path)
    loaded, own = load_reward_model(str(tmp_path / "policy"))
    rows = [[*own.encode("12+34="), own.eos_token_id], [*own.encode("1"), own.eos_token_id]]
    padded = own.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    answers = loaded(**padded).logits[:, 0].tolist()
    ours = score_completions(loaded, [torch.tensor(row[:1]) for row in rows], [torch.tensor(row[1:]) for row in rows])
    assert ours == pytest.approx(answers, rel=1e-5, abs=1e-6)
    assert answers != pytest.approx([loaded(torch.tensor([row[:-1]])).logits.item() for row in rows], abs=1e-3)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama")
    with pytest.raises(UserError, match="neither a local folder nor a Hub id"):
        load_reward_model(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no config\.json"):
        load_reward_model(str(tmp_path))
    save_model(model, tokenizer, tmp_path / "language model")
    with pytest.raises(UserError, match=r"lacks the weights score\.weight"):
        load_reward_model(str(tmp_path / "language model"))
    made, own = reward_model_from(model, tokenizer)
    made.score = torch.nn.Linear(32, 3, bias=False)
    made.config.num_labels = 3
    save_model(made, own, tmp_path / "three")
    with pytest.raises(UserError, match="has 3 outputs"):
        load_reward_model(str(tmp_path / "three"))
    with pytest.raises(UserError, match="no linear head `score`"):
        RewardNetwork(model, tokenizer)


def test_a_score_that_is_changed_after_its_head_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = rewarder("llama", "float32")
    network.save(tmp_path)
    forward = LlamaForSequenceClassification.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return replace(output, logits=output.logits.clamp(-1e-4, 1e-4) * 0.1)

    monkeypatch.setattr(LlamaForSequenceClassification, "forward", capped)
    with pytest.raises(UserError, match="changes its score"):
        load_reward_model(str(tmp_path / "policy"))


def test_rows_that_a_reward_model_cannot_read_are_refused() -> None:
    model = rewarder("llama").model
    with pytest.raises(UserError, match="longer than the reward model's context of 96"):
        score_completions(model, [torch.ones(90, dtype=torch.long)], [torch.ones(7, dtype=torch.long)])
    with pytest.raises(UserError, match="another tokenizer"):
        score_completions(model, [torch.tensor([1])], [torch.tensor([model.config.vocab_size])])
    (whole,) = score_completions(model, [torch.tensor([5, 6])], [torch.tensor([7])])
    assert score_completions(model, [torch.tensor([5, 6, 7])], [torch.tensor([], dtype=torch.long)]) == [whole]
    assert score_completions(model, [], []) == []


def test_values_without_a_critic_are_a_bug() -> None:
    with pytest.raises(ValueError, match="without a critic"):
        PolicyNetwork(*tiny_model("llama")).values(ROWS)


def test_the_saved_configuration_says_what_it_is(tmp_path: Path) -> None:
    rewarder("qwen3").save(tmp_path)
    config = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    assert len(config["id2label"]) == 1
