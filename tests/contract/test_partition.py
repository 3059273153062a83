"""The second law: the gradient of a step does not depend on how the step is cut up.

Driven from the table of presets and of the options of their functions: a new row is covered without a new test.
float64; the measure is the norm of the difference over the norm of the gradient.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.contract import tiny
from upweight.algorithms import Algorithm
from upweight.columns import ragged
from upweight.learners import gloo
from upweight.learners.local import LocalLearner
from upweight.learners.microbatches import units_of
from upweight.objectives.tokens import pad, token_weights
from upweight.presets import PRESETS
from upweight.types import Annotated
from upweight.update import annotate, weights_of, with_statistics

TOLERANCE = 1e-12
ROWS = 8


def prepared(method: Algorithm, learner: LocalLearner) -> tuple[Annotated, dict[str, list[torch.Tensor]]]:
    """A step off policy: annotated, some ratios clipped and some not, its weights known."""
    several = method.with_options({"inner_epochs": 2})
    rows = annotate(learner, several, tiny.batch_for(method, ROWS))
    rows = tiny.off_policy(tiny.with_old(learner, several, rows))
    rows = with_statistics(learner, method, rows)
    return rows, weights_of(method, rows)


def gradient_of(learner: LocalLearner, rows: Annotated, weights: dict[str, list[torch.Tensor]]) -> torch.Tensor:
    learner.zero_grad()
    learner.backward(rows, weights, units_of(rows.unit_ids.tolist()))
    return tiny.gradient(learner).clone()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", PRESETS)
def test_microbatches_padding_and_packing(name: str) -> None:
    """Every option of every preset: one row at a time, some at a time, padded further, packed."""
    method = tiny.every_term(name)
    whole_learner = tiny.learner(method)
    cuts = [
        tiny.learner(method, tokens_per_microbatch=1),
        tiny.learner(method, tokens_per_microbatch=90, kind="padded", pad_multiple=7),
        tiny.learner(method, tokens_per_microbatch=60, kind="packed"),
    ]
    for variant in tiny.variants(name):
        for learner in (whole_learner, *cuts):
            learner.terms = variant.active_terms()
        rows, weights = prepared(variant, whole_learner)
        whole = gradient_of(whole_learner, rows, weights)
        assert whole.norm() > 1e-4, tiny.shown(variant)
        for learner in cuts:
            assert relative(gradient_of(learner, rows, weights), whole) < TOLERANCE, tiny.shown(variant)


@pytest.mark.parametrize("name", PRESETS)
def test_row_order(name: str) -> None:
    method = tiny.every_term(name)
    learner = tiny.learner(method, tokens_per_microbatch=60)
    rows, weights = prepared(method, learner)
    whole = gradient_of(learner, rows, weights)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(5)).tolist()
    moved = {term: [column[i] for i in order] for term, column in weights.items()}
    assert relative(gradient_of(learner, rows.select(order), moved), whole) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].critic])
def test_a_head_on_the_policy_is_cut_up_alike(name: str) -> None:
    method = tiny.every_term(name)
    whole_learner = tiny.learner(method, share_trunk=True)
    rows, weights = prepared(method, whole_learner)
    whole = gradient_of(whole_learner, rows, weights)
    cut = tiny.learner(method, share_trunk=True, tokens_per_microbatch=60, kind="packed")
    assert relative(gradient_of(cut, rows, weights), whole) < TOLERANCE


def test_two_ranks(tmp_path: Path) -> None:
    """One pair of processes takes the steps of every preset and of every option, each rank its share of the units."""
    mp.spawn(_rank, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    worst = torch.load(tmp_path / "worst.pt")
    assert set(worst) == set(PRESETS)
    assert {name: value for name, value in worst.items() if not value < TOLERANCE} == {}


def _rank(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    gloo._join(rank, 2, store)
    worst: dict[str, float] = {}
    for name in PRESETS:
        learner = tiny.learner(tiny.every_term(name), lr=1e-9)
        for variant in tiny.variants(name):
            learner.terms = variant.active_terms()
            rows, weights = prepared(variant, learner)
            whole = gradient_of(learner, rows, weights)
            stats = gloo._step(learner, rank, 2, rows, weights)
            assert set(stats.pushes) == {term.name for term in variant.active_terms()}
            worst[name] = max(worst.get(name, 0.0), relative(tiny.gradient(learner), whole))
    if rank == 0:
        torch.save(worst, Path(out) / "worst.pt")
    dist.destroy_process_group()


def test_a_denominator_per_microbatch_is_caught() -> None:
    """The commonest bug of the field, planted: each micro-batch divided by its own tokens."""
    method = tiny.every_term("sft")
    learner = tiny.learner(method)
    rows, weights = prepared(method, learner)
    whole = gradient_of(learner, rows, weights)
    learner.zero_grad()
    for half in (list(range(ROWS // 2)), list(range(ROWS // 2, ROWS))):
        piece = rows.select(half)
        local = token_weights(pad(piece.loss_mask).bool(), method.terms[0].reduction) / 2
        own = {"policy": ragged(local, piece.lengths())}
        learner.backward(piece, own, [[i] for i in range(len(piece))])
    assert relative(tiny.gradient(learner), whole) > 1e-3
