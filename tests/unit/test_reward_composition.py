"""Named parts put together: weights, gates, steps, and functions with TRL's signature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from upweight.columns import padded_columns
from upweight.config import RewardsConfig
from upweight.errors import UserError
from upweight.rewards.call import Failed, Stepwise
from upweight.rewards.combine import Scored
from upweight.rewards.make import make_rewards
from upweight.rewards.score import Rewards
from upweight.rollout_batch import batch_of, step_columns
from upweight.types import Prompt, Rollout, Step

MINE = """
from upweight.rewards.call import Stepwise

def one(completion): return 1.0
def half(completion): return 0.5
def letters(completion, tokens=None):
    return Stepwise(len(completion), tuple(range(1, len(completion) + 1)), tuple(0.5 for _ in completion))
def backwards(completion): return Stepwise(1.0, (2, 1), (1.0, 1.0))
def endless(completion): return Stepwise(1.0, (1,), (float("inf"),))
def known(completion, tokens, token_ids, token_budget, transcript):
    return tokens + 10 * len(token_ids) + 100 * token_budget + 1000 * len(transcript)

def trl_text(prompts, completions, level, **kwargs):
    assert prompts == ["2+2="] and level == ["easy"] and kwargs["answer"] == ["4"], kwargs
    return [float(completion == "4") for completion in completions]
def trl_chat(completions, scale=1.0, **kwargs):
    return [scale * float(completion[0]["content"] == "4") for completion in completions]
def trl_none(completions): return [None]
def trl_two(completions): return [1.0, 1.0]
def trl_ids(completions, completion_ids, trainer_state): return [float(len(completion_ids[0]))]
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py"


def inline(mine: str, **parts: dict) -> Rewards:
    given = {name: {"isolate": False, **part, "function": f"{mine}:{part['function']}"} for name, part in parts.items()}
    return make_rewards(RewardsConfig.model_validate({"parts": given}))


def prompt(*turns: str, **fields: object) -> Prompt:
    messages = tuple({"role": "user", "content": turn} for turn in turns or ("2+2=",))
    return Prompt("id", messages, (1,), "4", fields)


def test_a_part_counts_only_while_its_gate_is_open(mine: str) -> None:
    parts = {"right": {"function": "one", "needs": "form"}, "form": {"function": "half", "weight": 2.0}}
    assert inline(mine, **parts).score(prompt(), "x", "stop") == Scored(1.0, {"right": 0.0, "form": 0.5})
    parts["form"]["function"] = "one"
    assert inline(mine, **parts).score(prompt(), "x", "stop") == Scored(3.0, {"right": 1.0, "form": 1.0})


def test_gates_behind_gates(mine: str) -> None:
    parts = {
        "a": {"function": "one", "needs": "b"},
        "b": {"function": "one", "needs": "c"},
        "c": {"function": "half"},
        "steps": {"function": "letters", "needs": "a"},
    }
    scored = inline(mine, **parts).score(prompt(), "xy", "stop")
    assert scored == Scored(0.5, {"a": 0.0, "b": 0.0, "c": 0.5, "steps": 0.0}, {"steps": Stepwise(0.0, (), ())})


@pytest.mark.parametrize(
    ("needs", "words"),
    [("forn", "did you mean 'form'"), ("right", "would wait for itself"), ("loop", "would wait for itself")],
)
def test_gates_are_checked(mine: str, needs: str, words: str) -> None:
    parts = {
        "right": {"function": "one", "needs": needs},
        "form": {"function": "one"},
        "loop": {"function": "one", "needs": "hoop"},
        "hoop": {"function": "one", "needs": "loop"},
    }
    if needs != "loop":
        del parts["loop"], parts["hoop"]
    with pytest.raises(UserError, match=words):
        inline(mine, **parts)


@pytest.mark.parametrize("isolate", [False, True])
def test_steps_come_through(mine: str, isolate: bool) -> None:
    rewards = inline(mine, steps={"function": "letters", "weight": 3.0, "isolate": isolate})
    expected = Scored(6.0, {"steps": 2.0}, {"steps": Stepwise(2.0, (1, 2), (0.5, 0.5))})
    assert rewards.score(prompt(), "ab", "stop") == expected
    rewards.close()


@pytest.mark.parametrize(("function", "kind"), [("backwards", "error"), ("endless", "not_a_number")])
def test_steps_that_make_no_sense_are_a_failure(mine: str, function: str, kind: str) -> None:
    failed = inline(mine, steps={"function": function}).score(prompt(), "ab", "stop")
    assert isinstance(failed, Failed)
    assert failed.kind == kind


