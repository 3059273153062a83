"""Generated countdown: reach a target from given numbers with + - * /, each number at most once."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from upweight.config import CountdownTask
from upweight.tasks.bad_rows import OnBadRow
from upweight.tasks.data import Need, TaskData, check_enough_demonstrations
from upweight.tasks.split import HELDOUT_LIMIT, is_heldout
from upweight.types import Demonstration, Message, Problem

_GIVE_UP_AFTER = 5000  # draws in a row without a new puzzle: the space is exhausted, or nearly
_SUM, _PRODUCT, _NUMBER = 1, 2, 3


class Puzzle(NamedTuple):
    """Numbers, a target, and the expression that shows it can be reached."""

    numbers: tuple[int, ...]
    target: int
    expression: str

    @property
    def key(self) -> str:
        """Equal for the same puzzle with its numbers in another order."""
        return f"{' '.join(map(str, sorted(self.numbers)))} -> {self.target}"


class _Expression(NamedTuple):
    value: int
    text: str
    strength: int


def load(config: CountdownTask, seed: int, need: Need, on_bad_row: OnBadRow) -> TaskData:
    """Solvable puzzles in an order that the seed chooses, and a held-out set that no seed changes.

    The target is a positive integer of at most 10 * largest that is not itself given. Small settings have few
    puzzles: then there are fewer than asked for, and a UserError when demonstrations are needed and fall short.
    Generated rows are never bad.
    """
    train = list(_puzzles(config, seed, heldout=False, count=max(config.problems, config.demonstrations)))
    if need == "demonstrations":
        check_enough_demonstrations("countdown", config.demonstrations, len(train))
    return TaskData(
        name="countdown",
        weight=config.weight,
        problems=[_problem(puzzle) for puzzle in train[: config.problems]],
        heldout=[_problem(puzzle) for puzzle in _puzzles(config, 0, heldout=True, count=HELDOUT_LIMIT)],
        demonstrations=[_demonstration(puzzle) for puzzle in train[: config.demonstrations]],
        skipped=0,
    )


def _puzzles(config: CountdownTask, seed: int, heldout: bool, count: int) -> Iterator[Puzzle]:
    random, misses = Random(seed), 0
    seen: set[str] = set()
    while len(seen) < count and misses < _GIVE_UP_AFTER:
        puzzle = _draw(config, random)
        if puzzle is None or puzzle.key in seen or is_heldout(puzzle.key) != heldout:
            misses += 1
            continue
        seen.add(puzzle.key)
        misses = 0
        yield puzzle


def _draw(config: CountdownTask, random: Random) -> Puzzle | None:
    """A puzzle made from its solution, or None when the random expression came to nothing usable."""
    numbers = tuple(random.randint(1, config.largest) for _ in range(config.numbers))
    used = random.sample(numbers, random.randint(2, len(numbers)))
    parts = [_Expression(number, str(number), _NUMBER) for number in used]
    while len(parts) > 1:
        left, right = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        joined = _join(left, random.choice("+-*/"), right)
        if joined is None:
            return None
        parts.append(joined)
    target = parts[0].value
    if target > 10 * config.largest or target in numbers:
        return None
    return Puzzle(numbers, target, parts[0].text)


def _join(left: _Expression, operator: str, right: _Expression) -> _Expression | None:
    """`left operator right` with the parentheses it needs; None unless it is a positive integer."""
    if operator == "+":
        return _Expression(left.value + right.value, f"{left.text}+{right.text}", _SUM)
    if operator == "-":
        value, text = left.value - right.value, f"{left.text}-{_within(right, _PRODUCT)}"
        return _Expression(value, text, _SUM) if value > 0 else None
    if operator == "*":
        text = f"{_within(left, _PRODUCT)}*{_within(right, _PRODUCT)}"
        return _Expression(left.value * right.value, text, _PRODUCT)
    if left.value % right.value:
        return None
    text = f"{_within(left, _PRODUCT)}/{_within(right, _NUMBER)}"
    return _Expression(left.value // right.value, text, _PRODUCT)


def _within(part: _Expression, strength: int) -> str:
    return part.text if part.strength >= strength else f"({part.text})"


def _ask(puzzle: Puzzle) -> Message:
    return {"role": "user", "content": f"{' '.join(map(str, puzzle.numbers))} -> {puzzle.target}"}


def _problem(puzzle: Puzzle) -> Problem:
    fields = {"numbers": list(puzzle.numbers), "target": puzzle.target}
    return Problem(f"countdown/{puzzle.key}", (_ask(puzzle),), str(puzzle.target), fields)


def _demonstration(puzzle: Puzzle) -> Demonstration:
    answer = {"role": "assistant", "content": f"<answer>{puzzle.expression}</answer>"}
    return Demonstration(f"countdown/{puzzle.key}", (_ask(puzzle), answer))
