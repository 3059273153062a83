"""Pairs for the reward `math` whose gold answer is a number: each function makes a right or a wrong one."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from tests.unit.math_text import boxed, decimal, frac, other, proper, stated


def integers(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(1, 9999)
    return str(value), stated(rng, str(value if right else other(rng, value)))


def signs(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(1, 500)
    gold = rng.choice([f"-{value}", str(value)])
    negative = (gold[0] == "-") == right
    return gold, stated(rng, rng.choice(["-", "- ", "\N{MINUS SIGN}"] if negative else ["", "+"]) + str(value))


def decimals(rng: Random, right: bool) -> tuple[str, str]:
    value = Fraction(rng.randint(1, 99999) * 10 + rng.randint(1, 9), 1000)
    gold = decimal(value, 3)
    if right:
        return gold, stated(rng, rng.choice([gold, gold + "00", frac(value), "0" + gold]))
    wrong = [gold[:-1], decimal(value * 10, 3), decimal(value + Fraction(1, 1000), 3), f"-{gold}"]
    return gold, stated(rng, rng.choice(wrong))


def fractions(rng: Random, right: bool) -> tuple[str, str]:
    value = proper(rng)
    gold = rng.choice([frac(value), f"{value.numerator}/{value.denominator}"])
    if right:
        k = rng.randint(2, 5)
        unreduced = f"{value.numerator * k}/{value.denominator * k}"
        return gold, stated(
            rng, rng.choice([frac(value, "dfrac"), frac(value, "tfrac"), frac(value), str(value), unreduced])
        )
    miss = [-value, 1 / value, value + 1, Fraction(value.numerator + 1, value.denominator)]
    shown = [frac(v) for v in miss if v != value] + [f"{float(value):.12f}" if 10**12 % value.denominator else "0"]
    return gold, stated(rng, rng.choice(shown))


def thousands(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(1000, 99_999_999)
    gold = rng.choice([str(value), f"{value:,}"])
    shown = f"{value if right else rng.choice([value + 1, value // 1000, value * 10, value - 1000]):,}"
    return gold, boxed(rng, shown.replace(",", rng.choice([",", "{,}", "\\,", ",\\!", ""])))


def percentages(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(1, 400)
    gold = rng.choice([f"{value}\\%", f"{value}%", str(value)])
    shown = f"{value if right else other(rng, value)}" + rng.choice(
        ["\\%", "%", " \\%", " percent", "\\text{ percent}", ""]
    )
    if not right and rng.random() < 0.4:
        shown = decimal(Fraction(value, 100), 2)
    return gold, boxed(rng, shown)


UNITS = (
    (["cm", "\\text{ cm}", " centimeters", "\\ \\mathrm{cm}"], ["\\text{ m}", " inches", "\\text{ cm}^2"]),
    (["\\text{ m}^2", " square meters", " m^2"], ["\\text{ m}", "\\text{ cm}^2", "\\text{ m}^3"]),
    ([" hours", "\\text{ hr}", " hour"], [" minutes", " days", "\\text{ s}"]),
    ([" mph", " miles per hour", "\\text{ miles/hour}"], [" km/h", " miles"]),
    ([" kg", " kilograms", "\\text{ kg}"], [" g", " pounds", "\\text{ mg}"]),
)


def units(rng: Random, right: bool) -> tuple[str, str]:
    value, (same, different) = rng.randint(2, 300), rng.choice(UNITS)
    gold = f"{value}{rng.choice(same)}"
    if right:
        return rng.choice([gold, str(value)]), boxed(rng, f"{value}{rng.choice([*same, ''])}")
    wrong = [f"{value}{rng.choice(different)}", f"{other(rng, value)}{rng.choice(same)}"]
    return gold, boxed(rng, rng.choice(wrong))


def currency(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(1, 5000)
    gold = rng.choice([str(value), f"\\${value}", f"{value} dollars"])
    shown = value if right else other(rng, value)
    forms = ["\\$%s", "$%s", "%s dollars", "\\$%s.00", "%s\\text{ dollars}", "\\text{\\$}%s"]
    if not right and rng.random() < 0.3 and "dollars" in gold:
        return gold, boxed(rng, f"{value} cents")
    return gold, boxed(rng, rng.choice(forms).replace("%s", str(shown)))


def surds(rng: Random, right: bool) -> tuple[str, str]:
    a, b, c = rng.randint(2, 12), rng.choice([2, 3, 5, 6, 7, 10, 11, 13]), rng.randint(1, 9)
    gold = rng.choice([f"{a}\\sqrt{{{b}}}", f"{c}+{a}\\sqrt{{{b}}}", f"\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}"])
    if right:
        same = [
            gold.replace(f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{a * a * b}}}"),
            gold.replace(f"{a}\\sqrt", f"{a} \\cdot \\sqrt"),
        ]
        return gold, stated(rng, rng.choice([gold, *same]))
    wrong = [
        gold.replace(f"{{{b}}}", f"{{{b + 1}}}", 1),
        "-" + gold,
        gold.replace(f"{a}\\sqrt", f"{a + 1}\\sqrt"),
        gold + "+1",
    ]
    return gold, stated(rng, rng.choice([text for text in wrong if text != gold]))


def pi_multiples(rng: Random, right: bool) -> tuple[str, str]:
    a, b = rng.randint(2, 40), rng.choice([1, 3, 7, 11])
    gold = f"{a}\\pi" if b == 1 else f"\\frac{{{a}\\pi}}{{{b}}}"
    part = Fraction(a, b)
    if right:
        return gold, stated(
            rng, rng.choice([gold, f"{frac(part)}\\pi", f"{a}/{b} \\pi", f"\\frac{{{2 * a}\\pi}}{{{2 * b}}}"])
        )
    wrong = [f"{frac(part)}\\pi^2", f"{frac(-part)}\\pi", frac(part), f"{frac(part + 1)}\\pi", f"{3.14159 * a / b:.6f}"]
    return gold, stated(rng, rng.choice(wrong))


def wrappers(rng: Random, right: bool) -> tuple[str, str]:
    value = proper(rng)
    shown = value if right else rng.choice([-value, value + 1, 1 / value if abs(value) != 1 else value + 2])
    forms = ["\\left(%s\\right)", "%s", "\\displaystyle %s", "\\ %s \\,", "\\( %s \\)", "$%s$", "x = %s"]
    return frac(value), boxed(rng, rng.choice(forms).replace("%s", frac(shown, rng.choice(["frac", "dfrac", "cfrac"]))))


def scientific(rng: Random, right: bool) -> tuple[str, str]:
    digits, power = Fraction(rng.randint(11, 99), 10), rng.randint(-6, 9)
    shown = decimal(digits, 1)
    gold = f"{shown} \\times 10^{{{power}}}"
    if right:
        same = [
            gold,
            f"{shown}e{power}",
            f"{shown}\\cdot 10^{{{power}}}",
            f"{float(digits * Fraction(10) ** power):.7f}",
        ]
        return gold, boxed(rng, rng.choice(same))
    wrong = [f"{shown} \\times 10^{{{power + 1}}}", f"{shown}", f"-{gold}", f"{digits + 1} \\times 10^{{{power}}}"]
    return gold, boxed(rng, rng.choice(wrong if power else wrong[2:]))


def mixed_numbers(rng: Random, right: bool) -> tuple[str, str]:
    whole, below = rng.randint(1, 20), rng.randint(2, 9)
    above = rng.randint(1, below - 1)
    value = Fraction(whole * below + above, below)
    gold = f"{whole}\\frac{{{above}}}{{{below}}}"
    if right:
        return gold, boxed(
            rng, rng.choice([gold, f"{whole} {above}/{below}", frac(value), f"{whole} \\dfrac{{{above}}}{{{below}}}"])
        )
    wrong = [
        Fraction(whole * above, below),
        value + 1,
        -value,
        Fraction(whole * above + below, below),
        Fraction(above, below),
    ]
    return gold, boxed(rng, frac(rng.choice([v for v in wrong if v != value])))


def nested_fractions(rng: Random, right: bool) -> tuple[str, str]:
    a, b, c = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 12)
    gold = f"\\frac{{\\frac{{{a}\\pi}}{{{b}}}}}{{{c}}}"
    same = [f"\\frac{{{a}\\pi}}{{{b * c}}}", f"\\frac{{\\pi}}{{\\frac{{{b * c}}}{{{a}}}}}", gold]
    wrong = [
        f"\\frac{{{a}\\pi}}{{\\frac{{{b}}}{{{c}}}}}",
        f"\\frac{{{a + 1}\\pi}}{{{b * c}}}",
        f"\\frac{{{b * c}\\pi}}{{{a * a * 37}}}",
    ]
    return gold, stated(rng, rng.choice(same if right else wrong))


def repeating(rng: Random, right: bool) -> tuple[str, str]:
    below, width = rng.choice([(9, 1), (99, 2), (999, 3)])
    above = rng.randint(1, below - 1)
    digits = str(above).rjust(width, "0")
    gold = f"0.\\overline{{{digits}}}"
    same = [frac(Fraction(above, below)), gold, f"{above}/{below}"]
    wrong = [
        f"0.{digits}",
        f"0.{digits * 6}",
        frac(Fraction(above, below + 1)),
        f"0.\\overline{{{str(above + 1).rjust(width, '0')}}}",
    ]
    if above + 1 == below:
        wrong.pop()
    return gold, boxed(rng, rng.choice(same if right else wrong))


def degrees(rng: Random, right: bool) -> tuple[str, str]:
    value = rng.randint(1, 359)
    same = [f"{value}^\\circ", f"{value}", f"{value}^{{\\circ}}", f"{value}\N{DEGREE SIGN}", f"{value} degrees"]
    wrong = [f"{value + 1}^\\circ", f"{value} radians", f"-{value}^\\circ", f"\\frac{{{value}\\pi}}{{180}}"]
    return f"{value}^\\circ", stated(rng, rng.choice(same if right else wrong))
