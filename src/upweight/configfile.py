"""From a TOML file and `key=value` overrides to a checked Config, with one clear line for the first mistake."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from upweight.config import ArithmeticTask, Config, CountdownTask, Gsm8kTask, GymTask, RowsTask
from upweight.errors import UserError, nearest


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError when it is missing or cannot be parsed."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None


def parse_override(text: str) -> tuple[list[str], Any]:
    """`a.b=value` as its dotted key and TOML value; a value that is no TOML is taken as a string."""
    key, separator, value = text.partition("=")
    if not separator or not all(part.strip() for part in key.split(".")):
        raise UserError(f"{text!r} is not of the form key=value, for example optimizer.lr=1e-4")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return [part.strip() for part in key.split(".")], parsed


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables of `base` overlaid by those of `extra`; a value that is no table is replaced."""
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def apply_overrides(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`tables` with each `a.b=value` laid over it, left to right."""
    merged = dict(tables)
    for text in overrides:
        keys, value = parse_override(text)
        for key in reversed(keys):
            value = {key: value}
        if keys[0] == "algorithm" and isinstance(merged.get("algorithm"), str):
            merged["algorithm"] = {"name": merged["algorithm"]}
        merged = merge(merged, value)
    return merged


def make_config(tables: Mapping[str, Any], where: str = "config") -> Config:
    """Tables checked into a Config. Raises UserError that names the first wrong key, and the nearest known one."""
    try:
        return Config.model_validate(_lists_as_tuples(tables))
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a TOML file with `key=value` overrides. Raises UserError."""
    return make_config(apply_overrides(read_toml(path), overrides), str(path))


def _lists_as_tuples(value: Any) -> Any:
    """TOML's arrays as tuples, which is what the frozen models hold (strict mode tells them apart)."""
    if isinstance(value, Mapping):
        return {key: _lists_as_tuples(item) for key, item in value.items()}
    return tuple(_lists_as_tuples(item) for item in value) if isinstance(value, list) else value


def _explain(error: ValidationError) -> str:
    # A misspelt key is often also the reason for one that is missing: name it first.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = [part for part in first["loc"] if not isinstance(part, int)]
    key = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        siblings = _known_keys(place[:-1])
        return f"unknown key {key}{nearest(str(place[-1]), siblings)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], Mapping) or first["type"] == "value_error" else f", not {first['input']!r}"
    return f"{key}: {message}{given}" if key else f"{message}{given}"


def _known_keys(place: Sequence[Any]) -> set[str]:
    """The keys of the section at a dotted place, following the models' annotations."""
    models: list[Any] = [Config]
    for part in place:
        models = [inner for model in models for inner in _models_within(model, str(part))] or models
    return {name for model in models for name in model.model_fields}


def _models_within(model: type[BaseModel], part: str) -> list[type[BaseModel]]:
    field = model.model_fields.get(part)
    if field is None:
        tagged = [
            m
            for m in (ArithmeticTask, CountdownTask, Gsm8kTask, GymTask, RowsTask)
            if part in getattr(m.model_fields["task"].annotation, "__args__", ())
        ]
        return list(tagged)
    found: list[type[BaseModel]] = []
    queue = [field.annotation]
    while queue:
        item = queue.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            found.append(item)
        queue.extend(getattr(item, "__args__", ()))
    return found
