"""A process that computes for another one, which may kill it at any time: `python -m upweight.rewards.worker`.

It reads pickled requests from its parent, whom it trusts, and answers in JSON, since what has run untrusted input is
not trusted with more. A reward's own output goes nowhere: it must not look like an answer.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, BinaryIO

from upweight.errors import UserError
from upweight.rewards.call import Failed, Stepwise, called, replied
from upweight.rewards.load import PREPARED, resolve
from upweight.userfile import load_object

LENGTH = struct.Struct("!Q")
PR_SET_PDEATHSIG = 1  # of sys/prctl.h


@dataclass(frozen=True)
class Setup:
    """What a worker is told first: its functions by name, as (what the config calls them, options), and its limits.

    Those of `rewards` return numbers, those of `tools` text or None.
    """

    rewards: Mapping[str, tuple[str, Mapping[str, Any]]]
    memory_bytes: int
    tools: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)


def frame(message: Any) -> bytes:
    """A request as its reader expects it: its length, then the pickle."""
    body = pickle.dumps(message)
    return LENGTH.pack(len(body)) + body


def main() -> None:
    """Answers requests until there are no more."""
    requests, replies = _private(0), _private(1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    messages = _frames(requests)
    setup: Setup = next(messages)
    resource.setrlimit(resource.RLIMIT_DATA, (setup.memory_bytes,) * 2)
    try:
        rewards = _bound(setup.rewards, _prepared)
        tools = _bound(setup.tools, lambda reference: load_object(reference, "tool"))
    except UserError as error:
        _reply(replies, {"message": str(error)})
        return
    _reply(replies, {"ready": True})
    for name, arguments in messages:
        outcome: float | str | Stepwise | Failed | None
        if name in tools:
            outcome = replied(name, tools[name], arguments)
        else:
            outcome = called(name, rewards[name], arguments, may_raise=BaseException)
        _reply(replies, asdict(outcome) if isinstance(outcome, Failed) else {"value": _plain(outcome)})
        if isinstance(outcome, Failed) and outcome.kind == "memory":
            return  # what is left of it may be short of memory for ever


def _bound(functions: Mapping[str, tuple[str, Mapping[str, Any]]], find: Callable[[str], Any]) -> dict[str, Any]:
    return {name: partial(find(reference), **options) for name, (reference, options) in functions.items()}


def _prepared(reference: str) -> Callable[..., Any]:
    """The reward of this name, whatever it needs imported."""
    PREPARED.get(reference, lambda: None)()
    return resolve(reference)


def _plain(outcome: float | str | Stepwise | None) -> Any:
    return asdict(outcome) if isinstance(outcome, Stepwise) else outcome


def _private(descriptor: int) -> BinaryIO:
    """The file of a standard descriptor, in whose place stands one that leads nowhere."""
    own = os.fdopen(os.dup(descriptor), "rb" if descriptor == 0 else "wb", buffering=-1 if descriptor == 0 else 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return own


def _frames(requests: BinaryIO) -> Iterator[Any]:
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        yield pickle.loads(requests.read(LENGTH.unpack(head)[0]))


def _reply(replies: BinaryIO, answer: Mapping[str, Any]) -> None:
    rest = memoryview(json.dumps(answer).encode() + b"\n")
    while rest:
        rest = rest[replies.write(rest) :]


if __name__ == "__main__":
    main()
