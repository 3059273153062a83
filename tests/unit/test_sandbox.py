"""The sandbox: what cannot be reached from inside, which limits hold, and what is said where it cannot start."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.unit.sandboxed import needs_sandbox
from upweight import sandbox
from upweight.errors import UserError
from upweight.sandbox import Limits, Outcome, run_python

QUICK = Limits(seconds=2.0)


def inside(program: str, stdin: str = "", limits: Limits = QUICK) -> Outcome:
    return run_python(program, stdin, limits)


def said(program: str, stdin: str = "") -> str:
    outcome = inside(program, stdin)
    assert outcome.ok, outcome
    return outcome.stdout.decode().strip()


def error_of(call: str) -> str:
    """The kind of OSError that a call raises inside, by its name."""
    return said(f"import errno\ntry:\n    {call}\nexcept OSError as e:\n    print(errno.errorcode[e.errno])")


@needs_sandbox
def test_a_program_reads_its_input_and_ends_well():
    outcome = inside(
        "import sys\nprint(input()[::-1], len(sys.stdin.read()), sys.argv, __name__)\nexit()", "abc\n" * 50_000
    )
    assert outcome == Outcome(0, b"cba 199996 ['program.py'] __main__\n", b"", "")
    assert (inside("exit(3)").code, inside("1/0").ok) == (3, False)
    assert inside("1/0").stderr.endswith(b"ZeroDivisionError: division by zero\n")
    assert said("# a program that never reads its input\nprint(1)", "x" * 10**6) == "1"


@needs_sandbox
def test_a_program_is_what_it_would_be_elsewhere():
    assert said("import __main__\nclass A: pass\nprint(__main__.A is A, A.__module__)") == "True __main__"
    assert said("def f(x: int): pass\nprint(f.__annotations__)")
    assert said("print('\\N{SNOWMAN}' + input())", "\N{SNOWMAN}") == "\N{SNOWMAN}" * 2
    assert said("import asyncio\nasync def f(): return 5\nprint(asyncio.run(f()))") == "5"
    assert said("import threading\nt = threading.Thread(target=print, args=[5])\nt.start()\nt.join()") == "5"
    assert said("print(open('/dev/stdin').read())", "7") == "7"


@needs_sandbox
def test_what_a_program_prints_does_not_depend_on_luck():
    program = "print({str(i) for i in range(100)})"
    assert said(program) == said(program)


@needs_sandbox
def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(0.2)
        for address in ("127.0.0.1", "1.1.1.1"):
            assert error_of(f"import socket; socket.create_connection(('{address}', {port}), 1)") == "EPERM"
        for family in ("AF_UNIX", "AF_INET6", "AF_NETLINK", "AF_VSOCK"):
            assert error_of(f"import socket; socket.socket(socket.{family}, socket.SOCK_DGRAM)") == "EPERM"
        with pytest.raises(TimeoutError):
            listener.accept()
    # Were sockets not refused, there would still be no network: it is another namespace, with nothing but itself.
    assert said("import os\nprint(os.readlink('/proc/self/ns/net'))") != os.readlink("/proc/self/ns/net")
    assert [line.split(":")[0].strip() for line in said("print(open('/proc/net/dev').read())").split("\n")[2:]] == [
        "lo"
    ]


@needs_sandbox
def test_no_other_processes():
    assert said("import os\nprint(sorted(int(n) for n in os.listdir('/proc') if n.isdigit()))") == "[1, 2]"
    assert error_of(f"import os; os.kill({os.getpid()}, 9)") == "ESRCH"
    assert said("import os\nos.kill(os.getppid(), 9)\nprint('still here')") == "still here"
    for kind in ("user", "pid", "mnt", "ipc", "uts", "cgroup"):
        assert said(f"import os\nprint(os.readlink('/proc/self/ns/{kind}'))") != os.readlink(f"/proc/self/ns/{kind}")


@needs_sandbox
def test_no_files_of_the_user(tmp_path):
    (tmp_path / "secret").write_text("secret")
    for path in (tmp_path / "secret", Path.home() / ".bashrc", Path(__file__), Path(sandbox.__file__), "/etc/passwd"):
        assert error_of(f"open({str(path)!r})") == "ENOENT"
    assert said("import os\nprint(os.path.expanduser('~'), os.getcwd(), os.listdir('.'))") == "/tmp /tmp []"
    # Of the home folder there is nothing, unless the interpreter itself lives there.
    home = said(f"import os\nprint(sum((f for _, _, f in os.walk({str(Path.home())!r})), [])[:1])")
    assert home == "[]" or sandbox.interpreter().startswith(str(Path.home()))
    assert said(
        "import importlib.util as u\nprint([u.find_spec(n) for n in ('torch', 'pytest', 'upweight', 'pip')])"
    ) == ("[None, None, None, None]")


@needs_sandbox
def test_no_environment(monkeypatch):
    monkeypatch.setenv("UPWEIGHT_TEST_TOKEN", "secret")
    names = said("import os\nprint(*sorted(os.environ))").split()
    assert names == ["HOME", "LC_ALL", "PWD", "PYTHONHASHSEED", "PYTHONUTF8"]
    assert "TOKEN" not in said("print(open('/proc/1/environ').read(), open('/proc/self/environ').read())")


@needs_sandbox
def test_nothing_can_be_written_but_a_small_folder():
    for path in (
        "/x",
        "/dev/x",
        "/dev/shm/x",
        "/usr/lib/x",
        "/proc/sys/kernel/core_pattern",
        sys.base_prefix + "/lib/x",
    ):
        assert error_of(f"open({path!r}, 'w').write('x')") in ("EROFS", "EACCES")
    assert said("open('/tmp/x', 'w').write('x' * 10**6)\nprint(len(open('x').read()))") == "1000000"
    assert said("import os\nprint(os.listdir('/tmp'))") == "[]"
    assert error_of("open('x', 'wb').write(b'x' * 17 * 2**20)") == "EFBIG"
    assert error_of("[open(str(i), 'wb').write(b'x' * 2**20) for i in range(17)]") == "ENOSPC"


@needs_sandbox
def test_no_capabilities():
    status = dict(
        line.split(":\t") for line in said("print(open('/proc/self/status').read())").splitlines() if ":\t" in line
    )
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@needs_sandbox
def test_one_process_and_no_way_to_more_memory():
    for call in ("fork()", "posix_spawn('/x', ['x'], {})", "memfd_create('x')"):
        assert error_of(f"import os; os.{call}") == "EPERM"
    refused = {"ptrace": (16, 1, 0, 0), "shmget": (0, 4096, 0o1600), "unshare": (0x10000000,), "setns": (0, 0)}
    for name, arguments in refused.items():
        program = f"print(ctypes.CDLL(None, use_errno=True).{name}(*{arguments}), ctypes.get_errno())"
        assert said(f"import ctypes\n{program}") == f"-1 {errno.EPERM}"
    small = Limits(2.0, memory_mb=100)
    assert inside("x = bytearray(90 * 2**20)", limits=small).stderr.endswith(b"MemoryError\n")
    assert inside("x = bytearray(50 * 2**20)", limits=small).ok
    assert not inside("import threading, time\nwhile 1: threading.Thread(target=time.sleep, args=[9]).start()").ok


@needs_sandbox
def test_time():
    began = time.monotonic()
    for program in (
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import os\nos.close(1)\nos.close(2)\nwhile 1: pass",
    ):
        outcome = inside(program, limits=Limits(seconds=0.3))
        assert (outcome.stopped, outcome.ok, outcome.timed_out) == ("time", False, True)
    trickle = "import time\nwhile True: print(1, flush=True); time.sleep(0.001)"
    assert inside(trickle, limits=Limits(seconds=0.3)).timed_out
    assert time.monotonic() - began < 5
    # CPU time of all threads counts, and cannot be asked back.
    raising = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (100, 100))"
    assert b"not allowed to raise" in inside(raising).stderr


@needs_sandbox
def test_output_is_cut():
    for stream in ("stdout", "stderr"):
        outcome = inside(
            f"import sys\nwhile True: print('x' * 1000, file=sys.{stream})", limits=Limits(2.0, output_bytes=5000)
        )
        assert outcome.stopped == "output"
        assert not outcome.ok
        assert len(outcome.stdout) <= 5000
        assert len(outcome.stderr) <= sandbox.STDERR_TAIL
    exact = inside("print('x' * 4999)", limits=Limits(2.0, output_bytes=5000))
    assert (exact.ok, len(exact.stdout)) == (True, 5000)


@needs_sandbox
@pytest.mark.parametrize("program", ["(" * 10**5, "-" * 10**6 + "1", "print(1)\0", "\xff" * 99, "# coding: x"])
def test_source_that_is_none(program):
    outcome = inside(program)
    assert not outcome.ok
    assert not outcome.stdout


def gone(namespace: str, seconds: float = 5.0) -> bool:
    """Whether nothing lives in a process namespace any more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        links = []
        for link in Path("/proc").glob("[0-9]*/ns/pid"):
            try:
                links.append(os.readlink(link))
            except OSError:  # it has ended meanwhile, or is not ours
                continue
        if namespace not in links:
            return True
        time.sleep(0.02)
    return False


