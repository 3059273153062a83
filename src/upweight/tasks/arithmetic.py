"""Generated arithmetic: `12+34=` is asked, `46` is the answer; demonstrations may show worked steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from upweight.config import ArithmeticTask
from upweight.errors import UserError
from upweight.tasks.bad_rows import OnBadRow
from upweight.tasks.data import Need, TaskData, check_enough_demonstrations
from upweight.tasks.split import HELDOUT_LIMIT, is_heldout
from upweight.types import Demonstration, Message, Problem

_ENUMERATED_DIGITS = 3  # up to 3 * 10**6 questions: beyond that a repeated draw is rare and a full list is large


class Question(NamedTuple):
    """One sum; operands are 0 .. 10**digits - 1."""

    left: int
    operator: str
    right: int

    @property
    def text(self) -> str:
        """As it is asked, without the equals sign."""
        return f"{self.left}{self.operator}{self.right}"

    @property
    def key(self) -> str:
        """Equal for 3+4 and 4+3, so that both are on the same side of the split."""
        if self.operator == "-":
            return self.text
        return f"{min(self.left, self.right)}{self.operator}{max(self.left, self.right)}"

    @property
    def value(self) -> int:
        """What the question comes to."""
        if self.operator == "+":
            return self.left + self.right
        return self.left - self.right if self.operator == "-" else self.left * self.right


def load(config: ArithmeticTask, seed: int, need: Need, on_bad_row: OnBadRow) -> TaskData:
    """Distinct problems in an order that the seed chooses, and a held-out set that no seed changes.

    Demonstrations are the first `demonstrations` training problems, so that every run with this seed and config
    imitates the same ones. Generated rows are never bad. Raises UserError when demonstrations are needed and there
    are fewer distinct training problems.
    """
    if not config.operators:
        raise UserError('data.operators is empty: name at least one of "+", "-", "*"')
    wanted = max(config.problems, config.demonstrations)
    train = list(islice(_questions(config, seed, heldout=False), wanted))
    if need == "demonstrations":
        check_enough_demonstrations("arithmetic", config.demonstrations, len(train))
    heldout = islice(_questions(config, 0, heldout=True), HELDOUT_LIMIT)
    return TaskData(
        name="arithmetic",
        weight=config.weight,
        problems=[_problem(question) for question in train[: config.problems]],
        heldout=[_problem(question) for question in heldout],
        demonstrations=[_demonstration(question, config) for question in train[: config.demonstrations]],
        skipped=0,
    )


def worked_steps(question: Question) -> str:
    """The sum as it is done on paper, comma-separated: columns from the right, or partial products and their sum.

    47+38 is `7+8=15,4+3+1=8`; 52-38 is `12-8=4,5-3-1=1`; 12-38 is `-(38-12):8-2=6,3-1=2`;
    47*38 is `47*8=376,47*30=1410,376+1410=1786`.
    """
    left, operator, right = question
    if operator == "+":
        return _column_addition(left, right)
    if operator == "*":
        return _partial_products(left, right)
    if left < right:
        return f"-({right}-{left}):{_column_subtraction(right, left)}"
    return _column_subtraction(left, right)


def _questions(config: ArithmeticTask, seed: int, heldout: bool) -> Iterator[Question]:
    """Distinct questions of one side of the split, shuffled; endless in practice for more than three digits."""
    rng = np.random.default_rng(seed)
    candidates = _shuffled(config, rng) if config.digits <= _ENUMERATED_DIGITS else _drawn(config, rng)
    return (question for question in candidates if is_heldout(question.key) == heldout)


def _shuffled(config: ArithmeticTask, rng: np.random.Generator) -> Iterator[Question]:
    operators, base = tuple(dict.fromkeys(config.operators)), 10**config.digits
    for index in rng.permutation(len(operators) * base * base):
        pair, operator = divmod(int(index), len(operators))
        yield Question(pair // base, operators[operator], pair % base)


def _drawn(config: ArithmeticTask, rng: np.random.Generator) -> Iterator[Question]:
    operators = tuple(dict.fromkeys(config.operators))
    seen: set[Question] = set()
    while True:
        left, right = (int(operand) for operand in rng.integers(0, 10**config.digits, size=2))
        question = Question(left, operators[int(rng.integers(len(operators)))], right)
        if question not in seen:
            seen.add(question)
            yield question


def _ask(question: Question) -> Message:
    return {"role": "user", "content": f"{question.text}="}


def _problem(question: Question) -> Problem:
    return Problem(f"arithmetic/{question.text}", (_ask(question),), str(question.value))


def _demonstration(question: Question, config: ArithmeticTask) -> Demonstration:
    answer = f"<answer>{question.value}</answer>" if config.tags else str(question.value)
    if config.steps:
        steps = worked_steps(question)
        answer = f"<think>{steps}</think>{answer}" if config.tags else f"{steps}\n{answer}"
    return Demonstration(f"arithmetic/{question.text}", (_ask(question), {"role": "assistant", "content": answer}))


def _columns(left: int, right: int) -> Iterator[tuple[int, int]]:
    width = max(len(str(left)), len(str(right)))
    pairs = zip(str(left).zfill(width), str(right).zfill(width), strict=True)
    return ((int(x), int(y)) for x, y in reversed(list(pairs)))


def _column_addition(left: int, right: int) -> str:
    steps, carry = [], 0
    for x, y in _columns(left, right):
        total = x + y + carry
        steps.append(f"{x}+{y}{'+1' * carry}={total}")
        carry = total // 10
    return ",".join(steps)


def _column_subtraction(left: int, right: int) -> str:
    steps, borrow = [], 0
    for x, y in _columns(left, right):
        top = x if x >= y + borrow else x + 10
        steps.append(f"{top}-{y}{'-1' * borrow}={top - y - borrow}")
        borrow = int(top > x)
    return ",".join(steps)


def _partial_products(left: int, right: int) -> str:
    factors = [int(digit) * 10**place for place, digit in enumerate(reversed(str(right))) if digit != "0"] or [0]
    steps = [f"{left}*{factor}={left * factor}" for factor in factors]
    if len(factors) > 1:
        steps.append("+".join(str(left * factor) for factor in factors) + f"={left * right}")
    return ",".join(steps)
