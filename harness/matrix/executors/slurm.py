"""Workers as jobs of a Slurm cluster, through submitit: a job per run, the store owns what is done.

Needs the package `submitit`, Slurm's commands on this machine, and an output folder that every node sees under the
same path. Partition, account and the like are Slurm's own variables: `SBATCH_PARTITION`, `SBATCH_ACCOUNT`,
`SBATCH_QOS`, … The job's script, its pickled call and Slurm's own output lie in `slurm/` in the attempt's folder.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from harness.matrix.executors.base import Handle, Slot
from harness.matrix.executors.remote_worker import KILL, STOP, send_signal, supervise
from harness.spec.errors import SpecError

LOST = -signal.SIGKILL
"""Exit code of a worker whose job ended without saying how."""

JOBS = 64
"""Jobs in Slurm's queue at a time, unless `--workers` says otherwise."""

CLUSTER_VARIABLE = "HARNESS_SLURM_CLUSTER"
"""Environment variable: `local` runs the jobs as processes of this machine, to try a grid without Slurm."""

_LEAST_MINUTES = 30
_MARGIN = 3.0
_WARNING_SECONDS = 120
_KILL_SECONDS = 5.0


class SlurmExecutor:
    """Runs workers as Slurm jobs.

    Raises:
        SpecError: Slurm's commands are not there.
    """

    def __init__(self) -> None:
        self._jobs: dict[Handle, tuple[submitit.Job[int], Path]] = {}
        self._codes: dict[Handle, int] = {}
        self._cluster = os.environ.get(CLUSTER_VARIABLE, "slurm")
        self._gpu = False
        logging.getLogger("submitit").setLevel(logging.ERROR)
        if self._cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
            raise SpecError(
                "--executor slurm: `srun` is not on this machine's PATH",
                hint="run this on a login node of the cluster, or use --executor local",
            )

    def slots(self, devices_per_run: int, on_gpu: bool, workers: int | None) -> Sequence[Slot]:
        """As many as may wait in Slurm's queue: Slurm itself knows what is free."""
        self._gpu = on_gpu
        return [Slot(i, (), devices_per_run) for i in range(workers or JOBS)]

    def submit(self, command: Sequence[str], env: Mapping[str, str], slot: Slot, log: Path) -> Handle:
        """Submits a job.

        Raises:
            SpecError: Slurm refuses it.
        """
        log = log.absolute()
        executor = submitit.AutoExecutor(folder=log.parent / "slurm", cluster=self._cluster)
        executor.update_parameters(**self.parameters(slot, log))
        try:
            job = executor.submit(_worker, list(command), dict(env), slot, log, Path.cwd())
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            words = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise SpecError(
                f"--executor slurm: Slurm refuses the job: {words[-1] if words else error}",
                hint="set SBATCH_PARTITION, SBATCH_ACCOUNT, … as your cluster asks for",
            ) from None
        handle = Handle(job.job_id)
        self._jobs[handle] = job, log
        return handle

    def parameters(self, slot: Slot, log: Path) -> dict[str, str | int]:
        """What Slurm is asked for: devices, memory and a time limit, in submitit's words."""
        minutes = minutes_of(slot)
        wanted: dict[str, str | int] = {
            "name": f"harness-{log.parent.parent.name}",
            "nodes": 1,
            "tasks_per_node": 1,
            "cpus_per_task": slot.devices,
            "timeout_min": minutes,
        }
        if self._gpu:
            wanted["gpus_per_node"] = slot.devices
        elif slot.memory_gib is not None:
            wanted["mem_gb"] = math.ceil(slot.memory_gib * 1.25 + 1)
        if self._cluster == "slurm":
            wanted["slurm_signal_delay_s"] = _WARNING_SECONDS
            wanted["slurm_stderr_to_stdout"] = True
        return wanted

    def poll(self, handle: Handle) -> int | None:
        """The exit code; `LOST` where the job ended without one: cancelled, preempted, or its node failed."""
        if handle not in self._codes:
            job, _ = self._jobs[handle]
            if not job.done():
                return None
            try:
                self._codes[handle] = job.result()
            except (FailedJobError, UncompletedJobError):
                self._codes[handle] = LOST
        return self._codes[handle]

    def stop(self, handle: Handle) -> None:
        """Asks the worker to save its work and end; one that still waits ends as soon as it starts."""
        send_signal(self._jobs[handle][1], STOP)

    def kill(self, handle: Handle) -> None:
        """Ends the worker, and takes its job out of the queue."""
        if self.poll(handle) is not None:
            return
        job, log = self._jobs[handle]
        send_signal(log, KILL)
        end = time.monotonic() + _KILL_SECONDS
        while job.state == "RUNNING" and self.poll(handle) is None and time.monotonic() < end:
            time.sleep(0.1)
        if handle not in self._codes:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                job.cancel(check=False)
            self._codes[handle] = LOST

    def close(self) -> None:
        """Ends what is left."""
        for handle in self._jobs:
            self.kill(handle)


def minutes_of(slot: Slot) -> int:
    """The time limit: the grid's, or three times the plan's estimate, at least half an hour.

    Slurm starts short jobs sooner and ends long ones without mercy; a run that is cut goes on from its checkpoint.
    """
    if slot.time_limit_seconds is not None:
        return math.ceil((slot.time_limit_seconds + _WARNING_SECONDS) / 60)
    if slot.estimated_seconds is None:
        return 24 * 60
    return max(_LEAST_MINUTES, math.ceil(_MARGIN * slot.estimated_seconds / 60))


def _worker(command: list[str], env: dict[str, str], slot: Slot, log: Path, folder: Path) -> int:
    # Slurm hands the job its GPUs by this variable; the worker's own setting of it must keep them.
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = tuple(part for part in given.split(",") if part) if "SLURM_JOB_ID" in os.environ else ()
    own = Slot(slot.index, gpus, slot.devices)
    return supervise(command, env, own, log, folder)
