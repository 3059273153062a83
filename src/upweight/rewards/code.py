"""Rewards for programs: a completion's Python, run in the sandbox against the tests of its row.

Nothing of a test is ever where the program is. With pairs of input and output, the program is given the input and the
output is compared here; with assertions, the tests run in a sandbox of their own and call a function in the program's.
A program that fails, hangs, or cannot even be read has failed its test: that is 0, and no failure of the reward.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from upweight import sandbox
from upweight.rewards.builtin import tagged
from upweight.rewards.call import CannotScore
from upweight.sandbox import Limits, NotStarted, Outcome

LONGEST = 2**20  # characters of a program
_FENCE = "```"
_PYTHON = ("python", "python3", "py")


def code(
    completion: str,
    tests: Sequence[Mapping[str, str]] | str,
    tag: str = "",
    all_or_nothing: bool = True,
    seconds: float = 8.0,
    seconds_a_test: float = 4.0,
    memory_mb: int = 512,
    unsandboxed_i_trust_every_completion: bool = False,
) -> float:
    """1 if the completion's program turns each test's `input` into its `output`; else 0, or the share that it does.

    A test is passed when the program ends by itself with exit code 0 and has printed the output: white space at the
    end of lines and blank lines at the end do not count, all else does. `tests` is a list of {"input", "output"}, or
    that as JSON. All tests together have `seconds`; those that come too late are not passed. `all_or_nothing` stops at
    the first that is not.
    Raises CannotScore for tests that are no such list or that printing nothing would pass, and where the sandbox does
    not come up; UserError where it never can.
    """
    pairs = _pairs(tests)
    program = program_of(completion, tag)
    if program is None:
        return 0.0
    unsandboxed = unsandboxed_i_trust_every_completion
    passed, end = 0, time.monotonic() + seconds
    for given, expected in pairs:
        left = min(seconds_a_test, end - time.monotonic())
        if left > 0 and _prints(program, given, expected, Limits(left, memory_mb), unsandboxed):
            passed += 1
        elif all_or_nothing:
            return 0.0
    return passed / len(pairs)


def code_asserts(
    completion: str,
    prompt: str,
    test: str,
    entry_point: str,
    tag: str = "",
    seconds: float = 8.0,
    memory_mb: int = 512,
    unsandboxed_i_trust_every_completion: bool = False,
) -> float:
    """1 if `check(candidate)` of `test` raises nothing, where the candidate is the program's function `entry_point`.

    These are the columns of HumanEval (Chen et al., 2021). The completion is either a whole program, in whose sight is
    what the prompt defines, or the body that the prompt's last line waits for. Arguments and results go between the
    tests and the function as values: a change of an argument in place is not seen, and an object that is not made of
    numbers, text, bytes, lists, tuples, sets and dicts is no result.
    Raises CannotScore for tests that cannot be loaded, lack `check` or call the function with something else than
    such values, and where the sandbox does not come up; UserError where it never can.
    """
    if not all(isinstance(text, str) for text in (prompt, test, entry_point)) or not entry_point.isidentifier():
        raise CannotScore("code_asserts needs `prompt` and `test` as text, and `entry_point`, a name")
    program = program_of(completion, tag)
    if program is None:
        return 0.0
    if not unsandboxed_i_trust_every_completion:
        sandbox.require()
    asked = _fenced(prompt)
    job = {
        "prompt": prompt if asked is None else asked,
        "test": test,
        "program": program,
        "is_whole": _defines(program, entry_point),
        "entry_point": entry_point,
    }
    return _verdict(_judged(job, Limits(seconds, memory_mb), unsandboxed_i_trust_every_completion))


def program_of(completion: str, tag: str = "") -> str | None:
    """The last closed block between ```python and ```, or the whole text; with `tag`, of the last `<tag>..</tag>`.

    None when the tag is not there, or the program is too long to be one.
    """
    text = tagged(completion, tag)
    if text is None:
        return None
    block = _fenced(text)
    program = text if block is None else block
    return program if len(program) <= LONGEST else None


def _fenced(text: str) -> str | None:
    """The last closed block of Python in a text."""
    found, language, lines = None, None, list[str]()
    for line in text.split("\n"):
        mark = line.strip()
        if language is None and mark.startswith(_FENCE):
            language, lines = mark[len(_FENCE) :].strip().lower(), []
        elif language is not None and mark == _FENCE:
            found = "\n".join(lines) if language in _PYTHON else found
            language = None
        else:
            lines.append(line)
    return found


def _defines(program: str, name: str) -> bool:
    """Whether a program defines the name itself; a text that begins indented is the body of a function."""
    first = next((line for line in program.split("\n") if line.strip()), "")
    definition = rf"^(?:(?:async +)?def +{name}\b|class +{name}\b|{name} *=)"
    return not first[:1].isspace() and re.search(definition, program, re.MULTILINE) is not None


def _pairs(tests: Any) -> list[tuple[str, str]]:
    """Each test's input and output. Raises CannotScore, which says what is wrong with them."""
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except (ValueError, RecursionError):
            raise CannotScore("`tests` is text, but not JSON") from None
    if not isinstance(tests, Sequence) or not tests:
        raise CannotScore('`tests` must be a list of {"input": .., "output": ..} with at least one in it')
    pairs = []
    for test in tests:
        pair = (test.get("input"), test.get("output")) if isinstance(test, Mapping) else (None, None)
        if not isinstance(pair[0], str) or not isinstance(pair[1], str):
            raise CannotScore(f'a test must have "input" and "output", both text, and is {str(test)[:80]!r}')
        pairs.append((pair[0], pair[1]))
    if not any(expected.strip() for _, expected in pairs):
        raise CannotScore("no test expects any output, so that the empty program would pass")
    return pairs


def _prints(program: str, given: str, expected: str, limits: Limits, unsandboxed: bool) -> bool:
    """Whether a program that is given an input ends well and has printed what is expected."""
    try:
        outcome = sandbox.run_python(program, given, limits, unsandboxed)
    except NotStarted as error:
        raise CannotScore(f"the sandbox did not start: {error}") from None
    printed = outcome.stdout.decode("utf-8", "replace")
    return outcome.ok and _trimmed(printed) == _trimmed(expected)


def _trimmed(text: str) -> str:
    """Without white space at the end of lines, and without blank lines at the end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip("\n")


def _judged(job: Mapping[str, Any], limits: Limits, unsandboxed: bool) -> Outcome:
    """What the tests' side says: the program's side is started first, so that both start at once."""
    ours, theirs = socket.socketpair()
    calls, stdin = _script("code_calls"), json.dumps(job).encode()
    with ours, theirs:
        here, there = ours.fileno(), theirs.fileno()
        with sandbox.started(calls, ("serve", str(there)), limits, there, unsandboxed):
            theirs.close()  # else nobody would learn that the program has ended
            try:
                return sandbox.run(calls, ("judge", str(here)), stdin, limits, here, unsandboxed)
            except NotStarted as error:
                raise CannotScore(f"tests and program did not come together: {error}") from None


def _verdict(outcome: Outcome) -> float:
    """1 when all was passed. Raises CannotScore when the row is at fault."""
    verdict = outcome.stdout.decode("utf-8", "replace")
    if verdict.startswith("broken "):
        raise CannotScore(verdict.removeprefix("broken "))
    return float(verdict == "passed" and not outcome.stopped)


@cache
def _script(name: str) -> str:
    """The text of a file beside this one that runs in the sandbox."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
