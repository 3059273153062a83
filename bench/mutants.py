"""Mutants of a Python module: the same source with one small mistake in it, for bench/mutate.py.

Left alone: docstrings, annotations and aliases of types, imports, and the words of an error. A negative whole number is
a literal (-1 becomes 0, the other axis): without its minus it would name the same axis of a table. The two arguments
of `maximum` and of `minimum` are not exchanged, which changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
PAIRS = (
    ("max", "min"), ("maximum", "minimum"), ("amax", "amin"), ("sum", "mean"), ("any", "all"), ("exp", "expm1"),
    ("zeros", "ones"), ("zeros_like", "ones_like"), ("new_zeros", "new_ones"), ("sqrt", "rsqrt"),
    ("startswith", "endswith"),
)  # fmt: skip
OTHER = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}
NOT_CODE = {"annotation", "returns", "decorator_list"}


@dataclass(frozen=True)
class Mutant:
    """One mistake: `line` of the module as it stands, the statement before and after, and the whole source with it."""

    module: str
    function: str  # "" at the level of the module
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """Names the mutant for as long as the code of its module does not change."""
        return hashlib.sha256(f"{self.module}\n{self.source}".encode()).hexdigest()[:16]


def choices_in(sources: Iterable[str]) -> dict[str, str]:
    """For each string of a Literal, the one after it."""
    following: dict[str, str] = {}
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            words = [str(c.value) for c in ast.walk(node.slice) if isinstance(c, ast.Constant)]
            following |= dict(zip(words, words[1:] + words[:1], strict=True))
    return following


def mutants(module: str, source: str, choices: dict[str, str]) -> Iterator[Mutant]:
    """Every mutant of the module, none twice; a string that is a choice becomes the choice after it."""
    tree = ast.parse(source)
    plain = ast.unparse(tree)
    seen = {plain}
    for holder, key, function in _places(tree, ""):
        node = holder[key]
        for replacement in _replacements(node, choices):
            holder[key] = replacement
            text = ast.unparse(tree)
            holder[key] = node
            if text not in seen:
                seen.add(text)
                yield Mutant(module, function, node.lineno, *_difference(plain, text), text)


def _places(node: ast.AST, function: str) -> Iterator[tuple[Any, Any, str]]:
    """What holds each node of code, its key there, and the function it stands in."""
    function = node.name if isinstance(node, ast.FunctionDef) else function
    for field, value in ast.iter_fields(node):
        holder = value if isinstance(value, list) else vars(node)
        for key, child in enumerate(value) if isinstance(value, list) else [(field, value)]:
            if isinstance(child, ast.AST) and field not in NOT_CODE and _is_code(child, function):
                yield holder, key, function
                if not isinstance(child, ast.Raise) and not _negative_literal(child):
                    yield from _places(child, function)


def _is_code(node: ast.AST, function: str) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom():
            return False
        case ast.Assign(value=ast.Subscript()):
            return bool(function)  # at the level of the module it is an alias of a type
    return True


def _negative_literal(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant) and type(node.operand.value) is int


def _replacements(node: Any, choices: dict[str, str]) -> Iterator[ast.AST]:
    match node:
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        case ast.BoolOp():
            yield ast.BoolOp(OPERATORS[type(node.op)](), node.values)
        case ast.Compare():
            for operator in COMPARISONS.get(type(node.ops[0]), ()):
                yield ast.Compare(node.left, [operator(), *node.ops[1:]], node.comparators)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
            yield ast.Constant(1 - number)
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Name(id="inf"):
            yield ast.Constant(2.0)
        case ast.Constant():
            yield from map(ast.Constant, _other_values(node.value, choices))
        case ast.If(body=body, orelse=orelse):
            yield from (ast.If(ast.Constant(test), body, orelse) for test in (True, False))
        case ast.IfExp(body=one, orelse=other):
            yield from (one, other)
        case ast.Return(value=ast.expr() as value):
            yield ast.Return(ast.BinOp(value, ast.Mult(), ast.Constant(0)))
        case ast.Expr() | ast.Raise():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Name(id=name)]) if name in {getattr(n, "id", "") for n in ast.walk(node.value)}:
            yield ast.Pass()  # taking out the first binding of a name would be a NameError that any call notices
        case ast.Call():
            yield from _other_calls(node)


def _other_values(value: object, choices: dict[str, str]) -> tuple[Any, ...]:
    match value:
        case bool():
            return (not value,)
        case int():
            return (value + 1,)
        case float():
            return (value + 1, value / 2)
        case str():
            return (choices.get(value) or OTHER.get(value) or "XX" + value,)
    return ()


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    """Another function, the argument as it is, neighbours exchanged, a keyword left out or turned round."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in OTHER and isinstance(node.func, ast.Attribute):
        yield ast.Call(ast.Attribute(node.func.value, OTHER[name]), node.args, node.keywords)
    if isinstance(node.func, ast.Attribute) and not ast.unparse(node.func).startswith("torch."):
        yield node.func.value
    elif node.args:
        yield node.args[0]
    for i in range(len(node.args) - 1 if name not in ("maximum", "minimum") else 0):
        swapped = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
        yield ast.Call(node.func, swapped, node.keywords)
    for i, keyword in enumerate(node.keywords):
        yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
        if keyword.arg in OTHER:
            turned = ast.keyword(OTHER[keyword.arg], keyword.value)
            yield ast.Call(node.func, node.args, [*node.keywords[:i], turned, *node.keywords[i + 1 :]])


def _difference(plain: str, text: str) -> tuple[str, str]:
    before, after = plain.splitlines(), text.splitlines()
    first = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    return before[first].strip(), after[first].strip()
