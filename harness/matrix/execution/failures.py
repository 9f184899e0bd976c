"""What the failures of a matrix have in common: which run is tried again, and when the matrix is stopped."""

from __future__ import annotations

from collections import Counter

from harness.store.records import AttemptError

SAME_FAILURES = 3
"""Runs that end with the same failure after which the matrix is stopped."""


class FailureLog:
    """The failures of one call of the scheduler.

    Attributes:
        halted: why the matrix is to stop; empty while it is not.
    """

    def __init__(self) -> None:
        self.halted = ""
        self._count: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        self._given_up: dict[str, set[str]] = {}

    def attempts(self, run_id: str) -> int:
        """How often a run has failed."""
        return self._count[run_id]

    def try_again(self, run_id: str, error: AttemptError, *, retries: int) -> bool:
        """Takes in a failure; whether its run is to be tried again.

        A run is given up for now after its retries, and before them where the failure would come again: a mistake of
        the user's or of the code, the same failure as in the attempt before, or one for which another run was given
        up.

        Args:
            run_id: the run.
            error: of the attempt's end: `final` if it would come again, `kind` equal for equal failures.
            retries: further attempts of a run that failed.
        """
        kind = error.kind
        again = kind is not None and (self._last.get(run_id) == kind or kind in self._given_up)
        self._count[run_id] += 1
        if kind is not None:
            self._last[run_id] = kind
        if not (error.final or again or self._count[run_id] > retries):
            return True
        if kind is not None:
            alike = self._given_up.setdefault(kind, set())
            alike.add(run_id)
            if len(alike) >= SAME_FAILURES and not self.halted:
                self.halted = (
                    f"{len(alike)} runs failed alike, so the others are not started: mend it, and the same command "
                    "continues"
                )
        return False
