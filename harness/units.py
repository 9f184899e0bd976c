"""How durations and dollars are written, everywhere, and the unit in which the system counts memory."""

from __future__ import annotations

import math
import sys

UNKNOWN = "–"
"""Stands where a quantity is not known."""

RU_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of `ru_maxrss`: bytes on macOS, kibibytes on Linux (getrusage(2))."""


def duration(seconds: float | None) -> str:
    """`3.2 s`, `42 s`, `3 min 20 s`, `5 h 12 min`; a dash where it is None or NaN."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def dollars(usd: float | None) -> str:
    """`$1,234.50`, `$1.27`, and two significant digits below ten cents: `$0.012`; a dash where it is None or NaN."""
    if usd is None or math.isnan(usd):
        return UNKNOWN
    if usd == 0 or abs(usd) >= 0.1:
        return f"${usd:,.2f}"
    return f"${usd:.{1 - math.floor(math.log10(abs(usd)))}f}"
