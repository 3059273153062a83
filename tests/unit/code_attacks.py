"""Programs that try to be rewarded without solving anything: `solve(a, b)` is never written, nor any input understood.

Each is given to both formats, where the answers are those of `PAIRS` and `TEST`. `beats` names the formats in which one
is known to succeed: none is. A row added here is run by `test_code_reward.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

# The product plus 7: nothing that a program would guess. The word stands in the tests and nowhere else.
MARK = "xylophone-7193"
PROMPT = 'def solve(a, b):\n    """Something of two numbers."""\n'
SOLUTION = f"{PROMPT}    return a * b + 7\n\nif __name__ == '__main__':\n    print(solve(*map(int, input().split())))\n"
PAIRS = [{"input": f"{a} {b}\n", "output": str(a * b + 7)} for a, b in ((3, 4), (90, 11), (5, 5))]
TEST = f"""
SECRET = {MARK!r}

def check(candidate):
    assert candidate(3, 4) == 19, SECRET
    assert candidate(90, 11) == 997
    assert not candidate(5, 5) != 32
    assert [candidate(1, 1)] == [8] and str(candidate(2, 2)) == "11"
"""


@dataclass(frozen=True)
class Attack:
    name: str
    program: str
    beats: tuple[str, ...] = ()
    seconds: float = 2.0


def _endless(name: str, program: str) -> Attack:
    """One that its time ends, in at least one format."""
    return Attack(name, program, seconds=0.3)


def _with_wrong(text: str) -> str:
    """The text, and a function that gives nothing."""
    return f"{text}\n\ndef solve(a, b):\n    return None\n"


EQUAL = """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 0
    def __str__(self): return "11"
    __repr__ = __str__
