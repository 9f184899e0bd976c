"""Which metric names of lm-eval and lighteval are accuracies, and of how many samples."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SAMPLED = re.compile(
    r"^(?P<of>.*?)(?P<kind>pass|maj|avg|cons)(?:@|_at_)(?P<k>\d+|[kn])(?![a-z0-9])(?P<rest>.*)$",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\b([kn])=(\d+)")
_COUNTED = re.compile(r"^[:_](\d+)(?:_samples|n)?$")
_TOKENS = re.compile(r"[^a-z0-9]+")
_FIRST = ("extractive_match", "exact_match", "em", "acc", "accuracy", "prompt_level_strict_acc")
_WORDS = {"acc", "accuracy", "em", "qem", "pem", "pqem", "mc1"}
_PARTS = ("exact_match", "extractive_match", "math_verify")


@dataclass(frozen=True)
class Metric:
    """A metric's name.

    Attributes:
        key: as the file has it, but for lm-eval's `,none`.
        name: without the filter.
        filter: lm-eval's filter; None where there is none.
        k, n: of pass@k and its like out of n samples a question, as far as the name says.
        mean: whether its value is a mean over single samples: pass@1 is, pass@4 and maj@4 are not.
        rank: the lower, the sooner it is a task's accuracy; None: no accuracy as far as the name says.
    """

    key: str
    name: str
    filter: str | None = None
    k: int | None = None
    n: int | None = None
    mean: bool = True
    rank: tuple[int, int] | None = None

    @property
    def samples(self) -> int:
        """Samples a question that its value rests on: n of pass@1, n // k of pass@k, one where it is not said."""
        if self.mean:
            return self.n or 1
        return max(1, (self.n or 1) // (self.k or self.n or 1))


def parse_metric(key: str) -> Metric:
    """The metric of `exact_match,strict-match`, `pass@k:k=1&n=4`, `math_pass@1:4_samples`, `acc_norm`, …"""
    name, _, chosen = key.partition(",")
    filtered = chosen if chosen not in ("", "none") else None
    shown = f"{name},{filtered}" if filtered else name
    found = _SAMPLED.match(name)
    if found and not found["of"].lower().endswith("g-"):  # G-Pass@k is a measure of stability.
        k, n, mean = _sizes(found["kind"].lower(), found["k"], found["rest"])
        if found["kind"].lower() in ("maj", "cons"):
            rank = (7, -(n or 0))
        elif mean:
            rank = (0, -n) if n and n > 1 else (3, 0)
        else:
            rank = (8, k or 0)
        return Metric(shown, name, filtered, k, n, mean, rank)
    return Metric(shown, name, filtered, rank=_rank(name.lower()))


def _sizes(kind: str, digits: str, rest: str) -> tuple[int | None, int | None, bool]:
    """k, n, and whether it is a mean over single samples."""
    sizes = {letter: int(number) for letter, number in _NAMED.findall(rest)}
    if digits.isdigit():
        sizes.setdefault("k", int(digits))
    if counted := _COUNTED.match(rest):
        sizes.setdefault("n", int(counted[1]))
    k, n = sizes.get("k"), sizes.get("n")
    if kind == "pass":
        return k, n, k == 1
    # avg@4 and maj@4 have no k of their own: the number is that of the samples.
    return None, n or k, kind == "avg"


def _rank(name: str) -> tuple[int, int] | None:
    if name in _FIRST:
        return (1, _FIRST.index(name))
    words = set(_TOKENS.split(name))
    if "stderr" in words:
        return None
    if "acc" in words and "norm" in words:
        return (5, 0)
    if any(part in name for part in _PARTS) or words & _WORDS:
        return (4 if words & {"qem", "math"} else 6, 0)
    return None