def test_what_is_known_of_a_sampled_completion(mine: str) -> None:
    rewards = inline(mine, known={"function": "known"})
    known = {"tokens": 1, "token_ids": [5, 6], "token_budget": 3, "transcript": "four"}
    assert rewards.score(prompt(tokens=99), "x", "stop", **known).reward == 1 + 20 + 300 + 4000
    assert rewards.score(prompt(), "x", "stop").message.startswith("the row has no field 'tokens'")


def test_functions_with_trls_signature(mine: str) -> None:
    easy = prompt(level="easy")
    assert inline(mine, it={"function": "trl_text"}).score(easy, "4", "stop").reward == 1.0
    chat = {"function": "trl_chat", "options": {"conversational": True, "scale": 2.0}}
    assert inline(mine, it=chat).score(easy, "4", "stop", token_ids=[1]).reward == 2.0
    assert inline(mine, it={"function": "trl_chat"}).score(prompt("a", "b"), "4", "stop", token_ids=[1]).reward == 1.0
    assert inline(mine, it={"function": "trl_none"}).score(easy, "4", "stop", token_ids=[1]).reward == 0.0
    assert inline(mine, it={"function": "trl_ids"}).score(easy, "4", "stop", token_ids=[1, 2]).reward == 2.0


def test_trls_functions_that_cannot_be_called_fail(mine: str) -> None:
    failed = inline(mine, it={"function": "trl_text"}).score(prompt(levels="easy"), "4", "stop", token_ids=[1])
    assert "no column 'level' (did you mean 'levels'?)" in failed.message
    failed = inline(mine, it={"function": "trl_two"}).score(prompt(), "4", "stop", token_ids=[1])
    assert failed.kind == "error"
    with pytest.raises(UserError, match=r"no option 'scael' .*did you mean 'scale'"):
        inline(mine, it={"function": "trl_chat", "options": {"scael": 2.0}})


def test_a_trl_function_in_a_worker(mine: str) -> None:
    rewards = inline(mine, it={"function": "trl_text", "isolate": True})
    assert rewards.score(prompt(level="easy"), "4", "stop", token_ids=[1]).reward == 1.0
    rewards.close()


def rollout(steps: dict[str, tuple[Step, ...]], parts: dict[str, float], mask: str = "11111") -> Rollout:
    told = tuple(letter == "1" for letter in mask)
    logs = tuple(-1.0 if mine else float("nan") for mine in told)
    return Rollout(prompt(), "text", (1,) * 5, told, logs, "stop", 0.0, parts, 0, 0, 0, steps)


def columns(mine: str, made: Rollout, **weights: float) -> tuple[list[float], list[bool]]:
    names = {name: {"function": "one", "weight": weight} for name, weight in weights.items()}
    earned, ends = step_columns(made, inline(mine, **names))
    return earned.tolist(), ends.tolist()


def test_steps_are_earned_where_they_end_and_the_rest_at_the_last_token(mine: str) -> None:
    made = rollout({"s": (Step(1, 1.0), Step(3, 0.5))}, {"s": 1.0, "correct": 1.0})
    assert columns(mine, made, s=2.0, correct=1.0) == ([0, 2, 0, 1, 0], [False, True, False, True, True])
    assert columns(mine, made, s=2.0, correct=0.0) == ([0, 2, 0, 1, 0], [False, True, False, True, False])
    assert columns(mine, made, s=0.0, correct=1.0) == ([0] * 5, [False] * 4 + [True])


def test_a_row_without_steps_ends_with_its_last_token(mine: str) -> None:
    assert columns(mine, rollout({"s": ()}, {"s": 0.0}), s=1.0) == ([0] * 5, [False] * 4 + [True])


def test_a_step_that_ends_in_a_tools_words_is_earned_by_the_policy_before_it(mine: str) -> None:
    made = rollout({"s": (Step(2, 1.0), Step(3, 1.0), Step(4, 1.0))}, {"s": 1.0}, mask="01001")
    assert columns(mine, made, s=1.0) == ([0, 2, 0, 0, 1], [False, True, False, False, True])


def test_a_batch_has_each_part_with_its_weight_and_what_steps_earned(mine: str) -> None:
    rewards = inline(mine, a={"function": "one", "weight": 0.5}, s={"function": "letters", "weight": 2.0})
    made = [rollout({"s": (Step(1, 1.0),)}, {"a": value, "s": 3.0}) for value in (0.0, 1.0)]
    rows = padded_columns(batch_of(made, rewards, 5))
    assert torch.equal(rows["parts"], torch.tensor([[0.0, 3.0], [1.0, 3.0]]).double())
    assert torch.equal(rows["part_weights"], torch.tensor([[0.5, 2.0]] * 2).double())
    assert torch.equal(rows["step_total"], torch.tensor([6.0, 6.0]).double())
    assert torch.equal(rows["step_rewards"][:, 1], torch.tensor([2.0, 2.0]).double())
