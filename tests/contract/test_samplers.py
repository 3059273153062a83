"""What every sampler promises: for each architecture, and for both ways of decoding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tests.contract import tiny
from upweight import phases
from upweight.samplers.choose import replay
from upweight.samplers.decoder import without
from upweight.samplers.fused import FusedDecoder
from upweight.samplers.general import GeneralDecoder
from upweight.samplers.native import NativeSampler
from upweight.types import Completion, Request, SampleKey, SamplingParams

PARAMS = SamplingParams(temperature=0.8, max_completion_tokens=40)
FUSED = ("llama", "qwen2", "qwen3", "llama with biases", "qwen3 sharing prompts")
CASES = (*FUSED, "gpt2", "llama by transformers")
both_ways = pytest.mark.parametrize("case", ["llama", "llama by transformers"])
all_cases = pytest.mark.parametrize("case", CASES)


def varied(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every bias and norm drawn at random: a new one has zeros and ones there, which hide mistakes."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def with_biases(dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _, tokenizer = tiny.tiny_model("llama")
    config = AutoConfig.for_model(
        "llama", vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, max_position_embeddings=96, attention_bias=True, mlp_bias=True, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model, tokenizer


def make_sampler(case: str, max_rows: int = 512, dtype: str = "float32") -> NativeSampler:
    architecture = case.split(maxsplit=1)[0]
    model, tokenizer = with_biases(dtype) if "biases" in case else tiny.tiny_model(architecture, dtype)
    # Random weights almost never choose the end token: a few more stop ids make lengths vary as they do in earnest.
    sampler = NativeSampler(varied(model), tokenizer, frozenset({tokenizer.eos_token_id, 7, 8, 9}), max_rows)
    if "by transformers" in case:
        sampler.decoder = GeneralDecoder(sampler.model)
    assert isinstance(sampler.decoder, FusedDecoder if case in FUSED else GeneralDecoder)
    if "sharing" in case:
        sampler.decoder.share_from = 0  # whatever the prompts, as if they were long
    return sampler


def prefix(draw: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(draw)
    length = int(torch.randint(1, 20, (), generator=generator))
    return tuple(torch.randint(10, 90, (length,), generator=generator).tolist())


def requests(draws: range, group_size: int = 8, params: SamplingParams = PARAMS) -> list[Request]:
    return [Request(prefix(d), SampleKey(11, 3, d, i), params) for d in draws for i in range(group_size)]


def by_key(sampler: NativeSampler, asked: list[Request]) -> dict[SampleKey, Completion]:
    return {c.key: c for c in sampler.sample(asked)}


def logprobs_of(model: PreTrainedModel, start: tuple[int, ...], tokens: tuple[int, ...], temperature: float) -> Tensor:
    """What transformers gives for one row alone, with no cache."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([start + tokens]), use_cache=False).logits[0, len(start) - 1 : -1]
    return (logits.double() / temperature).log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


@all_cases
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-10)])
def test_captured_logprobs_are_those_of_transformers(case: str, dtype: str, tolerance: float) -> None:
    sampler = make_sampler(case, dtype=dtype)
    asked = {r.key: r for r in requests(range(16))}
    done = list(sampler.sample(list(asked.values())))
    assert sorted(c.key for c in done) == sorted(asked)
    assert {c.finish_reason for c in done} == {"stop", "length"}
    for c in done:
        expected = logprobs_of(sampler.model, asked[c.key].prefix_ids, c.token_ids, PARAMS.temperature)
        assert (expected - torch.tensor(c.logprobs, dtype=torch.float64)).abs().max() < tolerance


