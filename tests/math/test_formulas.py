"""The first line of a docstring is the function's formula: `upweight explain` prints it with its numbers."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from tests.math.test_padding import FUNCTIONS
from upweight.objectives import kl, tokens

FOLDER = Path(tokens.__file__).parent


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_every_option_of_a_function_stands_in_its_formula(function: Callable[..., object]) -> None:
    formula = (function.__doc__ or "").splitlines()[0]
    options = {name for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    assert formula
    assert not formula.endswith(".")
    assert options <= set(re.findall(r"\w+", formula))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_default_of_an_option_that_chooses_is_one_of_its_choices(function: Callable[..., object]) -> None:
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(hints[name]) is Literal and parameter.default is not parameter.empty:
            assert parameter.default in get_args(hints[name])


def test_the_formula_of_the_penalty_is_the_name_of_its_estimator() -> None:
    assert (kl.penalty.__doc__ or "").splitlines()[0] == "kl_estimator"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_the_mathematics_needs_nothing_but_torch(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
        for name in names:
            allowed = ("__future__", "collections.abc", "typing", "jaxtyping", "torch", "upweight.objectives")
            assert any(name == top or name.startswith(f"{top}.") for top in allowed)
