"""What scores what: examples of every reward that comes with the library, shown by `upweight rewards` and tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """`arguments` are what a completion and its row supply, `options` what the config sets; `reward` is the value."""

    arguments: Mapping[str, Any]
    reward: float
    options: Mapping[str, Any] = field(default_factory=dict)


def _says(completion: str, reward: float, row: Mapping[str, Any] | None = None, **options: Any) -> Example:
    return Example({"completion": completion, **(row or {})}, reward, options)


def _takes(tokens: int, reward: float, **said: Any) -> Example:
    return Example({"tokens": tokens, "token_budget": 1000, **said}, reward)


_EIGHTY_FIVE = {"answer": "85"}
_GAME = {"numbers": [3, 7, 12], "target": 15}
_SUM = {"prompt": "47+38=", "answer": "85"}
_SUMS = [{"input": "2 3\n", "output": "5\n"}, {"input": "4 5\n", "output": "9\n"}]
_ADD = {
    "prompt": "def add(a, b):\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5",
    "entry_point": "add",
}
_CHAIN = {"gym_dataset": "chain_sum", "gym_options": {}, "gym_entry": {"answer": "9", "metadata": {}}}

EXAMPLES: Mapping[str, Sequence[Example]] = {
    "number": (
        _says("47 + 38 is 85.", 1.0, _EIGHTY_FIVE),
        _says("\\boxed{85.0}, not 86", 1.0, _EIGHTY_FIVE),
        _says("85 or 86", 0.0, _EIGHTY_FIVE),
        _says("It is 85. <answer>86</answer>", 0.0, _EIGHTY_FIVE, tag="answer"),
    ),
    "exact": (
        _says(" Paris\n", 1.0, {"answer": "Paris"}),
        _says("paris", 0.0, {"answer": "Paris"}),
        _says("It is <answer>Paris</answer>.", 1.0, {"answer": "Paris"}, tag="answer"),
    ),
    "format": (
        _says("<think>7+8=15</think><answer>85</answer>", 1.0),
        _says("<answer>85</answer><think>7+8=15</think>", 0.0),
        _says("<think>7+8=15</think><answer>85</answer> Done.", 0.0),
        _says("<think> </think><answer>85</answer>", 0.0),
    ),
    "pattern": (
        _says("A: 85", 1.0, pattern=r"A: \d+"),
        _says("A: 85!", 0.0, pattern=r"A: \d+"),
    ),
    "countdown": (
        _says("<answer>(12-7)*3</answer>", 1.0, _GAME),
        _says("<answer>12+1+1+1</answer>", 0.0, _GAME),
        _says("<answer>(12-7)*3 = 15</answer>", 0.0, _GAME),
    ),
    "three_tier": (
        _says("It is 85", 1.0, _EIGHTY_FIVE),
        _says("It is 86", -1.0, _EIGHTY_FIVE),
        _says("I do not know", -2.0, _EIGHTY_FIVE),
        _says("<answer>85</answer> I think", -2.0, _EIGHTY_FIVE, tag="answer", tags=["answer"]),
    ),
    "steps": (
        _says("7+8=15\n4+3+1=8", 1.0, _SUM, most=2),
        _says("7+8=15\n4+3+1=9", 0.5, _SUM, most=2),
        _says("7+8=15\n4+3+1=9", 0.0, _SUM, most=2, wrong=-1.0),
        _says("7+8=15\n7+8=15\n15=15", 0.5, _SUM, most=2),
    ),
    "soft_overlong": (_takes(800, 0.0), _takes(900, -0.5), _takes(1000, -1.0)),
    "cosine_length": (
        _takes(0, 1.0, completion="85", **_EIGHTY_FIVE),
        _takes(500, 0.75, completion="85", **_EIGHTY_FIVE),
        _takes(500, -0.75, completion="86", **_EIGHTY_FIVE),
        _takes(1000, -1.0, completion="85", **_EIGHTY_FIVE),
    ),
    "repetition": (
        _says("one two three four five six", 0.0),
        _says("on and on and on and", -0.6, words=2),
        _says("", 0.0),
    ),
    "math": (
        _says("The answer is \\(\\frac{2}{4}\\).", 1.0, {"answer": "0.5"}),
        _says("\\boxed{(1, 3]}", 1.0, {"answer": "(1,3]"}),
        _says("\\boxed{[1, 3]}", 0.0, {"answer": "(1,3]"}),
        _says("\\boxed{4 \\text{ or } 5}", 0.0, {"answer": "4"}),
    ),
    "code": (
        _says("```python\nprint(sum(map(int, input().split())))\n```", 1.0, {"tests": _SUMS}),
        _says("print(5)", 0.0, {"tests": _SUMS}),
        _says("print(5)", 0.5, {"tests": _SUMS}, all_or_nothing=False),
    ),
    "code_asserts": (
        _says("    return a + b", 1.0, _ADD),
        _says("    return a - b", 0.0, _ADD),
    ),
    "gym": (
        _says("It is <answer>9</answer>", 1.0, _CHAIN, tag="answer"),
        _says("10", 0.0, _CHAIN, partial=False),
    ),
}
