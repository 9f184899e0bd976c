"""How durations and dollars are written."""

import importlib
import math
import sys

import pytest

from harness import units
from harness.units import dollars, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0, "0 s"),
        (0.43, "0.43 s"),
        (9.99, "10 s"),
        (59.4, "59 s"),
        (59.6, "60 s"),
        (120, "2 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273600, "76 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0, "$0.00"),
        (0.000312, "$0.00031"),
        (0.0123, "$0.012"),
        (1.27, "$1.27"),
        (1234.5, "$1,234.50"),
    ],
)
def test_dollars(usd, text):
    assert dollars(usd) == text


@pytest.mark.parametrize(("platform", "size"), [("darwin", 1), ("linux", 1024)])
def test_the_systems_unit_of_memory(monkeypatch, platform, size):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", platform)
        assert size == importlib.reload(units).RU_MAXRSS_BYTES
    importlib.reload(units)
