"""Text to tokens: the only place that renders messages.

A tokenizer with a chat template renders messages through it; one without joins their contents. The rendering of a
prompt and that of a demonstration agree token by token up to where the assistant begins, and every assistant's turn
is trained up to and including its stop token: what is never trained is never sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from upweight.errors import UserError
from upweight.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Encoded = tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]

_QUESTION: tuple[Message, ...] = ({"role": "user", "content": "What is 2+3?"},)
_ANSWER: Message = {"role": "assistant", "content": "It is 5"}


def stop_ids(tokenizer: Tokenizer, generation_config_eos: int | Sequence[int] | None = None) -> frozenset[int]:
    """The tokens that end a completion: the tokenizer's and those of the model's generation config.

    Raises UserError for a tokenizer without an end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no end-of-sequence token, so no completion could ever end: set its eos_token and save it"
        )
    further = (generation_config_eos,) if isinstance(generation_config_eos, int) else generation_config_eos or ()
    return frozenset({tokenizer.eos_token_id, *further})


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[int, ...]:
    """The tokens before the first one that is sampled.

    With a chat template it supplies every special token, BOS included. Without one the contents are joined by a
    newline after the tokenizer's own BOS, if it adds one; an EOS that it adds is left out.
    Raises ValueError when the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        return _plain_prompt(tokenizer, messages)
    return _ids(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))


def encode_demonstration(tokenizer: Tokenizer, messages: Sequence[Message], stop_ids: frozenset[int]) -> Encoded:
    """(prompt ids, completion ids, loss mask): the prompt is all before the first trained token.

    The mask is True on every assistant turn with its stop token and False on what stands between turns; the
    completion ends with the last turn's stop token. Tokens are only ever appended: a later turn does not change
    those of an earlier one. Without a chat template there may be one assistant turn, the last message, and EOS is
    appended to it.
    Raises ValueError, with a reason for the row, when there is no assistant turn or nothing before it, when the
    template rewrites history or puts no stop token after a turn, or when a turn contains one in its middle.
    """
    return _encode(tokenizer, messages, _turns(messages), stop_ids)


def encode_answer(tokenizer: Tokenizer, messages: Sequence[Message], stop_ids: frozenset[int]) -> Encoded:
    """(prompt ids, completion ids, loss mask) of a conversation whose last turn alone is trained, wherever it stands.

    The prompt is rendered as `encode_prompt` does it, so a template may show earlier turns in another way than when
    they were the last, and without a template there may be several. Raises ValueError as `encode_demonstration` does.
    """
    return _encode(tokenizer, messages, _turns(messages)[-1:], stop_ids)


def _turns(messages: Sequence[Message]) -> list[int]:
    return [place for place, message in enumerate(messages) if message["role"] == "assistant"]


def _encode(
    tokenizer: Tokenizer, messages: Sequence[Message], turns: Sequence[int], stop_ids: frozenset[int]
) -> Encoded:
    """The turns at these places are trained."""
    if not turns:
        raise ValueError("there is no assistant turn to train on")
    if turns[0] == 0:
        raise ValueError("there is nothing before the first assistant turn, so nothing predicts its first token")
    if tokenizer.chat_template is None:
        encoded = _plain_demonstration(tokenizer, messages, turns)
    else:
        encoded = _templated_demonstration(tokenizer, messages, turns, stop_ids)
    if not encoded[0]:
        raise ValueError("the messages before the assistant's turn come to no tokens, so nothing predicts its first")
    return encoded


def encode_reply(
    tokenizer: Tokenizer, messages: Sequence[Message], reply: Message, stop_ids: frozenset[int]
) -> tuple[int, ...]:
    """The tokens between a sampled turn and the next: the reply to it, and the header of the assistant's next turn.

    `messages` end with the assistant's turn, whose own tokens the caller has and keeps: these are appended to them.
    Without a chat template they are the reply's text. Raises ValueError, with the reason, when the template rewrites
    history, or ends the turn otherwise than with a stop token.
    """
    if tokenizer.chat_template is None:
        return _ids(tokenizer, reply["content"])
    text = _render(tokenizer, messages[:-1], add_generation_prompt=True)
    ids = _ids(tokenizer, text)
    start = len(ids)
    ids, text = _extend(tokenizer, ids, text, _render(tokenizer, messages))
    end = _end_of_turn(tokenizer, ids, start, stop_ids)
    longer = _render(tokenizer, (*messages, reply), add_generation_prompt=True)
    ids, whole = _extend(tokenizer, ids, text, longer)
    if reply["content"].strip() not in whole[len(text) :]:
        raise ValueError(f"the chat template drops a message of role {reply['role']!r}")
    return ids[end:]


def check_template(tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
    """Tries the chat template on a question and an answer; nothing to check without one.

    Raises UserError that says what is wrong when the template fails, rewrites what it rendered as a prompt, drops
    the assistant's text, does not end its turn with a stop token, or when there is more than one BOS.
    """
    if tokenizer.chat_template is None:
        return
    try:
        prompt = _render(tokenizer, _QUESTION, add_generation_prompt=True)
        whole = _render(tokenizer, (*_QUESTION, _ANSWER))
    except ValueError as error:
        raise UserError(f"{error}: mend the tokenizer's chat_template") from None
    if not whole.startswith(prompt):
        raise UserError(
            f"the chat template's generation prompt is no prefix of the same conversation with its answer: it ends in "
            f"{prompt[-40:]!r}, where the conversation has {whole[_common(prompt, whole) :][:40]!r}; completions would "
            "be trained after another context than they are sampled in"
        )
    if _ANSWER["content"] not in whole[len(prompt) :]:
        turn = whole[len(prompt) :]
        raise UserError(f"the chat template drops the assistant's text: its turn is rendered as {turn!r}")
    _check_bos(tokenizer, _ids(tokenizer, whole), stop_ids)
    try:
        encode_demonstration(tokenizer, (*_QUESTION, _ANSWER), stop_ids)
    except ValueError as error:
        raise UserError(
            f"the chat template cannot be trained on: {error}; save the tokenizer with the eos_token that its template "
            "uses, or mend the template"
        ) from None


def _check_bos(tokenizer: Tokenizer, ids: tuple[int, ...], stop_ids: frozenset[int]) -> None:
    """A tokenizer may use one token as BOS and as stop token: then only two at the very start are one too many."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    if ids[:2] == (bos, bos) or (bos not in stop_ids and ids.count(bos) > 1):
        raise UserError(
            f"the chat template puts a second BOS token ({tokenizer.bos_token!r}) into a conversation: it should come "
            "once, at the start"
        )


