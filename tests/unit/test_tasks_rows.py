"""The user's own rows: every kind that is read, and every kind of bad row with its line and reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upweight.config import DataConfig, RowsTask
from upweight.errors import UserError
from upweight.tasks import rows
from upweight.tasks.bad_rows import BadRows
from upweight.tasks.data import Need, TaskData
from upweight.tasks.load import load_data

USER = {"role": "user", "content": "2+2="}
REPLY = {"role": "assistant", "content": "4"}


def write(folder: Path, lines: list, name: str = "data.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def read(path: str, need: Need = "problems", policy: str = "error", seed: int = 0, **options) -> TaskData:
    return rows.load(RowsTask(path=path, **options), seed, need, policy)


def test_problems_from_prompts_and_messages(tmp_path):
    system = {"role": "system", "content": ""}
    path = write(
        tmp_path,
        [
            {"prompt": "1+1=", "answer": 2, "level": "easy", "completion": "two"},
            "",
            {"messages": [system, USER], "answer": 4.0, "prompt": "ignored"},
            {"messages": [USER, REPLY], "answer": 1e-7},
        ],
    )
    data = read(path)
    assert [p.answer for p in data.problems] == ["2", "4", "0.0000001"]
    assert data.problems[0].messages == ({"role": "user", "content": "1+1="},)
    assert data.problems[0].fields == {"level": "easy"}
    assert data.problems[1].messages == (system, USER)
    assert data.problems[2].messages == (USER,)
    assert [p.id for p in data.problems] == [f"{path}:{line}" for line in (1, 3, 4)]
    assert (data.name, data.demonstrations, data.heldout, data.skipped) == ("data", [], [], 0)


def test_demonstrations_from_completions_and_messages(tmp_path):
    path = write(tmp_path, [{"prompt": "2+2=", "completion": "4"}, {"messages": [USER, REPLY, USER, REPLY]}])
    data = read(path, "demonstrations")
    assert [d.messages for d in data.demonstrations] == [(USER, REPLY), (USER, REPLY, USER, REPLY)]
    assert data.problems == []


@pytest.mark.parametrize(
    ("need", "row", "reason"),
    [
        ("problems", "{broken", "not JSON"),
        ("problems", "[" * 100_000, "not JSON"),
        ("problems", "[1, 2]", "a row is an object with keys, not list"),
        ("problems", {"prompt": "q"}, "has no `answer`"),
        ("problems", {"prompt": "q", "answer": None}, "has no `answer`"),
        ("problems", {"prompt": "q", "answer": " "}, "`answer` is empty"),
        ("problems", {"prompt": "q", "answer": True}, "`answer` must be text or a number, not bool"),
        ("problems", {"prompt": "q", "answer": [1]}, "`answer` must be text or a number, not list"),
        ("problems", '{"prompt": "q", "answer": NaN}', "`answer` is nan"),
        ("problems", {"answer": "1"}, "has neither `prompt` nor `messages`"),
        ("problems", {"prompt": "  ", "answer": "1"}, "`prompt` is empty"),
        ("problems", {"prompt": 5, "answer": "1"}, "`prompt` must be text, not int"),
        ("problems", {"prompt": [USER, REPLY], "answer": "1"}, "`prompt` does not end with a user turn"),
        ("problems", {"prompt": [{"role": "user"}], "answer": "1"}, "`prompt`: message 1: `content` must be text"),
        ("problems", {"messages": [], "answer": "1"}, "`messages` must be a list of turns, not empty"),
        ("problems", {"messages": "hi", "answer": "1"}, "`messages` must be a list of turns, not str"),
        ("problems", {"messages": ["hi"], "answer": "1"}, "message 1 must be an object"),
        ("problems", {"messages": [REPLY], "answer": "1"}, "do not end with a user turn"),
        ("problems", {"messages": [USER, REPLY | {"role": "robot"}], "answer": "1"}, "message 2 has role 'robot'"),
        ("problems", {"messages": [{"role": "user"}], "answer": "1"}, "1: `content` must be text, not NoneType"),
        ("problems", {"messages": [{"role": "user", "content": ""}], "answer": "1"}, "message 1 is empty"),
        ("problems", {"messages": [USER | {"parts": [1]}], "answer": "1"}, "1: `parts` must be text, not list"),
        ("demonstrations", {"prompt": "q", "answer": "1"}, "has no `completion`"),
        ("demonstrations", {"prompt": "q", "completion": ""}, "`completion` is empty"),
        ("demonstrations", {"messages": [USER]}, "no assistant turn"),
        ("demonstrations", {"prompt": [USER, REPLY, USER], "completion": "4"}, "`prompt` has an assistant turn"),
        ("demonstrations", {"prompt": [USER], "completion": [USER, REPLY]}, "`completion` has turns before"),
    ],
)
def test_a_bad_row_is_named_with_line_and_reason(tmp_path, capsys, need, row, reason):
    good = {"prompt": "1+1=", "answer": "2", "completion": "2"}
    path = write(tmp_path, [good, "", row])
    with pytest.raises(UserError) as raised:
        read(path, need)
    message = str(raised.value)
    assert f"{path}: 1 of 2 rows cannot be used: line 3: " in message
    assert reason in message
    assert 'data.on_bad_row = "skip"' in message
    assert "\n" not in message
    assert len(message) < 600
    data = read(path, need, "skip")
    assert len(data.problems) + len(data.demonstrations) == 1
    assert data.skipped == 1
    assert reason in capsys.readouterr().err


def test_bytes_that_are_no_text_are_a_bad_row(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "answer": 1}\n{"prompt": "\xff", "answer": 1}\n')
    with pytest.raises(UserError, match="1 of 2 rows cannot be used: line 2: not UTF-8"):
        read(str(path))


def test_only_the_first_three_bad_rows_are_shown(tmp_path):
    path = write(tmp_path, [{"prompt": f"q{i}"} for i in range(5)])
    with pytest.raises(UserError, match=r"5 of 5 rows .*line 1: .*line 2: .*line 3: [^;]*; \.\.\.\. Mend"):
        read(path)


def test_bad_rows_by_id(capsys):
    bad = BadRows("skip", "gsm8k")
    assert bad.finish(3) == 0
    assert capsys.readouterr().err == ""
    bad.add("gsm8k/train:7", "prompt has 900\ntokens")
    assert bad.finish(3) == 1
    assert capsys.readouterr().err == (
        "warning: gsm8k: 1 of 3 rows cannot be used: gsm8k/train:7: prompt has 900 tokens; left out\n"
    )


def test_parquet_and_json_arrays(tmp_path):
    table = [{"prompt": "1+1=", "answer": 2, "tag": None}, {"prompt": None, "answer": 3, "tag": "x"}]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "data.parquet")
    (tmp_path / "data.json").write_text(json.dumps(table))
    for name in ("data.parquet", "data.json"):
        with pytest.raises(UserError, match="1 of 2 rows cannot be used: row 2: has neither"):
            read(str(tmp_path / name))
        data = read(str(tmp_path / name), policy="skip")
        assert [(p.answer, p.fields) for p in data.problems] == [("2", {"tag": None})]


@pytest.mark.parametrize("name", ["data.parquet", "data.json"])
def test_a_file_that_is_not_what_it_says(tmp_path, name):
    (tmp_path / name).write_text("[not that]")
    with pytest.raises(UserError, match=f"{name}: not "):
        read(str(tmp_path / name))


@pytest.mark.parametrize("path", ["./missing", "~/missing", "/missing/data", "data/missing.jsonl", "missing.parquet"])
def test_a_missing_file_is_not_taken_for_a_hub_id(path):
    with pytest.raises(UserError, match="no such file"):
        read(path)


def test_other_files_and_folders_are_refused(tmp_path):
    (tmp_path / "data.csv").write_text("prompt,answer\n")
    for path in (tmp_path / "data.csv", tmp_path):
        with pytest.raises(UserError, match="rows are read from a file that ends in"):
            read(str(path))


def test_a_hub_id_that_cannot_be_had_is_one_clear_line(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nobody/nothing: no such local file, and the Hub does not give split 'train'"):
        read("nobody/nothing")


def test_a_hub_dataset_is_read_like_a_file(tmp_path, monkeypatch):
    """`datasets` reads a folder as it reads a repository: the id is the only thing that is local here."""
    import datasets

    folder = tmp_path / "org" / "sums"
    folder.mkdir(parents=True)
    write(folder, [{"prompt": "1+1=", "answer": "2"}, {"prompt": "", "answer": "2"}], "test.jsonl")
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda path, *name, split: load(str(tmp_path / path), split=split))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(UserError, match="org/sums: 1 of 2 rows cannot be used: row 2: `prompt` is empty"):
        read("org/sums", split="test")
    assert [p.answer for p in read("org/sums", policy="skip", split="test").problems] == ["2"]


@pytest.mark.parametrize("lines", [[], [""]])
def test_an_empty_dataset_is_an_error(tmp_path, lines):
    with pytest.raises(UserError, match="no rows to train on"):
        read(write(tmp_path, lines))


def test_skipping_every_row_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no rows to train on"):
        read(write(tmp_path, [{"prompt": "q"}]), policy="skip")


def test_heldout_rows_are_chosen_by_content_and_their_repetitions_do_not_train(tmp_path, capsys):
    table = [{"prompt": f"question {i}", "answer": i} for i in range(20)]
    data = read(write(tmp_path, table), heldout=5)
    assert len(data.heldout) == 5
    assert len(data.problems) == 15
    asked = {p.messages[0]["content"] for p in data.heldout}
    assert not asked & {p.messages[0]["content"] for p in data.problems}
    turned = read(write(tmp_path, table[::-1], "turned.jsonl"), seed=9, heldout=5)
    assert {p.messages[0]["content"] for p in turned.heldout} == asked
    assert capsys.readouterr().err == ""
    repeated = {"prompt": data.heldout[0].messages[0]["content"], "answer": "another"}
    again = read(write(tmp_path, [*table, repeated], "again.jsonl"), heldout=5)
    assert len(again.problems) == 15
    assert again.skipped == 1
    assert "1 rows repeat a held-out question" in capsys.readouterr().err


def test_heldout_path_wins_over_training_rows(tmp_path):
    train = write(tmp_path, [{"prompt": "a", "completion": "1"}, {"prompt": "b", "completion": "2"}])
    heldout = write(tmp_path, [{"prompt": "b", "answer": "2"}], "heldout.jsonl")
    data = read(train, "demonstrations", heldout_path=heldout)
    assert [d.messages[0]["content"] for d in data.demonstrations] == ["a"]
    assert [p.answer for p in data.heldout] == ["2"]
    assert data.skipped == 1
    with pytest.raises(UserError, match=r"either data\.heldout_path or data\.heldout"):
        read(train, "demonstrations", heldout_path=heldout, heldout=1)
    with pytest.raises(UserError, match="no rows to evaluate on"):
        read(train, "demonstrations", heldout_path=write(tmp_path, [], "empty.jsonl"))


def test_heldout_demonstrations_need_an_answer(tmp_path):
    table = [{"prompt": f"q{i}", "completion": "c"} for i in range(4)]
    with pytest.raises(UserError, match="held out for evaluation, but it has no `answer`"):
        read(write(tmp_path, table), "demonstrations", heldout=1)
    data = read(write(tmp_path, [row | {"answer": "c"} for row in table]), "demonstrations", heldout=1)
    assert (len(data.heldout), len(data.demonstrations)) == (1, 3)


def test_holding_out_everything_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no rows to train on beside the 2 held-out questions"):
        read(write(tmp_path, [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 1}]), heldout=9)


def test_rows_is_the_task_when_none_is_named(tmp_path):
    path = write(tmp_path, [{"prompt": "q", "answer": "1"}, {"prompt": "q"}])
    config = DataConfig.model_validate({"path": path, "on_bad_row": "skip"})
    (data,) = load_data(config, 0, "problems")
    assert (len(data.problems), data.skipped) == (1, 1)
