"""What the scheduler asks of whatever runs its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Slot:
    """The devices that one run holds at a time.

    Attributes:
        index: number of the slot.
        gpu_ids: its CUDA devices; empty on a CPU.
        devices: devices, or CPU cores.
        memory_gib: estimated peak of the run that holds the slot, per device on GPUs, of the process on a CPU: for
            executors that reserve memory. None where no run holds it.
        time_limit_seconds: wall-clock limit of the attempt, if the grid sets one (`hardware.run_timeout_hours`). The
            scheduler enforces it too.
        estimated_seconds: what the plan says the run still takes: for executors that must name a time limit.
    """

    index: int
    gpu_ids: tuple[str, ...]
    devices: int
    memory_gib: float | None = None
    time_limit_seconds: float | None = None
    estimated_seconds: float | None = None


@dataclass(frozen=True)
class Handle:
    """A started worker.

    Attributes:
        name: the executor's own name for it: a process id, a task, a job.
    """

    name: str


class Executor(Protocol):
    """Starts workers and watches them. The store, not the executor, knows what is done, retries and times out.

    A worker whose machine is lost has ended: `poll` gives a negative code, and the scheduler tries its run again.
    While a worker waits in an executor's own queue it counts as running; the scheduler renews its lease, and
    kills it where it would stop another.
    """

    def slots(self, devices_per_run: int, on_gpu: bool, workers: int | None) -> Sequence[Slot] | None:
        """The slots to fill; None for those of this machine, which runners on it share among themselves.

        Args:
            devices_per_run: devices (CPU cores) of a run.
            on_gpu: whether runs need CUDA devices.
            workers: `--workers`, if given.
        """

    def submit(self, command: Sequence[str], env: Mapping[str, str], slot: Slot, log: Path) -> Handle:
        """Starts `command` with `env` added to the environment; its output goes to `log`."""

    def poll(self, handle: Handle) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def stop(self, handle: Handle) -> None:
        """Asks the worker to save its work and end."""

    def kill(self, handle: Handle) -> None:
        """Ends the worker and everything it started, now."""

    def close(self) -> None:
        """Ends what is left."""
