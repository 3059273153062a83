"""The rewards that a config may name, in words: what each reads, its options, and what scores what."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from upweight.errors import UserError, nearest
from upweight.rewards.examples import EXAMPLES, Example
from upweight.rewards.load import BUILTIN, ISOLATED
from upweight.rewards.make import JUDGE, MODELS, bound_reads

# Those that are no functions of a text, each with what it is and where its options are told.
LEARNED: Mapping[str, tuple[str, str]] = {
    "reward_model": ("The score of a reward model, trained by the preset of that name.", "docs/preferences.md"),
    "process_reward_model": ("The score that a process reward model gives each step.", "docs/process.md"),
    JUDGE: ("The verdict of a language model behind an OpenAI-compatible endpoint.", "docs/judge.md"),
}
WHERE: Mapping[str, str] = {
    "inline": "at once, in the process that trains",
    "worker": "in worker processes, under the deadline",
    "batch": "for all completions of a step together",
    "endpoint": "elsewhere, over the network",
}
SHOWN = 60  # characters of a completion in an example


@dataclass(frozen=True)
class Description:
    """`where` it is computed is a key of `WHERE`; `text` is all that its author says."""

    name: str
    summary: str
    where: str
    reads: tuple[str, ...]
    options: Mapping[str, Any]
    text: str
    examples: tuple[Example, ...]


def descriptions() -> list[Description]:
    """Every reward that comes with the library."""
    return [description(name) for name in (*BUILTIN, *LEARNED)]


def description(name: str) -> Description:
    """One of them. Raises UserError for another name."""
    if name in LEARNED:
        summary, page = LEARNED[name]
        where = "batch" if name in MODELS else "endpoint"
        return Description(name, summary, where, (), {}, f"{summary} Its options are in {page}.", ())
    if name not in BUILTIN:
        raise UserError(f"unknown reward {name!r}{nearest(name, [*BUILTIN, *LEARNED])}; `upweight rewards` lists them")
    function = BUILTIN[name]
    text = inspect.getdoc(function) or ""
    reads, _ = bound_reads(name, function, {}, name)
    where = "worker" if name in ISOLATED else "inline"
    return Description(name, text.splitlines()[0], where, reads, _options(function), text, tuple(EXAMPLES[name]))


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def plain(found: Description) -> dict[str, Any]:
    """The description as JSON-able data."""
    examples = [{"arguments": e.arguments, "options": e.options, "reward": e.reward} for e in found.examples]
    names = ("name", "summary", "where", "reads", "options")
    return {**{name: getattr(found, name) for name in names}, "text": found.text, "examples": examples}


def lines(found: Description) -> Iterator[str]:
    """What `upweight rewards NAME` prints."""
    yield f"{found.name}: {found.text}"
    yield ""
    yield f"computed: {found.where}"
    if found.reads:
        yield f"reads: {', '.join(found.reads)}"
    if found.options:
        yield "options:"
        yield from (f"  {name} = {value!r}" for name, value in found.options.items())
    if found.examples:
        yield "what scores what:"
        yield from (f"  {example_line(example)}" for example in found.examples)


def rewards_markdown() -> str:
    """A section for each reward."""
    return "\n".join(f"## `{found.name}`\n\n{_section(found)}\n" for found in descriptions())


def _section(found: Description) -> str:
    parts = [found.text]
    if found.reads:
        parts.append(f"Reads {', '.join(f'`{name}`' for name in found.reads)}; computed {WHERE[found.where]}.")
    if found.options:
        rows = (f"| `{name}` | `{value!r}` |" for name, value in found.options.items())
        parts.append("\n".join(("| option | default |", "|---|---|", *rows)))
    if found.examples:
        parts.append("\n".join(("```text", *map(example_line, found.examples), "```")))
    return "\n\n".join(parts)


def example_line(example: Example) -> str:
    """`1  'completion'  answer='4'  (option=..)`."""
    known = dict(example.arguments)
    completion = known.pop("completion", None)
    words = [f"{example.reward:g}"]
    if completion is not None:
        words.append(repr(completion if len(completion) <= SHOWN else f"{completion[:SHOWN]}.."))
    words += [f"{name}={value!r}" for name, value in known.items()]
    if example.options:
        words.append(f"({', '.join(f'{name} = {value!r}' for name, value in example.options.items())})")
    return "  ".join(words)
