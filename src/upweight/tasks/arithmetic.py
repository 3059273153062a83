"""Generated arithmetic: `12+34=` is asked, `46` is the answer; what is shown may have worked steps, and mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random

import numpy as np

from upweight.config import ArithmeticTask
from upweight.errors import UserError
from upweight.tasks.bad_rows import OnBadRow
from upweight.tasks.data import Need, TaskData, check_enough_demonstrations
from upweight.tasks.split import HELDOUT_LIMIT, is_heldout
from upweight.tasks.sums import Question, Worked, mistaken, work
from upweight.types import Demonstration, JudgedSteps, LabelledCompletion, Message, PreferencePair, Problem

STEP_SEPARATOR = ","
_ENUMERATED_DIGITS = 3  # up to 3 * 10**6 questions: beyond that a repeated draw is rare and a full list is large


def load(config: ArithmeticTask, seed: int, need: Need, on_bad_row: OnBadRow) -> TaskData:
    """Distinct problems in an order that the seed chooses, and a held-out set that no seed changes.

    Demonstrations, pairs and labelled completions are about the first `demonstrations` training problems, so that
    every run with this seed and config sees the same ones. The better answer of a pair is the demonstration, the
    worse one has a wrong value; labelled completions, and those of which each step is judged, are right and wrong in
    turn. Generated rows are never bad.
    Raises UserError when shown answers are needed and there are fewer distinct training problems.
    """
    if not config.operators:
        raise UserError('data.operators is empty: name at least one of "+", "-", "*"')
    wanted = max(config.problems, config.demonstrations)
    train = list(islice(_questions(config, seed, heldout=False), wanted))
    if need != "problems":
        check_enough_demonstrations("arithmetic", config.demonstrations, len(train))
    shown = train[: config.demonstrations]
    heldout = list(islice(_questions(config, 0, heldout=True), HELDOUT_LIMIT))
    paired, labelled, judged = need == "pairs", need == "labels", need == "steps"
    return TaskData(
        name="arithmetic",
        weight=config.weight,
        problems=[_problem(question) for question in train[: config.problems]],
        heldout=[_problem(question) for question in heldout],
        demonstrations=[_demonstration(question, config) for question in shown],
        skipped=0,
        pairs=[_pair(question, config, seed) for question in shown] if paired else (),
        labels=[_labelled(place, question, config, seed) for place, question in enumerate(shown)] if labelled else (),
        heldout_pairs=[_pair(question, config, 0) for question in heldout] if paired else (),
        steps=[_judged(place, question, config, seed) for place, question in enumerate(shown)] if judged else (),
        heldout_steps=[_judged(place, question, config, 0) for place, question in enumerate(heldout)] if judged else (),
    )


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


def _id(question: Question) -> str:
    return f"arithmetic/{question.text}"


def _problem(question: Question) -> Problem:
    return Problem(_id(question), (_ask(question),), str(question.value))


def _demonstration(question: Question, config: ArithmeticTask) -> Demonstration:
    asks = Random(f"calculator:{question.text}").random() < config.calculator
    content = _asked(question, config) if asks else _right(question, config)
    answer: Message = {"role": "assistant", "content": content}
    return Demonstration(_id(question), (_ask(question), answer))


def _pair(question: Question, config: ArithmeticTask, seed: int) -> PreferencePair:
    right, wrong = _right(question, config), _wrong(question, config, seed)
    return PreferencePair(_id(question), (_ask(question),), right, wrong, margin=0.0)


def _labelled(place: int, question: Question, config: ArithmeticTask, seed: int) -> LabelledCompletion:
    label = place % 2 == 0
    completion = _right(question, config) if label else _wrong(question, config, seed)
    return LabelledCompletion(_id(question), (_ask(question),), completion, label)


def _judged(place: int, question: Question, config: ArithmeticTask, seed: int) -> JudgedSteps:
    """Worked steps, which are shown whatever `steps` says, cut at their commas; the answer ends the last one.

    Math-Shepherd's convention: a step is right while the right answer still follows from what stands there, so that
    all are wrong from the first mistake on.
    """
    right = work(question)
    worked = right if place % 2 == 0 else mistaken(question, _random(question, seed))
    text = _answer(worked, config.model_copy(update={"steps": True}))
    steps = tuple(text.split(STEP_SEPARATOR))
    same = [mine == true for mine, true in zip(worked.results, right.results, strict=True)]
    same[-1] &= worked.value == right.value
    labels = tuple(float(all(same[: step + 1])) for step in range(len(steps)))
    return JudgedSteps(_id(question), (_ask(question),), steps, labels, STEP_SEPARATOR)


def _right(question: Question, config: ArithmeticTask) -> str:
    return _answer(work(question), config)


def _wrong(question: Question, config: ArithmeticTask, seed: int) -> str:
    """The same for a seed and a question, wherever the question stands."""
    return _answer(mistaken(question, _random(question, seed)), config)


def _random(question: Question, seed: int) -> Random:
    return Random(f"{seed}:{question.text}")


def _asked(question: Question, config: ArithmeticTask) -> str:
    """The tool `calculator` is asked, and answers."""
    answer = _answer(work(question), config.model_copy(update={"steps": False}))
    return f"<calc>{question.text}</calc><result>{question.value}</result>{answer}"


def _answer(worked: Worked, config: ArithmeticTask) -> str:
    answer = f"<answer>{worked.value}</answer>" if config.tags else str(worked.value)
    if not config.steps:
        return answer
    return f"<think>{worked.steps}</think>{answer}" if config.tags else f"{worked.steps}\n{answer}"
