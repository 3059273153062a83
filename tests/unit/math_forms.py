"""Pairs for the reward `math` whose gold answer is a formula, an interval, a set, a tuple or words."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from tests.unit.math_text import boxed, frac, stated


def interval(low: str, high: str, brackets: str, rng: Random) -> str:
    left, right = rng.choice([("", ""), ("\\left", "\\right")])
    return f"{left}{brackets[0]}{low},{rng.choice(['', ' '])}{high}{right}{brackets[1]}"


def intervals(rng: Random, right: bool) -> tuple[str, str]:
    low = rng.randint(-20, 20)
    high, brackets = low + rng.randint(1, 30), rng.choice(["()", "[]", "(]", "[)"])
    ends = rng.choice([(str(low), str(high)), (frac(Fraction(2 * low + 1, 2)), f"{high}\\pi")])
    gold = interval(*ends, brackets, rng)
    if right:
        return gold, stated(rng, interval(*ends, brackets, rng))
    flipped = rng.choice([b for b in ("()", "[]", "(]", "[)") if b != brackets])
    wrong = [
        interval(*ends, flipped, rng),
        interval(ends[1], ends[0], brackets, rng),
        ends[0],
        f"\\{{{ends[0]}, {ends[1]}\\}}",
    ]
    return gold, stated(rng, rng.choice(wrong))


def rays(rng: Random, right: bool) -> tuple[str, str]:
    """An inequality, or the interval that it says."""
    a, closed = rng.randint(-50, 50), rng.random() < 0.5
    bracket, more, less = ("[", "\\ge", "\\le") if closed else ("(", ">", "<")
    forms = [f"x {more} {a}", f"{a} {less} x", f"{bracket}{a}, \\infty)"]
    gold = rng.choice(forms)
    if right:
        return gold, boxed(rng, rng.choice(forms))
    wrong = [f"x {'>' if closed else chr(92) + 'ge'} {a}", f"x {less} {a}", f"x > {a + 1}", f"(-\\infty, {a}]", str(a)]
    return gold, boxed(rng, rng.choice(wrong))


def unions(rng: Random, right: bool) -> tuple[str, str]:
    a = rng.randint(-20, 20)
    b = a + rng.randint(1, 20)
    left, last = f"(-\\infty, {a})", f"[{b}, \\infty)"
    gold = f"{left} \\cup {last}"
    same = [gold, f"{last}\\cup{left}", f"x < {a} \\text{{ or }} x \\ge {b}", f"(-\\infty,{a}) \N{UNION} [{b},\\infty)"]
    wrong = [
        f"(-\\infty, {a}] \\cup {last}",
        left,
        f"({a}, {b})",
        f"{left} \\cup [{b + 1}, \\infty)",
        "(-\\infty, \\infty)",
    ]
    return gold, boxed(rng, rng.choice(same if right else wrong))


def sets(rng: Random, right: bool) -> tuple[str, str]:
    values = rng.sample(range(-20, 40), rng.randint(2, 4))
    gold = ", ".join(map(str, values)) if rng.random() < 0.5 else "\\{" + ",".join(map(str, values)) + "\\}"
    shown = rng.sample(values, len(values))
    if not right:
        change = rng.choice(["more", "less", "moved"])
        shown = (
            [*shown, 41]
            if change == "more"
            else shown[:-1]
            if change == "less" and len(shown) > 2
            else [*shown[1:], 50]
        )
    forms = [
        ", ".join(map(str, shown)),
        "\\{" + ", ".join(map(str, shown)) + "\\}",
        " \\text{ and } ".join(map(str, shown)),
    ]
    return gold, boxed(rng, rng.choice(forms))


def tuples(rng: Random, right: bool) -> tuple[str, str]:
    values = rng.sample(range(-20, 20), rng.randint(2, 3))
    gold = "(" + ", ".join(map(str, values)) + ")"
    if right:
        return gold, stated(rng, rng.choice([gold, gold.replace(", ", ","), "\\left" + gold[:-1] + "\\right)"]))
    moved = "(" + ", ".join(map(str, [*values[1:], values[0]])) + ")"
    wrong = [
        moved,
        "\\{" + gold[1:-1] + "\\}",
        "[" + gold[1:-1] + "]",
        gold[1:-1],
        f"({values[0] + 1}{gold[gold.index(',') :]}",
    ]
    return gold, stated(rng, rng.choice(wrong))


def polynomials(rng: Random, right: bool) -> tuple[str, str]:
    """(ax + b)(x + c), multiplied out or not."""
    a, b, c = rng.randint(2, 6), rng.randint(1, 9), rng.randint(1, 9)
    out = f"{a}x^2+{a * c + b}x+{b * c}"
    gold = rng.choice([out, f"({a}x+{b})(x+{c})"])
    if right:
        return gold, stated(rng, rng.choice([out, f"(x+{c})({a}x+{b})", f"{b * c} + {a * c + b}x + {a}x^{{2}}"]))
    wrong = [
        f"{a}x^2-{a * c + b}x+{b * c}",
        f"({a}x+{b})(x-{c})",
        f"{a}x^2+{a * c + b}x",
        out.replace("x", "y"),
        f"{out}+1",
        str(a),
    ]
    return gold, stated(rng, rng.choice(wrong))


def rational_functions(rng: Random, right: bool) -> tuple[str, str]:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    gold = f"\\frac{{x+{a}}}{{x+{a + b}}}"
    same = [gold, f"1-\\frac{{{b}}}{{x+{a + b}}}", f"(x+{a})/(x+{a + b})", f"\\frac{{2x+{2 * a}}}{{2(x+{a + b})}}"]
    wrong = [
        f"\\frac{{x+{a + b}}}{{x+{a}}}",
        f"1+\\frac{{{b}}}{{x+{a + b}}}",
        f"x+{a}/x+{a + b}",
        f"\\frac{{{a}}}{{{a + b}}}",
    ]
    return gold, stated(rng, rng.choice(same if right else wrong))


def assignments(rng: Random, right: bool) -> tuple[str, str]:
    value, name = rng.randint(-99, 99), rng.choice("xyn")
    if right:
        gold, shown = rng.choice(
            [(f"{name}={value}", str(value)), (str(value), f"{name} = {value}"), (f"{name}={value}",) * 2]
        )
        return gold, stated(rng, shown)
    wrong = [
        f"{name}={value + 1}",
        f"k={value}",
        f"{name}=-{value}" if value > 0 else "1000",
        f"{name} > {value}",
        f"{name}",
    ]
    return f"{name}={value}", stated(rng, rng.choice(wrong))


def equations(rng: Random, right: bool) -> tuple[str, str]:
    a, b, c, k = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 30), rng.randint(2, 4)
    gold = f"{a}x+{b}y={c}"
    same = [gold, f"{k * a}x+{k * b}y={k * c}", f"{a}x+{b}y-{c}=0", f"{c} = {b}y + {a}x"]
    wrong = [f"{a}x-{b}y={c}", f"{a}x+{b}y={c + 1}", f"{a}x+{b}y", f"{b + 10}x+{a}y={c}", f"{k * a}x+{b}y={c}"]
    return gold, boxed(rng, rng.choice(same if right else wrong))


def lines(rng: Random, right: bool) -> tuple[str, str]:
    a, b = rng.randint(2, 9), rng.randint(1, 9)
    same = [f"y={a}x+{b}", f"{a}x+{b}", f"{a}x-y+{b}=0", f"y = {b} + {a}x"]
    wrong = [f"y={a}x-{b}", f"y={b + 10}x+{a}", f"x={a}y+{b}", f"y>{a}x+{b}", f"{a}x+y+{b}=0", f"y={a}x"]
    return same[0], boxed(rng, rng.choice(same if right else wrong))


def powers(rng: Random, right: bool) -> tuple[str, str]:
    base, power = rng.randint(2, 9), rng.randint(2, 12)
    gold = f"{base}^{{{power}}}"
    same = [gold, str(base**power), f"{base} \\cdot {base}^{{{power - 1}}}", f"{base}^{{{power}}}"]
    wrong = [
        f"{base}^{{{power + 1}}}",
        str(base**power + 1),
        f"{base}^{{-{power}}}",
        f"-{gold}",
        str(base * power + 5000000),
    ]
    return gold, boxed(rng, rng.choice(same if right else wrong))


def complex_numbers(rng: Random, right: bool) -> tuple[str, str]:
    a, b = rng.randint(1, 30), rng.randint(2, 30)
    same = [f"{a}+{b}i", f"{b}i + {a}", f"{a} + {b}\\mathrm{{i}}", f"{a}+{b} i"]
    wrong = [f"{a}-{b}i", f"-{a}+{b}i", f"{b + 40}+{a}i", f"{a}+{b}", f"{a}+{b}x", str(a)]
    return same[0], stated(rng, rng.choice(same if right else wrong))


def matrices(rng: Random, right: bool) -> tuple[str, str]:
    a, b, c, d = rng.sample(range(-20, 20), 4)

    def form(w: int, x: int, y: int, z: int) -> str:
        return f"\\begin{{pmatrix}} {w} & {x} \\\\ {y} & {z} \\end{{pmatrix}}"

    wrong = [form(a, c, b, d), form(a, b, c, d + 1), form(b, a, c, d), f"({a}, {b}, {c}, {d})", str(a)]
    same = [form(a, b, c, d), form(a, b, c, d).replace(" ", "").replace("\\\\", "\\\\ ")]
    return same[0], boxed(rng, rng.choice(same if right else wrong))


def transcendental(rng: Random, right: bool) -> tuple[str, str]:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    gold, same, wrong = rng.choice(
        [
            (
                f"{a}e^{{{b}x}}",
                [f"{a} e^{{{b}x}}", f"e^{{{b}x}} \\cdot {a}"],
                [f"{a}e^{{-{b}x}}", f"{a}+e^{{{b}x}}", f"{b}e^{{{a + 9}x}}"],
            ),
            (
                f"{a}\\ln {b}",
                [f"{a}\\ln({b})", f"\\ln({b}^{{{a}}})"],
                [f"{a}\\ln {b + 1}", f"\\ln {b}+{a}", f"-{a}\\ln {b}"],
            ),
            (
                f"\\sin({a}x)+{b}",
                [f"{b}+\\sin {a}x", f"{b} + \\sin({a} x)"],
                [f"\\cos({a}x)+{b}", f"\\sin(x)+{b}", f"\\sin({a}x+{b})"],
            ),
        ]
    )
    return gold, stated(rng, rng.choice([gold, *same] if right else wrong))


def words(rng: Random, right: bool) -> tuple[str, str]:
    days = ["Monday", "Tuesday", "Friday", "Sunday"]
    day, miss = rng.sample(days, 2)
    forms = ["%s", "\\text{%s}", "\\textbf{%s}"]
    return rng.choice(forms[:2]).replace("%s", day), boxed(rng, rng.choice(forms).replace("%s", day if right else miss))
