"""Rows of the user's data that cannot be used: counted, shown, never dropped in silence."""

from __future__ import annotations

import sys
from typing import Literal

from upweight.errors import UserError

OnBadRow = Literal["error", "skip"]
_SHOWN = 3
_REASON_LENGTH = 200


class BadRow(Exception):
    """Why one row cannot be used; its reader turns this into an entry of `BadRows`."""


class BadRows:
    """Collects bad rows of one source and then raises or reports, as `data.on_bad_row` says.

    `where` names the source; `unit` is what a row number counts in it ("line" of a file, "row" of a table).
    """

    def __init__(self, policy: OnBadRow, where: str, unit: Literal["line", "row"] = "line") -> None:
        self.policy = policy
        self.where = where
        self.unit = unit
        self.rows: list[tuple[int | str, str]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, line: int | str, reason: str) -> None:
        """Records one bad row by its number, or by its id where the number is no longer known."""
        self.rows.append((line, " ".join(reason.split())[:_REASON_LENGTH]))

    def finish(self, total: int) -> int:
        """The number of bad rows among `total`; 0 says nothing.

        Otherwise raises UserError, or under the policy "skip" prints the same facts in one line on stderr.
        """
        if not self.rows:
            return 0
        facts = f"{self.where}: {len(self.rows)} of {total} rows cannot be used: {self._first()}"
        if self.policy == "error":
            raise UserError(f'{facts}. Mend them, or leave them out with data.on_bad_row = "skip"')
        print(f"warning: {facts}; left out", file=sys.stderr)
        return len(self.rows)

    def _first(self) -> str:
        shown = (f"{self.unit} {line}: {why}" if isinstance(line, int) else f"{line}: {why}" for line, why in self.rows)
        listed = "; ".join(text for text, _ in zip(shown, range(_SHOWN), strict=False))
        return f"{listed}; ..." if len(self.rows) > _SHOWN else listed
