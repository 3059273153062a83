"""From the name of a reward in the config to the function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from upweight.errors import UserError, nearest
from upweight.rewards import builtin

Function = Callable[..., Any]

BUILTIN: dict[str, Function] = {
    "number": builtin.number,
    "exact": builtin.exact,
    "tags": builtin.tags,
    "pattern": builtin.pattern,
    "countdown": builtin.countdown,
}


def resolve(function: str) -> Function:
    """The function that a config names: one of `BUILTIN`, `module:name`, or `file.py:name`.

    The user's modules are looked for as Python does, and then in the current folder; a file's own folder is added
    to the end of the search path. Raises UserError that names what is missing or what went wrong in the user's file.
    """
    if function in BUILTIN:
        return BUILTIN[function]
    place, separator, name = function.rpartition(":")
    if not separator or not place or not name:
        raise UserError(
            f"unknown reward {function!r}{nearest(function, BUILTIN)}; a function of your own is written file.py:name "
            "or module:name"
        )
    module = _load_file(Path(place).expanduser()) if place.endswith(".py") else _load_module(place)
    found = getattr(module, name, None)
    if found is None:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"reward {function!r}: {place} has no {name!r}{nearest(name, own)}")
    if not callable(found):
        raise UserError(f"reward {function!r} is a {type(found).__name__}, not a function")
    return found


def _load_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise UserError(f"reward file {file} does not exist")
    identity = f"{file.resolve()}:{file.stat().st_mtime_ns}"
    name = f"{file.stem}_{blake2b(identity.encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:  # two rewards of one file share its module, and so whatever it caches
        return sys.modules[name]
    _search_also(file.resolve().parent)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"reward file {file} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file does when it is imported
        del sys.modules[name]
        raise UserError(f"reward file {_at_fault(error, file)}") from error
    return module


def _load_module(name: str) -> ModuleType:
    _search_also(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"reward module {name!r} does not exist (no module named {error.name!r})") from None
        raise UserError(f"reward module {_at_fault(error, name)}") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(f"reward module {_at_fault(error, name)}") from error


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
