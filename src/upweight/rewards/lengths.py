"""Rewards of how long a completion is, and how repetitive."""

from __future__ import annotations

import math
import re
from itertools import islice

from upweight.errors import UserError
from upweight.rewards.builtin import number

_WORD = re.compile(r"\w{1,8}|[^\w\s]")
_WORDS = 200_000


def soft_overlong(tokens: int, token_budget: int, overlong_share: float = 0.2) -> float:
    """-clip((T - (1 - overlong_share) L) / (overlong_share L), 0, 1), where T = tokens, L = token_budget.

    0 up to the last share of the budget, then linear to -1 at the whole budget and beyond (DAPO 2503.14476, eq. 13,
    where L = 20480 and the share is a fifth; V17). A share of 0 punishes only what exceeds the budget. Use either
    this part or the method's option of the same name. Raises UserError for a share outside 0 to 1.
    """
    if not 0 <= overlong_share <= 1:
        raise UserError(f"the reward `soft_overlong` needs overlong_share from 0 to 1, not {overlong_share!r}")
    band = overlong_share * token_budget
    excess = tokens - (token_budget - band)
    if excess <= 0:
        return 0.0
    return -1.0 if excess >= band else -excess / band


def cosine_length(
    completion: str,
    answer: str,
    tokens: int,
    token_budget: int,
    tag: str = "",
    correct_short: float = 1.0,
    correct_long: float = 0.5,
    wrong_short: float = -1.0,
    wrong_long: float = -0.5,
    exceeded: float = -1.0,
) -> float:
    """short + (long - short) (1 - cos(pi T / L)) / 2, where T = tokens, L = token_budget; `exceeded` from T = L on.

    The ends are those of a correct or a wrong answer, as `number` finds it: the sooner the right one comes the better,
    but a wrong one had better been thought about for longer (2502.03373, eq. 1; the values are ours).
    Raises CannotScore when the answer itself has no number.
    """
    correct = number(completion, answer, tag) == 1
    if tokens >= token_budget:
        return exceeded
    short, long = (correct_short, correct_long) if correct else (wrong_short, wrong_long)
    return short + (long - short) * (1 - math.cos(math.pi * tokens / token_budget)) / 2


def repetition(completion: str, words: int = 4, scale: float = 1.0) -> float:
    """-scale (1 - distinct / all) over the runs of `words` words: 0 when none occurs twice, or there are none.

    Words are compared in one case, punctuation marks are words, and after 8 letters the next word begins, so that
    text without white space is seen too. Only the first 200,000 are read. Repetition is what rewards of length are
    exploited with (2502.03373, sec. 4.3). Raises UserError when `words` is no whole number from 1.
    """
    if not isinstance(words, int) or words < 1:
        raise UserError(f"the reward `repetition` needs a whole number of words from 1, not {words!r}")
    found = [match[0] for match in islice(_WORD.finditer(completion.casefold()), _WORDS)]
    runs = list(zip(*(found[start:] for start in range(words)), strict=False))
    return -scale * (1 - len(set(runs)) / len(runs)) if runs else 0.0
