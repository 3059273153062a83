"""Checkpoints: whole or not there, whatever happens while they are written or lie on the disk."""

from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from upweight import checkpoint
from upweight.errors import UserError


def writer(value: float) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "policy").mkdir()
        save_file({"w": torch.full((4,), value)}, folder / "policy" / "model.safetensors")

    return write


def value_in(path: Path) -> float:
    return float(load_file(path / "policy" / "model.safetensors")["w"][0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 10 and 20."""
    folder = tmp_path / "checkpoints"
    for step in (10, 20):
        checkpoint.save(folder, step, writer(step), {"step": step})
    return folder


def test_a_saved_checkpoint_is_whole_and_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert names(folder) == ["step-00000010", "step-00000020"]
    assert names(folder / "step-00000020") == ["manifest.json", "policy", "state.json"]
    found = checkpoint.latest(folder)
    assert found == (folder / "step-00000020", {"step": 20})
    assert value_in(found[0]) == 20
    assert capsys.readouterr().err == ""


def test_state_keeps_every_bit_of_a_float(tmp_path: Path) -> None:
    state = {"seconds": 0.1 + 0.2, "best": float("-inf"), "rng": 2**64 - 1, "word": "ä\u2028"}
    checkpoint.save(tmp_path, 1, writer(1), state)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1] == state


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "missing") is None
    assert checkpoint.latest(tmp_path) is None


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, step, writer(1), {"step": step})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 100_000_000


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated tensors": ("policy/model.safetensors", truncate, "bytes, not"),
    "flipped tensors": ("policy/model.safetensors", flip, "another checksum"),
    "lost tensors": ("policy/model.safetensors", Path.unlink, "model.safetensors is missing"),
    "flipped state": ("state.json", flip, "state.json has another checksum"),
    "lost state": ("state.json", Path.unlink, "state.json is missing"),
    "lost manifest": ("manifest.json", Path.unlink, "manifest.json is missing"),
    "half a manifest": ("manifest.json", lambda p: p.write_bytes(p.read_bytes()[:40]), "manifest.json is damaged"),
    "no tables": ("manifest.json", lambda p: p.write_text('{"files": []}'), "manifest.json is damaged"),
    "empty manifest": ("manifest.json", lambda p: p.write_text('{"files": {}}'), "does not list state.json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_the_one_before_is_used(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, harm, words = DAMAGE[name]
    harm(folder / "step-00000020" / file)
    fault = checkpoint.verify(folder / "step-00000020")
    assert fault is not None
    assert words in fault
    found = checkpoint.latest(folder)
    assert found is not None
    assert found[1] == {"step": 10}
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "step-00000020" in warning
    assert words in warning


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, writer(1), {"step": 1})
    assert checkpoint.verify(path) is None
    for file in [item for item in path.rglob("*") if item.is_file()]:
        content = file.read_bytes()
        for position in range(len(content)):
            flipped = bytearray(content)
            flipped[position] ^= 1 << (position % 8)
            file.write_bytes(flipped)
            assert checkpoint.verify(path) is not None, f"{file.name} at {position}"
        file.write_bytes(content)
    assert checkpoint.verify(path) is None


def test_files_that_nobody_listed_are_ignored(folder: Path) -> None:
    (folder / "step-00000020" / "notes.txt").write_text("mine")
    (folder / "step-00000020-copy").mkdir()
    assert checkpoint.verify(folder / "step-00000020") is None
    found = checkpoint.latest(folder)
    assert found is not None
    assert found[1] == {"step": 20}


def test_when_all_are_damaged_the_user_is_told(folder: Path) -> None:
    for path in folder.iterdir():
        truncate(path / "state.json")
    with pytest.raises(UserError, match=r"no checkpoint in .*step-00000020 is damaged.*step-00000010 is damaged"):
        checkpoint.latest(folder)


def test_a_bug_while_writing_keeps_its_traceback_and_the_earlier_ones(folder: Path) -> None:
    def write(path: Path) -> None:
        writer(30)(path)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        checkpoint.save(folder, 30, write, {})
    assert names(folder) == ["step-00000010", "step-00000020"]
    assert checkpoint.verify(folder / "step-00000020") is None


@pytest.mark.parametrize("step", [20, 30])
def test_a_full_disk_is_a_user_error_that_loses_nothing(folder: Path, step: int) -> None:
    def write(path: Path) -> None:
        writer(30)(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"could not be written .*No space left.*intact.*--resume") as caught:
        checkpoint.save(folder, step, write, {})
    assert "\n" not in str(caught.value)
    assert names(folder) == ["step-00000010", "step-00000020"]
    assert checkpoint.verify(folder / "step-00000020") is None
    assert value_in(folder / "step-00000020") == 20


def write_tensors(path: Path) -> None:
    save_file({"w": torch.zeros(10_000)}, path / "model.safetensors")


def write_tokenizer(path: Path) -> None:
    Tokenizer(WordLevel({f"w{i}": i for i in range(1000)}, unk_token="w0")).save(str(path / "tokenizer.json"))


def write_text(path: Path) -> None:
    (path / "learner.json").write_text("x" * 10_000)


@pytest.mark.parametrize("fill", [write_tensors, write_tokenizer, write_text])
def test_what_the_system_refuses_to_write_is_a_user_error(folder: Path, fill: Callable[[Path], None]) -> None:
    """The kernel's own refusal, which libraries in Rust report by exceptions that are no OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write(path: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            fill(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(UserError, match="could not be written"):
        checkpoint.save(folder, 30, write, {})
    assert names(folder) == ["step-00000010", "step-00000020"]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="could not be written"):
        checkpoint.save(tmp_path / "checkpoints", 1, writer(1), {})


def test_killed_while_writing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from upweight import checkpoint
        def write(path):
            (path / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.save(Path({str(folder)!r}), 30, write, {{}})
    """
    source = str(Path(checkpoint.__file__).parents[1])
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env={"PYTHONPATH": source}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(folder) == [".tmp-step-00000030", "step-00000010", "step-00000020"]
    found = checkpoint.latest(folder)
    assert found is not None
    assert found[1] == {"step": 20}
    assert capsys.readouterr().err == ""
    checkpoint.save(folder, 40, writer(40), {"step": 40})
    assert names(folder) == ["step-00000010", "step-00000020", "step-00000040"]


def test_a_resumed_run_replaces_its_step_and_drops_the_damaged_future(folder: Path) -> None:
    truncate(folder / "step-00000020" / "state.json")
    checkpoint.save(folder, 10, writer(11), {"step": 10})
    assert names(folder) == ["step-00000010"]
    assert value_in(folder / "step-00000010") == 11
    assert checkpoint.verify(folder / "step-00000010") is None


@pytest.mark.parametrize("finder", ["latest", "save"])
def test_killed_between_the_renames_of_a_replacement(folder: Path, finder: str) -> None:
    (folder / "step-00000020").rename(folder / ".old-step-00000020")
    (folder / "step-00000010").rename(folder / ".tmp-step-00000020")
    if finder == "save":
        checkpoint.save(folder, 30, writer(30), {"step": 30})
        assert names(folder) == ["step-00000020", "step-00000030"]
    found = checkpoint.latest(folder)
    assert found is not None
    assert found[1] == {"step": 20 if finder == "latest" else 30}
    assert value_in(folder / "step-00000020") == 20


def test_killed_after_the_renames_of_a_replacement(folder: Path) -> None:
    (folder / "step-00000010").rename(folder / ".old-step-00000020")
    found = checkpoint.latest(folder)
    assert found is not None
    assert value_in(found[0]) == 20
    assert names(folder) == ["step-00000020"]


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [4]), (2, None, [3, 4]), (2, 1, [1, 3, 4]), (2, 4, [3, 4]), (9, None, [1, 2, 3, 4]), (1, 7, [4])],
)
def test_prune_keeps_the_last_and_the_best(tmp_path: Path, keep: int, best: int | None, left: list[int]) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, step, writer(step), {})
    checkpoint.prune(tmp_path, keep, best)
    assert names(tmp_path) == [f"step-{step:08d}" for step in left]


def test_prune_never_removes_everything(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        checkpoint.prune(tmp_path, 0, None)


def network() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def advance(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(5, 3, generator=generator)).square().sum().backward()
        optimizer.step()


def adamw(model: torch.nn.Linear, tensor_lr: bool = False) -> torch.optim.AdamW:
    lr = torch.tensor(0.05) if tensor_lr else 0.05
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.8, 0.95), fused=True)


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_adamw_goes_on_bit_identically(tmp_path: Path, tensor_lr: bool) -> None:
    never_stopped, stopped = network(), network()
    whole, first = adamw(never_stopped, tensor_lr), adamw(stopped, tensor_lr)
    advance(never_stopped, whole, range(6))
    advance(stopped, first, range(3))
    tensors, rest = checkpoint.flatten_optimizer(first.state_dict())
    save_file(tensors, tmp_path / "optimizer.safetensors")
    second = adamw(stopped, tensor_lr)
    restored = checkpoint.unflatten_optimizer(
        load_file(tmp_path / "optimizer.safetensors"), json.loads(json.dumps(rest))
    )
    second.load_state_dict(restored)
    advance(stopped, second, range(3, 6))
    assert torch.equal(never_stopped.weight, stopped.weight)
    assert torch.equal(never_stopped.bias, stopped.bias)
    assert float(second.state[stopped.weight]["step"]) == 6


def test_an_optimizer_state_comes_back_equal(tmp_path: Path) -> None:
    model = network()
    optimizer = adamw(model)
    advance(model, optimizer, range(2))
    state = optimizer.state_dict()
    tensors, rest = checkpoint.flatten_optimizer(state)
    back = checkpoint.unflatten_optimizer(tensors, json.loads(json.dumps(rest)))
    assert back["param_groups"] == state["param_groups"]
    assert isinstance(back["param_groups"][0]["betas"], tuple)
    assert set(back["state"]) == {0, 1}
    for index, values in state["state"].items():
        assert set(back["state"][index]) == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in values.items():
            assert torch.equal(back["state"][index][name], value)
            assert back["state"][index][name].dtype == value.dtype


def test_an_optimizer_that_made_no_step_comes_back(tmp_path: Path) -> None:
    model = network()
    tensors, rest = checkpoint.flatten_optimizer(adamw(model).state_dict())
    assert tensors == {}
    adamw(model).load_state_dict(checkpoint.unflatten_optimizer(tensors, rest))
