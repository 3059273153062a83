"""The one exception that a user is meant to see."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can mend: what is wrong, why, and what to do.

    The command line prints it as one line on stderr and exits with code 2; every other exception is a bug
    and keeps its traceback.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: ` (did you mean 'steps'?)`, or the known names when none is near.

    Of several near ones, the one with the same letters wins: two swapped keys are the commonest slip.
    """
    names = sorted(known)
    close = sorted(get_close_matches(word, names), key=lambda name: sorted(name) != sorted(word))
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(names)})"
