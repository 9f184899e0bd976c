"""The process that compares answers by computer algebra: `python -m harness.rewards.worker SECONDS MEBIBYTES`.

One JSON request a line on standard input, `{"gold": …, "answer": …}` or `{"value": …}`, one JSON reply a line on
standard output.
Imports take seconds, so the process imports once and answers in a fork of itself. A hostile answer may hang or kill
the fork: a timer of processor seconds ends it, and the next fork says `{"ready": true, "pid": …, "timed_out": …}`,
of what became of the last one, within milliseconds. math-verify's own timeouts stay off, since they can be missed.
"""

from __future__ import annotations

import cmath
import contextlib
import json
import logging
import os
import re
import resource
import signal
import sys
import zlib
from functools import lru_cache
from typing import Any

from harness.rewards.to_latex import latex_of

_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")


def compare(gold: str, answer: str) -> dict[str, bool]:
    """Reads both sides and compares them, the reference first: math-verify is not symmetric."""
    from math_verify import verify

    reference = parsed(gold)
    if not reference:
        return {"correct": False, "gold_parsable": False, "parsable": False}
    given = parsed(answer)
    correct = (
        bool(given)
        and (
            verify(list(reference), list(given), timeout_seconds=None) or _same_symbol(reference[0], given[0])
        )
        and _holds(answer)
    )
    return {"correct": bool(correct), "gold_parsable": True, "parsable": bool(given)}


def _holds(answer: str) -> bool:
    """Whether the numbers on the left of an answer's equals signs are what stands last: `6 = 5` is no way to say 5.

    math-verify looks at the last side alone, which is right for `x = 5` and `a + b = 5`.
    """
    from math_verify import verify

    *before, last = _EQUALS.split(answer)
    if not before or "," in answer:
        return True
    end = list(parsed(last))
    for side in map(parsed, before):
        number = bool(side) and getattr(side[0], "is_number", False)
        if number and not verify(end, list(side), timeout_seconds=None):
            return False
    return True


def _same_symbol(reference: Any, given: Any) -> bool:
    """Whether an expression simplifies to the reference, a lone symbol: math-verify compares that by its text."""
    from sympy import Expr, Symbol, simplify

    return isinstance(reference, Symbol) and isinstance(given, Expr) and simplify(given - reference) == 0


def value(text: str) -> tuple[float, float] | None:
    """Real and imaginary part of an expression, its symbols at points that their names decide; None for the rest.

    A percentage has two values, 5 and 0.05, hence none.
    """
    from sympy import Expr

    found = parsed(text)
    if not found or not isinstance(found[0], Expr) or "%" in text:
        return None
    point = {symbol: 1 + zlib.crc32(symbol.name.encode()) / 2**32 for symbol in found[0].free_symbols}
    number = complex(found[0].evalf(subs=point))
    return (number.real, number.imag) if cmath.isfinite(number) else None


@lru_cache(maxsize=4096)
def parsed(text: str) -> tuple[Any, ...]:
    """The expression in a text, and the text it was read from; empty where there is none."""
    from math_verify import LatexExtractionConfig, parse

    # The plain-expression reader is not used: it evaluates what it reads.
    return tuple(
        parse(
            f"${latex_of(text)}$",
            extraction_config=[LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    )


def main(arguments: list[str]) -> None:
    """Has forks answer requests, one after the other, until standard input ends."""
    seconds, mebibytes = float(arguments[0]), int(arguments[1])
    logging.disable(logging.CRITICAL)
    limit_memory(mebibytes)
    compare("\\frac{1}{2}", "0.5")
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

    macOS refuses to limit the address space: there the checker works without, and only the processor time of an answer
    is bounded.
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
