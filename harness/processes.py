"""Parent-death signals and temporary signal handlers."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(number: signal.Signals) -> None:
    """Asks the kernel to send this signal to the calling process when its parent ends.

    Linux only; elsewhere nothing happens, and whoever needs to end with its parent has to watch `os.getppid()`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


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
