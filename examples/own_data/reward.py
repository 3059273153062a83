"""Rewards of one's own: a function's parameters say what it reads of a completion and of its row."""

from __future__ import annotations


def correct(completion: str, answer: str) -> float:
    """1 if the capital is named."""
    return float(answer.lower() in completion.lower())


def brief(completion: str, longest: int = 60) -> float:
    """1 if the answer is short; `longest` can be set by `options` in the config."""
    return float(len(completion) <= longest)
