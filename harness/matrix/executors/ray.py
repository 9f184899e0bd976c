"""Workers as tasks of a Ray cluster: Ray finds the devices, the store owns what is done.

Needs the package `ray`, an output folder that every node sees under the same path, and the same Python there. With
`RAY_ADDRESS`, or where a cluster already runs on this machine, that cluster is used; otherwise one is started here
for the time of the matrix.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Read when ray is imported. Without the first, every start asks the user a question; the second is the coming
# default.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from harness.matrix.executors.base import Handle, Slot
from harness.matrix.executors.remote_worker import KILL, STOP, send_signal, supervise
from harness.matrix.planning.hardware import usable_cores
from harness.spec.errors import SpecError
from harness.store.attempts import STARTED

LOST = -signal.SIGKILL
"""Exit code of a worker whose node or Ray process is gone."""

_KILL_SECONDS = 5.0


class _Task:
    """A submitted worker."""

    def __init__(self, ref: Any, log: Path, group: PlacementGroup | None) -> None:
        self.ref, self.log, self.group = ref, log, group
        self.code: int | None = None


class RayExecutor:
    """Runs workers on a Ray cluster, one task each; several GPUs of a run are one placement group on one node."""

    def __init__(self) -> None:
        self._tasks: dict[Handle, _Task] = {}
        self._own = self._gpu = False

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        connect = functools.partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
        address = os.environ.get("RAY_ADDRESS")
        try:
            connect(address=address or "auto")
        except ConnectionError as error:
            if address:
                raise SpecError(
                    f"--executor ray: no cluster answers at RAY_ADDRESS={address}: {str(error).splitlines()[0]}",
                    hint="start it with `ray start --head`, or unset RAY_ADDRESS",
                ) from None
            connect(address="local", num_cpus=usable_cores(), include_dashboard=False)
        self._own = True

    def slots(self, devices_per_run: int, on_gpu: bool, workers: int | None) -> Sequence[Slot]:
        """As many as the nodes hold now, each run whole on one node.

        Raises:
            SpecError: no node holds a run.
        """
        self._connect()
        self._gpu = on_gpu
        kind = "GPU" if on_gpu else "CPU"
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(int(node.get(kind, 0)) // devices_per_run for node in nodes)
        if not room:
            most = max((int(node.get(kind, 0)) for node in nodes), default=0)
            raise SpecError(
                f"hardware.devices_per_run: {devices_per_run} {kind}s per run, but no node of the Ray cluster "
                f"has more than {most}",
                hint="lower devices_per_run, or add a node",
            )
        return [Slot(i, (), devices_per_run) for i in range(min(workers or room, room))]

    def submit(self, command: Sequence[str], env: Mapping[str, str], slot: Slot, log: Path) -> Handle:
        """Submits a task; it waits in Ray until a node has the devices free."""
        self._connect()
        options, group = self._resources(slot)
        ref = _worker.options(name=f"harness {log.parent.parent.name}", **options).remote(
            list(command), {**_own_path(), **env}, slot, log.absolute(), Path.cwd()
        )
        handle = Handle(ref.task_id().hex())
        self._tasks[handle] = _Task(ref, log, group)
        return handle

    def _resources(self, slot: Slot) -> tuple[dict[str, Any], PlacementGroup | None]:
        """What Ray reserves for a run; several GPUs come as one group on one node."""
        options: dict[str, Any] = {"num_cpus": slot.devices, "num_gpus": slot.devices if self._gpu else 0}
        if not self._gpu and slot.memory_gib is not None:
            wanted = int(slot.memory_gib * 2**30)
            there = max(
                (node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0
            )
            # An estimate that no node holds must not keep the run waiting for ever.
            options["memory"] = wanted if wanted <= there else 0
        if not self._gpu or slot.devices == 1:
            return options, None
        bundle = {"GPU": float(slot.devices), "CPU": float(slot.devices)}
        group = placement_group([bundle], strategy="STRICT_PACK")
        return {**options, "scheduling_strategy": PlacementGroupSchedulingStrategy(group)}, group

    def poll(self, handle: Handle) -> int | None:
        """The exit code; `LOST` where the node or the task's process is gone."""
        task = self._tasks[handle]
        if task.code is None and ray.wait([task.ref], timeout=0)[0]:
            try:
                task.code = ray.get(task.ref)
            except RayError:
                task.code = LOST
            self._release(task)
        return task.code

    def stop(self, handle: Handle) -> None:
        """Asks the worker to save its work and end."""
        send_signal(self._tasks[handle].log, STOP)

    def kill(self, handle: Handle) -> None:
        """Ends the worker; where its node does not answer, its task."""
        task = self._tasks[handle]
        if self.poll(handle) is not None:
            return
        send_signal(task.log, KILL)
        # One that still waits in Ray does not answer.
        end = time.monotonic() + (_KILL_SECONDS if task.log.with_name(STARTED).exists() else 0.0)
        while self.poll(handle) is None and time.monotonic() < end:
            time.sleep(0.05)
        if task.code is None:
            with contextlib.suppress(RayError, ValueError):
                ray.cancel(task.ref, force=True)
            task.code = LOST
            self._release(task)

    def close(self) -> None:
        """Ends what is left, and the cluster if it was started here."""
        for handle in self._tasks:
            self.kill(handle)
        if self._own and ray.is_initialized():
            ray.shutdown()
        self._own = False

    def _release(self, task: _Task) -> None:
        if task.group is not None:
            remove_placement_group(task.group)
            task.group = None


def _own_path() -> dict[str, str]:
    """The scheduler's search path for modules, which a node's own environment need not have."""
    return {"PYTHONPATH": path} if (path := os.environ.get("PYTHONPATH")) else {}


# The store owns what is tried again; and a process that ran one worker is not used for another.
@ray.remote(max_retries=0, max_calls=1)
def _worker(command: list[str], env: dict[str, str], slot: Slot, log: Path, folder: Path) -> int:
    gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
    return supervise(command, env, replace(slot, gpu_ids=gpus), log, folder)