def _render(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    plain = [dict(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(plain, add_generation_prompt=add_generation_prompt, tokenize=False)
    except (TemplateError, TypeError, IndexError) as error:  # what a template's own code can raise
        raise ValueError(f"the chat template fails: {' '.join(str(error).split())}") from None
    return str(text)


def _ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids)))


def _extend(tokenizer: Tokenizer, ids: tuple[int, ...], text: str, longer: str) -> tuple[tuple[int, ...], str]:
    """The ids of a longer rendering, with those of `text` unchanged.

    Where the tokenizer would merge across the seam, what is new is tokenised by itself: a sampler, too, goes on from
    tokens that it cannot take back.
    """
    if not longer.startswith(text):
        lost = text[_common(text, longer) :]
        raise ValueError(f"the chat template rewrites history: {lost[:40]!r} is gone when later turns are rendered")
    whole = _ids(tokenizer, longer)
    if whole[: len(ids)] != ids:
        whole = ids + _ids(tokenizer, longer[len(text) :])
    return whole, longer


def _end_of_turn(tokenizer: Tokenizer, ids: tuple[int, ...], start: int, stop_ids: frozenset[int]) -> int:
    """The position after the first stop token of the turn that begins at `start` and ends with `ids`."""
    end = next((place + 1 for place in range(start, len(ids)) if ids[place] in stop_ids), None)
    if end is None:
        known = tokenizer.convert_ids_to_tokens(sorted(stop_ids))
        last = _text(tokenizer, ids[start:][-3:])
        raise ValueError(f"the assistant's turn ends with {last!r} and not with a stop token ({', '.join(known)})")
    after = _text(tokenizer, [token for token in ids[end:] if token not in stop_ids])
    if after.strip():
        raise ValueError(f"the assistant's turn goes on after a stop token: {after[:40]!r}")
    return end


def _common(left: str, right: str) -> int:
    """How many characters two texts have in common at the start."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (x, y) in enumerate(pairs) if x != y), min(len(left), len(right)))


def _templated_demonstration(
    tokenizer: Tokenizer, messages: Sequence[Message], turns: Sequence[int], stop_ids: frozenset[int]
) -> Encoded:
    text = _render(tokenizer, messages[: turns[0]], add_generation_prompt=True)
    ids = prompt_ids = _ids(tokenizer, text)
    mask: tuple[bool, ...] = ()
    end = len(ids)
    for turn in turns:
        ids, text = _extend(tokenizer, ids, text, _render(tokenizer, messages[:turn], add_generation_prompt=True))
        start = len(ids)
        ids, text = _extend(tokenizer, ids, text, _render(tokenizer, messages[: turn + 1]))
        mask += (False,) * (start - end)
        end = _end_of_turn(tokenizer, ids, start, stop_ids)
        mask += (True,) * (end - start)
    return prompt_ids, ids[len(prompt_ids) : end], mask


def _plain_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[int, ...]:
    text = "\n".join(message["content"] for message in messages)
    plain = _ids(tokenizer, text)
    with_special = tuple(tokenizer(text)["input_ids"])
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and with_special[:1] == (bos,) and plain[:1] != (bos,)
    return (bos, *plain) if adds_bos else plain


def _plain_demonstration(tokenizer: Tokenizer, messages: Sequence[Message], turns: Sequence[int]) -> Encoded:
    if list(turns) != [len(messages) - 1]:
        raise ValueError("without a chat template a conversation has one assistant turn, at its end")
    prompt_ids = _plain_prompt(tokenizer, messages[:-1])
    completion_ids = (*_ids(tokenizer, messages[-1]["content"]), tokenizer.eos_token_id)
    return prompt_ids, completion_ids, (True,) * len(completion_ids)
