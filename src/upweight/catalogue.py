"""A method as data and in words: what it is made of, what sets it apart from its neighbours, how to try it.

Everything is read off the record; nothing here knows a method by its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from upweight.algorithms import Algorithm, Call, Derived, base_column, columns_of
from upweight.formulas import formula, loss_lines, stated, symbol_lines, term_text, value_text
from upweight.presets import algorithm

SOURCES = {
    "demonstrations": "demonstrations of a dataset",
    "pairs": "preference pairs of a dataset: a chosen and a rejected completion of a prompt",
    "labels": "completions of a dataset that are marked good or bad",
    "steps": "solutions of a dataset of which every step is judged",
    "rollouts": "rewarded completions that the policy samples itself",
}


@dataclass(frozen=True)
class Difference:
    """One thing that two methods have in different ways; empty where one of them does not have it."""

    what: str
    here: str
    there: str


def method_row(method: Algorithm) -> dict[str, Any]:
    """The record as JSON-able data: its fields with calls written out, every option, and the cells of the table.

    Infinite values are the text "inf", which is how TOML writes them.
    """
    steps = ("derived", "filters", "statistics", "carries", "terms")
    plain = {f.name: getattr(method, f.name) for f in fields(method) if f.name not in steps}
    row = {
        **plain,
        "switches": dict(method.switches),
        "derived": [{"column": s.column, "switch": s.switch, **_call(s.call)} for s in method.derived],
        "filters": [{"switch": s.switch, **_call(s.call)} for s in method.filters],
        "statistics": [{"column": s.column, "mismatched": s.mismatched, **_call(s.call)} for s in method.statistics],
        "carries": [{"option": s.option, "switch": s.switch, **_call(s.call)} for s in method.carries],
        "terms": [
            {
                "name": term.name,
                "reduction": term.reduction,
                "coefficient": term.coefficient,
                "stream": term.stream,
                "rows": term.rows,
                **_call(term.loss),
            }
            for term in method.terms
        ],
        "options": method.options(),
        "summary": summary(method),
    }
    return {name: _plain(value) for name, value in row.items()}


def explained_row(method: Algorithm, reference: str) -> dict[str, Any]:
    """`method_row` with the loss as a formula, the differences from each neighbour, and commands to try it with."""
    return {
        **method_row(method),
        "formula": formula_lines(method),
        "differences": {
            name: [{"what": d.what, "here": d.here, "there": d.there} for d in differences(method, algorithm(name))]
            for name in method.neighbours
        },
        "example": example(reference),
    }


def _call(call: Call) -> dict[str, Any]:
    return {
        "function": call.function.__name__,
        "columns": list(columns_of(call.function)),
        "formula": formula(call),
        "options": call.all_options(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def summary(method: Algorithm) -> dict[str, str]:
    """The cells of the table of methods."""
    loss = method.terms[0].loss
    made = [step.call.function.__name__ for step in method.active_derived() if step.column == "advantages"]
    clips = {name: value for name, value in loss.all_options().items() if "clip" in name or name == "delta"}
    return {
        "name": method.name,
        "learns from": method.source,
        "weight": ", ".join(made) or loss.function.__name__,
        "ratio": _ratio(loss),
        "clip": _listed(f"{name} {value_text(value)}" for name, value in clips.items() if value != math.inf),
        "reduction": method.terms[0].reduction,
        "KL": _kl(method),
        "extras": _listed(_extras(method)),
        "paper": method.paper,
    }


def _ratio(loss: Call) -> str:
    if "old_logprobs" not in columns_of(loss.function):
        return "none"
    defined = re.search(r"\bs = (.*)", formula(loss))
    return defined[1] if defined else "pi / old"


def _kl(method: Algorithm) -> str:
    first, *others = method.active_terms()
    found = [f"in {step.column}, {step.switch} {method.options()[step.switch]}" for step in _of_reference(method)]
    found += [f"{term.name}_coef {value_text(term.coefficient)}" for term in others if _reads_reference(term.loss)]
    if _reads_reference(first.loss):
        found.append("within the loss")
    optional = any(_reads_reference(term.loss) for term in method.terms)
    return _listed(found, "off" if optional else "none")


def _of_reference(method: Algorithm) -> Iterator[Derived]:
    return (step for step in method.active_derived() if step.switch and _reads_reference(step.call))


def _reads_reference(call: Call) -> bool:
    return "ref_logprobs" in map(base_column, columns_of(call.function))


def _extras(method: Algorithm) -> Iterator[str]:
    if method.model == "reward":
        yield "trains a reward model"
    if method.critic:
        yield "critic"
    if method.needs("ref_logprobs"):
        yield "reference"
    yield from (f"filter {step.call.function.__name__}" for step in method.active_filters())
    shaped = (step for step in method.active_derived() if step.column in ("rewards", "loss_mask"))
    yield from (step.call.function.__name__ for step in shaped)
    yield from (f"statistic {step.column}" for step in method.statistics)
    yield from (f"moving {step.option}" for step in method.active_carries())
    yield from (f"term {term.name}" for term in method.active_terms()[1:])
    if method.steps_per_batch() > 1:
        yield f"{method.steps_per_batch()} optimizer steps a batch"


def _listed(parts: Iterable[str], otherwise: str = "none") -> str:
    return ", ".join(dict.fromkeys(parts)) or otherwise


def differences(method: Algorithm, other: Algorithm) -> list[Difference]:
    """What one has and the other has not or in another way, found by comparing the two records field by field.

    Options are compared by name where both have them; those of a function that only one uses go with the function.
    """
    here, there = _facts(method), _facts(other)
    names = dict.fromkeys([*here, *there])
    found = [Difference(name, here.get(name, ""), there.get(name, "")) for name in names]
    mine, theirs = method.options(), other.options()
    shared = [name for name in mine if name in theirs and name != "reduction"]
    found += [Difference(name, value_text(mine[name]), value_text(theirs[name])) for name in shared]
    return [one for one in found if one.here != one.there]


def _facts(method: Algorithm) -> dict[str, str]:
    """What a method is made of, each part told by its formula with options by name: values are compared apart."""
    facts = {
        "learns from": method.source,
        "trains": f"a {method.model} model" if method.model == "reward" else "a policy",
        "critic": "yes" if method.critic else "no",
        "reduction": method.terms[0].reduction,
    }
    for step in method.active_derived():
        before = facts.get(step.column)
        facts[step.column] = f"{before}; then {stated(step.call)}" if before else stated(step.call)
    facts |= {f"loss {term.name}": stated(term.loss) for term in method.active_terms()}
    facts |= {f"filter {step.call.function.__name__}": stated(step.call) for step in method.active_filters()}
    facts |= {f"statistic {step.column}": stated(step.call) for step in method.statistics}
    return facts | {f"moving {step.option}": stated(step.call) for step in method.active_carries()}


def example(reference: str) -> list[str]:
    """Commands that try a method, given as `upweight algorithms` takes it, on the sums of `examples/arithmetic`."""
    first = "upweight train examples/arithmetic/sft.toml"
    name = reference.rpartition(":")[2]
    if algorithm(reference).source == "demonstrations":
        return [f"{first} name=arithmetic-{name} algorithm={reference}"]
    return [first, f"upweight train examples/arithmetic/grpo.toml name=arithmetic-{name} algorithm={reference}"]


def describe_method(method: Algorithm, reference: str) -> list[str]:
    """What `upweight algorithms NAME` prints: formula, options, differences from neighbours, traps, an example."""
    lines = [f"{method.name}: {method.title} ({origin(method)})", "", f"learns from {SOURCES[method.source]}", ""]
    body = formula_lines(method)
    lines += [*body, *_indented("where", symbol_lines(body)), *_indented("switched off", off_lines(method))]
    lines += _indented("options", (f"algorithm.{name} = {toml(value)}" for name, value in method.options().items()))
    for name in method.neighbours:
        lines += _indented(f"differs from {name}", map(difference_line, differences(method, algorithm(name))))
    return [*lines, *_indented("traps", method.traps), *_indented("try it", example(reference))]


def difference_line(difference: Difference) -> str:
    """`what: here; there: ...`."""
    return f"{difference.what}: {difference.here or 'none'}; there: {difference.there or 'none'}"


def origin(method: Algorithm) -> str:
    """Where a method comes from."""
    return f"arXiv {method.paper}" if re.match(r"\d{4}\.\d", method.paper) else method.paper


def toml(value: Any) -> str:
    """A value as a TOML file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, tuple) else str(value)