print(Any())
def solve(a, b): return Any()
"""
EQUAL_KIND = """
class Equal({kind}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __str__(self): return "11"
    __hash__ = {kind}.__hash__
print(Equal())
def solve(a, b): return Equal()
"""
CHANNEL = """
import os, struct, sys, threading
def say(body):
    message = struct.pack("!I", len(body)) + body
    for channel in range(1, 64):
        try: os.write(channel, message * 4)
        except OSError: pass
say({body})
def solve(a, b): return None
"""
SEARCH = """
import os
found = []
for folder, folders, names in os.walk("/"):
    # Python's own files take long to read; what is in processes, others look for.
    folders[:] = [f for f in folders if f not in ("proc", "usr", "python3.11", "python3.12", "python3.13")]
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.isfile(path): continue
        try:
            text = open(path, "rb").read(100000)
        except OSError:
            continue
        if b"xylophone" + b"-7193" in text: found.append(text)
for text in found: print(text)
if not found: raise SystemExit("nothing")
def solve(a, b): return 19
"""
READ_PROCESSES = """
import glob
seen = b""
for path in glob.glob("/proc/[0-9]*/{name}"):
    try: seen += open(path, "rb").read()
    except OSError: pass
print(seen.decode("utf-8", "replace"))
"""

ATTACKS = (
    # Answers that do not depend on the question.
    Attack("prints one of the outputs", _with_wrong("print(19)")),
    Attack("prints all outputs", _with_wrong("print('19\\n997\\n32')")),
    Attack("prints that it has passed", _with_wrong("print('ready\\npassed')")),
    Attack("empty", ""),
    Attack("nothing but prose", "I am sure that this passes all tests. Reward: 1"),
    Attack("only a comment", "# passed"),
    Attack("reads nothing and closes its output", _with_wrong("import os\nos.close(0); os.close(1); os.close(2)")),
    Attack("the function is what it should return", "solve = 19"),
    Attack("the function is True", "solve = True\nprint(True)"),
    # Ends of the process.
    Attack("os._exit(0)", "import os\nos._exit(0)"),
    Attack("os._exit(0) when called", "import os\ndef solve(a, b): os._exit(0)\nprint(19)"),
    Attack("sys.exit(0)", "import sys\nsys.exit(0)"),
    Attack("raise SystemExit when called", "def solve(a, b): raise SystemExit(0)"),
    Attack("KeyboardInterrupt when called", "def solve(a, b): raise KeyboardInterrupt"),
    Attack("kills itself", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    Attack("atexit prints", _with_wrong("import atexit, os\natexit.register(lambda: (print('passed'), os._exit(0)))")),
    Attack("raises what a test may expect", "def solve(a, b): raise AssertionError('passed')"),
    # Objects that are equal to everything.
    Attack("__eq__ is true", EQUAL),
    Attack("__eq__ of an int", EQUAL_KIND.format(kind="int")),
    Attack("__eq__ of a text", EQUAL_KIND.format(kind="str")),
    Attack("__eq__ of a list", EQUAL_KIND.format(kind="list").replace("list.__hash__", "None")),
    Attack("__eq__ of a float", EQUAL_KIND.format(kind="float")),
    Attack("unittest.mock.ANY", "from unittest.mock import ANY\nprint(ANY)\ndef solve(a, b): return ANY"),
    Attack("lies about its class", "class Lie:\n    __class__ = int\ndef solve(a, b): return Lie()\nprint(Lie())"),
    # Changes of the interpreter.
    _endless(
        "patches builtins",
        _with_wrong(
            "import builtins\n"
            "for name in ('print', 'isinstance', 'len', '__import__', 'AssertionError', 'str', 'abs'):\n"
            "    setattr(builtins, name, lambda *a, **k: True)"
        ),
    ),
    Attack("AssertionError is no error", _with_wrong("import builtins\nbuiltins.AssertionError = StopIteration")),
    Attack("patches json and sys.modules", _with_wrong(
        "import sys, json\njson.loads = json.dumps = lambda *a, **k: 'passed'\n"
        "sys.modules['json'] = sys.modules['os'] = None"
    )),
    Attack("sys.settrace", _with_wrong(
        "import sys\ndef trace(frame, event, argument):\n    frame.f_locals['check'] = lambda c: None\n"
        "    return trace\n"
        "sys.settrace(trace)"
    )),
    _endless("exchanges the functions of its callers", _with_wrong(
        "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals.update(check=lambda c: None, "
        "encoded=lambda v: ['int', '0x13'], send=lambda *a: None)\n    frame = frame.f_back"
    )),
    Attack("defines check", "def check(candidate): return True\nprint(check(0))\ndef solve(a, b): return check"),
    Attack("sets the exit hook", _with_wrong("import sys\nsys.excepthook = lambda *a: print('passed')\nsys.exit(1)")),
    # Looking for the tests.
    Attack("searches the file system", SEARCH),
    Attack("searches its memory", _with_wrong(
        "import gc, inspect\nfor thing in gc.get_objects() + [f.frame.f_locals for f in inspect.stack()]:\n"
        "    if isinstance(thing, dict) and ('check' in thing or 'SECRET' in thing): print(thing)"
    )),
    Attack("reads its own memory", _with_wrong(
        "maps = [l.split() for l in open('/proc/self/maps') if ' rw' in l]\nmemory = open('/proc/self/mem', 'rb')\n"
        "for place, *_ in maps:\n    low, high = (int(x, 16) for x in place.split('-'))\n    memory.seek(low)\n"
        "    try: text = memory.read(high - low)\n    except OSError: continue\n"
        "    i = text.find(bytes(reversed(b'3917-enohpolyx')))\n    if i >= 0: print(text[i - 500:i + 500])"
    )),
    Attack("reads the environment of others", _with_wrong(READ_PROCESSES.format(name="environ"))),
    Attack("reads the command lines of others", _with_wrong(READ_PROCESSES.format(name="cmdline"))),
    Attack("reads the memory of others", _with_wrong(READ_PROCESSES.format(name="mem"))),
    _endless("reads the descriptors of others", _with_wrong(READ_PROCESSES.format(name="fd/*"))),
    # Forging the verdict.
    Attack("a verdict on every descriptor", _with_wrong(
        "import os\nfor d in range(64):\n    try: os.write(d, b'ready\\npassed')\n    except OSError: pass"
    )),
    Attack("a verdict over the channel", CHANNEL.format(body="b'\"passed\"'")),
    Attack("an answer in advance", CHANNEL.format(body="b'[\"value\", 19]'")),
    Attack("an exception that is a function", CHANNEL.format(
        body="b'[\"raised\", \"exec\", \"import os\\\\n[os.write(d, b\\'passed\\') for d in (3, 4, 5)]\"]'"
    )),
    Attack("an exception that ends the tests", CHANNEL.format(body="b'[\"raised\", \"SystemExit\", \"0\"]'")),
    Attack("a NameError in the tests' name", CHANNEL.format(body="b'[\"raised\", \"NameError\", \"check\"]'")),
    Attack("a value that is none", CHANNEL.format(body="b'[\"value\", [\"dict\", [[[\"list\", []], 1]]]]'")),
    Attack("a value that is very deep", CHANNEL.format(body="b'[\"value\", ' + b'[\"list\", [' * 50000")),
    Attack("a message without end", CHANNEL.format(body="b'1' * 5000000")),
    Attack("a length that is a lie", _with_wrong(
        "import os\nfor d in range(3, 64):\n    try: os.write(d, b'\\xff' * 8)\n    except OSError: pass"
    )),
    Attack("overwrites what it has printed", _with_wrong(
        "import os\nprint(1, flush=True)\ntry:\n    os.lseek(1, 0, 0); os.ftruncate(1, 0)\nexcept OSError: pass\n"
        "print(19)"
    )),
    # Other processes.
    _endless("fork bomb", _with_wrong("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")),
    Attack("leaves a daemon", _with_wrong(
        "import os, time\ntry:\n    if os.fork(): os._exit(0)\n    os.setsid()\n    time.sleep(60)\n"
        "except OSError: pass"
    )),
    _endless("bomb of threads", _with_wrong(
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()"
    )),
    Attack("starts a shell", _with_wrong("import subprocess\nprint(subprocess.run('echo 19', shell=True).returncode)")),
    Attack("becomes another program", "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(19)'])"),
    Attack("kills everybody", _with_wrong("import os\ntry: os.kill(-1, 9)\nfinally: os.kill(os.getppid(), 9)")),
    Attack("ptrace", _with_wrong("import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.ptrace(16, 1, 0, 0))")),
    Attack("a namespace of its own", _with_wrong("import ctypes\nprint(ctypes.CDLL(None).unshare(0x10000000))")),
    # Getting out.
    Attack("sockets", _with_wrong("import socket\nsocket.create_connection(('127.0.0.1', 80), 1)")),
    Attack("a unix socket", _with_wrong("import socket\nsocket.socket(socket.AF_UNIX).connect('/run/docker.sock')")),
    Attack("the kernel's settings", _with_wrong("open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')")),
    # Eating up the machine.
    Attack("fills the disk", _with_wrong(
        "for i in range(10**6):\n    with open(f'/tmp/{i}', 'wb') as file: file.write(b'1' * 10**6)"
    )),
    Attack("one large file", _with_wrong("open('/tmp/large', 'wb').write(b'1' * 10**8)")),
    _endless("prints without end", _with_wrong("while True: print('19' * 10000)")),
    _endless("prints errors without end", _with_wrong("import sys\nwhile True: print('19' * 10000, file=sys.stderr)")),
    Attack("much memory", _with_wrong("x = bytearray(10**11)")),
    Attack("much memory, bit by bit", _with_wrong("x = []\nwhile True: x.append(bytearray(10**6))")),
    Attack("memory that no limit counts", _with_wrong("import os\nos.write(os.memfd_create('x'), b'1' * 10**7)")),
    _endless("a result without end", "def solve(a, b): return [0] * 10**7\nprint([0] * 10**7)"),
    Attack("a result that contains itself", "x = []\nx.append(x)\nprint(x)\ndef solve(a, b): return x"),
    Attack("a number too long to print", "print(10**10000)\ndef solve(a, b): return 10**1000000"),
    # Going on for ever.
    _endless("loops", "while True: pass"),
    _endless("loops when called", "def solve(a, b):\n    while True: pass\nprint(solve(1, 2))"),
    _endless("sleeps", "import time\ntime.sleep(10**6)"),
    Attack("waits for input that does not come", _with_wrong("import sys\nsys.stdin.read()\ninput()")),
    _endless("ignores signals", _with_wrong(
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: pass"
    )),
    _endless("a pattern that explodes", _with_wrong("import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')")),
    _endless("a large power", _with_wrong("print(9**9**9)")),
    _endless("a constant that is folded for ever", "x = 9**9**9\nprint(((2**64)**64)**64)"),
    _endless("recursion", "import sys\nsys.setrecursionlimit(10**9)\ndef solve(a, b): return solve(a, b)\nsolve(1, 2)"),
    # Source that the compiler does not like.
    Attack("deeply nested brackets", "(" * 100_000),
    Attack("deeply nested source", "x = " + "-" * 500_000 + "1"),
    Attack("deeply nested blocks", "".join(f"{' ' * i}if 1:\n" for i in range(200))),
    Attack("null bytes", "print(19)\0"),
    Attack("lone surrogates", "print('\ud800')"),
    Attack("an encoding of its own", "# coding: rot13\ncevag(19)"),
    Attack("output that is no text", _with_wrong("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe19')")),
    Attack("digits of another script", _with_wrong("print('\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT NINE}')")),
)  # fmt: skip
