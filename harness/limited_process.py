"""A process of its own, under limits, for code that this one must not be at the mercy of.

It is asked by one JSON line and answers by one. It may end itself, never return, fill the memory or start more
processes: each is told in words, and whatever it started is ended with it, wherever that went.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from harness.processes import die_with_parent, end_marked

MARK_VARIABLE = "HARNESS_TRIAL"
"""Environment variable that every process inherits which was started by a limited one."""

_CHILD = """\
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
module, _, function = sys.argv[2].partition(":")
getattr(importlib.import_module(module), function)(int(sys.argv[3]), int(sys.argv[4]))
"""
_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process may take, together with everything that it starts.

    Attributes:
        memory_gib: resident memory.
        processes: processes at a time.
    """

    memory_gib: float = 4.0
    processes: int = 64

    @classmethod
    def here(cls) -> Limits:
        """The limits on this machine: at most half of the memory that is free."""
        return cls(memory_gib=min(cls.memory_gib, psutil.virtual_memory().available / 2**31))


def serve(requests: int, replies: int, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other side: answers requests until there are no more.

    Args:
        requests: file descriptor to read them from.
        replies: file descriptor to write the answers to.
        answer: makes them.
    """
    die_with_parent(signal.SIGKILL)
    for handle in (requests, replies):
        os.set_inheritable(handle, False)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(requests, "rb") as asked, open(replies, "wb", buffering=0) as answers:
        for line in asked:
            answers.write(json.dumps(answer(json.loads(line))).encode() + b"\n")


class Ended(Exception):
    """The process is over, or has to be; the message says what it did."""


class LimitedProcess:
    """A process in a session of its own.

    Args:
        function: `module:function` that it runs, given two file descriptors: it calls `serve`.
        path: where it looks for modules.
        limits: what it may take.
    """

    def __init__(self, function: str, path: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._mark = uuid.uuid4().hex
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        environment = {**os.environ, MARK_VARIABLE: self._mark, "PYTHONHASHSEED": "0"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, json.dumps(list(path)), function, str(requests), str(replies)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(requests, replies),
                start_new_session=True,
            )
        finally:
            os.close(requests)
            os.close(replies)
        self._buffer = b""

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The reply to a request, which may take so many seconds.

        Raises:
            Ended: there is none. Call `end`.
        """
        end = time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is seen below
            self._send(json.dumps(request).encode() + b"\n", end)
        while b"\n" not in self._buffer:
            if select.select([self._replies], [], [], _POLL_SECONDS)[0]:
                part = os.read(self._replies, 1 << 20)
                if not part:
                    raise Ended(self._how_it_ended())
                self._buffer += part
                continue
            self._check_limits()
            if time.monotonic() > end:
                raise Ended(f"did not return within {seconds:g} s")
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _send(self, data: bytes, end: float) -> None:
        os.set_blocking(self._requests, False)
        while data and time.monotonic() < end:
            if select.select([], [self._requests], [], _POLL_SECONDS)[1]:
                data = data[os.write(self._requests, data) :]
            elif self._process.poll() is not None:
                return

    def _check_limits(self) -> None:
        with contextlib.suppress(psutil.Error):
            family = [(root := psutil.Process(self._process.pid)), *root.children(recursive=True)]
            if len(family) > self._limits.processes:
                raise Ended(f"started more than {self._limits.processes} processes")
            used = 0
            for process in family:
                with contextlib.suppress(psutil.Error):
                    used += process.memory_info().rss
            if used > self._limits.memory_gib * 2**30:
                raise Ended(f"took more than {self._limits.memory_gib:.1f} GiB of memory")

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "closed the files of its process"
        if code < 0:
            return f"ended its process by {signal.Signals(-code).name}"
        return f"ended its process with exit code {code}"

    def end(self) -> None:
        """Kills the process and everything that it started, wherever that went."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        end_marked(MARK_VARIABLE, self._mark)
        self._process.wait()
        for handle in (self._requests, self._replies):
            os.close(handle)