def formula_lines(method: Algorithm) -> list[str]:
    """Everything that takes part, in order: which groups are kept, columns, statistics, the loss, what moves."""
    kept = [f"keeps groups with {formula(step.call)}" for step in method.active_filters()]
    columns = [f"{step.column} = {formula(step.call)}" for step in method.active_derived()]
    columns += [f"{statistic.column} = {formula(statistic.call)}" for statistic in method.statistics]
    moving = [f"{carry.option} becomes {formula(carry.call)}" for carry in method.active_carries()]
    return [*kept, *columns, *loss_lines(method), *moving]


def off_lines(method: Algorithm) -> list[str]:
    """What an option can switch on, with options by their names."""
    on, kept, moves = method.active_derived(), method.active_filters(), method.active_carries()
    lines = [f"{step.switch}: keeps groups with {stated(step.call)}" for step in method.filters if step not in kept]
    lines += [f"{step.switch}: {step.column} = {stated(step.call)}" for step in method.derived if step not in on]
    for term in method.terms:
        if not term.coefficient:
            summed = term_text(term, 0).partition(" * ")[2]
            lines.append(f"{term.name}_coef: loss + {term.name}_coef * {summed}")
    still = (carry for carry in method.carries if carry not in moves)
    return lines + [f"{carry.switch}: {carry.option} becomes {stated(carry.call)}" for carry in still]


def _indented(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return ["", title, *found] if found else []
