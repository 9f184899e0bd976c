"""Answer checking that hostile completions can neither hang nor kill.

Plain numbers, identical text and words are judged at once. Everything else goes to math-verify in worker processes
with bounded time and memory, which start only when such an answer appears.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.rewards.boxed import final_answer
from harness.rewards.comparison import decide
from harness.rewards.exact import as_words, plain_number
from harness.rewards.types import Check
from harness.rewards.unevaluated import is_unevaluated

__all__ = ["AnswerChecker", "Check"]

MAX_ANSWER_CHARACTERS = 1000
"""Longer final answers are incorrect, unless they equal the reference word for word."""
STARTUP_SECONDS = 120.0
"""How long a worker may take to import the algebra system, on a busy machine too."""
STALL = 10
"""A worker that has not answered after so many times its limit, in wall time, is taken for dead."""
CRASHED = "crashed the checker"
"""The reason that may lie outside the answer, such as the kernel's hunt for memory: it is not remembered."""
MEMO_SIZE = 100_000


class AnswerChecker:
    """Checks final answers against references; a context manager that ends its worker processes.

    Args:
        timeout_seconds: processor time that one answer may take in a worker: a busy machine changes no verdict.
        workers: worker processes at most.
        memory_mib: address space of a worker, in MiB.

    Raises:
        ValueError: an argument is not > 0.
    """

    def __init__(self, *, timeout_seconds: float = 2.5, workers: int = 1, memory_mib: int = 1024) -> None:
        for name, value in (
            ("timeout_seconds", timeout_seconds),
            ("workers", workers),
            ("memory_mib", memory_mib),
        ):
            if value <= 0:
                raise ValueError(f"`{name}` must be > 0, got {value}")
        self.workers = tuple(Worker(timeout_seconds, memory_mib) for _ in range(workers))
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self._idle.put(worker)
        self._memo: OrderedDict[tuple[str, str], Check] = OrderedDict()

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; a later check starts them anew."""
        for worker in self.workers:
            worker.stop()

    def forget(self) -> None:
        """Forgets the answers judged so far: the next check of each is computed again."""
        self._memo.clear()

    def check(self, text: str, gold: str, question: str = "") -> Check:
        """Checks the final answer of a completion against the reference answer."""
        return self.check_many([(text, gold)], [question])[0]

    def check_many(
        self, pairs: Sequence[tuple[str, str]], questions: Sequence[str] | None = None
    ) -> list[Check]:
        """Checks (completion, reference) pairs; equal answers to equal references are compared once.

        Args:
            pairs: completions and references.
            questions: of each pair; an answer that leaves to be done what its question asks for is wrong then.
        """
        answers = [(gold, final_answer(text)) for text, gold in pairs]
        keys = [None if answer is None else (gold, answer) for gold, answer in answers]
        results = self._results([key for key in keys if key is not None])
        return [
            Check(False, None, False, "no box") if key is None else _done(results[key], question, key[0])
            for key, question in zip(keys, questions or [""] * len(keys), strict=True)
        ]

    def same_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether two final answers (reference, other) are the same, by the rules of `check_many`."""
        results = self._results(pairs)
        return [results[pair].correct for pair in pairs]

    def values(self, answers: Sequence[str]) -> list[complex | None]:
        """The value of each answer that is an expression, at a fixed point of its symbols; None for the rest.

        Answers whose values lie far apart are not the same, which spares their comparison.
        """
        return [self._value(answer) for answer in answers]

    def _value(self, answer: str) -> complex | None:
        if as_words(answer) is not None:
            return None
        number = plain_number(answer)
        if number is not None:
            return complex(number)
        value = self.ask({"value": answer}).get("value")
        return None if value is None else complex(*value)

    def _results(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Check]:
        """The check of every (reference, answer)."""
        pending: dict[tuple[str, str], None] = {}
        results: dict[tuple[str, str], Check] = {}
        for key in keys:
            if key in results or key in pending:
                continue
            if (known := self._memo.get(key)) is not None or (known := _judged(*key)) is not None:
                results[key] = known
            else:
                pending[key] = None
        results.update(zip(pending, self._compare_all(list(pending)), strict=True))
        for key, check in results.items():
            if check.reason == CRASHED:
                continue
            self._memo[key] = check
            self._memo.move_to_end(key)
        while len(self._memo) > MEMO_SIZE:
            self._memo.popitem(last=False)
        return results

    def _compare_all(self, keys: list[tuple[str, str]]) -> list[Check]:
        if len(keys) < 2 or len(self.workers) == 1:
            return [self._compare(key) for key in keys]
        with ThreadPoolExecutor(len(self.workers)) as pool:
            return list(pool.map(self._compare, keys))

    def ask(self, request: dict[str, str]) -> dict[str, Any]:
        """An idle worker's reply, asked a second time where the first crashed it."""
        worker = self._idle.get()
        try:
            reply = worker.ask(request)
            return worker.ask(request) if reply.get("failure") == CRASHED else reply
        finally:
            self._idle.put(worker)

    def _compare(self, key: tuple[str, str]) -> Check:
        gold, answer = key
        reply = self.ask({"gold": gold, "answer": answer})
        if (failure := reply.get("failure")) is not None:
            return Check(False, answer, False, failure)
        if "error" in reply:
            return Check(False, answer, False, "unparsable answer")
        if not reply["gold_parsable"]:
            return Check(False, answer, False, "unparsable reference")
        if not reply["parsable"]:
            return Check(False, answer, False, "unparsable answer")
        return Check(reply["correct"], answer, True, "" if reply["correct"] else "wrong")


