"""The code's own tables as data and as Markdown: algorithms and config keys. `docs/` is made from them."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from upweight.algorithms import Algorithm
from upweight.catalogue import (
    SOURCES,
    difference_line,
    differences,
    example,
    formula_lines,
    off_lines,
    origin,
    summary,
    toml,
)
from upweight.config import AlgorithmConfig, Config
from upweight.formulas import SYMBOLS, WEIGHTS
from upweight.presets import PRESETS, algorithm


def algorithms_markdown() -> str:
    """The table of presets, then a section for each: formulas, options, differences, traps, an example."""
    cells = [summary(method) for method in PRESETS.values()]
    heads = list(cells[0])
    table = ["## The table", "", _table_row(heads), _table_row("---" for _ in heads)]
    for row in cells:
        name, *others = row.values()
        table.append(_table_row([f"[`{name}`](#{name})", *map(_cell, others)]))
    off = dict.fromkeys(line for method in PRESETS.values() for line in off_lines(method))
    table += ["", "## What can be switched on", "", "By an option that a method has and that is off by default in it:"]
    return "\n".join([*table, "", "```", *off, "```", "", *map(_algorithm_section, PRESETS.values())])


def weights_markdown() -> str:
    """The weight of each reduction, and what the symbols of formulas mean."""
    rows = [f"| `{reduction}` | `{weight}` |" for reduction, weight in WEIGHTS.items()]
    symbols = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in SYMBOLS.items()]
    table = ["| reduction | weight |", "|---|---|", *rows, "", "| symbol | meaning |", "|---|---|", *symbols]
    return "\n".join([*table, ""])


def _table_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _algorithm_section(method: Algorithm) -> str:
    lines = [f"## `{method.name}`", "", f"{method.title[0].upper()}{method.title[1:]} ({origin(method)})."]
    lines += ["", f"Learns from {SOURCES[method.source]}.", "", "```", *formula_lines(method), "```", ""]
    for name in method.neighbours:
        found = [difference_line(one) for one in differences(method, algorithm(name))]
        lines += [f"Differs from [`{name}`](#{name}):", "", "```", *found, "```", ""]
    lines += [*(f"- Trap: {trap}" for trap in method.traps), ""] if method.traps else []
    lines += ["```", *example(method.name), "```", "", "| option | default |", "|---|---|"]
    options = (f"| `algorithm.{name}` | `{toml(value)}` |" for name, value in method.options().items())
    return "\n".join([*lines, *options, ""])


def config_markdown() -> str:
    """A table of keys for each section of a config, in the order of the file."""
    return "\n".join(_config_section(place, model) for place, model in _all_sections())


def config_keys() -> set[str]:
    """Every dotted key that a config may have, but for an algorithm's options and what the user names."""
    return {_join(place, name) for place, model in _all_sections() for name in model.model_fields}


def _all_sections() -> list[tuple[str, type[BaseModel]]]:
    return [("", Config), *_sections(Config, "")]


def _sections(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(place, model) of every table below; the tasks are all at `data`, since one may be written straight into it."""
    for name, field in model.model_fields.items():
        for inner in _tables(field):
            below = {"mixture": place, "parts": f"{_join(place, name)}.NAME"}.get(name, _join(place, name))
            yield below, inner
            yield from _sections(inner, below)


def _tables(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections that a key opens. One with a description is like another section, and is a row that says so."""
    return [] if field.description else _models(field.annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if annotation is AlgorithmConfig else [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _config_section(place: str, model: type[BaseModel]) -> str:
    task = model.model_fields.get("task")
    title = f"`[{place}]`" if place else "The run"
    if task is not None:
        title += f", task `{get_args(task.annotation)[0]}`"
    about = " ".join((model.__doc__ or "").split())
    rows = [
        f"| `{_join(place, name)}` | {_kind(field)} | {_default(field)} | {_cell(field.description or '')} |"
        for name, field in model.model_fields.items()
        if not _tables(field)
    ]
    table = ["| key | kind | default | meaning |", "|---|---|---|---|", *rows] if rows else []
    return "\n".join([f"## {title}", "", about, "", *table, ""])


def _kind(field: FieldInfo) -> str:
    bounds: list[str] = []
    for item in field.metadata:
        if isinstance(item, Ge):
            bounds.append(f"at least {item.ge}")
        elif isinstance(item, Gt):
            bounds.append(f"above {item.gt}")
        elif isinstance(item, Le):
            bounds.append(f"at most {item.le}")
    return _cell(", ".join([_type(field.annotation), *bounds]))


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " or ".join(f"`{toml(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in inner if one is not type(None))
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if annotation is AlgorithmConfig:
        return "name or table"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, "table")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value == {} else f"`{toml(value)}`"


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
