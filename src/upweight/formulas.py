"""What a method computes, as text. A formula is the first line of a function's docstring with its options' values."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from upweight.algorithms import Algorithm, Call, Term, columns_of, options_of

WEIGHTS = {
    "token_mean": "1/sum T",
    "seq_mean_token_mean": "1/(N T_i)",
    "seq_mean_token_sum": "1/N",
    "constant_length": "1/(N L)",
    "group_token_mean": "1/(groups sum_g T)",
    "row_mean": "1/N",
    "unit_mean": "1/pairs",
}
"""The weight that each reduction gives to what the loss is a sum over."""

SYMBOLS = {
    "pi": "probability of a token under the policy that is trained",
    "old": "probability of the token before the first optimizer step on the batch, a constant",
    "ref": "probability of the token under the reference: the model that training started from, unless it is moved",
    "mu": "probability of the token as the sampler reported it",
    "rho": "pi / old",
    "u": "log(pi / ref)",
    "sg": "a constant of the gradient",
    "sigma": "the logistic function",
    "A": "the column `advantages`: of a row, given to each of its tokens, or of a token",
    "r": "the column `rewards`, one a completion, or in the whitening of `token_rewards` one a token",
    "r_t": "the column `token_rewards`",
    "r_k": "the column `token_rewards`, of token k",
    "ends": "tokens at which something is rewarded: those of the column `step_ends`",
    "r_step": "the column `step_rewards`: what the step earned that the token closes, 0 at the others",
    "step_total": "what of r came from parts that score steps",
    "step_ends": "whether something is rewarded at the token: the step that it closes, or the outcome",
    "step_labels": "whether the step that the token closes is right, or how likely",
    "score_t": "what the model says after the token, the log-odds that the step is right",
    "V": "the critic's value of the state before a token; old V before the first optimizer step on the batch",
    "H": "entropy of the distribution over the next token, nats",
    "mean_g": "mean over the completions of the row's prompt",
    "deviation_g": "standard deviation over the completions of the row's prompt",
    "G": "completions of a prompt",
    "r_chosen": "score of the chosen completion at its last token",
    "r_rejected": "score of the rejected completion at its last token",
    "margin": "the pair's own margin, 0 where the data has none",
    "truncated": "whether the completion was cut off by the token budget",
    "token_budget": "sampling.max_completion_tokens",
    "label": "whether the completion is marked good",
    "N": "rows of the optimizer step; for a loss of tokens, those that train one",
    "T": "trained tokens of a row",
    "T_i": "trained tokens of row i",
    "L": "sampling.max_completion_tokens, or algorithm.constant_length",
    "groups": "number of groups of the optimizer step that train a token",
    "sum_g": "sum over the completions of the row's prompt",
    "pairs": "number of pairs of the optimizer step",
}
"""What stands in formulas under a short name; a subscript t is token t of the row."""


def formula(call: Call) -> str:
    """The first line of the function's docstring, every option in it replaced by its value here.

    Where that line is nothing but an option's name, the option names a function of the same module, and the formula is
    that one's. A function without a docstring is shown as it is called.
    """
    options = call.all_options()
    first = stated(call)
    if first in options:
        chosen = getattr(sys.modules[call.function.__module__], str(options[first]))
        return formula(Call(chosen, {name: options[name] for name in options_of(chosen) if name in options}))
    return with_values(first, options) if first else signature(call)


def stated(call: Call) -> str:
    """The first line of the function's docstring as it is written, options by their names; empty without one."""
    return (inspect.getdoc(call.function) or "").partition("\n")[0].strip()


def with_values(text: str, options: Mapping[str, Any]) -> str:
    """The text with each option's name, as a whole word or with a subscript t, replaced by its value."""
    if not options:
        return text
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    text = re.sub(rf"\b({names})(?=(_t)?\b)", lambda found: value_text(options[found[1]]), text)
    return re.sub(r"(?<=\d) (?=\d)", " * ", text)


def signature(call: Call) -> str:
    """The call as it would be written: `group_relative(rewards, group_ids, std="none", std_eps=1e-08)`."""
    options = [f"{name}={value!r}" for name, value in call.all_options().items()]
    return f"{call.function.__name__}({', '.join([*columns_of(call.function), *options])})"


def value_text(value: Any) -> str:
    """An option's value as it stands in a formula."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        text = repr(value).removesuffix(".0")
        return f"({text})" if value < 0 else text
    return str(value)


def weight_text(reduction: str, constant_length: int) -> str:
    """The weight of a reduction, with the number of its constant length unless that is 0, the run's token budget."""
    weight = WEIGHTS[reduction]
    return weight.replace("L", str(constant_length)) if constant_length else weight


def term_text(term: Term, constant_length: int) -> str:
    """coefficient * sum of weight [ loss ], over tokens i,t, rows i or pairs; after a colon, of which of them."""
    over = {"token": "i,t", "row": "i", "unit": "pairs"}[term.level]
    only = [part for part in (term.rows, term.stream if term.stream != "main" else "") if part]
    part = f"{over}: {', '.join(only)}" if only else over
    weight = weight_text(term.reduction, constant_length)
    return f"{value_text(term.coefficient)} * sum_{{{part}}} {weight} [ {formula(term.loss)} ]"


def loss_lines(method: Algorithm, constant_length: int = 0) -> list[str]:
    """`loss = ...`, a line for each term that takes part. A constant length of 0 is written L."""
    first, *others = [term_text(term, constant_length) for term in method.active_terms()]
    return [f"loss = {first}", *(f"     + {term}" for term in others)]


def symbol_lines(texts: Iterable[str]) -> list[str]:
    """What the symbols mean that occur in the texts, or in the meaning of one that does, and are not defined there."""
    whole = "\n".join(texts)
    found: dict[str, str] = {}
    while new := {name: text for name, text in SYMBOLS.items() if name not in found and _occurs(name, whole)}:
        found |= new
        whole = "\n".join([whole, *new.values()])
    return [f"{name}: {text}" for name, text in SYMBOLS.items() if name in found]


def _occurs(name: str, text: str) -> bool:
    defined = re.search(rf"\b{re.escape(name)} = ", text)
    return defined is None and re.search(rf"(?<![\w.]){re.escape(name)}(?=\b|_[{{t])", text) is not None
