"""The shape of the house, where a reader would look for a branch too many."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import upweight
from upweight.presets import PRESETS

HOME = Path(upweight.__file__).parent
SOURCES = {path.relative_to(HOME).as_posix(): path.read_text(encoding="utf-8") for path in HOME.rglob("*.py")}


def test_the_loop_is_short_and_knows_no_method() -> None:
    loop = SOURCES["train.py"]
    assert len(loop.splitlines()) < 100
    assert not re.search(rf"\b({'|'.join(PRESETS)})\b", loop)


def test_the_mathematics_imports_torch_and_nothing_of_the_house_but_itself() -> None:
    allowed = {"__future__", "collections", "jaxtyping", "math", "torch", "typing"}
    for name, text in SOURCES.items():
        if not name.startswith("objectives/"):
            continue
        for node in ast.walk(ast.parse(text)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert module.split(".")[0] in allowed or module.startswith("upweight.objectives"), f"{name}: {module}"


def test_no_code_branches_on_the_name_of_a_preset() -> None:
    """No comparison, `match` or lookup with a preset's name; "reward_model" is also the name of a reward function."""
    for name, text in SOURCES.items():
        for node in ast.walk(ast.parse(text)):
            compared: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                compared = [node.left, *node.comparators]
            elif isinstance(node, ast.MatchValue):
                compared = [node.value]
            inner = [leaf for expression in compared for leaf in ast.walk(expression)]
            named = {leaf.value for leaf in inner if isinstance(leaf, ast.Constant) and leaf.value in PRESETS}
            assert not named, f"{name}:{node.lineno} branches on {named}"  # type: ignore[attr-defined]
