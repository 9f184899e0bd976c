"""What runs on the machine that a cluster chose: the worker as a child, on the terms of the local executor.

The scheduler and this process share the output folder and nothing else. Orders to a worker are therefore a file
beside its log: they arrive whatever the cluster's own way of signalling, and whatever machine the worker is on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from harness.matrix.executors.base import Slot
from harness.matrix.executors.local import LocalExecutor
from harness.processes import signal_handlers

STOP, KILL = "stop", "kill"
"""Orders: save the work and end; end now."""

_POLL_SECONDS = 0.1


def order_file(log: Path) -> Path:
    """Where orders to the worker with this log are put."""
    return log.with_name(log.name + ".order")


def send_signal(log: Path, order: str) -> None:
    """Puts an order in the worker's way; a worker that has ended no longer reads it."""
    with contextlib.suppress(FileNotFoundError):  # the attempt's folder was removed by hand
        order_file(log).write_text(order)


def supervise(command: Sequence[str], env: Mapping[str, str], slot: Slot, log: Path, folder: Path) -> int:
    """Runs a worker to its end in this process's place on the cluster; returns its exit code.

    Args:
        command: the worker's command.
        env: added to the environment.
        slot: with the devices that the cluster gave.
        log: where its output goes; absolute.
        folder: working directory, the scheduler's.
    """
    os.chdir(folder)
    orders = order_file(log)
    executor = LocalExecutor()
    given: list[str] = []
    with _warnings_of_the_cluster(given):
        handle = executor.submit(command, env, slot, log)
        try:
            delivered = ""
            while (code := executor.poll(handle)) is None:
                with contextlib.suppress(FileNotFoundError):
                    given.append(orders.read_text())
                order = KILL if KILL in given else STOP if given else ""
                if order != delivered:
                    (executor.kill if order == KILL else executor.stop)(handle)
                    delivered = order
                given.clear()
                time.sleep(_POLL_SECONDS)
        finally:
            executor.close()
            orders.unlink(missing_ok=True)
    return code


@contextlib.contextmanager
def _warnings_of_the_cluster(given: list[str]) -> Iterator[None]:
    """A cluster that is about to end this process says so by a signal: the worker then saves its work."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        given.append(STOP)

    with signal_handlers((signal.SIGTERM, signal.SIGUSR2), stop):
        yield
