"""The process that compares answers by computer algebra: `python -m harness.rewards.worker SECONDS MEBIBYTES`.

One JSON request a line on standard input, `{"gold": …, "answer": …}` or `{"value": …}`, one JSON reply a line on
standard output.
Imports take seconds, so the process imports once and answers in a fork of itself. A hostile answer may hang or kill
the fork: a timer of processor seconds ends it, and the next fork says `{"ready": true, "pid": …, "timed_out": …}`,
of what became of the last one, within milliseconds. math-verify's own timeouts stay off, since they can be missed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from typing import Any

from harness.rewards import algebra, solutions
from harness.rewards.comparison import same
from harness.rewards.forms import Quantity
from harness.rewards.meanings import meanings
from harness.rewards.reading import read

WARM_UP = (
    ("x+1", "1+x"),
    ("\\sqrt{2}", "1.5"),
    ("x > 2", "(2, 3)"),
    ("y = 2x", "x = y"),
    ("\\ln x", "\\sin x"),
)


def compare(gold: str, answer: str) -> dict[str, bool]:
    """Whether an answer is the reference, and whether both could be read."""
    try:
        return {"correct": same(gold, answer, solutions), "gold_parsable": True, "parsable": True}
    except algebra.Unreadable:
        return {"correct": False, "gold_parsable": readable(gold), "parsable": False}


def readable(text: str) -> bool:
    """Whether all expressions in an answer can be read."""
    try:
        algebra.read_all(read(text))
    except algebra.Unreadable:
        return False
    return True


def value(text: str) -> tuple[float, float] | None:
    """Real and imaginary part of an expression, its symbols at points that their names decide; None for the rest.

    A percentage has two values, 5 and 0.05, hence none, and neither has a quantity with a unit or a second meaning.
    """
    if meanings(text) != (text,):
        return None
    form = read(text)
    return algebra.value(form.text) if isinstance(form, Quantity) and form.unit is None else None


def main(arguments: list[str]) -> None:
    """Has forks answer requests, one after the other, until standard input ends."""
    seconds, mebibytes = float(arguments[0]), int(arguments[1])
    logging.disable(logging.CRITICAL)
    limit_memory(mebibytes)
    for gold, answer in WARM_UP:  # what sympy imports and caches late is no answer's time
        compare(gold, answer)
    timed_out = False
    while True:
        child = os.fork()
        if child == 0:
            serve(seconds, timed_out)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        timed_out = os.waitstatus_to_exitcode(status) == -signal.SIGPROF


def limit_memory(mebibytes: int) -> bool:
    """Limits this process's address space, and has no core written; whether the first limit holds.

    macOS refuses to limit the address space: there the checker works without, and only an answer's processor time is
    bounded.
    """
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    except (ValueError, OSError):
        return False
    return True


def serve(seconds: float, timed_out: bool) -> None:
    """Answers requests until standard input ends, each in at most `seconds` of processor time.

    Args:
        seconds: what an answer may take; SIGPROF ends the process when it takes more.
        timed_out: whether that has ended the process before this one.
    """
    # Printing goes nowhere: replies have a channel of their own.
    replies, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True, "pid": os.getpid(), "timed_out": timed_out}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            reply: dict[str, Any] = (
                {"value": value(request["value"])}
                if "value" in request
                else compare(request["gold"], request["answer"])
            )
        except Exception as error:  # whatever sympy raises on nonsense, recursion and memory errors included
            reply = {"error": type(error).__name__}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
