"""Data to units: what is trained, what a loss is told of each row, and which rows do not fit."""

from __future__ import annotations

import pytest

from tests.unit.test_chat import CHATML, make_tokenizer
from upweight import encode
from upweight.batches import batch_of_units
from upweight.chat import stop_ids
from upweight.encode import EncodedRow, Encoder, Unit
from upweight.errors import UserError
from upweight.models.reward import step_tokens
from upweight.types import Demonstration, JudgedSteps, LabelledCompletion, PreferencePair, Problem

SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "2+2="}
RIGHT = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
AGAIN = {"role": "user", "content": "sure?"}
PAIR = PreferencePair("data:1", (USER,), "4", "5!", 0.5)


def make_encoder(template: str | None = CHATML, context: int = 200, policy: str = "error", **options) -> Encoder:
    tokenizer = make_tokenizer(template, **options)
    return Encoder(tokenizer, stop_ids(tokenizer), context, policy)


def text(encoder: Encoder, ids) -> str:
    return encoder.tokenizer.decode(list(ids))


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_demonstration_is_a_unit_of_one_row(template):
    encoder = make_encoder(template)
    (unit,) = encoder.demonstrations([Demonstration("data:1", (USER, RIGHT))], "data")
    (row,) = unit.rows
    assert unit.columns == {}
    assert (row.id, text(encoder, row.token_ids), row.loss_mask) == ("data:1", "4<|im_end|>", (True, True))
    (prompt,) = encoder.prompts([Problem("data:1", (USER,), "4", {"level": 1})], "data")
    assert row.prompt_ids == prompt.token_ids
    assert (prompt.answer, prompt.fields, prompt.messages) == ("4", {"level": 1}, (USER,))


def test_every_turn_of_a_demonstration_is_trained():
    encoder = make_encoder()
    (unit,) = encoder.demonstrations([Demonstration("data:1", (USER, RIGHT, AGAIN, WRONG))], "data")
    (row,) = unit.rows
    trained = [token for token, own in zip(row.token_ids, row.loss_mask, strict=True) if own]
    assert text(encoder, trained) == "4<|im_end|>5<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_pair_is_two_rows_after_one_prompt(template):
    encoder = make_encoder(template)
    (unit,) = encoder.pairs([PAIR], "data")
    chosen, rejected = unit.rows
    assert unit.columns == {"chosen": (True, False), "margin": (0.5, 0.5)}
    assert (chosen.id, rejected.id) == ("data:1+", "data:1-")
    assert text(encoder, chosen.token_ids) == "4<|im_end|>"
    assert text(encoder, rejected.token_ids) == "5!<|im_end|>"
    assert (chosen.loss_mask, rejected.loss_mask) == ((True,) * 2, (True,) * 3)
    (prompt,) = encoder.prompts([Problem("data:1", (USER,), "4")], "data")
    assert chosen.prompt_ids == rejected.prompt_ids == prompt.token_ids


def test_a_pair_is_encoded_as_its_answers_are_as_demonstrations():
    encoder = make_encoder()
    (pair,) = encoder.pairs([PAIR], "data")
    shown = [Demonstration(id, (USER, {"role": "assistant", "content": answer})) for id, answer in _answers(PAIR)]
    assert [unit.rows for unit in encoder.demonstrations(shown, "data")] == [(row,) for row in pair.rows]


def _answers(pair: PreferencePair) -> list[tuple[str, str]]:
    return [(f"{pair.id}+", pair.chosen), (f"{pair.id}-", pair.rejected)]


FORGETFUL = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last or m.role != 'assistant' else '...' }}")


@pytest.mark.parametrize("template", [CHATML, FORGETFUL, None])
def test_only_the_judged_turn_is_trained(template):
    """Templates may show earlier turns in another way than the last one."""
    encoder = make_encoder(template)
    messages = (SYSTEM, USER, RIGHT, AGAIN)
    (pair,) = encoder.pairs([PreferencePair("data:1", messages, "yes", "no", 0.0)], "data")
    (labelled,) = encoder.labels([LabelledCompletion("data:1", messages, "yes", False)], "data")
    (prompt,) = encoder.prompts([Problem("data:1", messages, "yes")], "data")
    for row, answer in zip((*pair.rows, *labelled.rows), ("yes", "no", "yes"), strict=True):
        assert row.prompt_ids == prompt.token_ids
        assert text(encoder, row.token_ids) == f"{answer}<|im_end|>"
        assert row.loss_mask == (True,) * (len(answer) + 1)


@pytest.mark.parametrize("label", [True, False])
def test_a_labelled_completion_is_a_unit_of_one_row(label):
    encoder = make_encoder()
    (unit,) = encoder.labels([LabelledCompletion("data:1", (USER,), "4", label)], "data")
    (shown,) = encoder.demonstrations([Demonstration("data:1", (USER, RIGHT))], "data")
    assert unit == Unit(shown.rows, {"label": (label,)})


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        ("x" * 200, r"data:2: it needs 2\d\d tokens, more than the model's context of 200"),
        ("Ω", "data:2: it has characters that the tokenizer does not know"),
        ("a<|im_end|>b", "data:2: the assistant's turn goes on after a stop token"),
        ("4", "data:2: its chosen and its rejected answer come to the same tokens"),
    ],
)
def test_a_pair_that_does_not_fit_is_a_bad_row_whole(capsys, rejected, reason):
    pairs = [PAIR, PreferencePair("data:2", (USER,), "4", rejected, 0.0)]
    with pytest.raises(UserError, match=f"data: 1 of 2 rows cannot be used: {reason}"):
        make_encoder().pairs(pairs, "data")
    units = make_encoder(policy="skip").pairs(pairs, "data")
    assert [unit.rows[0].id for unit in units] == ["data:1+"]
    assert "data:2" in capsys.readouterr().err
    with pytest.raises(UserError, match="data: no usable row is left"):
        make_encoder(policy="skip").pairs(pairs[1:], "data")


