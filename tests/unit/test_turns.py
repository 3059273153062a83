"""Turns: what a tool says is appended and never trained, ids are never re-tokenised, and limits hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.unit.test_chat import AGAIN, CHATML, REPLY, USER, make_tokenizer
from upweight.chat import encode_prompt, encode_reply, stop_ids
from upweight.compose import make_sampler
from upweight.config import InitConfig, ModelConfig, RewardsConfig, TurnsConfig
from upweight.errors import UserError
from upweight.models.load import load_model
from upweight.rewards.make import make_rewards
from upweight.rollout_batch import batch_of
from upweight.rollouts import RolloutMaker
from upweight.turns import make_turns
from upweight.types import Completion, Prompt, Request, Rollout, SamplingParams

TOOL = """
def echo(completion, turn, transcript, answer, level, prefix=">"):
    if "stop" in completion:
        return None
    return f"{prefix}{turn}{level}{len(transcript)}{answer}"

def silent(completion):
    return None

def breaks(completion):
    raise RuntimeError("no")

def number(completion):
    return 3

def hangs(completion):
    while True:
        pass
"""


class Script:
    """A sampler that answers turn n with the n-th of some texts; `seen` are the requests."""

    version = 7

    def __init__(self, tokenizer, texts: Sequence[str], eos: bool = True) -> None:
        self.tokenizer, self.texts, self.eos = tokenizer, texts, eos
        self.seen: list[Request] = []

    def sample(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for request in requests:
            self.seen.append(request)
            ids = self.tokenizer(self.texts[request.key.turn], add_special_tokens=False)["input_ids"]
            ids = [*ids, *([self.tokenizer.eos_token_id] if self.eos else [])][: request.params.max_completion_tokens]
            whole = len(ids) < request.params.max_completion_tokens
            logprobs = tuple(-0.5 - place for place in range(len(ids)))
            yield Completion(request.key, tuple(ids), logprobs, "stop" if whole else "length", 7)


def maker_of(folder: Path, tool: str, sampler, tokenizer, budget=200, context=400, **turns) -> RolloutMaker:
    (folder / "tool.py").write_text(TOOL)
    rewards = RewardsConfig.model_validate({"parts": {"exact": "exact"}, "workers": 1, "deadline": 1.0})
    config = TurnsConfig(tool=f"{folder}/tool.py:{tool}", **turns)
    made = make_turns(config, rewards, tokenizer, stop_ids(tokenizer), context)
    params = SamplingParams(max_completion_tokens=budget)
    return RolloutMaker(sampler, tokenizer, make_rewards(rewards), params, "raise", 1.0, made)


def one(maker: RolloutMaker, tokenizer) -> Rollout:
    prompt = Prompt("p", (USER,), encode_prompt(tokenizer, (USER,)), "stop", {"level": "L"})
    (rollout,) = maker.collect([(0, prompt)], 1, seed=0, step=0).rollouts
    return rollout


def test_replies_are_appended_without_a_template(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(None, eos="</s>")
    sampler = Script(tokenizer, ["one", "two", "stop"])
    rollout = one(maker_of(tmp_path, "echo", sampler, tokenizer, options={"prefix": "#"}), tokenizer)
    assert rollout.text == "one#1L3stoptwo#2L14stopstop"
    sampled = [
        tokenizer.decode([token]) for token, mine in zip(rollout.token_ids, rollout.loss_mask, strict=True) if mine
    ]
    assert "".join(sampled) == "one</s>two</s>stop</s>"
    assert (rollout.reward, rollout.finish_reason, rollout.policy_version) == (1.0, "stop", 7)
    assert [request.key.turn for request in sampler.seen] == [0, 1, 2]
    for log, mine in zip(rollout.behavior_logprobs, rollout.loss_mask, strict=True):
        assert math.isnan(log) is not mine
    for before, after in pairwise(sampler.seen):
        assert after.prefix_ids[: len(before.prefix_ids)] == before.prefix_ids
        used = len(after.prefix_ids) - len(sampler.seen[0].prefix_ids)
        assert after.params.max_completion_tokens == 200 - used


def test_replies_are_messages_of_the_template(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(CHATML)
    rollout = one(maker_of(tmp_path, "echo", Script(tokenizer, ["one", "stop"]), tokenizer, role="user"), tokenizer)
    whole = tokenizer.decode(list(rollout.prompt.token_ids + rollout.token_ids))
    assert whole == (
        "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\n>1L3stop<|im_end|>\n<|im_start|>assistant\nstop<|im_end|>"
    )
    told = [token for token, mine in zip(rollout.token_ids, rollout.loss_mask, strict=True) if not mine]
    assert tokenizer.decode(told) == "\n<|im_start|>user\n>1L3stop<|im_end|>\n<|im_start|>assistant\n"


def test_the_ids_of_a_turn_are_those_that_were_sampled_even_if_the_tokenizer_would_merge_them() -> None:
    tokenizer = make_tokenizer(None, eos="</s>")
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert tokenizer("\n\n", add_special_tokens=False)["input_ids"] != newline * 2
    reply = encode_reply(
        tokenizer,
        (USER, {"role": "assistant", "content": "\n"}),
        {"role": "tool", "content": "\n"},
        stop_ids(tokenizer),
    )
    assert list(reply) == newline


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}<|im_start|>{{ m.role }}\n"
            "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
            "rewrites history",
        ),
        (CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}"), "drops a message"),
    ],
)
def test_a_template_that_does_not_only_append_is_refused(tmp_path: Path, template: str, words: str) -> None:
    tokenizer = make_tokenizer(template)
    with pytest.raises(UserError, match=words):
        one(maker_of(tmp_path, "echo", Script(tokenizer, ["one", "stop"]), tokenizer), tokenizer)


@pytest.mark.parametrize(
    ("settings", "turns"),
    [({"limit": 2}, 2), ({"limit": 3}, 3), ({"budget": 20}, 2), ({"context": 26}, 2), ({"budget": 4}, 1)],
)
def test_limits_cut_off(tmp_path: Path, settings: dict[str, int], turns: int) -> None:
    tokenizer = make_tokenizer(None, eos="</s>")
    sampler = Script(tokenizer, ["one"] * 9)
    rollout = one(maker_of(tmp_path, "echo", sampler, tokenizer, **settings), tokenizer)
    assert (len(sampler.seen), rollout.finish_reason) == (turns, "length")
    assert len(rollout.token_ids) <= settings.get("budget", 200)
    assert len(rollout.token_ids) + 4 <= settings.get("context", 400)


def test_one_turn_is_what_it_was_without_a_tool(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(None, eos="</s>")
    rollout = one(maker_of(tmp_path, "silent", Script(tokenizer, ["stop"]), tokenizer), tokenizer)
    assert (rollout.text, all(rollout.loss_mask), rollout.steps) == ("stop", True, {})


@pytest.mark.parametrize(("tool", "kind"), [("breaks", "error"), ("number", "error"), ("hangs", "timeout")])
def test_a_tool_that_fails_is_a_failure_of_the_rollout(tmp_path: Path, tool: str, kind: str) -> None:
    tokenizer = make_tokenizer(None, eos="</s>")
    with pytest.raises(UserError, match=tool):
        one(maker_of(tmp_path, tool, Script(tokenizer, ["x"]), tokenizer), tokenizer)
    dropping = replace(maker_of(tmp_path, tool, Script(tokenizer, ["x"]), tokenizer), on_failure="zero")
    prompt = Prompt("p", (USER,), encode_prompt(tokenizer, (USER,)), "stop", {"level": "L"})
    collected = dropping.collect([(0, prompt)], 2, seed=0, step=0)
    assert [failure["kind"] for failure in collected.failures] == [kind, kind]
    assert [rollout.reward for rollout in collected.rollouts] == [0.0, 0.0]


def test_a_tool_is_checked_before_the_run(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(None, eos="</s>")
    with pytest.raises(UserError, match=r"has no 'ecko' .*did you mean 'echo'"):
        maker_of(tmp_path, "ecko", Script(tokenizer, []), tokenizer)
    with pytest.raises(UserError, match=r"no option 'prefx' .*did you mean 'prefix'"):
        maker_of(tmp_path, "echo", Script(tokenizer, []), tokenizer, options={"prefx": "#"})


def test_a_conversation_scores_as_the_native_sampler_says() -> None:
    """The log-prob of each sampled token is what a single pass over the whole conversation gives it."""
    init = InitConfig(width=32, layers=2, heads=2, context=200)
    model, tokenizer = load_model(ModelConfig(init=init, dtype="float64"))
    sampler = make_sampler(model, tokenizer, stop_ids(tokenizer))
    rewards = RewardsConfig.model_validate({"parts": {"exact": "exact"}, "workers": 1})
    turns = make_turns(TurnsConfig(tool="tests.unit.test_turns:often"), rewards, tokenizer, stop_ids(tokenizer), 200)
    params = SamplingParams(max_completion_tokens=60, stop=("e", "3"))
    maker = RolloutMaker(sampler, tokenizer, make_rewards(rewards), params, "raise", 1.0, turns)
    prompts = [(draw, Prompt("p", (USER,), encode_prompt(tokenizer, (USER,)), "5", {})) for draw in range(2)]
    rollouts = maker.collect(prompts, 8, seed=0, step=0).rollouts
    assert sum(not all(rollout.loss_mask) for rollout in rollouts) > 4
    for rollout in rollouts:
        ids = torch.tensor([*rollout.prompt.token_ids, *rollout.token_ids])
        logits = model(input_ids=ids[None]).logits[0, len(rollout.prompt.token_ids) - 1 : -1].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
        mask, found = torch.tensor(rollout.loss_mask), torch.tensor(rollout.behavior_logprobs, dtype=torch.float64)
        torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-5)
        assert bool(found[~mask].isnan().all())
    batch = batch_of(rollouts, maker.rewards, 60)
    assert [int(row.sum()) for row in batch.loss_mask] == [sum(r.loss_mask) for r in rollouts]


def often(completion: str) -> str | None:
    """Answers what ended with a stop string."""
    return f"[{len(completion)}]" if completion.endswith(("e", "3")) else None


def test_a_reply_begins_after_the_stop_token_of_the_turn() -> None:
    tokenizer = make_tokenizer(CHATML)
    ids = encode_reply(tokenizer, (USER, REPLY), AGAIN, stop_ids(tokenizer))
    assert tokenizer.decode(list(ids)) == "\n<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\n"
