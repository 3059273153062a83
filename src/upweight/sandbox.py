"""Where untrusted Python runs: a process of its own, shut in by bubblewrap, with limits on all that it can use up.

The process has its own user, process, mount, network, IPC and host-name namespaces. It sees the interpreter with the
standard library, the system's shared libraries, /proc of its own processes, and an empty /tmp, which is all it can
write to and is gone afterwards; it sees no packages, home folder, environment, network or other process. System calls
that lead further are refused (`syscalls.py`), limits are set before its first statement, and it dies with whoever
started it. Nothing is run by a shell.

Python starts with -S, so that only the standard library is there, and with a fixed PYTHONHASHSEED, so that what a
program prints does not depend on luck.
"""

from __future__ import annotations

import math
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal

from upweight import syscalls
from upweight.errors import UserError
from upweight.walls import interpreter, walls

OPTION = "unsandboxed_i_trust_every_completion"
Stopped = Literal["", "time", "output"]
START_SECONDS = 10.0  # for the sandbox and Python to start, which is not the program's time
STDERR_TAIL = 2000
_CHUNK = 2**16
_STARTED = b"\0"
_ENVIRONMENT = {"HOME": "/tmp", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONHASHSEED": "0"}
# What is set before anything untrusted is read; the byte on standard output says that it has been set. A script with
# a channel writes that byte itself, when whoever is on the other end is there too.
_BOOT = """
import os, resource, sys
for name, bound in {bounds}:
    hard = resource.getrlimit(getattr(resource, name))[1]
    bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(getattr(resource, name), (bound, bound))
{farewell}
script = sys.argv.pop(1)
os.write(1, {started})
exec(compile(script, "sandbox", "exec"))
"""
# What runs a program that comes first on standard input, after its length in eight bytes: what follows is its own.
_PROGRAM = """
import _sitebuiltins, builtins
def read(size):
    found = b""
    while len(found) < size and (part := os.read(0, size - len(found))):
        found += part
    return found
source = read(int.from_bytes(read(8), "big"))
for name in ("exit", "quit"):  # which Python adds together with installed packages, and programs use
    setattr(builtins, name, _sitebuiltins.Quitter(name, ""))
module = type(sys)("__main__")
sys.modules["__main__"], sys.argv = module, ["program.py"]
exec(compile(source, "program.py", "exec"), vars(module))
"""
# Without a sandbox that dies with its parent, the process has to ask for it itself (1 is PR_SET_PDEATHSIG).
_FAREWELL = "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGKILL)"


@dataclass(frozen=True)
class Limits:
    """What a process may use: `seconds` on the clock (and, rounded up, of CPU time), memory, space in /tmp, output."""

    seconds: float = 4.0
    memory_mb: int = 512
    disk_mb: int = 16
    output_bytes: int = 2**20


@dataclass(frozen=True)
class Outcome:
    """How a process ended. `code` is its exit code, and that or a number below 0 where it was killed.

    `stopped` says which limit it was killed at: "time" on the clock, "output", or none. `stdout` is what it wrote, up
    to the limit, `stderr` the end of that.
    """

    code: int
    stdout: bytes
    stderr: bytes
    stopped: Stopped

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, and well."""
        return self.code == 0 and not self.stopped

    @property
    def timed_out(self) -> bool:
        """Whether the clock ended it."""
        return self.stopped == "time"


class NotStarted(Exception):
    """The sandbox did not come up, so nothing untrusted has run: says nothing of any program."""


def require() -> None:
    """Raises UserError, in one line, where the sandbox cannot start: `run_python` asks, `run` and `started` do not."""
    missing = ""
    if sys.platform != "linux" or not syscalls.known(platform.machine()):
        missing = f"it needs Linux on x86_64 or aarch64, and this is {platform.system()} on {platform.machine()}"
    elif not _bwrap():
        missing = "bubblewrap is not installed (`apt install bubblewrap`, or as your system calls it)"
    else:
        try:
            _probe(_bwrap())
        except NotStarted as error:
            missing = f"bubblewrap says {str(error)!r}; it must be allowed to make user namespaces"
    if missing:
        raise UserError(
            f"programs are only run in a sandbox, which cannot start here: {missing}. If you trust every completion "
            f"with your files and your network, set the option {OPTION} = true"
        )


def run_python(program: str, stdin: str = "", limits: Limits | None = None, unsandboxed: bool = False) -> Outcome:
    """Runs an untrusted program as `__main__`, with an input, to its end or to a limit.

    Raises UserError where the sandbox cannot start, NotStarted when it could have, but did not.
    """
    if not unsandboxed:
        require()
    source = program.encode("utf-8", "replace")
    fed = len(source).to_bytes(8, "big") + source + stdin.encode("utf-8", "replace")
    return run(_PROGRAM, (), fed, limits, unsandboxed=unsandboxed)


def run(
    script: str,
    arguments: Sequence[str] = (),
    stdin: bytes = b"",
    limits: Limits | None = None,
    channel: int | None = None,
    unsandboxed: bool = False,
) -> Outcome:
    """Runs a script of ours, which may read what is untrusted; `channel` is a descriptor that it keeps.

    The clock begins with a first zero byte on standard output, which a script with a channel writes when it is ready.

    Raises NotStarted when the sandbox did not come up.
    """
    limits = limits or Limits()
    with started(script, arguments, limits, channel, unsandboxed, subprocess.PIPE) as process:
        return _exchange(process, stdin, limits)


@contextmanager
def started(
    script: str,
    arguments: Sequence[str] = (),
    limits: Limits | None = None,
    channel: int | None = None,
    unsandboxed: bool = False,
    streams: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a script, and is gone with all that it has started at the end; CPU time is its only clock.

    `streams` is what its three standard streams lead to.
    """
    limits = limits or Limits()
    bounds = (
        ("RLIMIT_CPU", math.ceil(limits.seconds)),
        ("RLIMIT_AS", limits.memory_mb * 2**20),
        ("RLIMIT_FSIZE", limits.disk_mb * 2**20),
        ("RLIMIT_NOFILE", 256),
        ("RLIMIT_CORE", 0),
    )
    farewell = _FAREWELL if unsandboxed and sys.platform == "linux" else ""
    boot = _BOOT.format(bounds=bounds, farewell=farewell, started=_STARTED if channel is None else b"")
    python = (interpreter(), "-P", "-s", "-S", "-B", "-c", boot, script, *arguments)
    kept = () if channel is None else (channel,)
    with ExitStack() as stack:
        place = None
        if unsandboxed:
            place = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        else:
            filtering = stack.enter_context(_readable(syscalls.program(platform.machine())))
            python = (*walls(_bwrap(), limits.disk_mb), "--seccomp", str(filtering), "--", *python)
            kept = (*kept, filtering)
        process = subprocess.Popen(
            python,
            stdin=streams,
            stdout=streams,
            stderr=streams,
            bufsize=0,
            env=_ENVIRONMENT if place is None else {**_ENVIRONMENT, "HOME": place, "TMPDIR": place},
            cwd=place or "/",
            pass_fds=kept,
            start_new_session=unsandboxed,
        )
        try:
            yield process
        finally:
            _end(process, unsandboxed)


def _exchange(process: subprocess.Popen[bytes], stdin: bytes, limits: Limits) -> Outcome:
    """Feeds a process, and says how it has ended. Raises NotStarted when it did not say that its limits are set."""
    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr = bytearray(), bytearray()
    stopped, left = _pump(process, stdin, {process.stdout: stdout, process.stderr: stderr}, limits)
    if not stopped:
        try:
            process.wait(left)
        except subprocess.TimeoutExpired:
            stopped = "time"
    tail = bytes(stderr[-STDERR_TAIL:])
    if not stdout.startswith(_STARTED):
        said = " ".join(tail.decode("utf-8", "replace").split())
        raise NotStarted(said[-300:] or f"no sign of life within {START_SECONDS:g} s")
    code = process.returncode if process.returncode is not None else -int(signal.SIGKILL)
    return Outcome(code, bytes(stdout[1 : limits.output_bytes + 1]), tail, stopped)


def _pump(
    process: subprocess.Popen[bytes], stdin: bytes, written: Mapping[IO[bytes], bytearray], limits: Limits
) -> tuple[Stopped, float]:
    """Writes to a process and reads what it writes, until it has closed both streams or met a limit.

    Returns the limit, and the seconds that are left. The clock begins with the first byte that comes.
    """
    assert process.stdin is not None
    rest, deadline, running = memoryview(stdin), time.monotonic() + START_SECONDS, False
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        for stream, found in written.items():
            selector.register(stream, selectors.EVENT_READ, found)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                return "time", 0.0
            for key, _ in ready:
                if key.data is None:
                    rest = _fed(key.fd, rest)
                    if rest:
                        continue
                    process.stdin.close()
                elif part := os.read(key.fd, _CHUNK):
                    key.data.extend(part)
                    continue
                selector.unregister(key.fileobj)
            if any(len(found) > limits.output_bytes + 1 for found in written.values()):
                return "output", 0.0
            if not running and any(written.values()):
                running, deadline = True, time.monotonic() + limits.seconds
    return "", max(0.0, deadline - time.monotonic())


def _fed(descriptor: int, rest: memoryview) -> memoryview:
    """What is still to be written; nothing once nobody reads."""
    try:
        return rest[os.write(descriptor, rest[:_CHUNK]) :]
    except BrokenPipeError:
        return rest[:0]


def _end(process: subprocess.Popen[bytes], unsandboxed: bool) -> None:
    """Kills what is left: the sandbox takes all within with it; without one, whoever stayed in the process group."""
    if unsandboxed:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        _end_within(process)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _end_within(bwrap: subprocess.Popen[bytes]) -> None:
    """Kills the first process in the namespaces, and all others with it; bubblewrap sees to what is left of them.

    While the namespaces are made, that process does not yet die with bubblewrap, which must stand still for a moment:
    it may start nothing between looking and killing.
    """
    bwrap.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, bwrap.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    with suppress(OSError, subprocess.TimeoutExpired):
        within = Path(f"/proc/{bwrap.pid}/task/{bwrap.pid}/children").read_text().split()
        for process in within:
            os.kill(int(process), signal.SIGKILL)
        if within:
            bwrap.send_signal(signal.SIGCONT)
            bwrap.wait(1.0)


@contextmanager
def _readable(content: bytes) -> Iterator[int]:
    """A descriptor that a few bytes can be read from."""
    reading, writing = os.pipe()
    try:
        os.write(writing, content)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


def _bwrap() -> str:
    """The path of bubblewrap, or nothing."""
    return shutil.which("bwrap") or ""


@lru_cache(maxsize=8)
def _probe(bwrap: str) -> None:
    """Raises NotStarted when not even an empty script runs. Only that it does is remembered."""
    run("")
