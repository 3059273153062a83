"""Likelihood of tokens that someone else wrote: per-token losses [rows, T]."""

from __future__ import annotations

from upweight.objectives.tokens import Tokens


def nll(logprobs: Tokens) -> Tokens:
    """-log pi

    Maximum likelihood: supervised fine-tuning, and the pretraining term beside a policy loss.
    """
    return -logprobs