@pytest.mark.parametrize("case", FUSED)
def test_bfloat16_is_float32_up_to_its_rounding(case: str) -> None:
    """The same weights, rounded once, in both types: log-probs of the tokens that bfloat16 drew."""
    sampler = make_sampler(case, dtype="bfloat16")
    asked = {r.key: r for r in requests(range(8))}
    done = list(sampler.sample(list(asked.values())))
    exact = sampler.model.float()
    errors = [
        logprobs_of(exact, asked[c.key].prefix_ids, c.token_ids, PARAMS.temperature) - torch.tensor(c.logprobs)
        for c in done
    ]
    assert torch.cat(errors).abs().mean() < 0.1


@pytest.mark.parametrize("case", FUSED)
def test_fused_and_transformers_draw_the_same_tokens(case: str) -> None:
    sampler = make_sampler(case, dtype="float64")
    fused = by_key(sampler, requests(range(12)))
    sampler.decoder = GeneralDecoder(sampler.model)
    for key, completion in by_key(sampler, requests(range(12))).items():
        assert completion.token_ids == fused[key].token_ids
        assert completion.logprobs == pytest.approx(fused[key].logprobs, abs=1e-10)


@all_cases
@pytest.mark.parametrize("max_rows", [1, 3, 20])
def test_completions_depend_on_their_keys_alone(case: str, max_rows: int) -> None:
    """Alone, in waves, refilled in another order: the same tokens, and log-probs that differ by rounding."""
    together = by_key(make_sampler(case, dtype="float64"), requests(range(6)))
    sampler = make_sampler(case, max_rows, dtype="float64")
    for key, completion in by_key(sampler, requests(range(6))[::-1]).items():
        assert completion.token_ids == together[key].token_ids
        assert completion.logprobs == pytest.approx(together[key].logprobs, abs=1e-10)
    assert len({c.token_ids for c in together.values()}) > len(together) // 2


@all_cases
def test_logits_alone_and_among_others(case: str) -> None:
    """The logits themselves: admitted alone, among 32 others, and where the decoder can, joining others under way."""
    decoder = make_sampler(case, dtype="float64").decoder
    prefixes = [prefix(draw) for draw in range(33)]
    token = torch.tensor([30])
    with torch.inference_mode():
        alone = []
        for one in prefixes:
            decoder.begin(1)
            alone.append((decoder.admit([one]).clone(), decoder.advance(token).clone()))
        first, second = (torch.cat(logits) for logits in zip(*alone, strict=True))
        decoder.begin(33)
        early = 10 if decoder.joins else 0
        if early:
            decoder.admit(prefixes[:early])
            decoder.advance(token.expand(early))
        assert torch.allclose(decoder.admit(prefixes[early:]), first[early:], rtol=0, atol=1e-10)
        assert torch.allclose(decoder.advance(token.expand(33))[early:], second[early:], rtol=0, atol=1e-10)


