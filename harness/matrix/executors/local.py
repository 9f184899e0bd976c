"""Workers as processes of this machine, each in its own session, ended as a group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from harness.matrix.executors.base import Handle, Slot
from harness.store.attempts import note_start

PARENT_VARIABLE = "HARNESS_PARENT_PID"
"""Environment variable that names the process whose death ends a worker."""


class LocalExecutor:
    """Runs workers on this machine."""

    def __init__(self) -> None:
        self._processes: dict[Handle, subprocess.Popen[bytes]] = {}

    def slots(self, devices_per_run: int, on_gpu: bool, workers: int | None) -> None:
        """Those of this machine."""

    def submit(self, command: Sequence[str], env: Mapping[str, str], slot: Slot, log: Path) -> Handle:
        """Starts `command` in its own session: a Ctrl-C at the terminal reaches the scheduler alone."""
        own = {**os.environ, **env, **slot_environment(slot), PARENT_VARIABLE: str(os.getpid())}
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
        self._processes[handle] = process
        return handle

    def poll(self, handle: Handle) -> int | None:
        """The exit code; whatever the worker left running is ended with it."""
        process = self._processes[handle]
        running = process.returncode is None
        code = process.poll()
        if running and code is not None:
            _kill_session(process.pid)
        return code

    def stop(self, handle: Handle) -> None:
        """SIGTERM to the worker alone: it stops its helpers itself once its work is saved."""
        self._processes[handle].send_signal(signal.SIGTERM)

    def kill(self, handle: Handle) -> None:
        """SIGKILL to the worker's process group and session."""
        process = self._processes[handle]
        if process.poll() is None:
            _kill_session(process.pid)
            process.wait()

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


def _kill_session(session: int) -> None:
    """Kills every process of the session: helpers may have made groups of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(process.pid) == session:
                process.kill()
