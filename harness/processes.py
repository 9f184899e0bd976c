"""Ending with a parent, ending what was started, stopping on signals, temporary signal handlers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import psutil

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_POLL_SECONDS = 1.0


class StopFlag:
    """What a signal handler may set: it takes no lock.

    `threading.Event.set` takes one. A second signal that arrives while the handler holds it waits for the first for
    ever, and so does every thread that sets the event later. Signals do come in pairs: a parent of several threads
    that is killed sends its death signal once for each.
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Asks for the stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether the stop was asked for."""
        return self._is_set


def stop_on(numbers: Sequence[signal.Signals]) -> StopFlag:
    """A flag that these signals set from now on.

    Raises:
        ValueError: outside the main thread.
    """
    flag = StopFlag()
    for number in numbers:
        signal.signal(number, lambda *_: flag.set())
    return flag


def die_with_parent(number: signal.Signals) -> None:
    """Sends this signal to the calling process when its parent ends.

    The kernel does it on Linux, also after an `exec`; elsewhere a thread of this process looks once a second.
    """
    parent = os.getppid()
    if not _kernel_tells(number):
        threading.Thread(target=_watch_parent, args=(parent, number), daemon=True).start()
    elif os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), number)


def _kernel_tells(number: signal.Signals) -> bool:
    if sys.platform != "linux":
        return False
    refused = ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    return not refused


def _watch_parent(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), number)


def end_marked(variable: str, mark: str) -> None:
    """Kills every other process whose environment holds this mark, whatever session it went to.

    Processes inherit their environment, so a mark that is given to one is on all that it starts.
    """
    # One that forks and ends while they are listed is in the list no more, and its child not yet: hence a look
    # that finds nothing is followed by another.
    looks, empty = 0, 0
    while empty < 2 and looks < 20:
        left = list(_marked(variable, mark))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        looks, empty = looks + 1, 0 if left else empty + 1


def _marked(variable: str, mark: str) -> Iterator[psutil.Process]:
    """Living processes that carry the mark, without this one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            marked = process.pid != os.getpid() and process.environ().get(variable) == mark
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                yield process


@contextlib.contextmanager
def signal_handlers(
    numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handles these signals by `handler` and restores the earlier handlers afterwards.

    Raises:
        ValueError: outside the main thread.
    """
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
