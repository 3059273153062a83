"""Whether the sandbox can start here: where it cannot, the tests that need it are skipped and say why."""

from __future__ import annotations

import pytest

from upweight import sandbox
from upweight.errors import UserError


def _missing() -> str:
    try:
        sandbox.require()
    except UserError as error:
        return str(error)
    return ""


MISSING = _missing()
needs_sandbox = pytest.mark.skipif(bool(MISSING), reason=MISSING)