def test_a_row_may_fill_the_context_and_a_prompt_needs_room():
    (unit,) = make_encoder().pairs([PAIR], "data")
    longest = len(unit.rows[1].prompt_ids) + len(unit.rows[1].token_ids)
    assert make_encoder(context=longest).pairs([PAIR], "data") == [unit]
    with pytest.raises(UserError, match=f"needs {longest} tokens"):
        make_encoder(context=longest - 1).pairs([PAIR], "data")
    room = len(unit.rows[0].prompt_ids) + 1
    assert make_encoder(context=room).prompts([Problem("data:1", (USER,), "4")], "data")
    with pytest.raises(UserError, match=f"needs {room} tokens"):
        make_encoder(context=room - 1).prompts([Problem("data:1", (USER,), "4")], "data")


def test_answers_after_different_prompts_are_no_pair(monkeypatch):
    """No template that is accepted does this today; a loss that compares the two must never see it."""
    honest = encode.encode_answer

    def merging(tokenizer, messages, stops):
        prompt, tokens, mask = honest(tokenizer, messages, stops)
        if messages[-1]["content"] != "4":
            return prompt, tokens, mask
        return prompt[:-1], prompt[-1:] + tokens, (True, *mask)

    monkeypatch.setattr(encode, "encode_answer", merging)
    with pytest.raises(UserError, match="data:1: its chosen and its rejected answer come after different prompts"):
        make_encoder().pairs([PAIR], "data")


def test_an_encoded_row_is_as_long_as_its_mask():
    encoder = make_encoder()
    rows = [row for unit in encoder.pairs([PAIR], "data") for row in unit.rows]
    assert all(isinstance(row, EncodedRow) and len(row.loss_mask) == len(row.token_ids) for row in rows)


JUDGED = JudgedSteps("data:1", (USER,), ("2 and 2", "so 4"), (1.0, 0.25), ". ")


@pytest.mark.parametrize("template", [CHATML, None])
def test_judged_steps_are_one_row_that_counts_where_a_step_ends(template):
    encoder = make_encoder(template)
    (unit,) = encoder.steps([JUDGED], "data")
    (row,) = unit.rows
    assert unit.columns == {}
    assert text(encoder, row.token_ids) == "2 and 2. so 4. "
    ends = [place for place, end in enumerate(row.loss_mask) if end]
    assert [text(encoder, row.token_ids[: end + 1]) for end in ends] == ["2 and 2. ", "2 and 2. so 4. "]
    (labels,) = unit.token_columns["step_labels"]
    assert [labels[end] for end in ends] == [1.0, 0.25]
    assert sum(labels) == 1.25
    assert len(labels) == len(row.token_ids)
    (prompt,) = encoder.prompts([Problem("data:1", (USER,), "4")], "data")
    assert row.prompt_ids == prompt.token_ids


def test_a_step_is_tokenised_by_itself():
    """Where the whole text would merge a separator with its neighbours, that of each step is still its own token."""

    class Merging:
        """Words, and ".s" as one of them."""

        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            words = {"a": [1], "so": [2], ".": [3], "a.so.": [1, 4, 3]}
            return {"input_ids": words[text]}

    assert step_tokens(Merging(), ["a", "so", "a"], ".") == ((1, 3, 2, 3, 1, 3), (False, True) * 3)
    assert step_tokens(Merging(), [], ".") == ((), ())


def test_a_separator_of_several_tokens_counts_once_and_one_of_none_is_refused():
    tokenizer = make_tokenizer(None)
    ids, ends = step_tokens(tokenizer, ["ab", "c"], " = ")
    assert tokenizer.decode(list(ids)) == "ab = c = "
    assert [place for place, end in enumerate(ends) if end] == [4, 8]
    with pytest.raises(ValueError, match="comes to no tokens"):
        step_tokens(lambda text, add_special_tokens: {"input_ids": []}, ["a"], "?")


def test_judged_steps_that_do_not_fit_are_a_bad_row_whole(capsys):
    long = JudgedSteps("data:2", (USER,), ("x" * 150, "y" * 150), (1.0, 0.0))
    with pytest.raises(UserError, match=r"data: 1 of 2 rows cannot be used: data:2: it needs 3\d\d tokens"):
        make_encoder().steps([JUDGED, long], "data")
    assert [unit.rows[0].id for unit in make_encoder(policy="skip").steps([JUDGED, long], "data")] == ["data:1"]


def test_units_of_judged_steps_are_a_batch_with_a_column_of_tokens():
    other = JudgedSteps("data:2", (USER,), ("no",), (0.0,))
    units = make_encoder().steps([JUDGED, other], "data")
    batch = batch_of_units(units)
    assert batch.row_columns == {}
    assert [len(labels) for labels in batch.token_columns["step_labels"]] == batch.lengths()
    marked = zip(batch.token_columns["step_labels"], batch.loss_mask, strict=True)
    assert [labels[mask].tolist() for labels, mask in marked] == [[1.0, 0.25], [0.0]]
