"""Which completions become rows: repeated ones, pairs, and the shapes of rows, each read back by the loader."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upweight.config import RowsTask
from upweight.errors import UserError
from upweight.rollout_data import drawn_problems, write_rows
from upweight.rollout_rows import Answer, demonstration_row, distinct, is_plain, label_row, pair_row, pairings
from upweight.tasks import rows
from upweight.tasks.data import Need, TaskData
from upweight.types import Message, Problem, Prompt

USER: Message = {"role": "user", "content": "2+2="}
SYSTEM: Message = {"role": "system", "content": "Add."}
SPOKE: Message = {"role": "assistant", "content": "What?"}


def answer(
    member: int, tokens: tuple[int, ...] = (1,), messages: tuple[Message, ...] = (USER,), **fields: Any
) -> Answer:
    prompt = Prompt("p", messages, (1, 2), "4", {"level": "easy", **fields})
    return Answer(prompt, member, f"it is {member}", tokens, member % 2 == 0, 0.5, {"correct": 1.0}, True)


def read(folder: Path, suffix: str, need: Need, *written: dict[str, Any]) -> TaskData:
    write_rows(folder / f"rows{suffix}", written)
    return rows.load(RowsTask(path=str(folder / f"rows{suffix}")), 0, need, "error")


def test_the_first_of_equal_answers_stays() -> None:
    kept = distinct([answer(0, (1, 9)), answer(1, (2, 9)), answer(2, (1, 9)), answer(3, (2, 9)), answer(4, (1, 2, 9))])
    assert [one.member for one in kept] == [0, 1, 4]


@given(st.integers(0, 7), st.integers(0, 7))
def test_pairings_are_all_pairs_once(a: int, b: int) -> None:
    chosen, rejected = [answer(2 * i) for i in range(a)], [answer(2 * i + 1) for i in range(b)]
    pairs = [(x.member, y.member) for x, y in pairings(chosen, rejected)]
    assert sorted(pairs) == [(x.member, y.member) for x in chosen for y in rejected]


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 49))
def test_the_first_pairings_use_all_answers_equally(a: int, b: int, count: int) -> None:
    pairs = list(islice(pairings([answer(i) for i in range(a)], [answer(i) for i in range(b)]), count))
    for side, size in ((0, a), (1, b)):
        used = Counter(pair[side].member for pair in pairs)
        assert max(used.values()) - min(used.get(i, 0) for i in range(size)) <= 1


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_every_kind_of_row_is_read_back(tmp_path: Path, suffix: str) -> None:
    one, other = answer(0), answer(1)
    (demonstration,) = read(tmp_path, suffix, "demonstrations", demonstration_row(one, True)).demonstrations
    assert demonstration.messages == (USER, {"role": "assistant", "content": "it is 0"})
    (label,) = read(tmp_path, suffix, "labels", label_row(other, True)).labels
    assert (label.messages, label.completion, label.label) == ((USER,), "it is 1", False)
    (pair,) = read(tmp_path, suffix, "pairs", pair_row(one, other, True)).pairs
    assert (pair.messages, pair.chosen, pair.rejected, pair.margin) == ((USER,), "it is 0", "it is 1", 0.0)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_row_is_still_a_problem(tmp_path: Path, suffix: str) -> None:
    for row in (demonstration_row(answer(0), True), label_row(answer(0), True), pair_row(answer(0), answer(1), True)):
        (problem,) = read(tmp_path, suffix, "problems", row).problems
        assert (problem.messages, problem.answer, problem.fields["level"]) == ((USER,), "4", "easy")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_longer_prompt_is_a_list_of_turns(tmp_path: Path, suffix: str) -> None:
    mixed = [demonstration_row(answer(0, messages=asked), False) for asked in ((USER,), (SYSTEM, USER))]
    first, second = read(tmp_path, suffix, "demonstrations", *mixed).demonstrations
    assert first.messages == (USER, {"role": "assistant", "content": "it is 0"})
    assert second.messages == (SYSTEM, USER, {"role": "assistant", "content": "it is 0"})


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_prompt_in_which_the_assistant_spoke(tmp_path: Path, suffix: str) -> None:
    spoken = answer(0, messages=(USER, SPOKE, USER))
    # Beside a plain one: a column of Parquet is there for all rows.
    written = [demonstration_row(one, False) for one in (spoken, answer(0))]
    first, second = read(tmp_path, suffix, "demonstrations", *written).demonstrations
    assert first.messages == (USER, SPOKE, USER, {"role": "assistant", "content": "it is 0"})
    assert second.messages == (USER, {"role": "assistant", "content": "it is 0"})
    (pair,) = read(tmp_path, suffix, "pairs", pair_row(spoken, answer(1), False)).pairs
    assert pair.messages == (USER, SPOKE, USER)


def test_a_problems_own_columns_cannot_pose_as_the_rows(tmp_path: Path) -> None:
    tricky = {"margin": "wide", "label": 7, "chosen": "x", "rejected": "x", "reward": "none", "id": 3}
    one, other = answer(0, **tricky), answer(1, **tricky)
    assert read(tmp_path, ".jsonl", "pairs", pair_row(one, other, True)).pairs[0].margin == 0
    assert read(tmp_path, ".jsonl", "labels", label_row(one, True)).labels[0].label is True
    assert demonstration_row(one, True)["reward"] == 0.5


@pytest.mark.parametrize(
    ("messages", "plain"),
    [((USER,), True), ((SYSTEM, USER), False), ((SYSTEM,), False), (({**USER, "name": "Ann"},), False)],
)
def test_only_one_message_of_the_user_is_plain(messages: tuple[Message, ...], plain: bool) -> None:
    assert is_plain(messages) is plain


def problems(name: str, count: int) -> TaskData:
    return TaskData(name, 1.0, [Problem(f"{name}{i}", (USER,), "4") for i in range(count)], [], [], 0)


def test_problems_are_drawn_once_each_in_the_order_of_the_seed() -> None:
    data = [problems("few", 3), problems("many", 50)]
    names = [problem.id for problem in drawn_problems(data, 1, 20)]
    assert len(names) == len(set(names)) == 3 + 10
    assert names == [problem.id for problem in drawn_problems(data, 1, 400)][:13]
    assert names != [problem.id for problem in drawn_problems(data, 2, 20)]
    assert len(drawn_problems(data[:1], 0, 1000)) == 3


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "rows.jsonl", [{"a": 1}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "value"), [(".jsonl", b"bytes"), (".parquet", {})])
def test_what_the_format_cannot_hold_is_said(tmp_path: Path, suffix: str, value: Any) -> None:
    with pytest.raises(UserError, match="cannot be written as"):
        write_rows(tmp_path / f"rows{suffix}", [{"a": value}])
    assert list(tmp_path.iterdir()) == []
