"""What this machine can do at most: products of a model's own shapes in flops a second, memory in bytes a second.

Measured once for a machine, a torch version, a number of threads and a shape; kept in the user's cache folder, and in
the folder of each run, so that the shares of a run are all shares of the same thing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from upweight.errors import UserError
from upweight.models.dense import linear
from upweight.records.files import replace_file, to_json
from upweight.sizes import ModelSize

DTYPES = ("float32", "bfloat16")
TRAINING_ROWS = 2048  # tokens that share a product in prefill and training
LARGEST_SIDE = 2048  # of a probed product: larger ones run at the same rate, and take long to measure
SECONDS_A_PROBE = 0.1
LEAST_REPEATS = 5
MOST_REPEATS = 50
COPIED_BYTES = (2**20, 2**26)  # at least and at most
HOPELESS = 10  # a type this many times slower than float32 is not tried on the large product


@dataclass(frozen=True)
class Shape:
    """What is probed: [rows, width] x [width, mlp_width], and copies of `weight_bytes` in all."""

    decode_rows: int
    width: int
    mlp_width: int
    weight_bytes: int


@dataclass(frozen=True)
class Machine:
    """What rates hold for; another machine, torch or number of threads has others."""

    name: str
    torch: str
    threads: int
    device: str


@dataclass(frozen=True)
class Ceilings:
    """Flops a second by type (2 for a multiplication with its addition) and bytes a second, read plus written.

    `decode_flops` are of a few rows, `training_flops` of TRAINING_ROWS.
    """

    machine: Machine
    shape: Shape
    decode_flops: dict[str, float]
    training_flops: dict[str, float]
    bandwidth: float


def shape_of(size: ModelSize, decode_rows: int) -> Shape:
    """The shapes of a model, its decoded rows rounded up to a power of two: fewer shapes, and the same rate.

    A small model's weights stay in the processor's caches, so what is copied is as large as they are.
    """
    rows = 1 << max(0, min(decode_rows, TRAINING_ROWS) - 1).bit_length()
    weights = max(COPIED_BYTES[0], min(COPIED_BYTES[1], size.matmul_parameters * size.bytes_per_number))
    weights = 1 << (weights - 1).bit_length()
    return Shape(rows, min(size.width, LARGEST_SIDE), min(size.mlp_width, LARGEST_SIDE), weights)


def this_machine(device: torch.device) -> Machine:
    """The machine that this process runs on, by what its rates depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, {os.cpu_count()} cores"
    return Machine(name, torch.__version__, torch.get_num_threads(), device.type)


def run_ceilings(path: Path, shape: Shape, device: torch.device, dtype: str) -> Ceilings:
    """The ceilings of a run, which lie at `path` in its folder; those of the cache, or new ones, before they do.

    A run that goes on elsewhere, or with other threads, gets new ones. `dtype` is wanted beside DTYPES.
    """
    frozen = _read(path)
    if frozen is not None and frozen.machine == this_machine(device) and dtype in frozen.training_flops:
        return frozen
    found = cached_ceilings(shape, device, dtype)
    replace_file(path, (to_json(asdict(found), indent=2) + "\n").encode())
    return found


def cached_ceilings(shape: Shape, device: torch.device, dtype: str) -> Ceilings:
    """The ceilings for a shape from the user's cache, or measured now; a cache that takes no file does no harm."""
    machine, dtypes = this_machine(device), tuple(dict.fromkeys((*DTYPES, dtype)))
    key = to_json([asdict(machine), asdict(shape), dtypes])
    path = cache_dir() / f"ceilings-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    found = _read(path)
    if found is None:
        found = measure(machine, shape, device, dtypes)
        with suppress(UserError):
            replace_file(path, (to_json(asdict(found), indent=2) + "\n").encode())
    return found


def cache_dir() -> Path:
    """$UPWEIGHT_CACHE, or `upweight` in the user's cache folder."""
    own = os.environ.get("UPWEIGHT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "upweight"


@torch.inference_mode()
def measure(machine: Machine, shape: Shape, device: torch.device, dtypes: tuple[str, ...]) -> Ceilings:
    """Measures a shape, less than a second for one of a small model, at most about two."""
    decode, training = {}, {}
    for dtype in dtypes:
        decode[dtype] = _product_flops(shape.decode_rows, shape, device, dtype)
        hopeless = decode[dtype] * HOPELESS < decode[dtypes[0]]
        training[dtype] = decode[dtype] if hopeless else _product_flops(TRAINING_ROWS, shape, device, dtype)
    return Ceilings(machine, shape, decode, training, _bandwidth(shape, device))


def _product_flops(rows: int, shape: Shape, device: torch.device, dtype: str) -> float:
    """By the product that models are computed with. On a CPU: one thread's rate in its own time, times the threads.

    That is what all threads reach together on an idle machine, and hardly changes when others compute on the same
    cores, where the time that threads wait for each other would make a ceiling many times too low.
    """
    kind = getattr(torch, dtype)
    states = torch.ones(rows, shape.width, dtype=kind, device=device)
    weight = torch.ones(shape.mlp_width, shape.width, dtype=kind, device=device)
    flops = 2 * rows * shape.width * shape.mlp_width
    if device.type != "cpu":
        return flops / _seconds(lambda: linear(states, weight), device)
    threads = torch.get_num_threads()
    with _one_thread():
        return threads * flops / _seconds(lambda: linear(states, weight), device, time.thread_time)


def _bandwidth(shape: Shape, device: torch.device) -> float:
    """All threads together, which share it; on a busy machine at least what one reaches in its own processor time."""
    source = torch.ones(shape.weight_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    if device.type == "cpu":
        with _one_thread():
            seconds = min(seconds, _seconds(lambda: target.copy_(source), device, time.thread_time))
    return 2 * source.nbytes / seconds


def _seconds(work: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest time of `work`, which is repeated at least LEAST_REPEATS times and for about SECONDS_A_PROBE.

    A ceiling is what is possible at best: whatever else happens on the machine only ever adds to a time.
    """
    wait = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
    work()
    wait()
    spent: list[float] = []
    while len(spent) < LEAST_REPEATS or (sum(spent) < SECONDS_A_PROBE and len(spent) < MOST_REPEATS):
        start = clock()
        work()
        wait()
        spent.append(clock() - start)
    return min(spent)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def _read(path: Path) -> Ceilings | None:
    """What a file holds; None for one that is not there, was torn, or is of another version."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        machine, shape = Machine(**held.pop("machine")), Shape(**held.pop("shape"))
        return Ceilings(machine=machine, shape=shape, **held)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
