"""The checkpoints of a run as folders: which are there, and which stay. Never imports torch.

A checkpoint is a folder `step-000010`. It appears and disappears in one move, so that it is whole or not there; what
is being made or removed has a name that begins with a dot.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from harness.spec.recipe import Keep
from harness.store.atomic import sync_path

OPTIMIZER_FILE = "optimizer.safetensors"
"""The optimiser's moments, without which a checkpoint can be evaluated but not trained from."""

_NAME = re.compile(r"step-(\d{6,})")


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: where they are; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after `step` steps."""
        return self._folder / _name(step)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)

    def resumable(self) -> list[int]:
        """Steps whose checkpoint holds the optimiser's moments too, ascending."""
        return self._with_moments(self.steps())

    def _with_moments(self, steps: list[int]) -> list[int]:
        folder = str(self._folder)  # of thousands of runs, paths would cost more than the looking
        return [s for s in steps if os.path.exists(os.path.join(folder, _name(s), OPTIMIZER_FILE))]

    def thin(
        self, keep: frozenset[int], whole: frozenset[int], *, latest: int = 2, at: int | None = None
    ) -> None:
        """Removes what need not stay.

        Args:
            keep: steps that keep their weights.
            whole: steps that keep the optimiser's moments too, from which other runs fork.
            latest: of the latest resumable ones as many stay as they are. Two while a run trains, so that a damaged
                one has a predecessor.
            at: the step that training has come to, up to which the latest ones stay as well: it is behind others
                where a level was added between them.
        """
        self.sweep()
        gone, stripped = self._superfluous(keep, whole, latest, at)
        for step in stripped:
            (self.path(step) / OPTIMIZER_FILE).unlink(missing_ok=True)
        for step in gone:
            self.discard(step)

    def _superfluous(
        self, keep: frozenset[int], whole: frozenset[int], latest: int, at: int | None = None
    ) -> tuple[list[int], list[int]]:
        """The steps that `thin` removes, and those of which it removes the moments."""
        steps = self.steps()
        resumable = self._with_moments(steps)
        stays = whole | _last(resumable, latest)
        if at is not None:
            stays |= _last([step for step in resumable if step <= at], latest)
        return (
            [step for step in steps if step not in stays | keep],
            [step for step in resumable if step in keep - stays],
        )

    def tidy(self, policy: Keep, keep: frozenset[int], whole: frozenset[int]) -> None:
        """Removes what `policy` does not keep of a finished run; `keep` and `whole` as in `thin`."""
        keep, latest = _kept(policy, keep)
        self.thin(keep, whole, latest=latest)

    def is_tidy(self, policy: Keep, keep: frozenset[int], whole: frozenset[int]) -> bool:
        """Whether `tidy` has nothing to remove."""
        keep, latest = _kept(policy, keep)
        return not any(self._superfluous(keep, whole, latest))

    def discard(self, step: int) -> None:
        """Removes the checkpoint of `step`, so that the step counts as not trained."""
        self._set_aside(step)
        self.sweep()

    def _set_aside(self, step: int) -> None:
        """Hides a checkpoint in one move: one removed file by file would be seen half there."""
        final = self.path(step)
        final.rename(self._folder / f".{final.name}.gone.{os.getpid()}")
        sync_path(self._folder)

    def sweep(self) -> None:
        """Removes what was set aside, and what a dead process left half written."""
        for stale in sorted(self._folder.glob(".step-*")):
            shutil.rmtree(stale)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _last(steps: list[int], number: int) -> set[int]:
    return set(steps[max(0, len(steps) - number) :])


def _kept(policy: Keep, keep: frozenset[int]) -> tuple[frozenset[int], int]:
    """Of a finished run: the steps whose weights stay, and how many of the latest stay resumable."""
    return frozenset() if policy == "nothing" else keep, 1 if policy == "resumable" else 0
