"""Comparison of pytest-benchmark files.

Two files come from two jobs, whose measurements were not interleaved: on identical code, a quarter to a half of all
benchmarks differ by more than 5 %. So the least tolerance is wide, each side may give several files, and both must
come from the same machine.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import t as student

from harness.regression.errors import CandidateFailed, GateError, MissingBaseline, OtherDevice
from harness.regression.gate import Finding, Settings
from harness.regression.measure import Pairs
from harness.stats.paired import Comparison, Decision, compare, student_interval
from harness.store.records.form import JsonObject

FLOOR = 0.10
"""Least tolerance, as ratio − 1."""

_SE_OF_MEDIAN = 1.2533
_IQR_OF_NORMAL = 1.349


@dataclass(frozen=True)
class _Timing:
    """Median of a benchmark's log seconds in one file, and its interval with coverage `level`."""

    median: float
    low: float
    high: float
    level: float


def compare_files(baseline: Path, candidate: Path, settings: Settings) -> tuple[list[Finding], str]:
    """Compares every benchmark that both sides have; returns the findings and the device.

    Args:
        baseline: a file, or a folder of files.
        candidate: the same.
        settings: level of the intervals.

    Raises:
        GateError: a file is not from pytest-benchmark, or holds no results.
        MissingBaseline: the two have no benchmark in common.
        CandidateFailed: a benchmark of the baseline is missing from the candidate.
        OtherDevice: the files come from different machines.
    """
    sides = [_files(path, settings.level) for path in (baseline, candidate)]
    devices = [sorted({device for device, _ in side}) for side in sides]
    if devices[0] != devices[1] or len(devices[0]) > 1:
        named = [" and ".join(d) for d in devices]
        raise OtherDevice(
            f"the baseline was measured on {named[0]}, the candidate on {named[1]}",
            "measure both on one machine: benchmarks of different machines say nothing about the code",
        )
    first, second = ([timings for _, timings in side] for side in sides)
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
    """Compares pairs of files, against the baseline's own drift; rounds if there are too few files for that."""
    floor = max(FLOOR, settings.floors["time"])
    differences = [y.median - x.median for x, y in zip(a, b)]
    drift = [y.median - x.median for x, y in zip(a, a[1:])]
    found = compare(differences, drift, floor=floor, level=settings.level)
    if found.level >= settings.level:
        return Finding("time", name, found, None, Pairs(differences, drift))
    difference = float(np.mean([t.median for t in b]) - np.mean([t.median for t in a]))
    # Distances from the estimates to their bounds add in squares (MOVER, Zou and Donner 2008).
    low = difference - math.hypot(_distance(b, "low"), _distance(a, "high"))
    high = difference + math.hypot(_distance(b, "high"), _distance(a, "low"))
    level = min(settings.level, *(t.level for t in (*a, *b)))
    threshold = math.log1p(floor)
    decision: Decision = "worse" if low > threshold else "fine" if high < threshold else "ambiguous"
    note = "two jobs: not paired"
    if level < settings.level:
        decision, note = "ambiguous", f"{note}; too few rounds for {100 * settings.level:.0f} %"
    comparison = Comparison(
        decision=decision,
        ratio=math.exp(difference),
        low=math.exp(low),
        high=math.exp(high),
        tolerance=floor,
        noise=0.0,
        level=level,
        pairs=len(differences),
    )
    return Finding("time", name, comparison, None, Pairs(differences), note)


def _distance(timings: list[_Timing], bound: Literal["low", "high"]) -> float:
    """Distance from the mean of medians to its lower or upper bound."""
    return math.hypot(*(getattr(t, bound) - t.median for t in timings)) / len(timings)


def _files(path: Path, level: float) -> list[tuple[str, dict[str, _Timing]]]:
    """Device and timings of each of a side's files, by name: pytest-benchmark numbers them in order of time."""
    read = []
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        try:
            data = json.loads(file.read_text())
            read.append((_device(data), _timings(data, level)))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise GateError(f"{file}: is no file of pytest-benchmark with results: {error!r}") from None
    return read


def _device(data: JsonObject) -> str:
    machine = data.get("machine_info") or {}
    cpu = machine.get("cpu") or {}
    name = cpu.get("brand_raw") or cpu.get("brand") or machine.get("processor") or machine.get("machine")
    return (
        f"{name or 'an unknown processor'} × {cpu.get('count', '?')} ({machine.get('node', 'unknown host')})"
    )


def _timings(data: JsonObject, level: float) -> dict[str, _Timing]:
    found: dict[str, _Timing] = {}
    for benchmark in data["benchmarks"]:
        name = str(benchmark["fullname"])
        if name in found:
            raise ValueError(f"{name}: given twice")
        found[name] = _timing(name, benchmark["stats"], level)
    if not found:
        raise ValueError("no benchmark")
    return found


def _timing(name: str, stats: JsonObject, level: float) -> _Timing:
    seconds = np.asarray(stats.get("data") or [stats["median"]], dtype=np.float64)
    if not (np.isfinite(seconds) & (seconds > 0)).all():
        raise ValueError(f"{name}: seconds must be > 0 and finite")
    interval = student_interval(np.log(seconds), level=level)
    if stats.get("data"):
        return _Timing(interval.median, interval.low, interval.high, interval.level)
    rounds = max(1, int(stats["rounds"]))
    if rounds == 1:
        return _Timing(interval.median, interval.median, interval.median, 0.0)
    # As for raw rounds: with few of them the quartiles are not usable, and the standard deviation is taken.
    spread, quantile = float(stats["stddev"]), float(student.ppf((1 + level) / 2, rounds - 1))
    if 1 - 0.5 ** (rounds - 1) >= level:
        spread, quantile = _SE_OF_MEDIAN * float(stats["iqr"]) / _IQR_OF_NORMAL, 1.96
    half = quantile * spread / math.sqrt(rounds) / float(seconds[0])
    return _Timing(interval.median, interval.median - half, interval.median + half, level)
