"""Length and repetition: values worked by hand, and the vector of DAPO's punishment."""

from __future__ import annotations

import math

import pytest
import torch

from upweight.errors import UserError
from upweight.objectives import shaping
from upweight.rewards.call import CannotScore
from upweight.rewards.lengths import cosine_length, repetition, soft_overlong


@pytest.mark.parametrize(
    ("tokens", "punishment"),
    [(0, 0), (12288, 0), (16384, 0), (17408, -0.25), (18432, -0.5), (20480, -1), (20481, -1)],
)
def test_soft_overlong_is_the_papers_v17(tokens, punishment):
    assert soft_overlong(tokens, 20480) == pytest.approx(punishment, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_soft_overlong_is_what_the_methods_option_does(share):
    for tokens in (0, 49, 50, 51, 80, 99, 100, 101):
        mask = torch.ones(1, tokens, dtype=torch.bool)
        option = shaping.soft_overlong(torch.zeros(1), mask, torch.tensor([100]), share)
        assert soft_overlong(tokens, 100, share) == pytest.approx(float(option), abs=1e-9), tokens


def test_a_share_is_from_0_to_1():
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="overlong_share from 0 to 1"):
            soft_overlong(1, 2, share)


VALUES = {"correct_short": 2.0, "correct_long": 1.0, "wrong_short": -10.0, "wrong_long": 0.0, "exceeded": -20.0}


@pytest.mark.parametrize(
    ("text", "tokens", "value"),
    [
        ("4", 0, 2.0),
        ("4", 30, 1.75),  # cos(pi / 3) = 1/2: a quarter of the way
        ("4", 45, 1.5),
        ("4", 60, 1.25),
        ("4", 90, -20.0),
        ("4", 91, -20.0),
        ("5", 0, -10.0),
        ("5", 30, -7.5),
        ("5", 60, -2.5),
        ("", 45, -5.0),
        ("5", 90, -20.0),
    ],
)
def test_cosine_length(text, tokens, value):
    assert cosine_length(text, "4", tokens, 90, **VALUES) == pytest.approx(value)


def test_cosine_length_falls_for_right_and_rises_for_wrong_answers():
    right = [cosine_length("4", "4", tokens, 100) for tokens in range(100)]
    wrong = [cosine_length("5", "4", tokens, 100) for tokens in range(100)]
    assert right == sorted(right, reverse=True)
    assert wrong == sorted(wrong)
    assert min(right) > max(wrong) > cosine_length("4", "4", 100, 100)


def test_cosine_length_needs_an_answer():
    assert cosine_length("4 <answer>5</answer>", "5", 0, 100, tag="answer") == 1
    with pytest.raises(CannotScore):
        cosine_length("4", "Paris", 0, 100)


@pytest.mark.parametrize(
    ("text", "options", "value"),
    [
        ("", {}, 0),
        ("one two three", {}, 0),
        ("one two three four", {}, 0),
        ("a b c d a b c d", {}, -0.2),  # abcd bcda cdab dabc abcd: 4 of 5 are distinct
        ("a a a a a a", {}, -2 / 3),
        ("a a a a a a", {"scale": 0.3}, -0.2),
        ("A a. a A.", {"words": 2}, -0.4),  # aa, a., .a, aa, a.
        ("x,x,x,x,x", {"words": 1}, -7 / 9),
        ("a" * 64, {"words": 1}, -7 / 8),
    ],
)
def test_repetition(text, options, value):
    assert repetition(text, **options) == pytest.approx(value, abs=1e-12)


def test_repetition_sees_text_without_spaces():
    ideograph = "\N{CJK UNIFIED IDEOGRAPH-54C8}"
    assert repetition(ideograph * 800) < -0.9


@pytest.mark.parametrize("words", [0, -1, 2.5])
def test_repetition_counts_whole_words(words):
    with pytest.raises(UserError, match="whole number of words"):
        repetition("a", words=words)
