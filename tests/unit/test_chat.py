"""Messages to tokens: what is trained is what is sampled, and a template that breaks this is refused by name."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from upweight.chat import check_template, encode_demonstration, encode_prompt, stop_ids
from upweight.errors import UserError

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "2+2="}
REPLY = {"role": "assistant", "content": "4"}
AGAIN = {"role": "user", "content": "sure?"}
YES = {"role": "assistant", "content": "yes"}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
)


def make_tokenizer(template: str | None, eos: str | None = "<|im_end|>", bos: str | None = None, adds=()):
    """One token a character (and one for two newlines); `adds` are special tokens put around a plain text."""
    letters = sorted({chr(code) for code in range(32, 127)} | {"\n"})
    vocabulary = {token: place for place, token in enumerate([*letters, "\n\n", "<unk>", *SPECIAL])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("\n", "\n")], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    if adds:
        single = " ".join(adds)
        tokens = [(token, vocabulary[token]) for token in adds if token != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos, unk_token="<unk>")
    fast.chat_template = template
    return fast


def trained(tokenizer, completion_ids, mask) -> list[str]:
    """The text of each run of trained tokens."""
    runs: list[list[int]] = []
    for place, (token, train) in enumerate(zip(completion_ids, mask, strict=True)):
        if train and (place == 0 or not mask[place - 1]):
            runs.append([])
        if train:
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


def demonstrate(tokenizer, *messages):
    prompt, completion, mask = encode_demonstration(tokenizer, messages, stop_ids(tokenizer))
    assert len(mask) == len(completion)
    return tokenizer.decode(list(prompt)), tokenizer.decode(list(completion)), trained(tokenizer, completion, mask)


def test_stop_ids_are_the_tokenizers_and_the_models():
    tokenizer = make_tokenizer(CHATML)
    im_end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert stop_ids(tokenizer) == {im_end}
    assert stop_ids(tokenizer, eos) == stop_ids(tokenizer, [eos, im_end]) == {im_end, eos}
    assert 0 in stop_ids(tokenizer, 0)


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(UserError, match="no end-of-sequence token"):
        stop_ids(make_tokenizer(CHATML, eos=None), 3)


def test_prompt_of_a_template():
    tokenizer = make_tokenizer(CHATML, adds=("<s>", "$A", "</s>"), bos="<s>")
    text = tokenizer.decode(list(encode_prompt(tokenizer, (SYSTEM, USER))))
    assert text == ("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_with_bos_gives_one_although_the_tokenizer_adds_its_own():
    tokenizer = make_tokenizer(LLAMA, eos="</s>", bos="<s>", adds=("<s>", "$A"))
    assert tokenizer.decode(list(encode_prompt(tokenizer, (USER,)))) == "<s>[2+2=]"
    check_template(tokenizer, stop_ids(tokenizer))


@pytest.mark.parametrize(
    ("adds", "text"),
    [((), "be brief\n2+2="), (("<s>", "$A"), "<s>be brief\n2+2="), (("<s>", "$A", "</s>"), "<s>be brief\n2+2="),
     (("$A", "</s>"), "be brief\n2+2=")],
)  # fmt: skip
def test_prompt_without_a_template(adds, text):
    tokenizer = make_tokenizer(None, eos="</s>", bos="<s>", adds=adds)
    assert tokenizer.decode(list(encode_prompt(tokenizer, (SYSTEM, USER)))) == text


def test_a_demonstration_trains_the_reply_and_its_stop_token_alone():
    tokenizer = make_tokenizer(CHATML)
    prompt, completion, runs = demonstrate(tokenizer, SYSTEM, USER, REPLY)
    assert prompt == tokenizer.decode(list(encode_prompt(tokenizer, (SYSTEM, USER))))
    assert completion == "4<|im_end|>"
    assert runs == ["4<|im_end|>"]


def test_every_assistant_turn_is_trained_and_nothing_between():
    tokenizer = make_tokenizer(CHATML)
    prompt, completion, runs = demonstrate(tokenizer, USER, REPLY, AGAIN, YES, AGAIN)
    assert prompt == "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"
    assert completion == ("4<|im_end|>\n<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>")
    assert runs == ["4<|im_end|>", "yes<|im_end|>"]


def test_two_assistant_turns_in_a_row_are_both_trained():
    assert demonstrate(make_tokenizer(CHATML), USER, REPLY, YES)[2] == ["4<|im_end|>", "yes<|im_end|>"]


def test_a_template_without_a_generation_prompt():
    tokenizer = make_tokenizer(LLAMA, eos="</s>", bos="<s>")
    assert demonstrate(tokenizer, USER, REPLY, AGAIN, YES) == (
        "<s>[2+2=]", " 4</s>[sure?] yes</s>", [" 4</s>", " yes</s>"],
    )  # fmt: skip


def test_a_token_that_would_merge_across_the_seam_does_not_change_the_prompt():
    tokenizer = make_tokenizer(CHATML)
    reply = {"role": "assistant", "content": "\n4"}
    whole = tokenizer.apply_chat_template([USER, reply], tokenize=False)
    assert tokenizer.convert_tokens_to_ids("\n\n") in tokenizer(whole)["input_ids"], "the seam is tested"
    prompt_ids, completion_ids, _ = encode_demonstration(tokenizer, (USER, reply), stop_ids(tokenizer))
    assert prompt_ids == encode_prompt(tokenizer, (USER,))
    assert tokenizer.decode(list(completion_ids)) == "\n4<|im_end|>"


def test_a_demonstration_without_a_template():
    tokenizer = make_tokenizer(None, eos="</s>", bos="<s>", adds=("<s>", "$A", "</s>"))
    assert demonstrate(tokenizer, SYSTEM, USER, REPLY) == ("<s>be brief\n2+2=", "4</s>", ["4</s>"])
    with pytest.raises(ValueError, match="one assistant turn, at its end"):
        demonstrate(tokenizer, USER, REPLY, AGAIN, YES)
    with pytest.raises(ValueError, match="come to no tokens"):
        demonstrate(make_tokenizer(None), {"role": "system", "content": ""}, REPLY)


REWRITES = (  # as templates do that show only the last turn's reasoning
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if loop.last %}!{% endif %}{{ m.content }}<|im_end|>"
    "{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (CHATML, (USER,), "no assistant turn"),
        (REWRITES, (USER, REPLY, AGAIN, YES), "rewrites history: '!4"),
        (REFUSES, (SYSTEM, USER, REPLY), "the chat template fails: no system, please"),
        (CHATML, (USER, {"role": "assistant", "content": "a<|im_end|>b"}), "goes on after a stop token: 'b"),
        (
            LLAMA.replace("{{ eos_token }}", "</s>"),
            (USER, REPLY),
            r"'.*4</s>' and not with a stop token \(<\|im_end\|>\)",
        ),
        (CHATML, (REPLY,), "nothing before the first assistant turn"),
        ("{% for m in messages[1:] %}{{ m.content }}<|im_end|>{% endfor %}", (USER, REPLY), "come to no tokens"),
    ],
)
def test_a_row_that_cannot_be_trained_on_says_why(template, messages, reason):
    with pytest.raises(ValueError, match=reason):
        demonstrate(make_tokenizer(template), *messages)


def test_a_prompt_that_the_template_refuses():
    with pytest.raises(ValueError, match="no system, please"):
        encode_prompt(make_tokenizer(REFUSES), (SYSTEM, USER))


@pytest.mark.parametrize(
    ("template", "eos", "bos"),
    [
        (None, "</s>", None),
        (CHATML, "<|im_end|>", None),
        (LLAMA, "</s>", "<s>"),
        (CHATML.replace("<|im_start|>", "</s>").replace("<|im_end|>", "</s>"), "</s>", "</s>"),
        (REWRITES, "<|im_end|>", None),
    ],
)
def test_good_templates_pass(template, eos, bos):
    tokenizer = make_tokenizer(template, eos, bos)
    check_template(tokenizer, stop_ids(tokenizer))


@pytest.mark.parametrize(
    ("template", "eos", "bos", "message"),
    [
        (
            CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif"), "<|im_end|>", None,
            r"generation prompt is no prefix .* ends in '.*assistant\\n<think>', where the conversation has 'It is 5",
        ),
        (CHATML, "</s>", None, r"ends with '.*<\|im_end\|>\\n' and not with a stop token \(</s>\); save the"),
        (CHATML.replace("<|im_end|>", ""), "</s>", None, "not with a stop token"),
        (
            CHATML.replace("{{ m.content }}<|im_end|>", "{{ m.content }}<|im_end|> bye"), "<|im_end|>", None,
            "goes on after a stop token: ' bye",
        ),
        ("{{ bos_token }}" + LLAMA, "</s>", "<s>", r"second BOS token \('<s>'\)"),
        (LLAMA.replace("{{ eos_token }}", "{{ eos_token }}{{ bos_token }}"), "</s>", "<s>", "second BOS token"),
        ("{{ bos_token }}" * 2 + LLAMA[len("{{ bos_token }}") :], "</s>", "</s>", "second BOS token"),
        ("{{ raise_exception('not today') }}", "</s>", None, "the chat template fails: not today: mend"),
        ("{% for m in messages %}", "</s>", None, "the chat template fails: .*mend"),
        ("{{ messages[0].content + 3 }}", "</s>", None, "the chat template fails: .*mend"),
        (CHATML.replace("{{ m.content }}", "{{ m.text }}"), "<|im_end|>", None, "drops the assistant's text: .* '<"),
    ],
)  # fmt: skip
def test_broken_templates_are_refused_with_what_is_wrong(template, eos, bos, message):
    tokenizer = make_tokenizer(template, eos, bos)
    with pytest.raises(UserError, match=message) as raised:
        check_template(tokenizer, stop_ids(tokenizer))
    assert "\n" not in str(raised.value)
