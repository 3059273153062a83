"""Runs in two sandboxes: tests in one call a function in the other, and only plain values go between them.

`judge` runs where the tests are, `serve` where the program is: nothing of the program shares a process with a test.
A result is built anew from what it is made of (None, numbers, text, bytes, lists, tuples, sets, dicts), so that it has
no methods of the program's, and nothing that the program does to its interpreter reaches the tests. Only the text of
this file is taken to the sandboxes, so it imports nothing of this package.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

LENGTH = struct.Struct("!I")
LONGEST = 2**22  # bytes of one message
_COLLECTIONS = (list, tuple, set, frozenset)
_PLAIN_INTEGERS = 2**53


class Gone(BaseException):
    """The other side has ended, or said what nobody can read: no test that expects an exception means this one."""


def encoded(value: Any) -> Any:
    """A value as JSON can say it: containers, bytes, large and complex numbers as [kind, content].

    Raises TypeError for what is not made of such values. What a subclass adds is left behind by JSON.
    """
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < _PLAIN_INTEGERS else ["int", hex(value)]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, dict):
        return ["dict", [[encoded(key), encoded(item)] for key, item in value.items()]]
    for collection in _COLLECTIONS:
        if isinstance(value, collection):
            return [collection.__name__, [encoded(item) for item in value]]
    raise TypeError(f"a {type(value).__name__}, where only numbers, text and collections of them can go")


def decoded(value: Any) -> Any:
    """The value that `encoded` has said. What it has not said raises ValueError, TypeError or RecursionError."""
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise ValueError("not a value")
        return value
    kind, content = value
    for collection in _COLLECTIONS:
        if kind == collection.__name__:
            return collection(decoded(item) for item in content)
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in content}
    if kind == "int":
        return int(content, 16)
    if kind == "complex":
        return complex(*content)
    if kind == "bytes":
        return bytes.fromhex(content)
    raise ValueError(f"no such kind of value: {kind!r}")


def send(channel: int, message: Any) -> None:
    """One message, with its length before it. Raises Gone when nobody reads."""
    body = json.dumps(message).encode()
    rest = memoryview(LENGTH.pack(len(body)) + body)
    try:
        while rest:
            rest = rest[os.write(channel, rest) :]
    except OSError as error:
        raise Gone("nobody listens") from error


def receive(channel: int) -> Any:
    """The next message. Raises Gone when there is none, or none of a length and form that is allowed."""
    (size,) = LENGTH.unpack(_exactly(channel, LENGTH.size))
    if size > LONGEST:
        raise Gone("a message that is too long")
    try:
        return json.loads(_exactly(channel, size))
    except (ValueError, RecursionError) as error:
        raise Gone("no message") from error


def _exactly(channel: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        try:
            part = os.read(channel, min(size - len(found), 2**16))
        except OSError as error:
            raise Gone("nobody answers") from error
        if not part:
            raise Gone("nobody answers")
        found += part
    return bytes(found)


def serve(channel: int) -> None:
    """The program's side: executes it, then calls its function for whoever asks."""
    send(channel, "ready")
    prompt, program, is_whole, name = receive(channel)
    module = type(sys)("program")
    sys.modules["program"] = module
    for source in (_setting(prompt), program) if is_whole else (f"{prompt}\n{program}",):
        exec(compile(source, "program.py", "exec", dont_inherit=True), vars(module))
    function = vars(module)[name]
    while True:
        arguments, options = decoded(receive(channel))
        try:
            answer = ["value", encoded(function(*arguments, **options))]
        except Exception as error:
            said = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
            answer = ["raised", type(error).__name__, said[:1000]]
        send(channel, answer)


def judge(channel: int) -> None:
    """The tests' side: a zero byte on standard output, as soon as the program's side is there, then the verdict.

    "passed"; "failed" by an assertion, or by an exception on either side; "broken" where the row itself is at fault.
    """
    verdicts, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # whatever a test prints
    with os.fdopen(0, "rb", closefd=False) as source:
        job = json.loads(source.read())
    try:
        candidate = _candidate(channel)
        check = _check_of(job["prompt"], job["test"], {job["entry_point"]: candidate})
    except BaseException as error:
        os.write(verdicts, f"\0broken its tests cannot be loaded: {_line(error)}".encode("utf-8", "replace"))
        return
    receive(channel)
    os.write(verdicts, b"\0")
    send(channel, [job["prompt"], job["program"], job["is_whole"], job["entry_point"]])
    os.write(verdicts, _verdict(check, candidate).encode("utf-8", "replace"))


def _setting(prompt: str) -> str:
    """What a prompt defines: its function may lack a body. Nothing when it is no Python, but prose."""
    for source in (prompt, f"{prompt}\n    pass\n"):
        try:
            compile(source, "prompt.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        return source
    return ""


def _check_of(prompt: str, test: str, asked: dict[str, Any]) -> Any:
    """`check` of a test, with what the prompt defines in its sight; the function that is asked for is another one."""
    namespace: dict[str, Any] = {"__name__": "tests"}
    exec(compile(_setting(prompt), "prompt.py", "exec", dont_inherit=True), namespace)
    namespace.update(asked)
    exec(compile(test, "test.py", "exec", dont_inherit=True), namespace)
    if not callable(namespace.get("check")):
        raise NameError("no function `check`")
    return namespace["check"]


def _candidate(channel: int) -> Callable[..., Any]:
    """A function that is called here and computed on the other side."""

    def candidate(*arguments: Any, **options: Any) -> Any:
        try:
            message = encoded((arguments, options))
        except TypeError as error:
            raise _Broken(str(error)) from error
        send(channel, message)
        answer = receive(channel)
        try:
            said, content, *rest = answer
            raised = None if said == "value" else exception(content, *rest)
            value = decoded(content) if raised is None else None
        except Exception as error:
            raise Gone("no answer") from error
        if raised is not None:
            raise raised
        return value

    return candidate


def exception(name: str, message: str) -> Exception:
    """One of Python's own that can be made of a message alone; any other is an Exception."""
    kind = getattr(builtins, name, Exception)
    if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, UnicodeError):
        kind = Exception
    return kind(message)


class _Broken(BaseException):
    """The tests ask for what cannot be done; no test catches it."""


def _verdict(check: Callable[..., Any], candidate: Callable[..., Any]) -> str:
    try:
        check(candidate)
    except _Broken as error:
        return f"broken its tests call the function with {error}"
    except (NameError, ImportError) as error:
        if _own(error):
            return f"broken its tests raise {_line(error)}"
        return f"failed {_line(error)}"
    except BaseException as error:
        return f"failed {_line(error)}"
    return "passed"


def _own(error: BaseException) -> bool:
    """Whether it was raised in the text of the tests, and not in the name of the program."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_filename in ("test.py", "prompt.py")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


if __name__ == "__main__":
    {"serve": serve, "judge": judge}[sys.argv[1]](int(sys.argv[2]))
