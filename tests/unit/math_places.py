"""Pairs for the reward `math` that differ in where a completion states its answer, and how often."""

from __future__ import annotations

from random import Random

from tests.unit.math_text import THOUGHTS, boxed, other


def trailing_text(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(2, 900)
    shown = value if right else other(rng, value)
    forms = [
        "The answer is %s because nothing is left.",
        "The answer is $%s$, as was to be shown.",
        "\\boxed{%s} is what they have in the end. I hope it is correct.",
        "In all she needs %s eggs for the cake.",
        "\\boxed{%s}\n\nLet me know if you have 2 other questions!",
        "**Answer:** %s",
        "#### %s\n",
    ]
    return str(value), rng.choice(THOUGHTS) + rng.choice(forms).replace("%s", str(shown))


def several_boxes(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(2, 900)
    miss = other(rng, value)
    first, last = (miss, value) if right else (value, miss)
    between = rng.choice(["\nWait, that is wrong.\n", " was a guess. It is ", "\n\nChecking once more: "])
    return str(value), f"\\boxed{{{first}}}{between}\\boxed{{{last}}}"


def several_answers(rng: Random, right: bool) -> tuple[str, str]:
    """Two answers where the gold has one, or both."""
    a, b = rng.sample(range(2, 90), 2)
    one = rng.choice([str(a), str(b)])
    forms = [
        "\\boxed{%s, %s}",
        "\\boxed{%s \\text{ or } %s}",
        "$\\boxed{%s}$ or $\\boxed{%s}$",
        "The answer is %s or %s.",
        "#### %s or %s",
    ]
    return (f"{b}, {a}" if right else one), rng.choice(forms) % (a, b)


def gsm8k(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(1, 120_000)
    shown = value if right else other(rng, value)
    form = rng.choice(["{:,}", "{}", "${:,}", "{:,} dollars", "${}.00"]).format(shown)
    return rng.choice(["{}", "{:,}"]).format(value), f"He has 12/4 = 3 left, {rng.randint(1, 99)} in all.\n#### {form}"


def prose(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(3, 20_000)
    shown = value if right else rng.choice([value + 1, value * 10, value + 100])
    forms = [
        "She had 2 cats and 5 dogs, so the total is {:,}.",
        "2 + 3 = 5\n5 * 2 = {}",
        "Thus, they need ${:,}.",
        "First 7, then 8. In the end {:,} apples are left",
        "I think that $x = {}$",
    ]
    return str(value), rng.choice(forms).format(shown)


def unfinished(rng: Random, right: bool) -> tuple[str, str]:
    """The calculation instead of its result, as it may stand in the prompt."""
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    undone = rng.choice(
        [
            f"{a} \\times {b}",
            f"{a}*{b}",
            f"\\frac{{{a * b * 2}}}{{2}}",
            f"{a * b * 3}/3",
            f"\\sqrt{{{a * a * b * b}}}",
            f"{a * b}+0",
        ]
    )
    return str(a * b), boxed(rng, str(a * b) if right else undone)
