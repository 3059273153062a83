"""What every learner host promises: in process, and two processes over gloo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.contract import tiny
from upweight.algorithms import Algorithm
from upweight.learners.gloo import GlooLearner
from upweight.learners.port import Learner
from upweight.types import Annotated
from upweight.update import Updater, annotate, weights_of

METHOD = tiny.every_term("grpo")
CRITIC = tiny.every_term("ppo").with_options({"reference_every": 1, "reference_mix": 0.5})


def make(host: str, method: Algorithm = METHOD) -> Learner:
    build = tiny.factory(method)
    return build() if host == "local" else GlooLearner(build, ranks=2)


@pytest.fixture(params=["local", "gloo"])
def learner(request: pytest.FixtureRequest) -> Iterator[Learner]:
    made = make(request.param)
    yield made
    made.close()


def rows_for(learner: Learner) -> Annotated:
    return annotate(learner, METHOD, tiny.batch())


def test_score_is_log_softmax_at_the_temperature(learner: Learner) -> None:
    """An independent recomputation: transformers' own logits, one row at a time."""
    rows = tiny.batch()
    policy, _ = tiny.tiny_model("llama", "float64")
    for prompt, tokens, scored in zip(rows.prompt_ids, rows.token_ids, learner.score(rows, "policy"), strict=True):
        logits = policy(torch.cat([prompt, tokens])[None]).logits[0] / 0.7
        expected = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        torch.testing.assert_close(scored, expected, rtol=0, atol=1e-10)


def test_a_step_moves_probability_the_way_it_pushes(learner: Learner) -> None:
    rows = rows_for(learner)
    stats = learner.step(rows, weights_of(METHOD, rows))
    after = learner.score(rows, "policy")
    gained = sum(
        float((p * (b - a)).sum())
        for p, a, b in zip(stats.pushes["policy"], stats.outputs["logprobs"], after, strict=True)
    )
    assert gained > 0
    assert not stats.skipped
    assert stats.grad_norms["policy"] > 0


def test_pushes_are_the_weight_on_grad_log_pi(learner: Learner) -> None:
    """On policy the push of a token is its advantage times its share of the step."""
    rows = rows_for(learner)
    weights = weights_of(METHOD, rows)
    stats = learner.step(rows, weights)
    for push, advantage, weight in zip(
        stats.pushes["policy"], rows.token_columns["advantages"], weights["policy"], strict=True
    ):
        torch.testing.assert_close(push, advantage * weight, rtol=1e-9, atol=1e-12)


def test_a_step_that_is_not_finite_leaves_the_weights_alone(learner: Learner) -> None:
    rows = rows_for(learner)
    weights = weights_of(METHOD, rows)
    before = [tensor.detach().clone() for _, tensor in learner.weights()]
    weights["policy"][3] = weights["policy"][3] * torch.nan
    assert learner.step(rows, weights).skipped
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, learner.weights(), strict=True))
    assert not learner.step(rows, weights_of(METHOD, rows)).skipped


def test_save_and_load_go_on_bit_identically(learner: Learner, tmp_path: Path) -> None:
    rows = rows_for(learner)
    weights = weights_of(METHOD, rows)
    learner.step(rows, weights)
    learner.save(tmp_path)
    expected = [learner.step(rows, weights).loss for _ in range(2)]
    end = [tensor.detach().clone() for _, tensor in learner.weights()]
    learner.load(tmp_path)
    assert [learner.step(rows, weights).loss for _ in range(2)] == expected
    assert all(torch.equal(a, b) for a, (_, b) in zip(end, learner.weights(), strict=True))


def test_critic_and_moving_reference_go_on_bit_identically(tmp_path: Path) -> None:
    """A checkpoint holds the critic, its optimizer and the reference where it was."""
    rows = tiny.batch_for(CRITIC)
    runs = []
    for way in ("whole", "resumed"):
        learner = tiny.learner(CRITIC)
        updater = Updater(learner, CRITIC)
        for step in range(4):
            if way == "resumed" and step == 2:
                learner.save(tmp_path)
                learner, state = tiny.learner(CRITIC), updater.state()
                learner.load(tmp_path)
                updater = Updater(learner, CRITIC)
                updater.load(state)
            annotated_rows, metrics = updater.update(rows, (0, step))
        runs.append((metrics, annotated_rows, learner.score(rows, "critic"), learner.score(rows, "reference")))
    (metrics, ledger, values, reference), (metrics2, ledger2, values2, reference2) = runs
    assert metrics == metrics2
    for name, column in ledger.token_columns.items():
        pairs = zip(column, ledger2.token_columns[name], strict=True)
        assert all(torch.allclose(a.double(), b.double(), rtol=0, atol=0, equal_nan=True) for a, b in pairs), name
    assert all(torch.equal(a, b) for a, b in zip([*values, *reference], [*values2, *reference2], strict=True))


def test_the_reference_moves_by_its_share(learner: Learner) -> None:
    """reference = mix * policy + (1 - mix) * reference, in every process; a whole step makes them equal."""
    rows = tiny.batch()
    learner.move_reference(1.0)
    for mine, other in zip(learner.score(rows, "policy"), learner.score(rows, "reference"), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_the_saved_policy_is_a_hugging_face_folder(learner: Learner, tmp_path: Path) -> None:
    learner.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float64)
    ours = dict(learner.weights())
    assert all(torch.equal(parameter, ours[name]) for name, parameter in loaded.named_parameters())


def test_two_processes_follow_one(tmp_path: Path) -> None:
    """Three optimizer steps on one process and on two end in the same weights to rounding."""
    alone, pair = make("local"), make("gloo")
    try:
        for seed in range(3):
            rows = annotate(alone, METHOD, tiny.batch(seed=seed))
            for host in (alone, pair):
                host.step(rows, weights_of(METHOD, rows))
        for (_, mine), (_, theirs) in zip(alone.weights(), pair.weights(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    finally:
        pair.close()


def test_the_mismatch_with_the_sampler_is_that_of_the_first_step() -> None:
    """Later minibatches see a policy that has moved: that is no mismatch, and must not be reported as one."""
    learner = make("local")
    rows = tiny.batch()
    behavior = learner.score(rows, "policy")
    rows = replace(rows, token_columns={"behavior_logprobs": behavior})
    for options in ({"minibatches": 2}, {"inner_epochs": 3}):
        _, metrics = Updater(learner, METHOD.with_options(options)).update(rows, (0, 0))
        assert metrics["train/sampler_mismatch_max"] < 1e-9
        assert metrics["train/ratio_max"] > 1 + 1e-6
        rows = replace(rows, token_columns={"behavior_logprobs": learner.score(rows, "policy")})
