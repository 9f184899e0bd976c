"""Files of pytest-benchmark against each other.

Two files are two jobs: nothing in them says what the machine did in between, and on identical code a quarter to a
half of all benchmarks drift by more than 5 %. So the least tolerance is wide, several files a side narrow it down,
and the same machine is a condition.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.regression.errors import CandidateFailed, GateError, MissingBaseline, OtherDevice
from harness.regression.gate import Finding, Settings
from harness.regression.measure import Pairs
from harness.stats.paired import Comparison, Decision, compare, median_interval

FLOOR = 0.10
"""Least tolerance between jobs."""

_SE_OF_MEDIAN = 1.2533
_IQR_OF_NORMAL = 1.349


@dataclass(frozen=True)
class _Timing:
    """log seconds of a benchmark in one file: the median, and its interval."""

    median: float
    low: float
    high: float


def compare_files(baseline: Path, candidate: Path, settings: Settings) -> tuple[list[Finding], str]:
    """Findings of every benchmark that both sides have, and the device.

    Args:
        baseline: a file, or a folder of files.
        candidate: the same.
        settings: level of the intervals.

    Raises:
        MissingBaseline: the baseline has no benchmark of the candidate's.
        CandidateFailed: a benchmark of the baseline is missing from the candidate.
        OtherDevice: they come from different machines.
    """
    sides = [_files(path) for path in (baseline, candidate)]
    devices = [sorted({_device(data) for data in side}) for side in sides]
    if devices[0] != devices[1] or len(devices[0]) > 1:
        named = [" and ".join(d) for d in devices]
        raise OtherDevice(
            f"the baseline was measured on {named[0]}, the candidate on {named[1]}",
            "measure both on one machine: benchmarks of different machines say nothing about the code",
        )
    first, second = ([_timings(data, settings.level) for data in side] for side in sides)
    known = {name for timings in first for name in timings}
    new = {name for timings in second for name in timings}
    if not known & new:
        raise MissingBaseline("the baseline has none of the candidate's benchmarks")
    if lost := sorted(known - new):
        raise CandidateFailed(
            f"{len(lost)} benchmarks of the baseline are missing from the candidate: {lost[0]}"
        )
    findings = []
    for name in sorted(known):
        a = [timings[name] for timings in first if name in timings]
        b = [timings[name] for timings in second if name in timings]
        findings.append(_compared(name, a, b, settings))
    return findings, devices[0][0]


def _compared(name: str, a: list[_Timing], b: list[_Timing], settings: Settings) -> Finding:
    """One file a side: from the spread of rounds. Several: file by file, the baseline's own drift being the noise."""
    if min(len(a), len(b)) > 1:
        differences = [y.median - x.median for x, y in zip(a, b)]
        drift = [y.median - x.median for x, y in zip(a, a[1:])]
        found = compare(differences, drift, floor=settings.floors["time"], level=settings.level)
        return Finding("time", name, found, None, Pairs(differences, drift))
    before, after = a[0], b[0]
    difference = after.median - before.median
    # Distances from the estimates to their bounds add in squares (MOVER, Zou and Donner 2008).
    low = difference - math.hypot(after.median - after.low, before.high - before.median)
    high = difference + math.hypot(after.high - after.median, before.median - before.low)
    threshold = math.log1p(FLOOR)
    decision: Decision = "worse" if low > threshold else "fine" if high < threshold else "ambiguous"
    comparison = Comparison(
        decision=decision,
        ratio=math.exp(difference),
        low=math.exp(low),
        high=math.exp(high),
        tolerance=FLOOR,
        noise=0.0,
        level=settings.level,
        pairs=1,
    )
    return Finding("time", name, comparison, None, Pairs([difference]), "two jobs: not paired")


def _files(path: Path) -> list[dict[str, Any]]:
    """The files of a side, by name, which pytest-benchmark numbers in order of time."""
    read = []
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        try:
            data = json.loads(file.read_text())
            data["benchmarks"][0]["stats"]["median"]
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            raise GateError(f"{file}: is no file of pytest-benchmark with results: {error!r}") from None
        read.append(data)
    return read


def _device(data: dict[str, Any]) -> str:
    machine = data.get("machine_info") or {}
    cpu = machine.get("cpu") or {}
    name = cpu.get("brand_raw") or cpu.get("brand") or machine.get("processor") or machine.get("machine")
    return (
        f"{name or 'an unknown processor'} × {cpu.get('count', '?')} ({machine.get('node', 'unknown host')})"
    )


def _timings(data: dict[str, Any], level: float) -> dict[str, _Timing]:
    found = {}
    for benchmark in data["benchmarks"]:
        stats = benchmark["stats"]
        if samples := stats.get("data"):
            interval = median_interval(np.log(np.asarray(samples, dtype=np.float64)), level=level)
            timing = _Timing(interval.median, interval.low, interval.high)
        else:
            median, rounds = float(stats["median"]), max(1, int(stats["rounds"]))
            half = 1.96 * _SE_OF_MEDIAN * float(stats["iqr"]) / _IQR_OF_NORMAL / math.sqrt(rounds) / median
            timing = _Timing(math.log(median), math.log(median) - half, math.log(median) + half)
        found[benchmark["fullname"]] = timing
    return found