def _done(check: Check, question: str, gold: str) -> Check:
    if (
        check.correct
        and question
        and check.answer is not None
        and is_unevaluated(question, gold, check.answer)
    ):
        return Check(False, check.answer, True, "left undone")
    return check


def _judged(gold: str, answer: str) -> Check | None:
    """The verdict where it takes no computer algebra."""
    if len(answer) > MAX_ANSWER_CHARACTERS:
        same = answer == gold.strip()
        return Check(same, answer, same, "" if same else "too long")
    if not gold.strip() or len(gold) > MAX_ANSWER_CHARACTERS:
        return Check(False, answer, False, "unparsable reference")
    if not answer:
        return Check(False, answer, False, "unparsable answer")
    verdict = decide(gold, answer)
    return None if verdict is None else Check(verdict, answer, True, "" if verdict else "wrong")


class Worker:
    """A worker process, started when first asked. It answers in a fork of itself, which ends when it hangs.

    Attributes:
        process: the process that has imported the algebra system; None until the first question.
        fork_pid: process id of the fork that answers; None while there is none.
    """

    def __init__(self, timeout_seconds: float, memory_mib: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._memory_mib = memory_mib
        self.process: subprocess.Popen[bytes] | None = None
        self.fork_pid: int | None = None
        self._buffer = b""

    def ask(self, request: dict[str, str]) -> dict[str, Any]:
        """The worker's reply, or `{"failure": reason}` where it hung or died.

        Raises:
            RuntimeError: workers cannot be started at all.
        """
        if not (self._prepared() or self._prepared()) or self.process is None or self.process.stdin is None:
            raise RuntimeError(
                "the answer checker's worker process does not start; is math-verify installed?"
            )
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line(STALL * self._timeout_seconds)
        except BrokenPipeError:
            line = None
        reply: dict[str, Any] | None = None if line is None else json.loads(line)
        if reply is not None and "ready" not in reply:
            return reply
        if reply is not None:  # the fork died, this is the next one
            self.fork_pid = reply["pid"]
            return {"failure": "timed out" if reply["timed_out"] else CRASHED}
        if self.process.poll() is not None:
            self.stop()
            return {"failure": CRASHED}
        assert self.fork_pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.fork_pid, signal.SIGKILL)
        self.fork_pid = None
        return {"failure": CRASHED}

    def _prepared(self) -> bool:
        """Sees to a process whose fork waits for a request; whether there is one."""
        self._start()
        while self.fork_pid is None:
            line = self._line(STARTUP_SECONDS)
            if line is None:
                self.stop()
                return False
            self.fork_pid = json.loads(line).get("pid")  # a reply that came too late has none
        return True

    def _start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        self.stop()
        root = str(Path(__file__).parents[2])
        inherited = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "harness.rewards.worker",
                str(self._timeout_seconds),
                str(self._memory_mib),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def _line(self, seconds: float) -> bytes | None:
        """The next line of output, None where time runs out or the process ends first."""
        assert self.process is not None
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                block = os.read(descriptor, 65536)
                if not block:
                    self.process.wait()
                    return None
                self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def stop(self) -> None:
        """Kills the process and its fork, if there is one."""
        if self.process is not None:
            self.process.kill()
            if self.fork_pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.fork_pid, signal.SIGKILL)
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
            self.process.wait()
        self.process, self.fork_pid, self._buffer = None, None, b""
