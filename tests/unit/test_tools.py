"""The built-in tools: what counts as a call, and what a calculator answers."""

from __future__ import annotations

import pytest

from tests.unit.sandboxed import needs_sandbox
from upweight.tools import TOOLS, calculator, called_with, python
from upweight.userfile import load_object


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12*34", "408"),
        ("2 + 3*4", "14"),
        ("(2+3)*4", "20"),
        ("-(7-9)", "2"),
        ("7/2", "3.5"),
        ("1/3", "0.3333333333"),
        ("0.1+0.2", "0.3"),
        ("2**10", "1024"),
        ("2^-1", "0.5"),
        ("1e3", "1000"),
        ("1/0", "error"),
        ("", "error"),
        ("2+", "error"),
        ("__import__('os')", "error"),
        ("x", "error"),
        ("True+1", "error"),
        ("'a'*3", "error"),
        ("1,000", "error"),
        ("9**9**9", "error"),
        ("((((9**99)**99)**99)**99)", "error"),
        ("1e999", "error"),
        ("(" * 250 + "1" + ")" * 250, "error"),
        ("1+" * 200 + "1", "error"),
        ("[1][0]", "error"),
        ("lambda: 1", "error"),
    ],
)
def test_the_calculator(expression: str, result: str) -> None:
    assert calculator(f"so <calc>{expression}</calc>") == f"<result>{result}</result>"


@pytest.mark.parametrize(
    ("completion", "call"),
    [
        ("<calc>1</calc>", "1"),
        ("a <calc>1</calc> b <calc>2</calc>\n", "2"),
        ("<calc>1</calc> and so on", None),
        ("1</calc>", None),
        ("<calc>1", None),
        ("", None),
        ("<calc>1<calc>2</calc>", "2"),
        ("<calc></calc>", ""),
    ],
)
def test_what_is_a_call(completion: str, call: str | None) -> None:
    assert called_with(completion, "calc") == call


@pytest.mark.parametrize("name", TOOLS)
def test_tools_are_where_the_table_says_and_say_nothing_uncalled(name: str) -> None:
    assert load_object(TOOLS[name].reference, "tool")("no call") is None


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("print(2**10)", "1024"),
        ("print(1)\n1/0", "1\nZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
        ("import time; time.sleep(60)", "\nout of time"),
        ("open('/etc/passwd', 'w')", "Read-only file system"),
        ("print('x' * 10**6)", "x" * 50),
    ],
)
def test_python(program: str, output: str) -> None:
    said = python(f"so <python>{program}</python>", seconds=1.0, longest=50)
    assert said is not None
    assert said.startswith("<output>")
    assert said.endswith("</output>")
    assert output in said
    assert len(said) <= 120
