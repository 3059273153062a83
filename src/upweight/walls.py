"""What bubblewrap is told: which namespaces a program gets, and what of this machine it sees."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=8)
def walls(bwrap: str, disk_mb: int) -> tuple[str, ...]:
    """The command line of bubblewrap up to the descriptor of its filter. Later mounts cover earlier ones."""
    # The user's number is one of its own namespace: outside it is whoever started it, without any capability.
    private = ("--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox")
    obedient = ("--die-with-parent", "--new-session", "--cap-drop", "ALL")
    told = [bwrap, *private, *obedient, "--size", str(disk_mb * 2**20), "--tmpfs", "/tmp"]
    for folder in ("/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            told += ["--symlink", os.readlink(folder), folder]
    for path in _seen():
        told += ["--ro-bind", path, path]
    for packages in _packages():
        told += ["--size", "4096", "--tmpfs", packages, "--remount-ro", packages]
    # What bubblewrap makes could be written to: / and /dev without a limit, and for root the kernel's settings.
    told += ["--proc", "/proc", "--dev", "/dev"]
    for made in ("/proc", "/dev", "/"):
        told += ["--remount-ro", made]
    return (*told, "--chdir", "/tmp")


def interpreter() -> str:
    """The Python that the environment of this one was made from: the sandbox has no environment's packages."""
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    return os.path.realpath(base)


def _libraries() -> tuple[Path, ...]:
    """The folders with the interpreter's own libraries, by each name that the interpreter may call them."""
    prefixes = dict.fromkeys((Path(sys.base_prefix), Path(interpreter()).parent.parent))
    return tuple(prefix / name for prefix in prefixes for name in ("lib", "lib64") if (prefix / name).is_dir())


def _seen() -> tuple[str, ...]:
    """What of this machine the sandbox sees, read-only. Nix keeps every library in a store of its own."""
    system = [Path(path) for path in ("/usr/lib", "/usr/lib32", "/usr/lib64", "/etc/ld.so.cache", "/nix/store")]
    system += [Path(folder) for folder in ("/lib", "/lib32", "/lib64") if not os.path.islink(folder)]
    paths = [str(path) for path in (*system, *_libraries(), Path(interpreter())) if path.exists()]
    return tuple(dict.fromkeys(paths))


def _packages() -> tuple[str, ...]:
    """Folders of installed packages among them: one of those may hold data sets with their tests."""
    names = (f"python{sys.version_info.major}.{sys.version_info.minor}", f"python{sys.version_info.major}")
    kinds = ("site-packages", "dist-packages")
    found = (folder / name / kind for folder in (*_libraries(), Path("/usr/lib")) for name in names for kind in kinds)
    return tuple(dict.fromkeys(str(path) for path in found if path.is_dir()))
