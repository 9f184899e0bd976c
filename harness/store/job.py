"""The job of one run: all that a worker needs to know, as it lies in `run.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.spec.evaluation import EvaluateSpec
from harness.spec.hardware import HardwareSpec
from harness.spec.recipe import Recipe
from harness.store.records.form import Count, JsonObject, Record, Usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork(Record):
    """Where a run may leave another one, whose learning rates are the same up to there.

    Attributes:
        run_id: the other run, the trunk.
        step: the step whose checkpoint is taken over.
    """

    run_id: str
    step: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob(Record):
    """One training trajectory with its evaluations, or the evaluation of an untrained model.

    Attributes:
        run_id: digest of the identity, 12 hexadecimal digits.
        kind: `train`, or `base` for the step-0 evaluation that all runs from one model share.
        label: for people, such as `data=easy reward=cosine seed=0`.
        seed: the run's seed.
        steps: checkpoints to keep and evaluate, ascending; `(0,)` for a base job.
        recipe: the resolved recipe; `training.steps` is the largest step asked for.
        evaluate: what is measured on each of them.
        evaluation_ids: digest of the evaluation's identity, by benchmark name.
        hardware: where it runs, as resolved.
        usd_per_hour: price of one device; a CPU core counts as a device.
        devices: devices billed.
        identity: the fields that went into `run_id`.
        evaluation_identities: the fields that went into each evaluation's digest, by benchmark name.
        model_files: digest of each file behind the identity's `model.content`, by name, to tell which one changed;
            empty in records made before it was kept.
        fork: the checkpoint from which it may start instead of from step 0; None for none.
        fork_steps: steps whose whole checkpoints stay, moments too, since other runs fork from them.
    """

    run_id: str
    kind: Literal["train", "base"]
    label: str
    seed: Count
    steps: tuple[Count, ...]
    recipe: Recipe
    evaluate: EvaluateSpec
    evaluation_ids: dict[str, str]
    hardware: HardwareSpec
    usd_per_hour: Usd
    devices: Count
    identity: JsonObject
    evaluation_identities: dict[str, JsonObject] = field(default_factory=dict)
    model_files: dict[str, str] = field(default_factory=dict)
    fork: Fork | None = None
    fork_steps: tuple[Count, ...] = ()

    @property
    def device_usd_per_second(self) -> float:
        """What a second of this run costs, all its devices together."""
        return self.usd_per_hour * self.devices / 3600
