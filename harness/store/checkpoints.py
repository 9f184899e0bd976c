"""The checkpoint folders of a run: which are there, and which are pruned. Imports no torch.

A checkpoint is a folder `step-000010`. It appears and disappears in one rename, so it is never seen half written or
half removed. Folders that are being written or removed have names that begin with a dot.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from harness.spec.recipe import Keep
from harness.store.atomic import set_aside, sync_path

OPTIMIZER_FILE = "optimizer.safetensors"
"""The optimiser's state. A checkpoint without it can be evaluated but training cannot resume from it."""

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
        """Steps whose checkpoint also holds the optimiser's state, ascending."""
        return self._with_moments(self.steps())

    def _with_moments(self, steps: list[int]) -> list[int]:
        folder = str(self._folder)  # with thousands of runs, building Path objects would dominate
        return [s for s in steps if os.path.exists(os.path.join(folder, _name(s), OPTIMIZER_FILE))]

    def prune(
        self, keep: frozenset[int], resumable: frozenset[int], *, latest: int = 2, at: int | None = None
    ) -> None:
        """Removes checkpoints, and the optimiser's state of others.

        Args:
            keep: steps whose weights are kept.
            resumable: steps whose optimiser state is kept too, because other runs will fork from them.
            latest: how many of the latest resumable checkpoints are kept whole. Two while a run trains, so that there
                is another one if the last is damaged.
            at: the training step. The latest resumable checkpoints up to it are kept as well: a run that trains a
                step level added between others is behind checkpoints of an earlier attempt.
        """
        self.remove_stale()
        gone, stripped = self._superfluous(keep, resumable, latest, at)
        for step in stripped:
            (self.path(step) / OPTIMIZER_FILE).unlink(missing_ok=True)
        for step in gone:
            self.discard(step)

    def _superfluous(
        self, keep: frozenset[int], resumable: frozenset[int], latest: int, at: int | None = None
    ) -> tuple[list[int], list[int]]:
        """The steps that `prune` removes, and those whose optimiser state it removes."""
        steps = self.steps()
        with_moments = self._with_moments(steps)
        stays = resumable | _last(with_moments, latest)
        if at is not None:
            stays |= _last([step for step in with_moments if step <= at], latest)
        return (
            [step for step in steps if step not in stays | keep],
            [step for step in with_moments if step in keep - stays],
        )

    def prune_finished(self, policy: Keep, keep: frozenset[int], resumable: frozenset[int]) -> None:
        """Removes what `policy` does not keep of a finished run; `keep` and `resumable` as in `prune`."""
        keep, latest = _kept(policy, keep)
        self.prune(keep, resumable, latest=latest)

    def is_pruned(self, policy: Keep, keep: frozenset[int], resumable: frozenset[int]) -> bool:
        """Whether `prune_finished` has nothing to remove."""
        keep, latest = _kept(policy, keep)
        return not any(self._superfluous(keep, resumable, latest))

    def discard(self, step: int) -> None:
        """Removes the checkpoint of `step`, so that the step is trained again."""
        self._hide(step)
        self.remove_stale()

    def keep_damaged(self, step: int) -> None:
        """Takes the checkpoint of `step`, which is damaged, out of the run and keeps it under another name."""
        set_aside(self.path(step))

    def _hide(self, step: int) -> None:
        """Hides a checkpoint in one rename, so that nobody reads it while its files are removed."""
        final = self.path(step)
        final.rename(self._folder / f".{final.name}.gone.{os.getpid()}")
        sync_path(self._folder)

    def remove_stale(self) -> None:
        """Removes checkpoints that were set aside, and those that a dead process left half written."""
        for stale in sorted(self._folder.glob(".step-*")):
            shutil.rmtree(stale)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _last(steps: list[int], number: int) -> set[int]:
    return set(steps[max(0, len(steps) - number) :])


def _kept(policy: Keep, keep: frozenset[int]) -> tuple[frozenset[int], int]:
    """For a finished run: the steps whose weights are kept, and how many of the latest stay resumable."""
    return frozenset() if policy == "nothing" else keep, 1 if policy == "resumable" else 0
