"""Workers as processes of this machine, each in its own session, ended as a group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.matrix.executors.base import Handle, Slot
from harness.processes import end_marked
from harness.store.attempts import note_start

MARK_VARIABLE = "HARNESS_WORKER"
"""Environment variable that a worker and everything that it starts has, with a value of its own."""
PARENT_VARIABLE = "HARNESS_PARENT_PID"
"""Environment variable that names the process whose death ends a worker."""


class LocalExecutor:
    """Runs workers on this machine."""

    def __init__(self) -> None:
        self._processes: dict[Handle, subprocess.Popen[bytes]] = {}
        self._marks: dict[Handle, str] = {}

    def slots(self, devices_per_run: int, on_gpu: bool, workers: int | None) -> None:
        """Those of this machine."""

    def submit(self, command: Sequence[str], env: Mapping[str, str], slot: Slot, log: Path) -> Handle:
        """Starts `command` in its own session: a Ctrl-C at the terminal reaches the scheduler alone."""
        own = {**os.environ, **env, **slot_environment(slot), PARENT_VARIABLE: str(os.getpid())}
        own[MARK_VARIABLE] = uuid.uuid4().hex
        note_start(log.parent)
        with log.open("ab") as file:
            process = subprocess.Popen(
                list(command),
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        handle = Handle(str(process.pid))
        self._processes[handle], self._marks[handle] = process, own[MARK_VARIABLE]
        return handle

    def poll(self, handle: Handle) -> int | None:
        """The exit code; whatever the worker left running is ended with it."""
        process = self._processes[handle]
        running = process.returncode is None
        code = process.poll()
        if running and code is not None:
            self._kill_all(handle)
        return code

    def stop(self, handle: Handle) -> None:
        """SIGTERM to the worker alone: it stops its helpers itself once its work is saved."""
        self._processes[handle].send_signal(signal.SIGTERM)

    def kill(self, handle: Handle) -> None:
        """SIGKILL to the worker's process group and everything that it started."""
        process = self._processes[handle]
        if process.poll() is None:
            self._kill_all(handle)
            process.wait()

    def _kill_all(self, handle: Handle) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._processes[handle].pid, signal.SIGKILL)
        end_marked(MARK_VARIABLE, self._marks[handle])

    def close(self) -> None:
        """Kills what still runs."""
        for handle in self._processes:
            self.kill(handle)


def slot_environment(slot: Slot) -> dict[str, str]:
    """Devices and threads of a slot, as environment variables."""
    threads = {"OMP_NUM_THREADS": str(slot.devices), "MKL_NUM_THREADS": str(slot.devices)}
    if slot.gpu_ids:
        return {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpu_ids)}
    return {"CUDA_VISIBLE_DEVICES": "", **threads}
