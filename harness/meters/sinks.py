"""Where step records go besides the store: TensorBoard, trackio, W&B.

A sink only listens. It has no part in a run's identity, and one that fails is dropped with an event.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from harness.store.records import StepFigures
    from harness.store.records.form import JsonObject

NAMES = ("tensorboard", "trackio", "wandb")
"""Sinks that the commands know, by the package that each one needs."""

PROJECT = "grpo-ablation"
"""Name of the project under which trackio and W&B file the runs."""


class SinkMissing(RuntimeError):
    """A sink's package is not installed."""


class Sink(Protocol):
    """Takes the figures of steps."""

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Takes the figures of a step, by slashed name."""

    def close(self) -> None:
        """Writes out what is held back."""


def check_sinks(names: Sequence[str]) -> None:
    """Looks whether the packages are there, without importing them.

    Raises:
        SinkMissing: naming the package and how to install it.
    """
    for name in names:
        if name not in NAMES:
            raise SinkMissing(f"unknown sink {name!r}; there are {', '.join(NAMES)}")
        if importlib.util.find_spec(name) is None:
            raise SinkMissing(f"sink {name!r} needs the package {name}: pip install {name}")


def open_sink(name: str, folder: Path, run: str, config: JsonObject) -> Sink:
    """Opens a sink.

    Args:
        name: one of `NAMES`.
        folder: where a sink that writes files puts them.
        run: the run's name there.
        config: the run's settings, for those that show them.

    Raises:
        SinkMissing: its package is not installed.
    """
    check_sinks([name])
    if name == "tensorboard":
        return _TensorBoard(folder / "tensorboard")
    return _Tracker(name, folder, run, config)


class Sinks:
    """Several sinks that can do a run no harm.

    Args:
        names: which ones.
        folder: where those that write files put them.
        run: the run's name there.
        config: the run's settings.
        failed: told the sink's name and what happened, once per sink that fails; that one is then left out.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        run: str,
        config: JsonObject,
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._failed = failed
        self._open: dict[str, Sink] = {}

        def start(name: str) -> None:
            self._open[name] = open_sink(name, folder, run, config)

        for name in names:
            self._try(name, partial(start, name))

    def write(self, record: StepFigures) -> None:
        """Hands a step record's numbers to every sink."""
        if self._open:
            from harness.store.records.form import (
                to_data,  # here: the record classes take longer than a `--help` may
            )

            figures = numbers(to_data(record))
            for name, sink in list(self._open.items()):
                self._try(name, partial(sink.write, record.step, figures))

    def close(self) -> None:
        """Closes every sink."""
        for name, sink in list(self._open.items()):
            self._try(name, sink.close)

    def _try(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # whatever a foreign service raises: the run must not notice
            self._open.pop(name, None)
            self._failed(name, error)


def numbers(record: JsonObject, prefix: str = "") -> dict[str, float]:
    """The finite numbers of a nested record, with slashes between the names."""
    found: dict[str, float] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= numbers(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    return found


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Tracker:
    """trackio and W&B, which share their interface."""

    def __init__(self, module: str, folder: Path, run: str, config: JsonObject) -> None:
        self._api = importlib.import_module(module)
        where = {"dir": str(folder)} if module == "wandb" else {}
        self._api.init(project=PROJECT, name=run, config=config, **where)

    def write(self, step: int, figures: dict[str, float]) -> None:
        self._api.log(figures, step=step)

    def close(self) -> None:
        self._api.finish()
