"""Devices, their prices and their peaks: what the plan and the cost table reckon with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.recipe import RolloutSpec
from harness.spec.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """One kind of device.

    Attributes:
        name: key in the price table.
        usd_per_hour: price of one device for an hour (a CPU core counts as a device).
        memory_gib: usable memory of one device; None where it is the machine's.
        peak_tflops: dense bf16 peak of one device, for FLOPs utilisation; None where it must be measured.
        price_source: where the price comes from.
    """

    name: str
    usd_per_hour: float
    memory_gib: float | None
    peak_tflops: float | None
    price_source: str


PROFILES = {
    profile.name: profile
    for profile in (
        DeviceProfile(
            name="a40",
            usd_per_hour=0.4375,
            memory_gib=44.34,
            peak_tflops=149.7,
            price_source="implied by Open-RS, $42 for 4 devices × 24 h",
        ),
        DeviceProfile(
            name="a100-80gb",
            usd_per_hour=1.89,
            memory_gib=79.2,
            peak_tflops=312.0,
            price_source="implied by the cost table of Open-RS",
        ),
        DeviceProfile(
            name="h100",
            usd_per_hour=2.99,
            memory_gib=79.1,
            peak_tflops=989.4,
            price_source="assumed list price",
        ),
        DeviceProfile(
            name="l4",
            usd_per_hour=0.71,
            memory_gib=22.2,
            peak_tflops=121.0,
            price_source="assumed list price",
        ),
        DeviceProfile(
            name="rtx4090",
            usd_per_hour=0.35,
            memory_gib=23.6,
            peak_tflops=165.2,
            price_source="assumed list price",
        ),
        DeviceProfile(
            name="cpu-core",
            usd_per_hour=0.05,
            memory_gib=None,
            peak_tflops=None,
            price_source="assumed list price of a cloud vCPU",
        ),
    )
}
"""The price table. `hardware.usd_per_hour` in the grid overrides a price."""


class HardwareSpec(Section):
    """Where runs execute, and at which price."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA devices where there are any."""
    profile: Literal["auto", "a40", "a100-80gb", "h100", "l4", "rtx4090", "cpu-core"] = "auto"
    """Row of the price table; `auto` is `cpu-core` on a CPU and the row that fits the driver's name of a GPU, `a40`
    with a note where none does."""
    devices_per_run: PositiveInt = 1
    """CUDA devices per run; on a CPU, cores (threads) per run."""
    training_devices: PositiveInt | None = None
    """Processes that train together, data-parallel, on the first so many devices; null for all devices that no
    engine of its own has (on a CPU: one). Three beside `rollout.vllm: {placement: own, devices: [3]}` is the layout
    of Open-RS on four A40."""
    usd_per_hour: NonNegativeFloat | None = None
    """Price of one device for an hour; null for the price table's."""
    run_timeout_hours: PositiveFloat | None = None
    """Wall-clock hours after which an attempt is stopped, its work saved, and counts as failed; null for never."""
    retries: NonNegativeInt = 1
    """Further attempts of a run that failed, after a pause that doubles; then it is left for the next call."""

    @model_validator(mode="after")
    def _enough(self) -> HardwareSpec:
        if self.training_devices is not None and self.training_devices > self.devices_per_run:
            raise ValueError(
                f"`training_devices` must be at most `devices_per_run`, {self.devices_per_run}, "
                f"got {self.training_devices}"
            )
        return self

    def training_processes(self, rollout: RolloutSpec, *, on_gpu: bool) -> int:
        """Processes that train a run together, on the hardware as it was resolved."""
        if self.training_devices is not None:
            return self.training_devices
        if not on_gpu:
            return 1
        own = set(rollout.vllm.devices) if rollout.has_own_devices else set()
        return max(1, self.devices_per_run - len(own))


class BudgetSpec(Section):
    """Upper bounds; the matrix starts no run that would go beyond them."""

    usd: Annotated[float, Field(gt=0)] | None = None
    """Money."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock hours."""


class VerdictSpec(Section):
    """What counts as an effect."""

    delta: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Smallest accuracy difference that matters, as a fraction."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Family-wise error rate."""
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Power at which detectable effects are stated."""
    baseline: dict[str, str] = {}
    """Baseline level of an axis; the first level where an axis is not named."""
    interactions: list[list[str]] = []
    """Pairs of axes whose interaction is estimated."""


class LintSpec(Section):
    """What the author of the grid knows about the linter's findings."""

    waive: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """Findings that are meant to be: the reason by the rule's name, as `python -m harness.lint` prints it."""
