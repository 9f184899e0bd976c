"""Exceptions that end a run's training, or that it handles. Imports no torch, so that a worker can name them cheaply.

`harness.store.errors.Fenced`, which a writer gets after it lost its run, belongs to the store.
"""

from __future__ import annotations


class Interrupted(Exception):
    """The run was asked to stop, and everything trained so far is in a checkpoint."""


class Diverged(RuntimeError):
    """A stability detector with the policy `stop` ended the run. The run has a result and is not retried."""


class RanksFailed(RuntimeError):
    """A process of a run that trains in several processes failed or died."""


class DamagedCheckpoint(RuntimeError):
    """A checkpoint whose files are missing, or are not the ones that were written."""
