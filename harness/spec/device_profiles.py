"""Kinds of devices: what one of each can do at its peak, holds, and is assumed to cost.

Peaks are the published ones for dense products of bf16 (fp16 where a device has no bf16) with fp32 accumulation:
vendors often print twice as much, with sparsity, or for fp16 accumulation. Memory is what torch reports of a whole
device, in GiB, which is a little less than the name says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ProfileName = Literal[
    "a40",
    "a100-40gb",
    "a100-80gb",
    "h100",
    "h100-pcie",
    "h200",
    "b200",
    "l4",
    "l40s",
    "t4",
    "a10",
    "a10g",
    "a6000",
    "rtx3090",
    "rtx4080",
    "rtx4090",
    "rtx5090",
    "mi300x",
    "cpu-core",
    "unknown",
]

ASSUMED_PRICE = "assumed: about what clouds asked on demand in mid-2025"
"""Where a price comes from that no study implies."""


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """One kind of device.

    Attributes:
        name: key in the table.
        usd_per_hour: price of one device for an hour (a CPU core counts as a device).
        price_source: where the price comes from, and of when it is.
        memory_gib: usable memory of one device; None where it is the machine's, or not known.
        peak_tflops: dense bf16 peak of one device, for FLOPs utilisation; None where it must be measured, or is not
            known.
        peak_source: where the peak is published; empty where there is none.
        bandwidth_gb_per_second: published memory bandwidth, 10⁹ bytes a second; None where it is not known.
        driver_names: what the driver and torch call it, in lower case and without the vendor's words.
    """

    name: ProfileName
    usd_per_hour: float
    price_source: str = ASSUMED_PRICE
    memory_gib: float | None
    peak_tflops: float | None
    peak_source: str = ""
    bandwidth_gb_per_second: float | None = None
    driver_names: frozenset[str] = frozenset()


def _gpu(
    name: ProfileName,
    memory_gib: float,
    peak_tflops: float,
    bandwidth_gb_per_second: float,
    usd_per_hour: float,
    peak_source: str,
    *driver_names: str,
    price_source: str = ASSUMED_PRICE,
) -> DeviceProfile:
    return DeviceProfile(
        name=name,
        usd_per_hour=usd_per_hour,
        price_source=price_source,
        memory_gib=memory_gib,
        peak_tflops=peak_tflops,
        peak_source=peak_source,
        bandwidth_gb_per_second=bandwidth_gb_per_second,
        driver_names=frozenset(driver_names),
    )


_OPEN_RS = "implied by Open-RS (2025-03), $42 for 4 devices × 24 h"
_AMPERE, _ADA = (
    "NVIDIA Ampere GA102 whitepaper, appendix A",
    "NVIDIA Ada GPU architecture whitepaper, appendix A",
)
_H100 = "NVIDIA H100 datasheet, half of the figure with sparsity"

PROFILES: dict[str, DeviceProfile] = {
    profile.name: profile
    for profile in (
        _gpu("a40", 44.34, 149.7, 696, 0.4375, "NVIDIA A40 datasheet", "a40", price_source=_OPEN_RS),
        _gpu(
            "a100-40gb",
            39.4,
            312.0,
            1555,
            1.29,
            "NVIDIA A100 datasheet",
            "a100-sxm4-40gb",
            "a100-pcie-40gb",
        ),
        _gpu(
            "a100-80gb",
            79.2,
            312.0,
            2039,
            1.89,
            "NVIDIA A100 datasheet",
            "a100-sxm4-80gb",
            "a100 80gb pcie",
            "a100-pcie-80gb",
            price_source="implied by the cost table of Open-RS (2025-03)",
        ),
        _gpu("h100", 79.1, 989.4, 3350, 2.99, f"{_H100} (SXM)", "h100 80gb hbm3", "h100 sxm5"),
        _gpu("h100-pcie", 79.1, 756.5, 2000, 2.39, f"{_H100} (PCIe)", "h100 pcie"),
        _gpu(
            "h200",
            139.8,
            989.4,
            4800,
            3.79,
            "NVIDIA H200 datasheet, half of the figure with sparsity",
            "h200",
        ),
        _gpu(
            "b200",
            178.4,
            2250.0,
            7700,
            5.99,
            "NVIDIA DGX B200 datasheet, a sixteenth of its sparse 36 PFLOP/s",
            "b200",
        ),
        _gpu("l4", 22.2, 121.0, 300, 0.45, "NVIDIA L4 datasheet, half of the figure with sparsity", "l4"),
        _gpu("l40s", 44.4, 362.05, 864, 0.86, "NVIDIA L40S datasheet", "l40s"),
        _gpu("t4", 14.6, 65.0, 320, 0.35, "NVIDIA T4 datasheet (fp16: it has no bf16)", "t4"),
        _gpu("a10", 22.0, 125.0, 600, 0.75, "NVIDIA A10 datasheet", "a10"),
        _gpu("a10g", 22.0, 70.0, 600, 1.01, "NVIDIA A10G datasheet", "a10g"),
        _gpu("a6000", 47.4, 154.8, 768, 0.49, _AMPERE, "rtx a6000"),
        _gpu("rtx3090", 23.6, 71.0, 936, 0.22, _AMPERE, "rtx 3090"),
        _gpu("rtx4080", 15.7, 97.5, 716.8, 0.25, _ADA, "rtx 4080"),
        _gpu("rtx4090", 23.6, 165.2, 1008, 0.35, _ADA, "rtx 4090"),
        _gpu(
            "rtx5090", 31.4, 209.5, 1792, 0.65, "NVIDIA RTX Blackwell GPU architecture whitepaper", "rtx 5090"
        ),
        _gpu(
            "mi300x",
            191.7,
            1307.4,
            5300,
            2.49,
            "AMD Instinct MI300X datasheet",
            "mi300x",
            "mi300x oam",
            "mi300x vf",
        ),
        DeviceProfile(
            name="cpu-core",
            usd_per_hour=0.05,
            price_source="assumed: about what clouds asked for a vCPU in mid-2025",
            memory_gib=None,
            peak_tflops=None,
        ),
        DeviceProfile(
            name="unknown",
            usd_per_hour=1.0,
            price_source="assumed, since nothing is known of the device: `hardware.usd_per_hour` sets it",
            memory_gib=None,
            peak_tflops=None,
        ),
    )
}
"""The table of devices. `hardware.usd_per_hour` in the grid overrides a price."""

_VENDORS = re.compile(r"\b(?:nvidia|amd|geforce|tesla|instinct)\b")


def profile_of(driver_name: str | None) -> ProfileName | None:
    """The profile of the GPU that the driver or torch calls so; None where there is none.

    The whole name must fit: an RTX 4090 Laptop GPU, an RTX 4080 SUPER or a MIG slice of an A100 is another device
    than the one whose name it contains.
    """
    bare = " ".join(_VENDORS.sub(" ", (driver_name or "").lower()).split())
    return next((profile.name for profile in PROFILES.values() if bare in profile.driver_names), None)
