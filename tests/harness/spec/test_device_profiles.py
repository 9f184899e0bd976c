"""The table of devices: names as drivers and torch give them, published peaks, and what is assumed."""

from __future__ import annotations

import typing

import pytest

from harness.matrix.planning.hardware import Machine, resolve_hardware
from harness.matrix.planning.time_model import assumptions
from harness.spec.device_profiles import PROFILES, ProfileName, profile_of
from harness.spec.hardware import HardwareSpec


@pytest.mark.parametrize(
    ("driver_name", "profile"),
    [
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4080", "rtx4080"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A40", "a40"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_drivers_names(driver_name, profile):
    assert profile_of(driver_name) == profile


@pytest.mark.parametrize(
    "driver_name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",  # 9,728 cores instead of 16,384
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA RTX 6000 Ada Generation",
        "NVIDIA L40",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "Tesla V100-SXM2-16GB",
        "",
        None,
    ],
)
def test_what_only_resembles_a_known_device_is_unknown(driver_name):
    assert profile_of(driver_name) is None


def test_every_profile_can_be_named_in_a_grid_and_states_its_sources():
    assert set(typing.get_args(ProfileName)) == PROFILES.keys()
    for name, profile in PROFILES.items():
        assert HardwareSpec(profile=name).profile == name == profile.name
        assert "assumed" in profile.price_source or "implied" in profile.price_source
        assert (profile.peak_tflops is None) == (profile.peak_source == "")
        assert "20" in profile.price_source or name == "unknown"
    names = [driver for profile in PROFILES.values() for driver in profile.driver_names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("profile", "cores", "clock_ghz", "flops_per_core_and_clock"),
    [
        # Dense bf16 with fp32 accumulation: 2 FLOPs × multiply-adds of a tensor core per clock, by architecture.
        ("rtx3090", 328, 1.695, 128),
        ("a6000", 336, 1.800, 256),
        ("a40", 336, 1.740, 256),
        ("rtx4080", 304, 2.505, 128),
        ("rtx4090", 512, 2.520, 128),
        ("rtx5090", 680, 2.407, 128),
        ("a100-80gb", 432, 1.410, 512),
        ("t4", 320, 1.590, 128),
        ("mi300x", 1216, 2.100, 512),
    ],
)
def test_peaks_follow_from_tensor_cores_and_clocks(profile, cores, clock_ghz, flops_per_core_and_clock):
    peak = cores * clock_ghz * flops_per_core_and_clock / 1000
    assert PROFILES[profile].peak_tflops == pytest.approx(peak, rel=0.01)


def test_an_unknown_gpu_has_no_peak_and_says_what_is_assumed():
    machine = Machine(8, ("0",), "Tesla V100-SXM2-16GB", 15.8)
    hardware = resolve_hardware(HardwareSpec(), machine)
    assert (hardware.spec.profile, hardware.profile.peak_tflops) == ("unknown", None)
    assert hardware.profile.memory_gib == 15.8
    assert hardware.notes == (
        "nothing is known of Tesla V100-SXM2-16GB (hardware.profile: unknown): hours are rough guesses, $1.00 an "
        "hour is assumed (hardware.usd_per_hour), and MFU is not given",
    )
    assert "assumed" in assumptions(hardware, set())[0]
    priced = resolve_hardware(HardwareSpec(usd_per_hour=0.6), machine)
    assert priced.usd_per_hour == 0.6
    assert "assumed" not in priced.notes[0]
