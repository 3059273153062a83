"""The code's own tables as data and as Markdown: algorithms and config keys. `docs/` is made from them."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from upweight.algorithms import PRESETS, Algorithm, Call, columns_of
from upweight.config import AlgorithmConfig, Config


def algorithm_row(method: Algorithm) -> dict[str, Any]:
    """A method as JSON-able data."""
    return {
        "name": method.name,
        "title": method.title,
        "source": method.source,
        "paper": method.paper,
        "advantage": _call_name(method.advantage),
        "terms": [
            {
                "name": term.name,
                "loss": _call_name(term.loss),
                "reduction": term.reduction,
                "coefficient": term.coefficient,
            }
            for term in method.terms
        ],
        "options": method.options(),
    }


def algorithms_markdown() -> str:
    """A section a preset: what it is, its formulas as the functions state them, and its options."""
    return "\n".join(_algorithm_section(method) for method in PRESETS.values())


def _algorithm_section(method: Algorithm) -> str:
    row = algorithm_row(method)
    origin = method.paper if not method.paper[:4].isdigit() else f"arXiv {method.paper}"
    lines = [
        f"## `{method.name}`",
        "",
        f"{method.title[0].upper()}{method.title[1:]} ({origin}).",
        "",
        f"- learns from: {'rows of a dataset' if method.source == 'dataset' else 'rollouts of the current policy'}",
        f"- advantage: `{row['advantage']}`: {_first_line(method.advantage)}",
    ]
    for term in method.terms:
        off = "" if term.coefficient else f", off unless `{term.name}_coef` is set"
        loss = f"`{_call_name(term.loss)}`: {_first_line(term.loss)}"
        lines.append(f"- term `{term.name}`, reduced by `{term.reduction}`{off}: {loss}")
    options = "".join(f"| `algorithm.{name}` | `{_toml(value)}` |\n" for name, value in row["options"].items())
    return "\n".join([*lines, "", "| option | default |", "|---|---|", options])


def _call_name(call: Call) -> str:
    return f"{call.function.__name__}({', '.join(columns_of(call.function))})"


def _first_line(call: Call) -> str:
    return (call.function.__doc__ or "").splitlines()[0]


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
        for inner in _models(field.annotation):
            below = {"mixture": place, "parts": f"{_join(place, name)}.NAME"}.get(name, _join(place, name))
            yield below, inner
            yield from _sections(inner, below)


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
        if not _models(field.annotation)
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
        return " or ".join(f"`{_toml(value)}`" for value in inner)
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
    return "" if value is None or value == {} else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, tuple) else str(value)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
