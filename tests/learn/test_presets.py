"""Every preset improves a tiny problem, driven from the table; in `make test-all` against shuffled rewards too.

The problem: after the prompt, say "a" as often as you can. The policy has one layer and starts near uniform. SFT sees
completions of nothing but "a"; the others are rewarded by the share of "a" in what they said.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from upweight.algorithms import PRESETS
from upweight.config import InitConfig, ModelConfig, OptimizerConfig
from upweight.learners.local import LocalLearner
from upweight.models.load import load_model
from upweight.samplers.native import NativeSampler
from upweight.types import Batch, Request, SampleKey, SamplingParams
from upweight.update import update

PARAMS = SamplingParams(max_completion_tokens=4)
ROWS, GROUP = 64, 8
STEPS = {"sft": 20, "rft": 60}


class Problem:
    def __init__(self, name: str, seed: int) -> None:
        init = InitConfig(width=16, layers=1, heads=2, mlp_width=16, context=16)
        self.policy, tokenizer = load_model(ModelConfig(init=init), seed=seed)
        self.letter = tokenizer.encode("a")[0]
        self.seed = seed
        self.method = PRESETS[name].with_options({"minibatches": 2} if name == "grpo" else {})
        settings = OptimizerConfig(lr=0.03, max_grad_norm=100.0)
        self.learner = LocalLearner(self.policy, tokenizer, self.method.active_terms(), optimizer=settings)
        self.sampler = NativeSampler(self.policy, tokenizer, frozenset({tokenizer.eos_token_id}))

    def success(self) -> float:
        """Probability of "a" as the first token."""
        return float(self.sampler.score((5, 6), 1.0)[self.letter].exp())

    def batch(self, step: int) -> Batch:
        if self.method.source == "dataset":
            return self._rows([(self.letter,) * 4] * ROWS)
        keys = [SampleKey(self.seed, step, i // GROUP, i % GROUP) for i in range(ROWS)]
        done = {c.key: c for c in self.sampler.sample([Request((5, 6), key, PARAMS) for key in keys])}
        return self._rows([done[key].token_ids for key in keys])

    def _rows(self, completions: list[tuple[int, ...]]) -> Batch:
        share = [sum(t == self.letter for t in tokens) / 4 for tokens in completions]
        return Batch(
            ids=[str(i) for i in range(ROWS)],
            prompt_ids=[torch.tensor([5, 6])] * ROWS,
            token_ids=[torch.tensor(tokens) for tokens in completions],
            loss_mask=[torch.ones(len(tokens), dtype=torch.bool) for tokens in completions],
            group_ids=torch.arange(ROWS) // GROUP,
            unit_ids=torch.arange(ROWS),
            row_columns={"rewards": torch.tensor(share, dtype=torch.float64)},
        )

    def train(self, shuffled: bool = False) -> float:
        """Success after training, starting from about 1 in 100."""
        draw = torch.Generator().manual_seed(self.seed)
        for step in range(STEPS.get(self.method.name, 40)):
            batch = self.batch(step)
            if shuffled:
                order = torch.randperm(ROWS, generator=draw)
                batch = replace(batch, row_columns={"rewards": batch.row_columns["rewards"][order]})
            update(self.learner, self.method, batch, (self.seed, step))
        return self.success()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_learns(name: str) -> None:
    problem = Problem(name, seed=0)
    assert problem.success() < 0.05
    assert problem.train() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].source == "rollouts"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_preset_learns_from_its_rewards(name: str, seed: int) -> None:
    """The same with rewards that were shuffled among all completions of a step: nothing but chance is left."""
    learned, control = Problem(name, seed).train(), Problem(name, seed).train(shuffled=True)
    assert learned > 0.5
    assert control < learned / 2
