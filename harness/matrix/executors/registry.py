"""Executors by name: the one place to add another."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from harness.matrix.executors.base import Executor
from harness.spec.errors import SpecError


@dataclass(frozen=True)
class ExecutorEntry:
    """Where an executor is defined.

    Attributes:
        path: `module:class`; imported when the executor is made.
        package: what it needs beside the product, by import name; None for nothing. It is installed by the extra that
            has the executor's name.
    """

    path: str
    package: str | None = None


EXECUTORS: dict[str, ExecutorEntry] = {
    "local": ExecutorEntry("harness.matrix.executors.local:LocalExecutor"),
    "ray": ExecutorEntry("harness.matrix.executors.ray:RayExecutor", "ray"),
    "slurm": ExecutorEntry("harness.matrix.executors.slurm:SlurmExecutor", "submitit"),
}
"""What `--executor` accepts."""


def make_executor(name: str) -> Executor:
    """The executor of this name.

    Raises:
        SpecError: it is not available.
    """
    entry = EXECUTORS.get(name)
    if entry is None:
        raise SpecError(f"--executor: must be one of {', '.join(EXECUTORS)}, got {name}")
    if entry.package is not None and importlib.util.find_spec(entry.package) is None:
        raise SpecError(
            f"--executor {name}: the package {entry.package} is not installed",
            hint=f"pip install {entry.package}, or use --executor local",
        )
    module, _, attribute = entry.path.partition(":")
    executor: Executor = getattr(importlib.import_module(module), attribute)()
    return executor
