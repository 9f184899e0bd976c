"""Faults on demand, for the tests that kill processes and fill disks at every write boundary.

`HARNESS_FAULT=ACTION:N:LABEL` makes the N-th boundary (from 1) of a process whose label contains LABEL fail, once in
all processes that share the variable: ACTION is `kill` (SIGKILL to the process), `orphan` (SIGKILL to its parent and
to the process), or the name of an error such as `ENOSPC`. `HARNESS_FAULT_ONCE` names the file that says it happened.
`HARNESS_FAULT_LOG` names a file that collects the labels of all boundaries. Without them, a boundary costs nothing.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

_seen = 0


def boundary(operation: str, path: Path) -> None:
    """A moment at which a crash leaves another state on file than the moment before.

    Args:
        operation: `create`, `sync`, `rename`, `renamed`, `append` or `appended`.
        path: what is written.

    Raises:
        OSError: the fault that was asked for.
    """
    fault, log = os.environ.get("HARNESS_FAULT"), os.environ.get("HARNESS_FAULT_LOG")
    if fault is None and log is None:
        return
    label = f"{operation} {path.parent.name}/{path.name}"
    if log is not None:
        with open(log, "a") as file:
            file.write(label + "\n")
    if fault is not None:
        _fail(*fault.split(":", 2), label)


def _fail(action: str, number: str, wanted: str, label: str) -> None:
    global _seen
    if wanted not in label:
        return
    _seen += 1
    if _seen != int(number):
        return
    once = os.environ.get("HARNESS_FAULT_ONCE")
    if once is not None:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
    if action == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
    if action in ("kill", "orphan"):
        os.kill(os.getpid(), signal.SIGKILL)
    code = getattr(errno, action)
    raise OSError(code, os.strerror(code))
