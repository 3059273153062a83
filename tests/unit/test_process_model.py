"""A process reward model as a reward: where steps end, what the model reads, and what a solution is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.tiny import reward_model, tiny_model
from upweight.batches import batch_of_units
from upweight.chat import encode_prompt
from upweight.config import RewardPart
from upweight.encode import Encoder
from upweight.errors import UserError
from upweight.evaluate import StepEvaluator
from upweight.models.forward import context_length
from upweight.models.load import save_model
from upweight.models.networks import RewardNetwork
from upweight.rewards.process_model import ProcessModelReward, load_process_reward, split_steps
from upweight.types import JudgedSteps, Prompt, Rollout

POLICY, TOKENIZER = tiny_model("llama")
MODEL, OWN = reward_model(POLICY, TOKENIZER)
USER = {"role": "user", "content": "2+2="}


def reward(**options: Any) -> ProcessModelReward:
    given_options = {"separator": ",", "aggregate": "product", "tokens_per_microbatch": 64, **options}
    return ProcessModelReward(MODEL, OWN, **given_options)


def rollout(text: str) -> Rollout:
    tokens = (*TOKENIZER(text, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id)
    asked = Prompt("p", (USER,), encode_prompt(TOKENIZER, (USER,)), "4", {})
    held = (True,) * len(tokens)
    return Rollout(asked, text, tokens, held, (0.0,) * len(tokens), "stop", 0.0, {}, 0, 0, 0)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a,bc,d", [("a", 2), ("bc", 5), ("d", 6)]),
        ("a,bc,", [("a", 2), ("bc", 5)]),
        (",, a,  ,b,\n", [(" a", 5), ("b", 10)]),
        ("", []),
        (" ,,\n", []),
        (",", []),
    ],
)
def test_steps_end_with_their_separator_and_blank_ones_are_none(text: str, steps: list[tuple[str, int]]) -> None:
    assert split_steps(text, ",") == steps


@given(text=st.text(alphabet="ab, \n", max_size=40), separator=st.sampled_from([",", ", ", "\n\n", "ab"]))
def test_ends_ascend_and_cover_what_is_said(text: str, separator: str) -> None:
    found = split_steps(text, separator)
    ends = [end for _, end in found]
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(text) for end in ends)
    for step, end in found:
        assert text[:end].removesuffix(separator).endswith(step)


def test_a_step_is_scored_as_the_model_was_trained_on_it() -> None:
    """The scores that the network that is trained gives to the encoded row, whatever the batch; and their product."""
    texts = ["2=2,2+2=4,so 4", "4", "1,2,3,4,5,6,7"]
    found = reward()([rollout(text) for text in texts])
    encoder = Encoder(TOKENIZER, frozenset({TOKENIZER.eos_token_id}), 96, "error")
    for text, stepwise in zip(texts, found, strict=True):
        steps = tuple(text.split(","))
        (unit,) = encoder.steps([JudgedSteps("x", (USER,), steps, (1.0,) * len(steps), ",")], "")
        batch = batch_of_units([unit])
        scores = RewardNetwork(MODEL, OWN).outputs(batch)["scores"][0]
        expected = torch.sigmoid(scores[batch.loss_mask[0]].double())
        assert stepwise.rewards == pytest.approx(expected.tolist(), abs=1e-6)
        assert stepwise.value == pytest.approx(expected.prod().item(), abs=1e-6)
        assert stepwise.ends == tuple(end for _, end in split_steps(text, ","))
    assert len({r for s in found for r in s.rewards}) == 11, "the scores differ"


def test_saying_nothing_is_worth_nothing() -> None:
    empty, blank, some = reward()([rollout(""), rollout(" , "), rollout("4")])
    assert (empty.value, empty.ends, empty.rewards) == (0.0, (), ())
    assert (blank.value, blank.ends, blank.rewards) == (0.0, (), ())
    assert some.value == some.rewards[0] > 0


@pytest.mark.parametrize(("aggregate", "index"), [("min", None), ("last", -1)])
def test_the_aggregate_is_the_one_that_was_asked_for(aggregate: str, index: int | None) -> None:
    (found,) = reward(aggregate=aggregate)([rollout("1,2+2=5,3")])
    assert found.value == (min(found.rewards) if index is None else found.rewards[index])


def test_steps_beyond_the_context_are_worth_nothing_and_stop_nobody() -> None:
    context = context_length(MODEL)
    found, short = reward(aggregate="min")([rollout("1,2," + "3" * context + ",4"), rollout("1,2")])
    assert found.rewards[:2] == pytest.approx(short.rewards, abs=1e-6)
    assert found.rewards[2:] == (0.0, 0.0)
    assert len(found.ends) == 4
    assert found.value == 0


def load(folder: Path, tokenizer: Any = TOKENIZER, **options: Any) -> ProcessModelReward:
    part = RewardPart(function="process_reward_model", options={"path": str(folder), **options})
    return load_process_reward("steps", part, tokenizer)


def test_it_is_loaded_with_its_options(tmp_path: Path) -> None:
    save_model(MODEL, OWN, tmp_path)
    loaded = load(tmp_path, separator=",", aggregate="mean")
    (found,) = loaded([rollout("1,2")])
    (expected,) = reward(aggregate="mean")([rollout("1,2")])
    assert found.rewards == pytest.approx(expected.rewards, abs=1e-6)
    assert found.value == pytest.approx(sum(expected.rewards) / 2, abs=1e-6)
    assert load(tmp_path).separator == "\n"
    assert not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, "path must be like"),
        ({"path": "nowhere/at/all"}, "cannot load 'nowhere/at/all'"),
        ({"seperator": ","}, r"no option 'seperator' \(did you mean 'separator'\?\)"),
        ({"separator": ""}, "separator must be like"),
        ({"separator": 3}, "separator must be like"),
        ({"aggregate": "median"}, "'median' is not one of product, min, last, mean"),
        ({"tokens_per_microbatch": True}, "tokens_per_microbatch must be like 16384"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, **options)
    with pytest.raises(UserError, match='needs path = "'):
        load_process_reward("steps", RewardPart(function="process_reward_model"), TOKENIZER)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    save_model(MODEL, OWN, tmp_path)
    other = tiny_model("llama")[1]
    other.add_tokens(["<odd>"])
    with pytest.raises(UserError, match="another vocabulary than the policy"):
        load(tmp_path, other)


class Fixed:
    """A learner that gives these scores."""

    def __init__(self, scores: list[torch.Tensor]) -> None:
        self.scores = scores

    def score(self, rows: Any, which: str) -> list[torch.Tensor]:
        assert which == "reward"
        return self.scores


def test_accuracy_of_steps_and_of_solutions() -> None:
    """Five steps, of which one is called wrong though it is right; of two solutions one is met whole."""
    encoder = Encoder(TOKENIZER, frozenset({TOKENIZER.eos_token_id}), 96, "error")
    judged = [
        JudgedSteps("a", (USER,), ("1", "2", "3"), (1.0, 0.4, 0.0), ","),
        JudgedSteps("b", (USER,), ("1", "2"), (1.0, 0.5), ","),
    ]
    scores = [torch.tensor([-9.0, 0.1, 9, -0.1, 9, -3]), torch.tensor([9.0, 2.0, 9.0, -0.1])]
    found = StepEvaluator(encoder.steps(judged, ""))(Fixed(scores), 0)  # type: ignore[arg-type]
    assert found["eval/step_accuracy"] == pytest.approx(4 / 5)
    assert found["eval/solution_accuracy"] == 0.5
    assert found["eval/step_accuracy_low"] < 0.8 < found["eval/step_accuracy_high"]
