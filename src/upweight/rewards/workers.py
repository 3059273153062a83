"""Rewards computed in other processes, each under a deadline: what hangs, dies or eats memory stalls nothing.

A thread of this process waits for each worker, so that no signal is needed and rewards are computed while the sampler
goes on. A worker that misses its deadline is killed with all that it has started, and another takes its place.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from typing import Any

from upweight.errors import UserError
from upweight.rewards.call import Failed, Stepwise
from upweight.rewards.worker import Setup, frame

START_SECONDS = 120.0  # for a worker to import its functions
REPLY_BYTES = 2**22  # more than any reply has
WAITING = 64  # completions a worker that may wait: with more, whoever samples waits too
MODULE = "upweight.rewards.worker"

Outcome = float | str | Stepwise | Failed | None
"""What a call comes to: a reward's value, a tool's text or None, or how it failed."""


@dataclass(frozen=True)
class Limits:
    """`deadline` in seconds for a call, `memory_bytes` for the data of a worker."""

    workers: int
    deadline: float
    memory_bytes: int


class Worker:
    """One process, asked by one thread at a time. Once `ask` has found it dead or killed it, it is not `alive`."""

    def __init__(self, setup: Setup) -> None:
        # It finds what this process finds, and leaves the other cores to whoever samples.
        surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=surroundings,
            start_new_session=True,
        )
        self._buffer = b""
        self._ready = False
        self._send(frame(setup))

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def ask(self, part: str, arguments: Mapping[str, Any], deadline: float) -> Outcome:
        """The outcome of one call. Raises UserError when the worker cannot load its functions."""
        self._wait_until_ready()
        try:
            request = frame((part, dict(arguments)))
        except Exception as error:  # whatever pickle says of a value of the user's own
            return Failed(part, "error", f"a column of the row cannot be sent to another process: {error}")
        self._send(request)
        try:
            reply = self._reply(deadline)
        except TimeoutError:
            self.kill()
            return Failed(part, "timeout", f"no result within {deadline:g} s")
        except EOFError:
            self.kill()
            return Failed(part, "crash", f"its process ended with {_exit_of(self._process.returncode)}")
        if "value" in reply:
            return _value(reply["value"])
        if reply["kind"] == "memory":
            self.kill()
        return Failed(**reply)

    def kill(self) -> None:
        """Ends the process and all that it has started, and closes what led to it: for whoever has asked last."""
        self.stop()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def stop(self) -> None:
        """Ends the process and all that it has started: whoever waits for its reply learns of it."""
        if self._process.returncode is None:  # not waited for, so that its number is still its own
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        try:
            reply = self._reply(START_SECONDS)
        except (TimeoutError, EOFError):
            reply = {"message": f"a reward worker did not start within {START_SECONDS:g} s, or died"}
        if "message" in reply:
            self.kill()
            raise UserError(reply["message"])
        self._ready = True

    def _send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: the reply, which does not come, says so
            self._process.stdin.write(message)
            self._process.stdin.flush()

    def _reply(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not self._buffer.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                part = os.read(pipe, 2**16)
                if not part or len(self._buffer) > REPLY_BYTES:
                    raise EOFError
                self._buffer += part
        line, self._buffer = self._buffer, b""
        reply: dict[str, Any] = json.loads(line)
        return reply


class _Crew:
    """The workers that are alive, until it is disbanded. Threads share it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._members: set[Worker] = set()
        self._lock = Lock()
        self._disbanded = False

    def grow(self, size: int) -> None:
        """Starts workers until there are so many."""
        with self._lock:
            while len(self._members) < size and not self._disbanded:
                worker = Worker(self._setup)
                self._members.add(worker)
                self._idle.put(worker)

    def compute(self, part: str, arguments: Mapping[str, Any], deadline: float) -> Outcome:
        """One call by whoever is free; a worker that does not survive it is replaced."""
        worker = self._idle.get()
        try:
            return worker.ask(part, arguments, deadline)
        finally:
            self._take_back(worker)

    def disband(self) -> None:
        """Kills all; nobody is started any more."""
        with self._lock:
            self._disbanded = True
            for worker in self._members:
                worker.stop()
            while not self._idle.empty():
                self._idle.get().kill()

    def _take_back(self, worker: Worker) -> None:
        with self._lock:
            if worker.alive:
                self._idle.put(worker)
                return
            worker.kill()
            self._members.discard(worker)
            size = len(self._members) + 1
        self.grow(size)


class Pool:
    """Workers that are started when first needed; one more than compute, so that a replacement is mostly ready."""

    def __init__(self, setup: Setup, limits: Limits) -> None:
        self._limits, self._crew = limits, _Crew(setup)
        self._threads = ThreadPoolExecutor(limits.workers, "reward")
        self._room = BoundedSemaphore(WAITING * limits.workers)
        self._finalizer = weakref.finalize(self, _end, self._threads, self._crew)

    def submit(self, part: str, arguments: Mapping[str, Any], deadline: float | None = None) -> Future[Outcome]:
        """The outcome of one call, when there is one. Waits while too many others wait."""
        self._crew.grow(self._limits.workers + 1)
        self._room.acquire()
        future = self._threads.submit(self._crew.compute, part, arguments, deadline or self._limits.deadline)
        room = self._room
        future.add_done_callback(lambda _: room.release())
        return future

    def close(self) -> None:
        """Ends all workers; calls that wait are cancelled. The same happens when the pool is forgotten, or at exit."""
        self._finalizer()


def _end(threads: ThreadPoolExecutor, crew: _Crew) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    crew.disband()


def _value(plain: Any) -> float | str | Stepwise | None:
    """What the worker's JSON says: an object is steps."""
    if isinstance(plain, dict):
        return Stepwise(float(plain["value"]), tuple(plain["ends"]), tuple(map(float, plain["rewards"])))
    return float(plain) if isinstance(plain, int) else plain


def _exit_of(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
