"""Ending with a parent, stopping on signals, temporary signal handlers."""

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
