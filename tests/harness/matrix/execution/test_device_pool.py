"""Runs side by side fit into memory, and runners share a machine's slots."""

from __future__ import annotations

from harness.matrix.execution.device_pool import DevicePool
from harness.matrix.executors.base import Slot


def test_runs_side_by_side_fit_into_memory():
    pool = DevicePool([Slot(i, (), 1) for i in range(3)], memory_gib={(): 10.0})
    first, second = pool.acquire(6.0), pool.acquire(3.0)
    assert (first.memory_gib, second.memory_gib) == (6.0, 3.0)
    assert pool.acquire(2.0) is None
    pool.release(second)
    assert pool.acquire(4.0) is not None


def test_a_run_larger_than_the_machine_has_it_to_itself():
    pool = DevicePool([Slot(i, (), 1) for i in range(2)], memory_gib={(): 10.0})
    large = pool.acquire(20.0)
    assert large is not None
    assert pool.acquire(0.1) is None
    pool.release(large)
    assert pool.acquire(0.1) is not None


def test_slots_of_one_device_share_its_memory():
    pool = DevicePool([Slot(i, (str(i % 2),), 1) for i in range(4)], memory_gib={("0",): 44.0, ("1",): 44.0})
    taken = [pool.acquire(30.0).gpu_ids for _ in range(2)]
    assert taken == [("0",), ("1",)]
    assert pool.acquire(30.0) is None
    assert pool.acquire(10.0) is not None


def test_two_runners_share_the_slots_of_a_machine(tmp_path):
    one, other = (DevicePool([Slot(i, (), 1) for i in range(2)], tmp_path) for _ in range(2))
    first = one.acquire(1.0)
    assert (first.index, other.acquire(1.0).index) == (0, 1)
    assert one.acquire(1.0) is None
    one.release(first)
    assert other.acquire(1.0).index == 0
