"""A vLLM core in a process of its own: on devices of its own, and killable without the trainer.

`ProcessCore` is the trainer's side, with the methods of `VllmCore`; the module run as a program is the other side.
They exchange pickled messages over a socket pair; weights go through a file in memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import IO, Any

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.serialization import config as serialization_config

from harness.processes import die_with_parent
from harness.rollout.engine import Completion, Request, Sampling
from harness.rollout.vllm_core import CoreOptions, VllmCore

_CLOSE_SECONDS = 20.0
_OPTIONS = TypeAdapter(CoreOptions)


class EngineProcessDied(RuntimeError):
    """The engine's process ended, or told an exception of its own."""


class ProcessCore:
    """A `VllmCore` in a child process.

    Args:
        options: what the core is built from.
        devices: GPUs that the child sees, by the index that they have in this process; empty for all.
    """

    def __init__(self, options: CoreOptions, devices: Sequence[int] = ()) -> None:
        self._dtype = getattr(torch, options.dtype)
        mine, theirs = socket.socketpair()
        environment = dict(os.environ)
        if devices:
            visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
            named = [visible[i] if len(visible) > i and visible[i] else str(i) for i in devices]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(named)
        # Of a trainer under torchrun: the engine's process group is its own.
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "harness.rollout.vllm_process", str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*command, _OPTIONS.dump_json(options).decode()],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = Connection(mine.detach())
        try:
            self._receive()  # built
        except EngineProcessDied:
            self.close()
            raise

    def _receive(self) -> Any:
        try:
            status, result = self._connection.recv()
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
            raise EngineProcessDied(f"the engine's process ended with {self.process.returncode}") from error
        if status == "error":
            raise EngineProcessDied(result)
        return result

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise EngineProcessDied("the engine's process is gone") from error
        return self._receive()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See `VllmCore.generate`."""
        result: list[Completion] = self._call("generate", list(requests), sampling)
        return result

    def score(self, ids: Sequence[int]) -> list[float]:
        """See `VllmCore.score`."""
        result: list[float] = self._call("score", list(ids))
        return result

    def load_weights(self, weights: Sequence[tuple[str, Tensor]], *, shared: bool = False) -> None:
        """See `VllmCore.load_weights`; the tensors pass through a file in memory, in the engine's dtype, and none
        is shared."""
        # The file is read at once: its checksums would take as long as the copies.
        with _memory_file() as file, serialization_config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
            torch.save([(name, tensor.to("cpu", self._dtype).contiguous()) for name, tensor in weights], file)
            file.flush()
            try:
                self._connection.send(("load_file", ()))
                send_handle(self._connection, file.fileno(), self.process.pid)
            except OSError as error:
                raise EngineProcessDied("the engine's process is gone") from error
            self._receive()

    def sleep(self, level: int) -> None:
        """See `VllmCore.sleep`."""
        self._call("sleep", level)

    def wake_up(self) -> None:
        """See `VllmCore.wake_up`."""
        self._call("wake_up")

    def close(self) -> None:
        """Ends the process: asked first, then killed."""
        with contextlib.suppress(OSError):
            self._connection.close()  # the child reads the end of its input and returns
        try:
            self.process.wait(timeout=_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _memory_file() -> IO[bytes]:
    """A file without a name: whichever process dies, its memory is freed with its last holder."""
    return open(os.memfd_create("weights"), "wb") if sys.platform == "linux" else tempfile.TemporaryFile()


def _serve(connection: Connection, options: CoreOptions) -> None:
    core = VllmCore(options)
    connection.send(("ok", None))
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        if method == "load_file":
            file = recv_handle(connection)
            core.load_weights(torch.load(f"/dev/fd/{file}", mmap=True))
            os.close(file)
            connection.send(("ok", None))
        else:
            connection.send(("ok", getattr(core, method)(*arguments)))


def main(argv: Sequence[str]) -> int:
    """The child: serves calls from the socket with number `argv[0]` until it closes."""
    die_with_parent(signal.SIGKILL)
    connection = Connection(int(argv[0]))
    try:
        _serve(connection, _OPTIONS.validate_json(argv[1]))
    except Exception:
        with contextlib.suppress(OSError):
            connection.send(("error", traceback.format_exc()))
            time.sleep(0.1)  # lets the message out before the end
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # vLLM's threads need no farewell
