"""Checkpoints that are either whole or not there: written beside, checksummed, renamed into place.

    checkpoints/step-00000120/    whatever the caller's `write` puts there (safetensors only, never pickle),
        state.json                the run's own state: counters, random state, source position, ...
        manifest.json             size and sha256 of every other file, written last

A kill at any moment leaves every finished checkpoint as it was. What is wrong with a torn or altered one is found by
`verify`, and `latest` falls back to the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from upweight.errors import UserError

MANIFEST = "manifest.json"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK = 1 << 20


def save(folder: Path, step: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
    """Writes the checkpoint of `step` under `folder` and returns its path.

    `write` fills the folder that it is given; `state` must be JSON-able (tuples come back as lists, integer keys as
    strings). The new one replaces an old one of the same step; those of later steps, which can only be left from
    a future that a resumed run gave up because it was damaged, are removed.
    Raises UserError when the files cannot be written (disk full); the earlier checkpoints are untouched then.
    """
    target, temporary = folder / f"step-{step:08d}", folder / f".tmp-step-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        temporary.mkdir()
        write(temporary)
        _write_json(temporary / STATE, state)
        _write_json(temporary / MANIFEST, {"files": _describe_files(temporary)})
        _sync_tree(temporary)
        _put_in_place(temporary, target)
    except Exception as error:
        if not _is_refusal_to_write(error):
            raise
        raise UserError(
            f"checkpoint {target} could not be written ({error}); the ones before it are intact: free some space or "
            "mend the folder, then go on with --resume"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for later, path in _checkpoints(folder):
        if later > step:
            shutil.rmtree(path, ignore_errors=True)
    return target


def verify(path: Path) -> str | None:
    """None when the checkpoint is whole, else its first fault in words. Files that nobody listed are ignored."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        listed = [(str(name), int(entry["bytes"]), entry["sha256"]) for name, entry in manifest["files"].items()]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    if STATE not in (name for name, _, _ in listed):
        return f"{MANIFEST} does not list {STATE}"
    return next((fault for entry in listed if (fault := _fault(path, *entry))), None)


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its state, or None when there is none at all.

    Each newer one that is damaged costs a line of warning on stderr. Raises UserError when all of them are.
    """
    if not folder.is_dir():
        return None
    _undo_interrupted_replacement(folder)
    faults: list[str] = []
    for _, path in reversed(_checkpoints(folder)):
        fault = verify(path)
        if fault is None:
            for line in faults:
                print(f"warning: checkpoint {line}; it is passed over for the one before", file=sys.stderr)
            return path, json.loads((path / STATE).read_bytes())
        faults.append(f"{path.name} is damaged: {fault}")
    if faults:
        raise UserError(
            f"no checkpoint in {folder} can be used ({'; '.join(faults)}): restore one from a copy, or move the run's "
            "folder away and start again"
        )
    return None


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Removes all checkpoints but the last `keep` and that of step `best`. Raises ValueError when `keep` < 1."""
    if keep < 1:
        raise ValueError("at least one checkpoint has to be kept")
    for step, path in _checkpoints(folder)[:-keep]:
        if step != best:
            shutil.rmtree(path, ignore_errors=True)


def flatten_optimizer(state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A torch optimizer's state dict as named tensors, for safetensors, and the JSON-able rest.

    Tensors of parameter 3 are called `state.3.exp_avg` and so on, those of a group (a learning rate may be one)
    `group.0.lr`.
    """
    tensors: dict[str, Tensor] = {}

    def without_tensors(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        # A clone, since safetensors refuses tensors that share memory, and 0-dim step counters may.
        tensors.update({f"{place}.{name}": value.detach().clone().contiguous() for name, value in own.items()})
        return {name: value for name, value in values.items() if name not in own}

    groups = [without_tensors(f"group.{i}", group) for i, group in enumerate(state_dict["param_groups"])]
    state = {str(i): without_tensors(f"state.{i}", values) for i, values in state_dict["state"].items()}
    return tensors, {"state": state, "param_groups": groups}


def unflatten_optimizer(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that `flatten_optimizer` took apart, also after `rest` has been through JSON."""
    state = {int(index): dict(values) for index, values in rest["state"].items()}
    groups = [{name: _as_tuple(name, value) for name, value in group.items()} for group in rest["param_groups"]]
    for place, tensor in tensors.items():
        kind, index, name = place.split(".", 2)
        (state if kind == "state" else groups)[int(index)][name] = tensor
    return {"state": state, "param_groups": groups}


def _as_tuple(name: str, value: Any) -> Any:
    """JSON's lists as the tuples that they were (`betas`); only `params` is a list in a torch group."""
    return tuple(value) if isinstance(value, list) and name != "params" else value


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of everything that looks like a checkpoint, oldest first."""
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found if path.is_dir())


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files
    }


def _fault(folder: Path, name: str, size: int, sha256: str) -> str | None:
    path = folder / name
    try:
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        return None if _sha256(path) == sha256 else f"{name} has another checksum"
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError) as error:
        return f"{name} cannot be read ({error})"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_refusal_to_write(error: Exception) -> bool:
    """Whether the system refused (disk full, read-only). Libraries in Rust say so by exceptions that are no OSError.

    safetensors raises its own kind and tokenizers a bare `Exception`; both quote the system's number in this form.
    """
    return isinstance(error, OSError) or "(os error " in str(error)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _tidy(folder: Path) -> None:
    """Removes what killed runs left half-written."""
    _undo_interrupted_replacement(folder)
    for path in folder.glob(".tmp-step-*"):
        shutil.rmtree(path)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Renames; a folder cannot be renamed over another, so an old one steps aside first and is removed last."""
    aside = target.with_name(f".old-{target.name}")
    if target.exists():
        target.rename(aside)
    temporary.rename(target)
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _undo_interrupted_replacement(folder: Path) -> None:
    """Puts back a checkpoint whose replacement was killed between the two renames."""
    for aside in folder.glob(".old-step-*"):
        target = folder / aside.name.removeprefix(".old-")
        if target.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(target)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
