"""Problems of reasoning-gym (2505.24760): entries of its datasets, with all that the reward `gym` needs."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from itertools import count, islice
from types import ModuleType
from typing import Any

from upweight.config import GymTask
from upweight.errors import UserError, nearest
from upweight.tasks.bad_rows import OnBadRow
from upweight.tasks.data import Need, TaskData
from upweight.tasks.split import content_hash, is_heldout
from upweight.types import Demonstration, Message, Problem

Entry = Mapping[str, Any]

_GIVE_UP_AFTER = 2000  # entries in a row without a new question: there are no more, or nearly
_AT_ONCE = 1024  # entries of one dataset object; some prepare all of theirs at first
_RESERVED = ("seed", "size")
_UNSTABLE = ("isomorphic_strings", "polynomial_multiplication", "ransom_note", "word_ladder")


def load(config: GymTask, seed: int, need: Need, on_bad_row: OnBadRow) -> TaskData:
    """Distinct problems in an order that the seed chooses, and a held-out set that no seed changes.

    A question's own hash says on which side of the split it is. Where there are few questions, there are fewer
    problems than asked for. Demonstrations are the problems with their reference answers. Generated rows are never bad.
    Raises UserError when the package is missing, for a dataset or option that it does not have, and when demonstrations
    are needed and the dataset has no reference answers.
    """
    gym = _package()
    with _silenced():
        options = _checked(gym, config)
        train = list(islice(_entries(gym, config.dataset, options, f"train:{seed}", False), config.problems))
        heldout = list(islice(_entries(gym, config.dataset, options, "heldout", True), config.heldout))
    shown = [entry for entry in train if isinstance(entry["answer"], str)]
    if need == "demonstrations" and not shown:
        raise UserError(f"data.dataset: {config.dataset!r} has no reference answers to imitate, only a scorer")
    return TaskData(
        name="reasoning_gym",
        weight=config.weight,
        problems=[_problem(entry, config, options) for entry in train],
        heldout=[_problem(entry, config, options) for entry in heldout],
        demonstrations=[_demonstration(entry, config) for entry in shown],
        skipped=0,
    )


def _package() -> ModuleType:
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ModuleNotFoundError:
        raise UserError("the task reasoning_gym needs the package of that name: pip install 'upweight[gym]'") from None
    module: ModuleType = reasoning_gym
    return module


def _checked(gym: ModuleType, config: GymTask) -> dict[str, Any]:
    """The options as the package wants them, with lists for tuples."""
    known = gym.factory.DATASETS.keys() - {"composite"}
    if config.dataset == "composite":
        raise UserError("data.dataset: composite is a mixture of others; name them in [[data.mixture]] instead")
    if config.dataset not in known:
        raise UserError(f"data.dataset: reasoning-gym has no {config.dataset!r}{nearest(config.dataset, known)}")
    if config.dataset in _UNSTABLE and sys.flags.hash_randomization:
        raise UserError(
            f"data.dataset: the questions of {config.dataset} depend on Python's hash seed, so a resumed run would see "
            "others: set the environment variable PYTHONHASHSEED=0"
        )
    fields = {field.name for field in dataclasses.fields(gym.factory.DATASETS[config.dataset][1])}
    for option in config.options:
        if option in _RESERVED:
            raise UserError(f"data.options: {option} cannot be set; the run has a seed, and data.problems a number")
        if option not in fields:
            hint = nearest(option, fields.difference(_RESERVED))
            raise UserError(f"data.options: {config.dataset} has no option {option!r}{hint}")
    try:
        options: dict[str, Any] = json.loads(json.dumps(config.options))
        gym.create_dataset(config.dataset, seed=0, **options)[0]
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"data.options: {config.dataset} does not take {config.options}: {said}") from None
    return options


def _entries(gym: ModuleType, dataset: str, options: Entry, stream: str, heldout: bool) -> Iterator[Entry]:
    """Distinct entries of one side of the split. An entry follows from the dataset's seed plus its index alone."""
    seen: set[str] = set()
    misses = 0
    for entry in _drawn(gym, dataset, options, stream):
        question = entry["question"]
        if question in seen or is_heldout(question) != heldout:
            misses += 1
            if misses == _GIVE_UP_AFTER:
                return
            continue
        seen.add(question)
        misses = 0
        yield entry


def _drawn(gym: ModuleType, dataset: str, options: Entry, stream: str) -> Iterator[Entry]:
    for part in count():
        # Far apart, since streams with seeds of 0 and 1 would have nearly the same entries.
        seed = content_hash(f"{stream}:{part}") % 2**31
        made = gym.create_dataset(dataset, seed=seed, size=_AT_ONCE, **options)
        for index in range(_AT_ONCE):
            try:
                yield made[index]
            except IndexError:  # it has fewer
                break


@contextmanager
def _silenced() -> Iterator[None]:
    """Without what some datasets print and warn of."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _ask(entry: Entry, config: GymTask) -> Message:
    content = f"{entry['question']}\n{config.instruction}" if config.instruction else entry["question"]
    return {"role": "user", "content": content}


def _id(entry: Entry, config: GymTask) -> str:
    return f"reasoning_gym/{config.dataset}:{content_hash(entry['question']):016x}"


def _problem(entry: Entry, config: GymTask, options: Entry) -> Problem:
    fields = {"gym_dataset": config.dataset, "gym_options": options, "gym_entry": dict(entry)}
    return Problem(_id(entry, config), (_ask(entry, config),), entry["answer"] or "", fields)


def _demonstration(entry: Entry, config: GymTask) -> Demonstration:
    answer = f"<{config.tag}>{entry['answer']}</{config.tag}>" if config.tag else entry["answer"]
    return Demonstration(_id(entry, config), (_ask(entry, config), {"role": "assistant", "content": answer}))
