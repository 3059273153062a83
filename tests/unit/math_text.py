"""How the answers of `math_pairs.py` are written into completions."""

from __future__ import annotations

from fractions import Fraction
from random import Random

THOUGHTS = (
    "",
    "Let me think.\n",
    "First we have 3 of 7, then $x = 12$ follows.\n\n",
    "Step 1: 2 + 2 = 4.\nStep 2: it is larger than 10.\n",
)


def boxed(rng: Random, answer: str) -> str:
    """A completion with the answer in a box."""
    form = rng.choice(
        ["So it is \\boxed{%s}.", "$$\\boxed{%s}$$", "\\[ x \\Rightarrow \\boxed{%s} \\]", "$\\boxed{%s}$"]
    )
    return rng.choice(THOUGHTS) + form.replace("%s", answer)


def stated(rng: Random, answer: str) -> str:
    """A completion with the answer in LaTeX in any place that counts as final."""
    forms = [
        "The answer is $%s$.",
        "Final answer: $%s$",
        "Therefore we get $%s$.",
        "The final answer is \\(%s\\)",
        "#### %s",
    ]
    return boxed(rng, answer) if rng.random() < 0.6 else rng.choice(THOUGHTS) + rng.choice(forms).replace("%s", answer)


def other(rng: Random, value: int) -> int:
    """A near miss."""
    return rng.choice([value + 1, value - 1, value + 10, value * 10, -value if value else 2])


def frac(value: Fraction, command: str = "frac") -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\{command}{{{abs(value.numerator)}}}{{{value.denominator}}}"


def decimal(value: Fraction, places: int) -> str:
    scaled = abs(value) * 10**places
    assert scaled.denominator == 1
    digits = str(scaled.numerator).rjust(places + 1, "0")
    return ("-" if value < 0 else "") + digits[:-places] + "." + digits[-places:]


def proper(rng: Random) -> Fraction:
    below = rng.randint(2, 30)
    value = Fraction(rng.randint(1, 60), below)
    return (value if value.denominator > 1 else value + Fraction(1, below)) * rng.choice([1, 1, -1])
