"""The one exception for wrong input: what, where, and how to mend it. Commands turn it into exit code 2."""

from __future__ import annotations

from pathlib import Path


class SpecError(Exception):
    """Input that a user can mend.

    Args:
        message: what is wrong, with the offending value.
        file: the file it was read from, if any.
        line: 1-based line in that file, if known.
        hint: how to mend it.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        hint = f"\n  {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"
