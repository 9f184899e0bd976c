"""Shares of processor time, from counters in files."""

import os
from types import SimpleNamespace

import pytest

from harness.meters import load
from harness.meters.load import LoadMeter

TICK = os.sysconf("SC_CLK_TCK")


class Own:
    """A process whose processor time the test sets."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def cpu_times(self):
        return SimpleNamespace(user=self.seconds, system=0.0, children_user=0.0, children_system=0.0)

    def children(self, recursive):
        return []


def write(proc, *, user=0, idle=0, stolen=0, running=3):
    ticks = [round(v * TICK) for v in (user, 0, 0, idle, 0, 0, 0, stolen)]
    (proc / "stat").write_text(f"cpu  {' '.join(map(str, ticks))} 0 0\ncpu0 1 2 3\n")
    (proc / "loadavg").write_text(f"0.5 0.4 0.3 {running}/150 4242\n")


@pytest.fixture
def own(monkeypatch):
    process = Own(5.0)
    monkeypatch.setattr(load.psutil, "Process", lambda: process)
    return process


def test_what_others_and_the_hypervisor_took(tmp_path, own):
    write(tmp_path, user=100, idle=50, stolen=1)
    meter = LoadMeter(tmp_path)
    own.seconds += 6
    write(tmp_path, user=109, idle=60, stolen=2, running=7)
    found = meter.read()
    # Twenty seconds passed on all processors together: ten idle, one stolen, nine busy, six of them ours.
    assert found.own_share == pytest.approx(6 / 20)
    assert found.competing_share == pytest.approx((9 + 1 - 6) / 20)
    assert found.steal_share == pytest.approx(1 / 20)
    assert found.run_queue == 7


def test_ticks_that_lag_behind_make_no_negative_load(tmp_path, own):
    write(tmp_path, user=10, idle=10)
    meter = LoadMeter(tmp_path)
    own.seconds += 1.5
    write(tmp_path, user=11, idle=10)
    assert meter.read().competing_share == 0
    assert meter.read().own_share == 1


def test_where_the_kernel_has_no_counters_nothing_is_told(tmp_path, own):
    assert LoadMeter(tmp_path / "none").read() is None
    write(tmp_path, user=10)
    meter = LoadMeter(tmp_path)
    assert meter.read() is None, "no tick has passed"
    write(tmp_path, user=11)
    (tmp_path / "loadavg").unlink()
    assert meter.read().run_queue is None
