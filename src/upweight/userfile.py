"""Objects of the user's own: `file.py:name` and `module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from upweight.errors import UserError, nearest


def load_object(reference: str, kind: str) -> Any:
    """What `file.py:name` or `module:name` names; `kind` ("reward", "algorithm") is for the message.

    Modules are looked for as Python does, and then in the current folder; a file's own folder is added to the end of
    the search path. Raises UserError that names what is missing or what went wrong in the user's file.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise UserError(f"{kind} {reference!r}: an object of your own is written file.py:name or module:name")
    module = _load_file(Path(place).expanduser(), kind) if place.endswith(".py") else _load_module(place, kind)
    found = getattr(module, name, None)
    if found is None:
        own = [key for key in vars(module) if not key.startswith("_")]
        raise UserError(f"{kind} {reference!r}: {place} has no {name!r}{nearest(name, own)}")
    return found


def _load_file(file: Path, kind: str) -> ModuleType:
    if not file.is_file():
        raise UserError(f"{kind} file {file} does not exist")
    identity = f"{file.resolve()}:{file.stat().st_mtime_ns}"
    name = f"{file.stem}_{blake2b(identity.encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:  # two objects of one file share its module, and so whatever it caches
        return sys.modules[name]
    _search_also(file.resolve().parent)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{kind} file {file} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file does when it is imported
        del sys.modules[name]
        raise UserError(f"{kind} file {_at_fault(error, file)}") from error
    return module


def _load_module(name: str, kind: str) -> ModuleType:
    _search_also(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"{kind} module {name!r} does not exist (no module named {error.name!r})") from None
        raise UserError(f"{kind} module {_at_fault(error, name)}") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(f"{kind} module {_at_fault(error, name)}") from error


def _search_also(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _at_fault(error: Exception, where: Path | str) -> str:
    """`file:line: Error: message`, in one line, at the innermost line of the user's own file."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or where}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == Path(where)]
    place = f"{own[-1].filename}:{own[-1].lineno}" if own else f"{where}"
    return f"{place}: {type(error).__name__}: {' '.join(str(error).split())}"
