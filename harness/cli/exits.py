"""How commands end: exit codes, and errors in one or two lines."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from harness.safe_text import redacted, visible
from harness.spec.errors import SpecError
from harness.store.errors import Damaged, StoreError

DONE, FAILED, WRONG_INPUT, AMBIGUOUS, BROKEN = 0, 1, 2, 3, 4
"""Done; finished with failed runs or a regression; the input is wrong; ambiguous; the harness itself failed."""

INTERRUPTED = 130
"""Stopped by Ctrl-C, as shells expect it."""


def guarded(work: Callable[[], int], log: Path | None = None) -> int:
    """Runs a command's work; errors become a short message on stderr and the contract's exit code.

    Args:
        work: returns the exit code.
        log: where the traceback of an unforeseen failure goes, if its folder exists; else a temporary file.
    """
    # Imported on the way (by reasoning-gym too), it warns in lines of its own where HOME cannot be written.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        return work()
    except (SpecError, StoreError) as error:
        print(f"error: {visible(redacted(str(error)))}", file=sys.stderr)
        if isinstance(error, Damaged) and "\n" not in str(error):
            print(f"  {error.MENDS}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        first = visible(redacted((str(error).strip() or repr(error)).splitlines()[0]))
        where = _written(redacted(traceback.format_exc()), log)
        print(f"error: the harness failed: {type(error).__name__}: {first}\n  see {where}", file=sys.stderr)
        return BROKEN


def _written(text: str, log: Path | None) -> Path:
    try:
        if log is not None and log.parent.is_dir():
            log.write_text(text)
            return log
    except OSError:  # a full disk may be the very failure
        pass
    with tempfile.NamedTemporaryFile("w", prefix="harness-", suffix=".log", delete=False) as file:
        file.write(text)
    return Path(file.name)


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """An argparse type: a number above zero."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be > 0, got {text}")
        return value

    parse.__name__ = "number"
    return parse
