"""What `import upweight` hands out."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import upweight
import upweight.plan  # importing a submodule first must not hide the function of its name
import upweight.train
from upweight.train import train as loop

ROOT = Path(__file__).resolve().parents[2]


def test_every_name_is_there_and_none_is_a_module() -> None:
    for name in upweight.__all__:
        assert not isinstance(getattr(upweight, name), ModuleType), name
    assert set(upweight.__all__) <= set(dir(upweight)) | set(upweight._HOME)


def test_functions_win_over_submodules_of_their_name() -> None:
    assert callable(upweight.train)
    assert callable(upweight.plan)
    assert upweight.train is not loop


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(upweight, "no_such_name")


def test_version_is_the_projects() -> None:
    assert upweight.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_import_and_command_line_do_not_load_torch() -> None:
    code = "import sys, upweight, upweight.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
