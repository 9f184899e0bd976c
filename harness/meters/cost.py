"""Money: device-seconds times the price of a device."""

from __future__ import annotations


def cost_usd(seconds: float, *, devices: int, usd_per_hour: float) -> float:
    """Cost of holding `devices` for `seconds`, at `usd_per_hour` each.

    Raises:
        ValueError: a negative duration.
    """
    if seconds < 0:
        raise ValueError(f"`seconds` must be >= 0, got {seconds}")
    return seconds / 3600 * devices * usd_per_hour
