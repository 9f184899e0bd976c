"""What may still be spent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.matrix.execution.running import RunningAttempt
from harness.matrix.planning.estimator import Estimator
from harness.store.job import RunJob


@dataclass(frozen=True)
class Budget:
    """Upper bounds.

    Attributes:
        usd: money of the whole folder, earlier calls included.
        hours: wall-clock time of this call.
    """

    usd: float | None = None
    hours: float | None = None


class BudgetGuard:
    """Says what the budget still reaches.

    Args:
        budget: upper bounds.
        estimator: what jobs take, and what was spent.
    """

    def __init__(self, budget: Budget, estimator: Estimator) -> None:
        self._budget = budget
        self._estimator = estimator
        self._began = time.monotonic()

    @property
    def bounded(self) -> bool:
        """Whether there is a bound at all."""
        return self._budget.usd is not None or self._budget.hours is not None

    def affordable_part(self, job: RunJob, active: Sequence[RunningAttempt]) -> RunJob | None:
        """The job, or as many of its cells, the shortest first, as end within the budget; None if none does.

        Args:
            job: to be started now.
            active: what runs already, and is paid for first.
        """
        if not self.bounded:
            return job
        self._estimator.refresh(*(a.job for a in active))
        running = sum(self._estimator.remaining(a.job, step=a.step).usd for a in active)
        for count in range(len(job.steps), 0, -1):
            part = job if count == len(job.steps) else dataclasses.replace(job, steps=job.steps[:count])
            estimate = self._estimator.remaining(part)
            if estimate.seconds > 0 and self._has(estimate.seconds / 3600, running + estimate.usd):
                return part
        return None

    def exhausted(self, seconds: float) -> bool:
        """Whether the budget will be used up within `seconds`, whatever was estimated."""
        return self.bounded and not self._has(seconds / 3600, 0.0)

    def _has(self, hours: float, usd: float) -> bool:
        if (
            self._budget.hours is not None
            and (time.monotonic() - self._began) / 3600 + hours > self._budget.hours
        ):
            return False
        return self._budget.usd is None or self._estimator.spent_usd() + usd <= self._budget.usd
