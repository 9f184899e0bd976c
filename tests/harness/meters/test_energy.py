"""Energy counters read from files and from a driver that only looks like one."""

import sys
from types import ModuleType

import pytest

from harness.meters.energy import EnergyMeter, visible_gpus


def domain(root, name, package, microjoules, range_=1000):
    folder = root / name
    folder.mkdir()
    (folder / "name").write_text(f"{package}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_}\n")
    return folder / "energy_uj"


def test_sockets_are_summed_parts_of_them_are_not_and_a_counter_may_wrap(tmp_path):
    first = domain(tmp_path, "intel-rapl:0", "package-0", 100)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 990)
    domain(tmp_path, "intel-rapl:0:0", "core", 5)
    domain(tmp_path, "intel-rapl:2", "psys", 5)
    meter = EnergyMeter(rapl=tmp_path)
    first.write_text("400\n")
    second.write_text("40\n")  # wrapped at 1000
    assert meter.read() == {"gpu_joules": None, "cpu_joules": pytest.approx((300 + 50) / 1e6)}
    meter.reset()
    assert meter.read()["cpu_joules"] == 0


def test_without_a_counter_the_figure_is_blank(tmp_path):
    assert EnergyMeter(rapl=tmp_path / "none").read() == {"gpu_joules": None, "cpu_joules": None}
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 100)
    meter = EnergyMeter(rapl=tmp_path)
    counter.unlink()
    assert meter.read()["cpu_joules"] is None


class Driver(ModuleType):
    class NVMLError(Exception):
        pass

    def __init__(self, millijoules):
        super().__init__("pynvml")
        self.millijoules = millijoules

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return {"GPU-b": 1}[uuid]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if self.millijoules[handle] is None:
            raise self.NVMLError
        return self.millijoules[handle]


def test_gpus_are_summed_in_joules(monkeypatch, tmp_path):
    driver = Driver({0: 5_000, 1: 70_000, 2: 9})
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    meter = EnergyMeter(("0", "GPU-b"), tmp_path)
    driver.millijoules |= {0: 6_500, 1: 70_250, 2: 99_999}
    assert meter.read()["gpu_joules"] == pytest.approx(1.75)


def test_a_device_without_a_counter_leaves_the_figure_blank(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", Driver({0: 1, 1: None}))
    assert EnergyMeter(("0", "GPU-b"), tmp_path).read()["gpu_joules"] is None


def test_devices_by_the_names_that_this_process_sees(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-b,5")
    assert visible_gpus(2) == ("2", "GPU-b")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus(2) == ("0", "1")
