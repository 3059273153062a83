"""Files that are replaced whole or not at all, and JSON that every reader accepts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from upweight.errors import UserError


def replace_file(path: Path, content: bytes) -> None:
    """Writes `content` beside `path` and renames it into place. Raises UserError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise could_not_write(path, error) from error


def could_not_write(path: Path, error: OSError) -> UserError:
    """What a full or read-only disk means to the user."""
    return UserError(f"{path} could not be written ({error.strerror or error}): mend that, then go on with --resume")


def to_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """`value` as JSON proper: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