def test_rows_join_and_leave_without_disturbing_others() -> None:
    """Tokens of one row, while others of other lengths come and go around it and the cache widens and narrows."""
    decoder = make_sampler("qwen3", dtype="float64").decoder
    ids = torch.randint(10, 90, (60,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = replay(decoder, ids).clone()
        decoder.begin(3)
        decoder.admit([tuple([20] * 70), tuple(ids[:30].tolist())])
        found = []
        for step, token in enumerate(ids[30:]):
            if step == 4:
                decoder.keep(without(2, [0]))  # the row of interest moves to place 0, in a narrower cache
            if step == 9:
                decoder.admit([(5, 6), tuple([21] * 50)])
            row = 1 if step < 4 else 0
            tokens = torch.full((decoder.rows,), 40)
            tokens[row] = token
            found.append(decoder.advance(tokens)[row].clone())
    assert torch.allclose(torch.stack(found), expected[1:], rtol=0, atol=1e-10)


def test_the_padding_of_a_bucket_touches_no_row() -> None:
    """33 rows are computed as 34: the last place was a long row's, and writes nowhere once the cache is narrow."""
    decoder = make_sampler("llama", dtype="float64").decoder
    token = torch.tensor([30])
    with torch.inference_mode():
        expected = replay(decoder, torch.tensor([5, 6, 30, 30])).clone()
        decoder.begin(34)
        decoder.admit([(5, 6)] * 33 + [tuple([20] * 80)])
        decoder.keep(without(34, [33]))
        found = [decoder.advance(token.expand(33)).clone() for _ in range(2)]
    for logits, alone in zip(found, expected[1:], strict=True):
        assert torch.allclose(logits, alone.expand(33, -1), rtol=0, atol=1e-10)


@both_ways
def test_the_same_composition_is_bit_equal(case: str) -> None:
    sampler = make_sampler(case)
    assert list(sampler.sample(requests(range(8)))) == list(sampler.sample(requests(range(8))))


@both_ways
def test_sampled_frequencies_are_the_distribution(case: str) -> None:
    """4,000 first tokens against the distribution they are drawn from: total variation as chance has it."""
    sampler = make_sampler(case)
    params = SamplingParams(temperature=0.8, max_completion_tokens=1)
    asked = [Request((20, 21, 22), SampleKey(0, 0, 0, i), params) for i in range(4000)]
    counts = torch.zeros(len(sampler.tokenizer))
    for completion in sampler.sample(asked):
        counts[completion.token_ids[0]] += 1
    expected = sampler.score((20, 21, 22), 0.8).exp()
    spread = (expected * (1 - expected) / 4000).sqrt().sum() / 2
    assert (counts / 4000 - expected).abs().sum() / 2 < 1.5 * spread


@all_cases
def test_score_is_what_transformers_says(case: str) -> None:
    sampler = make_sampler(case)
    with torch.no_grad():
        expected = (sampler.model(input_ids=torch.tensor([[20, 21]])).logits[0, -1] / 0.7).log_softmax(-1)
    assert torch.allclose(sampler.score([20, 21], 0.7), expected, atol=1e-5)


@both_ways
def test_greedy_takes_the_most_likely_token(case: str) -> None:
    sampler = make_sampler(case)
    (completion,) = sampler.sample([Request((20, 21), SampleKey(0, 0, 0, 0), SamplingParams(temperature=0.0))])
    ids = [20, 21]
    for token in completion.token_ids:
        assert token == int(sampler.score(ids, 1.0).argmax())
        ids.append(token)
    assert set(completion.logprobs) == {0.0}


@both_ways
def test_top_k_and_top_p_keep_the_likeliest(case: str) -> None:
    sampler = make_sampler(case)
    best = sampler.score((20, 21), 1.0).topk(3)
    few = SamplingParams(max_completion_tokens=1, top_k=3)
    drawn = [c for i in range(200) for c in sampler.sample([Request((20, 21), SampleKey(0, 0, 0, i), few)])]
    assert {c.token_ids[0] for c in drawn} == set(best.indices.tolist())
    renormalised = dict(zip(best.indices.tolist(), best.values.log_softmax(-1).tolist(), strict=True))
    assert all(c.logprobs[0] == pytest.approx(renormalised[c.token_ids[0]], abs=1e-5) for c in drawn)
    only = SamplingParams(max_completion_tokens=1, top_p=1e-6)
    asked = [Request((20, 21), SampleKey(0, 0, 0, i), only) for i in range(20)]
    assert {c.token_ids for c in sampler.sample(asked)} == {(int(best.indices[0]),)}


@both_ways
@pytest.mark.parametrize("poll", [1, 4])
def test_stop_strings_end_a_completion(case: str, poll: int) -> None:
    sampler = make_sampler(case)
    sampler.poll = poll
    free = next(c for c in sampler.sample(requests(range(4))) if len(c.token_ids) > 12)
    asked = next(r for r in requests(range(4)) if r.key == free.key)
    text = sampler.tokenizer.decode(list(free.token_ids))
    params = SamplingParams(temperature=0.8, max_completion_tokens=40, stop=(text[5:8],))
    (stopped,) = sampler.sample([Request(asked.prefix_ids, asked.key, params)])
    assert stopped.finish_reason == "stop"
    assert sampler.tokenizer.decode(list(stopped.token_ids)) == text[: text.index(text[5:8]) + 3]
    assert stopped.logprobs == pytest.approx(free.logprobs[: len(stopped.token_ids)], abs=1e-5)


@all_cases
def test_asking_rarely_who_has_ended_changes_nothing(case: str) -> None:
    """As on an accelerator: rows go on beyond their end for some tokens, even beyond the context, which are cut off."""
    long = Request(tuple([20] * 90), SampleKey(0, 0, 0, 0), PARAMS)
    often, rarely = make_sampler(case, 5, "float64"), make_sampler(case, 5, "float64")
    rarely.poll = 7
    expected, found = by_key(often, [long, *requests(range(4))]), by_key(rarely, [long, *requests(range(4))])
    assert {k: (c.token_ids, c.finish_reason) for k, c in found.items()} == {
        k: (c.token_ids, c.finish_reason) for k, c in expected.items()
    }


@all_cases
def test_the_context_bounds_a_completion(case: str) -> None:
    sampler = make_sampler(case)
    sampler.stop_ids = frozenset()
    long = Request(tuple([20] * 90), SampleKey(0, 0, 0, 0), SamplingParams(max_completion_tokens=50))
    (completion,) = sampler.sample([long])
    assert (len(completion.token_ids), completion.finish_reason) == (6, "length")
    with pytest.raises(ValueError, match="leaves no room"):
        list(sampler.sample([Request(tuple([20] * 96), SampleKey(0, 0, 0, 0), PARAMS)]))


def work(sampler: NativeSampler, asked: list[Request]) -> tuple[list[Completion], phases.Clock]:
    with phases.Clock() as clock:
        done = list(sampler.sample(asked))
    return done, clock


@pytest.mark.parametrize("max_rows", [512, 24])
def test_each_prompt_is_read_once_for_its_group(max_rows: int) -> None:
    asked = requests(range(9))
    _, clock = work(make_sampler("llama", max_rows), asked)
    distinct = sum(map(len, {r.prefix_ids for r in asked}))
    assert (clock.tokens["prefill"].processed, clock.tokens["prefill"].useful) == (distinct, distinct)


@both_ways
def test_finished_rows_leave_the_batch(case: str) -> None:
    done, clock = work(make_sampler(case), requests(range(8)))
    live = [sum(len(c.token_ids) > t for c in done) for t in range(1, max(len(c.token_ids) for c in done))]
    assert [step.live_rows for step in clock.decode_steps] == live
    assert all(step.processed_rows <= step.live_rows * 17 / 16 for step in clock.decode_steps)
    tokens = sum(len(c.token_ids) for c in done)
    assert clock.tokens["decode"].useful == tokens - len(done)  # the last token of a row is not read


def test_free_places_are_taken_while_others_go_on() -> None:
    """Steps of 16 places for 120 completions: near all tokens over 16, not the sum over waves of the longest."""
    done, clock = work(make_sampler("llama", max_rows=16), requests(range(15)))
    tokens = sum(len(c.token_ids) - 1 for c in done)
    waves = sum(max(len(c.token_ids) for c in done if c.key.draw // 2 == wave) for wave in range(8))
    assert tokens / 16 <= len(clock.decode_steps) < 0.8 * waves


def test_cached_tokens_are_counted() -> None:
    sampler = make_sampler("llama")
    sampler.stop_ids = frozenset()
    asked = [Request((20, 21, 22), SampleKey(0, 0, 0, i), SamplingParams(max_completion_tokens=3)) for i in range(2)]
    _, clock = work(sampler, asked)
    assert [step.kv_tokens for step in clock.decode_steps] == [2 * 4, 2 * 5]


@both_ways
def test_one_call_at_a_time(case: str) -> None:
    sampler = make_sampler(case)
    first = sampler.sample(requests(range(2)))
    next(first)
    assert len(list(sampler.sample(requests(range(1))))) == 8
    with pytest.raises(RuntimeError, match="used otherwise"):
        list(first)


@all_cases
def test_load_takes_every_weight_or_none_silently(case: str) -> None:
    sampler = make_sampler(case)
    before = sampler.score((20, 21), 1.0)
    other = {name: p + 0.1 * torch.randn_like(p) for name, p in sampler.weights()}
    sampler.load(iter(other.items()), 4)
    assert sampler.version == 4
    held = dict(sampler.weights())
    assert held.keys() == other.keys()
    assert all(torch.equal(held[name], other[name]) for name in held)
    with torch.no_grad():
        expected = sampler.model(input_ids=torch.tensor([[20, 21]])).logits[0, -1].log_softmax(-1)
    assert torch.allclose(sampler.score((20, 21), 1.0), expected, atol=1e-5)  # what is sampled from moved with them
    assert not torch.allclose(before, expected, atol=1e-2)
    with pytest.raises(ValueError, match="not received"):
        sampler.load(list(other.items())[1:], 5)
    with pytest.raises(ValueError, match="does not fit"):
        sampler.load([("no.such.weight", torch.zeros(1))], 5)


@pytest.mark.parametrize("case", FUSED)
def test_fused_weights_are_held_once(case: str) -> None:
    sampler = make_sampler(case)
    assert isinstance(sampler.decoder, FusedDecoder)
    for block in sampler.decoder.layers.blocks:
        start, end = block.qkv.weight.data_ptr(), block.gate_up.weight.data_ptr()
        assert block.parts.q.weight.data_ptr() == start
        assert block.parts.v.weight[-1, -1].data_ptr() == block.qkv.weight[-1, -1].data_ptr()
        assert block.parts.gate.weight.data_ptr() == end
        assert block.parts.up.weight[-1, -1].data_ptr() == block.gate_up.weight[-1, -1].data_ptr()


SMALL = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "fused"),
    [
        ("mistral", {"sliding_window": None}, True),
        ("smollm3", {}, False),  # some layers have no rotary positions
        ("granite", {"residual_multiplier": 0.8}, False),
        ("granite", {"embedding_multiplier": 3.0}, False),
        ("llama", {"hidden_act": "gelu"}, False),
        ("gemma", {"head_dim": 8}, False),  # norms that add one to their weight
    ],
)
def test_a_block_that_only_looks_alike_is_left_to_transformers(
    kind: str, options: dict[str, object], fused: bool
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **options)).eval()
    sampler = NativeSampler(model, tiny.tiny_model("llama")[1], frozenset({1}))
    assert isinstance(sampler.decoder, FusedDecoder if fused else GeneralDecoder)
    asked = {r.key: r for r in requests(range(4))}
    for c in sampler.sample(list(asked.values())):
        expected = logprobs_of(model, asked[c.key].prefix_ids, c.token_ids, PARAMS.temperature)
        assert (expected - torch.tensor(c.logprobs)).abs().max() < 2e-5


def test_a_forward_pass_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaking any part of the fused step is found out when the sampler is made."""

    def broken(name: str, replacement: Callable[..., object]) -> NativeSampler:
        with monkeypatch.context() as patch:
            patch.setattr(f"upweight.samplers.{name}", replacement)
            model, tokenizer = tiny.tiny_model("llama")
            return NativeSampler(model, tokenizer, frozenset({1}))

    assert isinstance(broken("layers._rotate", lambda x, cos, sin: None).decoder, GeneralDecoder)
    assert isinstance(broken("layers.silu", torch.nn.functional.relu).decoder, GeneralDecoder)
    assert isinstance(broken("fused.decode_attention", lambda q, k, v, m, s: q).decoder, GeneralDecoder)
    assert isinstance(broken("fused.bucket", lambda rows: max(1, rows)).decoder, FusedDecoder)
