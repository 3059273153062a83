"""What every test may rely on: one thread, no network, and shapes and dtypes of the objectives checked at each call."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# Ceilings of the tests' tiny shapes are measured once for all test runs on a machine, and not in the user's cache.
os.environ["UPWEIGHT_CACHE"] = str(Path(tempfile.gettempdir()) / f"upweight-tests-{os.getuid()}")

import hypothesis
import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook("upweight.objectives", "beartype.beartype")
torch.set_num_threads(1)

hypothesis.settings.register_profile("upweight", deadline=None)
hypothesis.settings.load_profile("upweight")


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets that lies beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the data sets of ../shared/data, which is not beside this checkout")
    return path
