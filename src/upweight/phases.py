"""Where a step's time goes: seconds by phase, tokens by phase, and what each decoding step had to read.

The code that does the work says what it is doing, `with phase("decode"):`, and how much of it was needed,
`count("decode", processed=64, useful=40)`. Whoever wants to know enters a `Clock` around it. Without one all of it does
nothing and costs well under a microsecond. The clock in force is a context variable: it reaches whatever is called
within `with clock:` on the same thread, and nothing else; two clocks never add to each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any

OTHER = "other"
# In the order of a step. `other` is what none of them took: picking prompts, building batches, advantages, metrics.
PHASES = (
    "prefill", "decode", "reward", "old_pass", "ref_pass", "critic_pass", "forward_backward", "optimizer", "sync", OTHER
)  # fmt: skip
# The phase of a pass without gradient, by what it scores.
PASS_OF = {"policy": "old_pass", "reference": "ref_pass", "critic": "critic_pass", "reward": "reward"}


@dataclass
class Tokens:
    """Tokens that went through the model in a phase, and those of them that were needed.

    `processed` counts padding, duplicates of a shared prompt and rows that had already ended; `useful` does not.
    """

    processed: int = 0
    useful: int = 0


@dataclass(frozen=True)
class DecodeStep:
    """One forward pass that gave every live row a token. `kv_tokens` are the cached tokens that live rows attend to.

    A prompt that several rows share counts once where they read one copy of it.
    """

    processed_rows: int
    live_rows: int
    kv_tokens: int


class Clock:
    """Collects seconds, entries and tokens by phase while it is entered; it may be entered several times.

    Every moment belongs to exactly one phase: the innermost one, or `other`. `now` tells the time in seconds. On a GPU
    a phase only starts its work: `settle` waits for it at the end of each phase but those of `decode`, which are many
    and end with a look at what was drawn. `decode_steps` are in order.
    """

    def __init__(
        self, now: Callable[[], float] = time.perf_counter, settle: Callable[[], object] | None = None
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.entered: dict[str, int] = {}
        self.tokens: dict[str, Tokens] = {}
        self.decode_steps: list[DecodeStep] = []
        self._now, self._settle = now, settle
        self._open: list[str] = []
        self._since = 0.0
        self._whole = 0
        self._before: list[Token[Clock | None]] = []

    def __enter__(self) -> Clock:
        self._before.append(_current.set(self))
        self._begin(OTHER)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._end()
        _current.reset(self._before.pop())

    def clear(self) -> None:
        """Forgets what was collected, as a new step begins."""
        self.seconds, self.entered, self.tokens, self.decode_steps = {}, {}, {}, []

    def _begin(self, name: str) -> None:
        now = self._now()
        self._credit(now)
        self.entered[name] = self.entered.get(name, 0) + 1
        self._open.append(name)

    def _end(self) -> None:
        if self._settle is not None and self._open[-1] != "decode":
            self._settle()
        self._credit(self._now())
        self._open.pop()

    def _credit(self, now: float) -> None:
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


_current: ContextVar[Clock | None] = ContextVar("upweight_clock", default=None)


class phase:
    """`with phase("decode"):` counts what happens within towards a phase, less what phases within it count.

    `name` is one of PHASES. With `whole`, phases and tokens within belong to this one: proving that a sampler has the
    new weights is a cost of sync, though it scores. Enter `optimizer` once for each optimizer step, since its floor
    counts entries. A generator must not yield within a phase: its caller would go on in it. A class, at a third of the
    cost of a generator function.
    """

    __slots__ = ("_clock", "_name", "_whole")

    def __init__(self, name: str, *, whole: bool = False) -> None:
        self._name, self._whole = name, whole

    def __enter__(self) -> None:
        clock = _current.get()
        self._clock = clock if clock is not None and not clock._whole else None
        if self._clock is not None:
            self._clock._begin(self._name)
            self._clock._whole += self._whole

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._clock is not None:
            self._clock._whole -= self._whole
            self._clock._end()


def count(name: str, *, processed: int, useful: int) -> None:
    """Adds tokens to a phase: all that went through the model, and those of them that were needed."""
    clock = _current.get()
    if clock is None or clock._whole:
        return
    tokens = clock.tokens.setdefault(name, Tokens())
    tokens.processed += processed
    tokens.useful += useful


def decode_step(processed_rows: int, live_rows: int, kv_tokens: int) -> None:
    """Notes one decoding step; its rows count as the tokens of `decode`."""
    clock = _current.get()
    if clock is None or clock._whole:
        return
    clock.decode_steps.append(DecodeStep(processed_rows, live_rows, kv_tokens))
    count("decode", processed=processed_rows, useful=live_rows)
