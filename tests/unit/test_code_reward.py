"""Rewards for programs: both formats, what is read of a completion, whose fault is whose, and attacks."""

from __future__ import annotations

import gzip
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.code_attacks import ATTACKS, PAIRS, PROMPT, SOLUTION, TEST, Attack
from tests.unit.sandboxed import needs_sandbox
from upweight import sandbox
from upweight.errors import UserError
from upweight.rewards.call import CannotScore
from upweight.rewards.code import code, code_asserts, program_of
from upweight.rewards.code_calls import decoded, encoded, exception

HUMANEVAL = Path(__file__).parents[2].parent / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
needs_humaneval = pytest.mark.skipif(not HUMANEVAL.is_file(), reason="HumanEval is not beside the repository")
ADD = "print(sum(map(int, input().split())))"
SUMS = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6", "output": "11"}]


def test_the_program_of_a_completion():
    assert program_of("print(1)\n") == "print(1)\n"
    assert program_of("First:\n```python\n1\n```\nno:\n```py\n2\n3\n```\nso:\n```\n5\n```") == "2\n3"
    assert program_of("```python\n1\n```\n```python\n2") == "1"
    assert program_of("```Python3\n    return 1\n```") == "    return 1"
    assert program_of("```\n1\n```") == "```\n1\n```"
    assert program_of("<a>1</a><a>2</a>3", "a") == "2"
    assert program_of("<a>x\n```python\n2\n```\n</a>", "a") == "2"
    assert program_of("2</a>", "a") is None
    assert program_of("x" * (2**20 + 1)) is None


def test_hostile_text_takes_linear_time():
    began = time.perf_counter()
    for text in ("```python\n" * 100_000, "```\n" * 200_000, "<a>" * 300_000, "</a>" * 200_000, "`" * 10**6):
        program_of(text)
        program_of(text, "a")
    assert time.perf_counter() - began < 2


@needs_sandbox
def test_pairs():
    assert code(ADD, SUMS) == 1
    assert code(ADD, json.dumps(SUMS)) == 1
    assert code(f"Like this:\n```python\n{ADD}\nexit()\n```\nDone.", SUMS) == 1
    assert code(f"<code>{ADD}</code>", SUMS, tag="code") == 1
    assert code(ADD, SUMS, tag="code") == 0
    assert code("print(3)", SUMS) == 0
    assert code("print(3)", SUMS, all_or_nothing=False) == 0.5
    assert code("", SUMS, all_or_nothing=False) == 0


@needs_sandbox
@pytest.mark.parametrize(
    ("printed", "expected", "score"),
    [
        ("a \nb\t\n\n\n", "a\nb", 1),
        ("a\r\nb", "a\nb", 1),
        ("a\nb", "a  \nb\n\n", 1),
        ("a\n\nb", "a\nb", 0),
        (" a", "a", 0),
        ("\na", "a", 0),
        ("A", "a", 0),
        ("1.0", "1", 0),
        ("a\nb\nc", "a\nb", 0),
        ("\N{SNOWMAN}", "\N{SNOWMAN}", 1),
    ],
)
def test_what_counts_as_the_same_output(printed, expected, score):
    assert code(f"print({printed!r}, end='')", [{"input": "", "output": expected}]) == score


@needs_sandbox
def test_a_program_must_end_well():
    wanted = [{"input": "", "output": "1"}]
    assert code("print(1)", wanted) == 1
    assert code("print(1)\n1/0", wanted) == 0
    assert code("print(1)\nexit(1)", wanted) == 0
    assert code("print(1, flush=True)\nwhile True: pass", wanted, seconds=0.3) == 0


@needs_sandbox
def test_all_tests_share_the_time():
    program = "import time\nif input() == 'x': time.sleep(60)\nprint(1)"
    tests = [{"input": given, "output": "1"} for given in "xxxab"]
    began = time.monotonic()
    assert code(program, tests, all_or_nothing=False, seconds_a_test=0.2) == 0.4
    assert code(program, tests, all_or_nothing=False, seconds=0.5) == 0
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("nonsense", "not JSON"),
        ("[" * 10**5, "not JSON"),
        ([], "at least one"),
        ({"input": "", "output": "1"}, "must be a list"),
        ("5", "must be a list"),
        ([{"input": "1"}], 'must have "input" and "output"'),
        ([{"input": "1", "output": 1}], "both text"),
        (["1"], "both text"),
        ([{"input": "1", "output": " \n"}], "empty program would pass"),
    ],
)
def test_tests_that_are_none_are_the_rows_fault(tests, reason):
    with pytest.raises(CannotScore, match=reason):
        code("print(1)", tests)


CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"


def square(completion: str, prompt: str = "def f(x):\n", test: str = CHECK, **options: Any) -> float:
    return code_asserts(completion, prompt, test, "f", **options)


@needs_sandbox
def test_asserts_of_a_body_and_of_a_whole_program():
    assert square("    return x * x") == 1
    assert square("    return x + x") == 0
    assert square("    pass") == 0
    assert square("def f(x):\n    return x ** 2") == 1
    assert square("```python\nfrom __future__ import annotations\nf = lambda x: x * x\n```") == 1
    assert square("```python\n    return x * x\n```") == 1
    assert square("def g(x):\n    return x * x") == 0
    assert square("    return g(x)", "def g(x):\n    return x * x\n\ndef f(x):\n") == 1
    assert square("def f(x):\n    return g(x)", "def g(x):\n    return x * x\n\ndef f(x):\n") == 1
    assert square("    return x * x", "Write this:\n```python\ndef f(x):\n```\nThanks.") == 1
    assert square("def f(x):\n    return x * x", "Please square a number.") == 1
    assert square("<a>    return x * x</a>", tag="a") == 1
    assert square("    return x * x", tag="a") == 0


@needs_sandbox
def test_what_goes_between_tests_and_program():
    values = [None, True, 2.5, 10**30, "\N{SNOWMAN}", b"\0", (1, [2]), {1, 2}, {(1, 2): {"a": None}}, 3 + 4j]
    test = f"""
def check(candidate):
    for value in {values!r}:
        (result,) = candidate([value])
        assert result == value and type(result) is type(value)
"""
    assert square("def f(x): return x", test=test) == 1
    assert square("def f(x): return list(map(str, x))", test=test) == 0
    assert square("def f(x): return object()", test="def check(c):\n    assert c(1)") == 0
    keyword = "def check(c):\n    assert c(x=1) == 1\n    assert f(2) == 2"
    assert square("def f(x): return x", test=keyword) == 1
    raising = """
def check(candidate):
    try:
        candidate(1)
    except KeyError as error:
        assert error.args == ("k",)
    else:
        assert False
"""
    assert square("def f(x): raise KeyError('k')", test=raising) == 1
    assert square("def f(x): raise ValueError('k')", test=raising) == 0
    anything = "def check(c):\n    try:\n        c(1)\n    except Exception:\n        pass"
    assert square("def f(x): 1/0", test=anything) == 1
    assert square("import os\nos._exit(0)\nf = 1", test=anything) == 0
    junk = "import os\nfor d in range(3, 64):\n    try: os.write(d, b'\\0\\0\\0\\x015')\n    except OSError: pass\n"
    assert square(f"{junk}def f(x): 1/0", test=anything) == 0


@needs_sandbox
@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("def check(c): assert", "cannot be loaded: SyntaxError"),
        ("check = 5", "no function `check`"),
        ("import numpy_is_not_there", "cannot be loaded: ModuleNotFoundError"),
        ("def check(c):\n    import numpy_is_not_there", "raise ModuleNotFoundError"),
        ("def check(c):\n    assert c(1) == undefined", "raise NameError"),
        ("def check(c):\n    c(print)", "call the function with a builtin_function_or_method"),
        ("import sys\nsys.exit(0)", "cannot be loaded: SystemExit"),
    ],
)
def test_broken_asserts_are_the_rows_fault(test, reason):
    with pytest.raises(CannotScore, match=reason):
        square("    return x", test=test)


@pytest.mark.parametrize(("prompt", "test", "name"), [(1, "", "f"), ("", None, "f"), ("", "", "f()"), ("", "", "")])
def test_columns_of_another_kind_are_the_rows_fault(prompt, test, name):
    with pytest.raises(CannotScore, match="needs `prompt` and `test` as text"):
        code_asserts("pass", prompt, test, name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers(), max_size=1)
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(VALUES)
def test_values_go_over_unchanged(value):
    found = decoded(json.loads(json.dumps(encoded(value))))
    assert found == value
    assert repr(found) == repr(value)


