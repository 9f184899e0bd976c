"""Where runs execute and at which price, upper bounds, and what counts as an effect: sections of the grid."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from harness.spec.device_profiles import ProfileName
from harness.spec.recipe import RolloutSpec
from harness.spec.section import (
    Listed,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class HardwareSpec(Section):
    """Where runs execute, and at which price."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA devices where there are any."""
    profile: Literal["auto"] | ProfileName = "auto"
    """Row of the table of devices; `auto` is `cpu-core` on a CPU, the row that fits the driver's name of a GPU, and
    `unknown` where none does: hours then rest on an assumed device, and MFU is not given."""
    devices_per_run: PositiveInt = 1
    """CUDA devices per run; on a CPU, cores (threads) per run."""
    training_devices: PositiveInt | None = None
    """Processes that train together, data-parallel, on the first so many devices; null for all devices that no
    engine of its own has (on a CPU: one). Three beside `rollout.vllm: {placement: own, devices: [3]}` is the layout
    of Open-RS on four A40."""
    usd_per_hour: NonNegativeFloat | None = None
    """Price of one device for an hour; null for the table's, which is an assumed one."""
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
    looks: Annotated[tuple[PositiveInt, ...], Listed] = ()
    """Numbers of seeds at which the study will be judged, the final one last; the error rate is spent over them."""

    @field_validator("looks")
    @classmethod
    def _increasing(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(a >= b for a, b in zip((0, *value), value)):
            raise ValueError(f"must be increasing numbers of seeds, got {list(value)}")
        return value


class LintSpec(Section):
    """What the author of the grid knows about the linter's findings."""

    waive: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """Findings that are meant to be: the reason by the rule's name, as `python -m harness.lint` prints it."""
