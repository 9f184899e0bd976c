"""The process that compares answers by computer algebra: `python -m harness.rewards.worker SECONDS MEBIBYTES`.

One JSON request a line on standard input, `{"gold": …, "answer": …}`, one JSON reply a line on standard output.
It may hang or die on a hostile answer; its parent kills and replaces it. Should the parent be gone, the alarm ends
it: math-verify's own timeouts stay off, since they can be missed and would take the alarm over.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

from harness.rewards.plain_math import latex_of

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
    """Answers requests until standard input ends."""
    seconds, mebibytes = float(arguments[0]), int(arguments[1])
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compare("\\frac{1}{2}", "0.5")
    # Printing goes nowhere: replies have a channel of their own.
    replies, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds + 1.0)
        try:
            reply: dict[str, Any] = compare(request["gold"], request["answer"])
        except Exception as error:  # whatever sympy raises on nonsense, recursion and memory errors included
            reply = {"error": type(error).__name__}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