SHOW = "import os, sys, time\nprint(os.readlink('/proc/self/ns/pid'), flush=True)\n"


@needs_sandbox
def test_nothing_is_left_behind():
    outcome = inside(
        SHOW + "import threading\nthreading.Thread(target=time.sleep, args=[60]).start()", limits=Limits(0.3)
    )
    assert outcome.timed_out
    assert outcome.stdout.startswith(b"pid:[")
    assert gone(outcome.stdout.decode().strip(), 0.5)


def orphans() -> list[str]:
    """Processes of bubblewrap that we have started, and that nobody waits for any more."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition(") ")
            state, parent, group, *_ = rest.split()
            if name.endswith("(bwrap") and state != "Z" and (parent, group) == ("1", str(os.getpgid(0))):
                found.append(name)
    return found


@needs_sandbox
def test_it_can_be_ended_while_it_starts():
    # Until its namespaces are there, bubblewrap does not die with its parent.
    for delay in range(60):
        with sandbox.started("import time\ntime.sleep(60)"):
            time.sleep(delay * 2e-4)
    end = time.monotonic() + 5
    while orphans() and time.monotonic() < end:
        time.sleep(0.05)
    assert orphans() == []


@needs_sandbox
def test_it_dies_with_whoever_started_it(tmp_path):
    program = f"""