JUNK = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["list", "dict", "int", "set", "complex", "bytes"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(JUNK)
def test_junk_is_refused_and_never_run(junk):
    try:
        value = decoded(junk)
    except (ValueError, TypeError):
        return
    kinds = (type(None), bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
    assert type(value) in kinds


def test_an_exception_is_never_anything_else():
    assert repr(exception("KeyError", "a")) == "KeyError('a')"
    for name in ("exec", "SystemExit", "int", "UnicodeDecodeError", "__import__", "nothing", "AttackError"):
        assert repr(exception(name, "1/0")) == "Exception('1/0')"


def test_nan_and_subclasses_become_plain():
    class Text(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    class Number(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert math.isnan(decoded(encoded(math.nan)))
    for value, plain in ((Text("a"), "a"), (Number(5), 5), (Number(10**30), 10**30)):
        found = decoded(json.loads(json.dumps(encoded(value))))
        assert type(found) is type(plain)
        assert found == plain


@needs_sandbox
def test_the_attacked_problem_can_be_solved():
    assert code(SOLUTION, PAIRS) == 1
    assert code_asserts(SOLUTION, PROMPT, TEST, "solve") == 1


def attempt(attack: Attack) -> tuple[str, float, float, float]:
    """What a program is given in either format, and the seconds that it took."""
    began = time.monotonic()
    by_pairs = code(attack.program, PAIRS, seconds=attack.seconds)
    by_asserts = code_asserts(attack.program, PROMPT, TEST, "solve", seconds=attack.seconds)
    return attack.name, by_pairs, by_asserts, time.monotonic() - began


@needs_sandbox
def test_attacks():
    with ThreadPoolExecutor(4) as threads:
        attempts = list(threads.map(attempt, ATTACKS))
    beaten = {(name, by_pairs, by_asserts) for name, by_pairs, by_asserts, _ in attempts if by_pairs or by_asserts}
    expected = {(a.name, float("pairs" in a.beats), float("asserts" in a.beats)) for a in ATTACKS if a.beats}
    assert beaten == expected
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 30
    assert {name: seconds for name, _, _, seconds in attempts if seconds > 10} == {}


def humaneval() -> list[dict[str, str]]:
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def scores_of(row: dict[str, str]) -> tuple[float, ...]:
    """Of the reference, the reference as a whole program in a block, and a body that does nothing."""
    columns = (row["prompt"], row["test"], row["entry_point"])
    whole = f"Here it is.\n```python\n{row['prompt']}{row['canonical_solution']}\n```\n"
    return tuple(code_asserts(completion, *columns) for completion in (row["canonical_solution"], whole, "    pass\n"))


@needs_sandbox
@needs_humaneval
def test_a_sample_of_humaneval():
    # Those whose tests need what the prompt defines, or call the function by its name; and every 24th.
    rows = humaneval()
    for index in (32, 33, 38, 50, *range(0, len(rows), 24)):
        assert scores_of(rows[index]) == (1, 1, 0), rows[index]["task_id"]


@pytest.mark.slow
@needs_sandbox
@needs_humaneval
def test_all_of_humaneval():
    rows = humaneval()
    assert len(rows) == 164
    assert {row["task_id"]: scores for row in rows if (scores := scores_of(row)) != (1, 1, 0)} == {}


def test_without_a_sandbox_both_refuse(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (lambda: code(ADD, SUMS), lambda: square("    return x * x")):
        with pytest.raises(UserError, match="bubblewrap is not installed"):
            call()


def test_only_the_option_runs_without_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code(ADD, SUMS, unsandboxed_i_trust_every_completion=True) == 1
    assert code("print(3)", SUMS, unsandboxed_i_trust_every_completion=True) == 0
    assert square("    return x * x", unsandboxed_i_trust_every_completion=True) == 1
    assert square("    return x + x", unsandboxed_i_trust_every_completion=True) == 0
    assert square("    while True: pass", unsandboxed_i_trust_every_completion=True, seconds=0.3) == 0


@needs_sandbox
def test_a_sandbox_that_fails_once_is_no_wrong_answer(monkeypatch):
    sandbox.require()
    monkeypatch.setattr(sandbox, "walls", lambda bwrap, disk_mb: (bwrap, "--no-such-option"))
    with pytest.raises(CannotScore, match="the sandbox did not start: bwrap: Unknown option --no-such-option"):
        code(ADD, SUMS)
    with pytest.raises(CannotScore, match="tests and program did not come together: bwrap: Unknown option"):
        square("    return x * x")
