"""What every sampler promises, for each architecture; the in-process one is the only one so far."""

from __future__ import annotations

import pytest
import torch

from tests.contract import tiny
from upweight.samplers.native import NativeSampler
from upweight.types import Request, SampleKey, SamplingParams

PARAMS = SamplingParams(temperature=0.8, max_completion_tokens=40)


def make_sampler(architecture: str, max_rows: int = 512) -> NativeSampler:
    model, tokenizer = tiny.tiny_model(architecture)
    # Random weights almost never choose the end token: a few more stop ids make lengths vary as they do in earnest.
    return NativeSampler(model, tokenizer, frozenset({tokenizer.eos_token_id, 7, 8, 9}), max_rows)


def prefix(draw: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(draw)
    length = int(torch.randint(1, 20, (), generator=generator))
    return tuple(torch.randint(10, 90, (length,), generator=generator).tolist())


def requests(draws: range, group_size: int = 8, params: SamplingParams = PARAMS) -> list[Request]:
    return [Request(prefix(d), SampleKey(11, 3, d, i), params) for d in draws for i in range(group_size)]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_captured_logprobs_are_the_learners(architecture: str) -> None:
    sampler = make_sampler(architecture)
    asked = {r.key: r for r in requests(range(16))}
    done = list(sampler.sample(list(asked.values())))
    assert sorted(c.key for c in done) == sorted(asked)
    assert {c.finish_reason for c in done} == {"stop", "length"}
    prompts = [torch.tensor(asked[c.key].prefix_ids) for c in done]
    tokens = [torch.tensor(c.token_ids) for c in done]
    scored, _ = tiny.score_rows(sampler.model, prompts, tokens, PARAMS.temperature)
    for completion, logprobs in zip(done, scored, strict=True):
        assert (logprobs - torch.tensor(completion.logprobs)).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_group_alone_and_among_others(architecture: str) -> None:
    sampler = make_sampler(architecture)
    alone = {c.key: c for c in sampler.sample(requests(range(1)))}
    among = {c.key: c for c in sampler.sample(requests(range(33)))}
    pairs = [(a, b) for key in alone for a, b in zip(alone[key].token_ids, among[key].token_ids, strict=False)]
    assert sum(a == b for a, b in pairs) / len(pairs) >= 0.999
    for key, own in alone.items():
        for mine, theirs in zip(own.logprobs, among[key].logprobs, strict=False):
            assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_logits_alone_and_among_others(architecture: str) -> None:
    """The logits themselves, prefilled alone and padded on the left among 32 others."""
    sampler = make_sampler(architecture)
    everyone = sampler._prefill(requests(range(33), 1), PARAMS)
    for draw in range(33):
        alone = sampler._prefill(requests(range(draw, draw + 1), 1), PARAMS)
        assert (alone.logits[0] - everyone.logits[draw]).abs().max() < 1e-5 * max(1.0, float(alone.logits.abs().max()))


def test_the_same_composition_is_bit_equal() -> None:
    sampler = make_sampler("llama")
    assert list(sampler.sample(requests(range(8)))) == list(sampler.sample(requests(range(8))))


def test_randomness_belongs_to_the_key() -> None:
    """Waves of another size, in another order, draw the same tokens."""
    some = {c.key: c.token_ids for c in make_sampler("gpt2").sample(requests(range(8)))}
    other = {c.key: c.token_ids for c in make_sampler("gpt2", max_rows=5).sample(requests(range(8))[::-1])}
    same = sum(some[key] == other[key] for key in some)
    assert same >= len(some) - 1  # a token on the very edge of its interval may fall either way
    assert len(set(some.values())) > len(some) // 2


def test_sampled_frequencies_are_the_distribution() -> None:
    """4,000 first tokens against the distribution they are drawn from: total variation as chance has it."""
    sampler = make_sampler("llama")
    params = SamplingParams(temperature=0.8, max_completion_tokens=1)
    asked = [Request((20, 21, 22), SampleKey(0, 0, 0, i), params) for i in range(4000)]
    counts = torch.zeros(len(sampler.tokenizer))
    for completion in sampler.sample(asked):
        counts[completion.token_ids[0]] += 1
    expected = sampler.score((20, 21, 22), 0.8).exp()
    spread = (expected * (1 - expected) / 4000).sqrt().sum() / 2
    assert (counts / 4000 - expected).abs().sum() / 2 < 1.5 * spread


def test_greedy_takes_the_most_likely_token() -> None:
    sampler = make_sampler("llama")
    (completion,) = sampler.sample([Request((20, 21), SampleKey(0, 0, 0, 0), SamplingParams(temperature=0.0))])
    ids = [20, 21]
    for token in completion.token_ids:
        assert token == int(sampler.score(ids, 1.0).argmax())
        ids.append(token)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    sampler = make_sampler("llama")
    best = sampler.score((20, 21), 1.0).topk(3)
    few = SamplingParams(max_completion_tokens=1, top_k=3)
    drawn = [c for i in range(200) for c in sampler.sample([Request((20, 21), SampleKey(0, 0, 0, i), few)])]
    assert {c.token_ids[0] for c in drawn} == set(best.indices.tolist())
    renormalised = dict(zip(best.indices.tolist(), best.values.log_softmax(-1).tolist(), strict=True))
    assert all(c.logprobs[0] == pytest.approx(renormalised[c.token_ids[0]], abs=1e-5) for c in drawn)
    only = SamplingParams(max_completion_tokens=1, top_p=1e-6)
    asked = [Request((20, 21), SampleKey(0, 0, 0, i), only) for i in range(20)]
    assert {c.token_ids for c in sampler.sample(asked)} == {(int(best.indices[0]),)}


def test_stop_strings_end_a_completion() -> None:
    sampler = make_sampler("llama")
    free = next(iter(sampler.sample(requests(range(1), 1))))
    text = sampler.tokenizer.decode(list(free.token_ids))
    assert len(text) > 4
    params = SamplingParams(temperature=0.8, max_completion_tokens=40, stop=(text[2:4],))
    stopped = next(iter(sampler.sample(requests(range(1), 1, params))))
    end = text.index(text[2:4]) + 2
    assert stopped.finish_reason == "stop"
    assert sampler.tokenizer.decode(list(stopped.token_ids)) == text[:end]


def test_the_context_bounds_a_completion() -> None:
    sampler = make_sampler("gpt2")
    long = Request(tuple([20] * 90), SampleKey(0, 0, 0, 0), SamplingParams(max_completion_tokens=50))
    (completion,) = sampler.sample([long])
    assert len(completion.token_ids) <= 6
    with pytest.raises(ValueError, match="leaves no room"):
        list(sampler.sample([Request(tuple([20] * 96), SampleKey(0, 0, 0, 0), PARAMS)]))


def test_finished_rows_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = make_sampler("llama")
    widths: list[int] = []
    forward = sampler._forward
    monkeypatch.setattr(sampler, "_forward", lambda ids, *rest: (widths.append(len(ids)), forward(ids, *rest))[1])
    done = list(sampler.sample(requests(range(8))))
    live = [sum(len(c.token_ids) > t for c in done) for t in range(1, max(len(c.token_ids) for c in done))]
    assert widths[0] == 8  # one prefill a prompt, not one a completion
    decoded = widths[1:]
    assert decoded[-1] < 16
    assert all(width <= alive * 8 / 7 + 1 for width, alive in zip(decoded, live, strict=False))


def test_load_takes_every_weight_or_none_silently() -> None:
    sampler = make_sampler("llama")
    other, _ = tiny.tiny_model("llama", seed=9)
    sampler.load(other.named_parameters(), 4)
    assert sampler.version == 4
    for (_, mine), (_, theirs) in zip(sampler.weights(), other.named_parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ValueError, match="not received"):
        sampler.load(list(other.named_parameters())[1:], 5)
    with pytest.raises(ValueError, match="does not fit"):
        sampler.load([("no.such.weight", torch.zeros(1))], 5)