import subprocess, sys
from upweight import sandbox
sandbox.require()
with sandbox.started({SHOW + "time.sleep(60)"!r}, limits=sandbox.Limits(60), streams=subprocess.PIPE) as process:
    print(process.stdout.readline().decode(), flush=True)
    process.wait()
"""
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=surroundings)
    assert parent.stdout is not None
    namespace = parent.stdout.readline().decode().strip().lstrip("\0")
    assert namespace.startswith("pid:[")
    assert not gone(namespace, 0.2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(namespace)


@needs_sandbox
def test_descriptors_of_ours_stay_outside(tmp_path):
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        assert said("import os\nprint(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:4])") == "[0, 1, 2, 3]"
        paths = "[os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')]"
        listing = said(f"import os\nprint({paths})")
    assert str(tmp_path) not in listing


@needs_sandbox
def test_several_at_once():
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(said("print(sum(range(10**5)))"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["4999950000"] * 4


def test_without_bubblewrap_it_refuses_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"bubblewrap is not installed .*apt install bubblewrap.*set the option"
    ) as caught:
        run_python("print(1)")
    assert "\n" not in str(caught.value)
    assert sandbox.OPTION in str(caught.value)


def test_where_bubblewrap_fails_it_refuses_with_its_words(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map:\nPermission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    words = "bubblewrap says 'bwrap: setting up uid map: Permission denied'; it must be allowed to make user namespaces"
    with pytest.raises(UserError, match=words):
        run_python("print(1)")


def test_on_another_system_it_refuses(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    with pytest.raises(UserError, match=r"needs Linux on x86_64 or aarch64, and this is .* on abacus"):
        run_python("print(1)")


def test_only_the_option_runs_without_a_sandbox(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UPWEIGHT_TEST_TOKEN", "secret")
    program = "import os\nopen('x', 'w').write('x')\nprint(os.getcwd(), 'UPWEIGHT_TEST_TOKEN' in os.environ, input())"
    outcome = run_python(program, "5", QUICK, unsandboxed=True)
    place, has_secret, given = outcome.stdout.decode().split()
    assert (outcome.ok, has_secret, given) == (True, "False", "5")
    assert not Path(place).exists()
    assert run_python("while 1: pass", "", Limits(0.3), unsandboxed=True).timed_out
    assert run_python("x = bytearray(10**9)", "", QUICK, unsandboxed=True).stderr.endswith(b"MemoryError\n")
    left = run_python("import os\nprint(os.fork() or os.getpid())", "", QUICK, unsandboxed=True)
    assert left.ok
