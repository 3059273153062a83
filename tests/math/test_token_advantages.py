"""Advantages of single tokens: returns, generalised advantage estimation, and whitening over the tokens of a batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.math.reference import PRINTED, assert_close, f64, mask_of, padded
from upweight.objectives.advantages import (
    deviations,
    gae,
    group_relative,
    returns_to_go,
    spread,
    value_targets,
    whiten,
)
from upweight.objectives.shaping import terminal_rewards

REWARDS, VALUES = f64([[-0.10, -0.05, 0.90]]), f64([[0.2, 0.5, 0.7]])
FULL, WHOLE = mask_of([3]), torch.tensor([False])

# A tool's answer stands between the second and the third trained token; padding at the end.
GAPPED = torch.tensor([[True, True, False, False, True, False]])


def gapped(values: Tensor, garbage: float = 1e6) -> Tensor:
    """Three numbers at the trained places of GAPPED."""
    column = torch.full((1, 6), garbage, dtype=torch.float64)
    column[GAPPED] = values[0]
    return column


@pytest.mark.parametrize(
    ("gamma", "lam", "advantages", "returns"),
    [
        (1.0, 0.95, [0.523, 0.34, 0.2], [0.723, 0.84, 0.9]),
        (1.0, 1.0, [0.55, 0.35, 0.2], [0.75, 0.85, 0.9]),
        (1.0, 0.0, [0.2, 0.15, 0.2], [0.4, 0.65, 0.9]),
        (0.99, 0.95, [0.5064, 0.3311, 0.2], [0.7064, 0.8311, 0.9]),
    ],
)
def test_v06_gae(gamma: float, lam: float, advantages: list[float], returns: list[float]) -> None:
    found = gae(REWARDS, VALUES, FULL, WHOLE, gamma, lam)
    assert_close(found, [advantages], PRINTED)
    assert_close(value_targets(found, VALUES, FULL), [returns], PRINTED)


def test_v06_defaults() -> None:
    assert_close(gae(REWARDS, VALUES, FULL, WHOLE), [[0.523, 0.34, 0.2]], PRINTED)
    assert torch.equal(gae(REWARDS, VALUES, FULL, WHOLE), gae(REWARDS, VALUES, FULL, ~WHOLE)), "no bootstrap"


def test_v06_a_score_that_comes_one_token_later() -> None:
    rewards, values = f64([[-0.10, -0.05, -0.10, 1.0]]), f64([[0.2, 0.5, 0.7, 0.65]])
    found = gae(rewards, values, mask_of([4]), WHOLE, lam=0.95)
    assert_close(found, [[0.507206, 0.323375, 0.1825, 0.35]], PRINTED)
    assert_close(gae(rewards, values, mask_of([4]), WHOLE, lam=1.0), [[0.55, 0.35, 0.2, 0.35]], PRINTED)


@pytest.mark.parametrize(("kind", "expected"), [
    ("sample", [1.041304, -0.088490, -0.952814]),
    ("population", [1.275332, -0.108378, -1.166954]),
])  # fmt: skip
def test_v06_whitened(kind: str, expected: list[float]) -> None:
    advantages = gae(REWARDS, VALUES, FULL, WHOLE)
    assert_close(whiten(advantages, FULL, kind), [expected], PRINTED)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_untrained_tokens_are_skipped(gamma: float, lam: float) -> None:
    plain = gae(REWARDS, VALUES, FULL, WHOLE, gamma, lam)
    with_gaps = gae(gapped(REWARDS), gapped(VALUES), GAPPED, WHOLE, gamma, lam)
    assert torch.equal(with_gaps, gapped(plain, 0.0))
    going = returns_to_go(gapped(REWARDS), GAPPED, gamma)
    assert torch.equal(going, gapped(returns_to_go(REWARDS, FULL, gamma), 0.0))
    assert torch.equal(value_targets(with_gaps, gapped(VALUES), GAPPED), gapped(plain + VALUES, 0.0))


def test_a_completion_that_was_cut_off_may_be_worth_what_it_was_last() -> None:
    """Two rows alike, the second truncated; with bootstrapping V after its end is V of its last trained token."""
    rewards, values = gapped(REWARDS).repeat(2, 1), gapped(VALUES).repeat(2, 1)
    mask, truncated = GAPPED.repeat(2, 1), torch.tensor([False, True])
    found = gae(rewards, values, mask, truncated, 0.9, 0.5, bootstrap_truncated=True)
    plain = gae(rewards, values, mask, truncated, 0.9, 0.5)
    assert torch.equal(found[0], plain[0])
    extra = 0.9 * 0.7
    assert_close((found - plain)[1][GAPPED[0]], [0.45**2 * extra, 0.45 * extra, extra])


def test_a_row_that_trains_nothing_gets_nothing() -> None:
    rewards, values = REWARDS.repeat(2, 1), VALUES.repeat(2, 1)
    mask, truncated = mask_of([0, 3]), torch.tensor([True, False])
    found = gae(rewards, values, mask, truncated, bootstrap_truncated=True)
    assert found[0].tolist() == [0, 0, 0]
    assert_close(found[1], [0.523, 0.34, 0.2])
    assert returns_to_go(rewards, mask)[0].tolist() == [0, 0, 0]


lengths = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any)


def noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(lengths=lengths, seed=st.integers(0, 99), gamma=st.sampled_from([0.5, 0.99, 1.0]))
def test_the_identities_of_gae(lengths: list[int], seed: int, gamma: float) -> None:
    mask = mask_of(lengths)
    rewards, values = noise(seed, mask.shape), noise(seed + 1000, mask.shape)
    ended = torch.zeros(len(lengths), dtype=torch.bool)
    going = returns_to_go(rewards, mask, gamma)
    monte_carlo = gae(rewards, values, mask, ended, gamma, 1.0)
    assert_close(monte_carlo, going - values * mask)
    assert_close(value_targets(monte_carlo, values, mask), going)
    assert_close(gae(rewards, torch.zeros_like(values), mask, ended, gamma, 1.0), going)
    following = torch.cat([(values * mask)[:, 1:], torch.zeros(len(lengths), 1)], dim=1)
    assert_close(gae(rewards, values, mask, ended, gamma, 0.0), (rewards + gamma * following - values) * mask)


@given(lengths=lengths, seed=st.integers(0, 99), lam=st.sampled_from([0.0, 0.6, 1.0]))
def test_values_that_are_exact_leave_no_advantage(lengths: list[int], seed: int, lam: float) -> None:
    mask = mask_of(lengths)
    rewards = noise(seed, mask.shape)
    going = returns_to_go(rewards, mask, 0.9)
    assert_close(
        gae(rewards, going, mask, torch.zeros(len(lengths), dtype=torch.bool), 0.9, lam), torch.zeros(mask.shape)
    )


def test_returns_to_go_by_hand() -> None:
    rewards = padded([[1, 2, 4], [8]])
    mask = mask_of([3, 1])
    assert returns_to_go(rewards, mask).tolist() == [[7, 6, 4], [8, 0, 0]]
    assert returns_to_go(rewards, mask, 0.5).tolist() == [[3, 4, 4], [8, 0, 0]]


def test_v03_returns_with_a_kl_penalty_in_the_reward() -> None:
    rewards = f64([[0, 0, 1.0]]) - 0.1 * f64([[0.1, -0.05, 0.2]])
    assert_close(returns_to_go(rewards, FULL), [[0.975, 0.985, 0.98]], PRINTED)


# V03: two groups of four rows with 22 tokens in all.
LENGTHS = [2, 4, 3, 1, 5, 1, 2, 4]
GROUPS = torch.tensor([0] * 4 + [1] * 4)
CENTRED = group_relative(f64([1, 0, 0, 0, 1, 1, 1, 0]), GROUPS, "none")


@pytest.mark.parametrize(
    ("kind", "variance", "expected"),
    [
        ("sample", 0.203463, [1.813873, *[-0.403083] * 3, *[0.705395] * 3, -1.511561]),
        ("population", 0.194215, [1.856558, *[-0.412568] * 3, *[0.721995] * 3, -1.547132]),
    ],
)
def test_v03_whitening_counts_a_row_once_for_each_token(kind: str, variance: float, expected: list[float]) -> None:
    mask = mask_of(LENGTHS)
    centred, found = deviations(spread(CENTRED, mask), mask, kind)
    assert_close(found, variance, PRINTED)
    assert_close((CENTRED - centred[:, 0])[0], -0.068182, PRINTED)
    assert_close(whiten(CENTRED, mask, kind)[:, 0], expected, PRINTED)
    assert_close(whiten(CENTRED, mask, kind), whiten(spread(CENTRED, mask), mask, kind))
    assert whiten(CENTRED, mask, kind)[~mask].count_nonzero() == 0


def test_v03_whitening_over_rows_is_that_of_rows_with_one_token() -> None:
    by_row = whiten(CENTRED, mask_of([1] * 8), "sample")[:, 0]
    assert_close(by_row, [1.620185, *[-0.540062] * 3, *[0.540062] * 3, -1.620185], PRINTED)


def test_v38_token_weighted_and_row_weighted() -> None:
    worth = f64([0.5, -1.0])
    found = whiten(worth, mask_of([4, 1]), "sample")
    assert_close(found[mask_of([4, 1])], [*[0.447214] * 4, -1.788854], PRINTED)
    assert_close(whiten(worth, mask_of([1, 1]), "sample")[:, 0], [0.707107, -0.707107], PRINTED)


def test_v38_a_rank_alone_would_whiten_something_else() -> None:
    together = f64([1, 2, 5, 6])
    whole = whiten(together, mask_of([1] * 4), "sample")[:, 0]
    assert_close(whole, [-1.050210, -0.630126, 0.630126, 1.050210], PRINTED)
    apart = torch.cat([whiten(part, mask_of([1, 1]), "sample")[:, 0] for part in (together[:2], together[2:])])
    assert_close(apart, [-0.707107, 0.707107, -0.707107, 0.707107], PRINTED)


def test_v02_eps_stands_inside_the_root() -> None:
    rewards, mask = f64([1, 0, 0, 0.5]), mask_of([1] * 4)
    assert_close(whiten(rewards, mask, "sample")[:, 0], [1.305582, -0.783349, -0.783349, 0.261116], PRINTED)
    assert_close(whiten(f64([1, -1]), mask_of([1, 1]), "population", 3.0)[:, 0], [0.5, -0.5])


def test_whitening_defaults() -> None:
    tiny = f64([1e-4, -1e-4])
    assert_close(whiten(tiny, mask_of([1, 1]))[:, 0], [0.5**0.5, -(0.5**0.5)])


@pytest.mark.parametrize("kind", ["population", "sample"])
@pytest.mark.parametrize("worth", [[0.3, 0.3, 0.1 + 0.2], [0.0, 0.0, 0.0], [-1e5, -1e5, -1e5]])
def test_advantages_that_are_all_equal_whiten_to_exactly_zero(kind: str, worth: list[float]) -> None:
    mask = mask_of([2, 1, 3])
    assert whiten(f64(worth), mask, kind).count_nonzero() == 0
    centred, variance = deviations(spread(f64(worth), mask), mask, kind)
    assert centred.count_nonzero() == 0
    assert variance.item() == 0


@pytest.mark.parametrize("kind", ["population", "sample"])
def test_one_token_or_none_whitens_to_exactly_zero(kind: str) -> None:
    assert whiten(f64([3, 5]), mask_of([0, 1]), kind).tolist() == [[0], [0]]
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert whiten(f64([3, 5]), nothing, kind).count_nonzero() == 0
    centred, variance = deviations(torch.ones(2, 3).double(), nothing, kind)
    assert centred.count_nonzero() == 0
    assert variance.item() == 0


@given(lengths=lengths, seed=st.integers(0, 99), scale=st.sampled_from([0.1, 7.0]), shift=st.integers(-3, 3))
def test_whitening_is_blind_to_affine_rewards(lengths: list[int], seed: int, scale: float, shift: int) -> None:
    mask = mask_of(lengths)
    worth = noise(seed, mask.shape)
    found = whiten(worth, mask, "population", 0.0)
    assert_close(whiten(scale * worth + shift, mask, "population", 0.0), found, 1e-9)
    if mask.sum() == 1:
        assert found.count_nonzero() == 0
    else:
        assert_close(found.sum(), 0.0, 1e-9)
        assert_close((found**2).sum() / mask.sum(), 1.0, 1e-9)


def test_spread_gives_each_trained_token_its_rows_value() -> None:
    mask = mask_of([2, 3])
    assert spread(f64([1.5, -2]), mask).tolist() == [[1.5, 1.5, 0], [-2, -2, -2]]
    assert spread(padded([[1, 2], [3, 4, 5]]), mask).tolist() == [[1, 2, 0], [3, 4, 5]]
    assert spread(torch.ones(2), mask).dtype == torch.float64


def test_a_terminal_reward_returns_to_every_token() -> None:
    mask = torch.cat([GAPPED, mask_of([2, 6])[:1]])
    rewards = f64([0.7, -1])
    assert torch.equal(returns_to_go(terminal_rewards(rewards, mask), mask), spread(rewards, mask))
