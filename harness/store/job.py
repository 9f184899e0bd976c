"""The job of one run: all that a worker needs to know, as it lies in `run.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from harness.spec.evaluation import EvaluateSpec
from harness.spec.hardware import HardwareSpec
from harness.spec.recipe import Recipe
from harness.store.records.form import JsonObject
from harness.store.schema import written


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Where a run may leave another one, whose learning rates are the same up to there.

    Attributes:
        run_id: the other run, the trunk.
        step: the step whose checkpoint is taken over.
    """

    run_id: str
    step: int


@dataclass(frozen=True, kw_only=True)
class RunJob:
    """One training trajectory with its evaluations, or the evaluation of an untrained model.

    Attributes:
        run_id: digest of the identity, 12 hexadecimal digits.
        kind: `train`, or `base` for the step-0 evaluation that all runs from one model share.
        recipe: the resolved recipe; `training.steps` is the largest step asked for.
        seed: the run's seed.
        steps: checkpoints to keep and evaluate, ascending; `(0,)` for a base job.
        evaluate: what is measured on each of them.
        evaluation_ids: digest of the evaluation's identity, by benchmark name.
        hardware: where it runs, as resolved.
        usd_per_hour: price of one device; a CPU core counts as a device.
        devices: devices billed.
        label: for people, such as `data=easy reward=cosine seed=0`.
        identity: the fields that went into `run_id`.
        evaluation_identities: the fields that went into each evaluation's digest, by benchmark name.
        model_files: digest of each file behind the identity's `model.content`, by name, to tell which one changed;
            empty in records made before it was kept.
        fork: the checkpoint from which it may start instead of from step 0; None for none.
        fork_steps: steps whose whole checkpoints stay, moments too, since other runs fork from them.
    """

    run_id: str
    kind: Literal["train", "base"]
    recipe: Recipe
    seed: int
    steps: tuple[int, ...]
    evaluate: EvaluateSpec
    evaluation_ids: dict[str, str]
    hardware: HardwareSpec
    usd_per_hour: float
    devices: int
    label: str
    identity: JsonObject
    evaluation_identities: dict[str, JsonObject] = field(default_factory=dict)
    model_files: dict[str, str] = field(default_factory=dict)
    fork: Fork | None = None
    fork_steps: tuple[int, ...] = ()

    def to_json(self) -> JsonObject:
        """JSON-ready data with its schema number."""
        data = {
            "run_id": self.run_id,
            "kind": self.kind,
            "label": self.label,
            "seed": self.seed,
            "steps": list(self.steps),
            "recipe": self.recipe.model_dump(mode="json"),
            "evaluate": self.evaluate.model_dump(mode="json"),
            "evaluation_ids": self.evaluation_ids,
            "hardware": self.hardware.model_dump(mode="json"),
            "usd_per_hour": self.usd_per_hour,
            "devices": self.devices,
            "identity": self.identity,
            "evaluation_identities": self.evaluation_identities,
            "model_files": self.model_files,
            "fork": asdict(self.fork) if self.fork else None,
            "fork_steps": list(self.fork_steps),
        }
        return written("run", data)

    @classmethod
    def from_json(cls, data: JsonObject) -> RunJob:
        """The job that `to_json` wrote."""
        return cls(
            run_id=data["run_id"],
            kind=data["kind"],
            recipe=Recipe.model_validate(data["recipe"]),
            seed=data["seed"],
            steps=tuple(data["steps"]),
            evaluate=EvaluateSpec.model_validate(data["evaluate"]),
            evaluation_ids=data["evaluation_ids"],
            hardware=HardwareSpec.model_validate(data["hardware"]),
            usd_per_hour=data["usd_per_hour"],
            devices=data["devices"],
            label=data["label"],
            identity=data["identity"],
            evaluation_identities=data.get("evaluation_identities", {}),
            model_files=data.get("model_files", {}),
            fork=Fork(**fork) if (fork := data.get("fork")) else None,
            fork_steps=tuple(data.get("fork_steps", ())),
        )

    @property
    def device_usd_per_second(self) -> float:
        """What a second of this run costs, all its devices together."""
        return self.usd_per_hour * self.devices / 3600
