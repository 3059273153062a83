"""Rewards that misbehave as a completion tells them to, for the tests of the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def obedient(completion: str, answer: str = "4") -> float:
    """1 if the completion is the answer, unless it is an order."""
    order, _, rest = completion.partition(" ")
    if order == "loop":
        while True:
            pass
    elif order == "sleep":
        time.sleep(float(rest))
    elif order == "memory":
        held = []
        while True:
            held.append(bytes(2**26))
    elif order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif order == "exit":
        os._exit(int(rest))
    elif order == "leave":
        sys.exit(3)
    elif order == "raise":
        raise ValueError(f"told to {completion}")
    elif order == "shout":
        print('{"value": 1.0}', flush=True)
        os.write(1, b'{"value": 1.0}\n')
        return 0.0
    elif order == "read":
        return float(len(sys.stdin.read()))
    elif order == "child":
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(600)  # {rest}"])
        while True:
            pass
    elif order == "nan":
        return float("nan")
    return float(completion == answer)


def naps(completion: str, seconds: float = 0.0) -> float:
    """1, after a while."""
    time.sleep(seconds)
    return 1.0
