"""Rates are measured once, kept, and frozen in a run; only their bookkeeping is tested, not how fast anything is."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from upweight import ceilings
from upweight.ceilings import Ceilings, Machine, Shape, cached_ceilings, run_ceilings, shape_of, this_machine
from upweight.sizes import ModelSize

SHAPE = Shape(decode_rows=4, width=16, mlp_width=64, weight_bytes=2**20)
CPU = torch.device("cpu")
SIZE = ModelSize(1, 1, 10**6, 1, 2, 300, 300, 4, 5000, 50, 64, 4)


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """A cache of the test's own, and the shapes that were measured; the n-th measurement has bandwidth n."""
    monkeypatch.setenv("UPWEIGHT_CACHE", str(tmp_path / "cache"))
    found: list[Shape] = []

    def measure(machine: Machine, shape: Shape, device: torch.device, dtypes: tuple[str, ...]) -> Ceilings:
        found.append(shape)
        return Ceilings(machine, shape, dict.fromkeys(dtypes, 1.0), dict.fromkeys(dtypes, 2.0), float(len(found)))

    monkeypatch.setattr(ceilings, "measure", measure)
    return found


def test_a_shape_is_measured_once(measured: list[Shape]) -> None:
    first = cached_ceilings(SHAPE, CPU, "float32")
    assert cached_ceilings(SHAPE, CPU, "float32") == first
    assert cached_ceilings(replace(SHAPE, width=32), CPU, "float32") != first
    assert "float64" in cached_ceilings(SHAPE, CPU, "float64").training_flops
    assert [shape.width for shape in measured] == [16, 32, 16]


def test_other_threads_are_another_machine(measured: list[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    cached_ceilings(SHAPE, CPU, "float32")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert cached_ceilings(SHAPE, CPU, "float32").machine.threads == 77
    assert len(measured) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"machine": 1}', '{"machine": {}, "shape": {}}'])
def test_a_torn_file_is_measured_anew(content: str, measured: list[Shape], tmp_path: Path) -> None:
    first = cached_ceilings(SHAPE, CPU, "float32")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text(content)
    assert cached_ceilings(SHAPE, CPU, "float32").bandwidth == first.bandwidth + 1
    assert cached_ceilings(SHAPE, CPU, "float32").bandwidth == first.bandwidth + 1


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UPWEIGHT_CACHE", str(tmp_path / "file" / "below"))
    assert cached_ceilings(SHAPE, CPU, "float32").shape == SHAPE


def test_the_cache_lies_where_the_user_keeps_such_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPWEIGHT_CACHE", "/a")
    assert ceilings.cache_dir() == Path("/a")
    monkeypatch.delenv("UPWEIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert ceilings.cache_dir() == Path("/b/upweight")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert ceilings.cache_dir() == Path("/c/.cache/upweight")


def test_a_run_keeps_the_ceilings_that_it_began_with(measured: list[Shape], tmp_path: Path) -> None:
    path = tmp_path / "run" / "ceilings.json"
    first = run_ceilings(path, SHAPE, CPU, "float32")
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    assert run_ceilings(path, SHAPE, CPU, "float32") == first
    assert len(measured) == 1
    assert json.loads(path.read_text())["machine"] == asdict(this_machine(CPU))


def test_a_run_that_goes_on_elsewhere_gets_others(measured: list[Shape], tmp_path: Path) -> None:
    path = tmp_path / "ceilings.json"
    run_ceilings(path, SHAPE, CPU, "float32")
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"machine": held["machine"] | {"name": "another"}, "bandwidth": -1.0}))
    assert run_ceilings(path, SHAPE, CPU, "float32").bandwidth == 1.0
    assert json.loads(path.read_text())["bandwidth"] == 1.0


def test_shapes_are_rounded_and_bounded() -> None:
    assert shape_of(SIZE, 33) == Shape(64, 300, 2048, 2**22)
    assert shape_of(SIZE, 64).decode_rows == 64
    assert shape_of(SIZE, 0).decode_rows == 1
    assert shape_of(SIZE, 10**6).decode_rows == 2048
    assert shape_of(replace(SIZE, matmul_parameters=1), 1).weight_bytes == 2**20
    assert shape_of(replace(SIZE, matmul_parameters=10**9), 1).weight_bytes == 2**26


def test_a_hopeless_type_is_not_tried_on_the_large_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tried: list[tuple[int, str]] = []

    def flops(rows: int, shape: Shape, device: torch.device, dtype: str) -> float:
        tried.append((rows, dtype))
        return 1.0 if dtype == "bfloat16" else 100.0 + rows

    monkeypatch.setattr(ceilings, "_product_flops", flops)
    found = ceilings.measure(this_machine(CPU), SHAPE, CPU, ("float32", "bfloat16"))
    assert tried == [(4, "float32"), (2048, "float32"), (4, "bfloat16")]
    assert found.training_flops == {"float32": 2148.0, "bfloat16": 1.0}


def test_what_is_measured_is_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = ceilings.measure(this_machine(CPU), SHAPE, CPU, ("float32",))
    assert min(found.decode_flops["float32"], found.training_flops["float32"], found.bandwidth) > 0
