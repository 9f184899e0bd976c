"""Checkpoints: written atomically, verified when read.

A checkpoint is a folder `step-000010` in Hugging Face format, so that other tools can load it, plus the optimiser's
state and `state.json` with a checksum of every file. Random draws and data order have no state of their own, because
they derive from seed and step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.models.lora import ADAPTER_FILE, load_adapters, save_weights
from harness.store.atomic import sync_path
from harness.store.checkpoints import OPTIMIZER_FILE, CheckpointFolder
from harness.store.errors import Damaged, StoreError
from harness.store.records.form import JsonObject
from harness.store.schema import load, place_of, sealed_text
from harness.training.data_parallel import distribute_like, full_tensor
from harness.training.errors import DamagedCheckpoint

STATE_FILE = "state.json"
"""What a checkpoint is of, with a checksum of each of its other files."""


class Checkpoints(CheckpointFolder):
    """The checkpoints of one run and their contents.

    Args:
        folder: where they are; made when the first one is saved.
        stage: where they are written before they are moved to `folder`. Give the attempt's `stage`, which is taken
            away from an attempt that lost its run, so that it cannot publish.
    """

    def __init__(self, folder: Path, stage: Path | None = None) -> None:
        super().__init__(folder)
        self._stage = stage or folder

    def save(
        self,
        step: int,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: torch.optim.Optimizer | Mapping[str, Tensor],
        position: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the checkpoint of `step`; replaces one that is there.

        Args:
            step: finished training steps.
            model: its weights, or its adapters alone if it has some.
            tokenizer: saved beside them.
            optimizer: the optimiser, or its `optimizer_tensors`.
            position: whatever else a resumed run needs, as JSON.

        Raises:
            FileNotFoundError: `stage` is gone: a later attempt holds the run.
        """
        temporary = self._staged(step)
        save_weights(model, temporary)
        tokenizer.save_pretrained(temporary)
        moments = optimizer if isinstance(optimizer, Mapping) else optimizer_tensors(model, optimizer)
        save_file(dict(moments), temporary / OPTIMIZER_FILE)
        files = sorted(p.name for p in temporary.iterdir())
        state = {
            "step": step,
            "sha256": {name: _sha256(temporary / name) for name in files},
            **({"position": dict(position)} if position else {}),
        }
        self._write_state(temporary, step, state)
        self._publish(temporary, step)

    def _state_file(self, step: int) -> Path:
        return self.path(step) / STATE_FILE

    def _write_state(self, temporary: Path, step: int, state: JsonObject) -> None:
        place = place_of("checkpoint", self._state_file(step))
        (temporary / STATE_FILE).write_bytes(sealed_text("checkpoint", state, place))

    def _state(self, step: int) -> JsonObject:
        """What `state.json` holds.

        Raises:
            DamagedCheckpoint: it is not there, was changed, or is of another run.
            StoreError: a newer version of the harness wrote it.
            OSError: it cannot be read at the moment.
        """
        try:
            return load("checkpoint", self._state_file(step))
        except Damaged as error:
            raise DamagedCheckpoint(str(error)) from None
        except StoreError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    def take_over(self, other: Checkpoints, step: int, *, first: Callable[[], None]) -> None:
        """Copies another run's checkpoint of `step` into this run, by hard links where the file system has them.

        Args:
            other: the checkpoints of the other run.
            step: which of them.
            first: called after the checkpoint was verified and before it appears in this run.

        Raises:
            DamagedCheckpoint: it is missing or damaged, or lacks the optimiser's state.
        """
        source = other.path(step)
        if step not in other.resumable():
            raise DamagedCheckpoint(f"{source}: is not there, or without the optimiser's moments")
        other.verify(step)
        first()
        temporary = self._staged(step)
        self._write_state(temporary, step, other._state(step))
        for path in source.iterdir():
            if path.name == STATE_FILE:  # which names its run
                continue
            try:
                os.link(path, temporary / path.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, temporary / path.name)
        self._publish(temporary, step)

    def _staged(self, step: int) -> Path:
        """Makes an empty folder in which the checkpoint of `step` is written."""
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True)
            sync_path(self._folder.parent)
        self.remove_stale()
        temporary = self._stage / f".{self.path(step).name}.{os.getpid()}"
        temporary.mkdir()
        return temporary

    def _publish(self, temporary: Path, step: int) -> None:
        """Moves a finished checkpoint to its place, in one rename."""
        for path in sorted(temporary.iterdir()):
            sync_path(path)
        sync_path(temporary)
        if self.path(step).exists():
            self._hide(step)
        temporary.rename(self.path(step))
        sync_path(self._folder)
        self.remove_stale()

    def verify(self, step: int) -> None:
        """Compares every file of the checkpoint of `step` with its checksum.

        Raises:
            DamagedCheckpoint: a file is missing or differs; the message names it.
            StoreError: a newer version of the harness wrote it.
            OSError: a file cannot be read at the moment, which does not prove that it is damaged.
        """
        folder = self.path(step)
        checksums = self._state(step).get("sha256")
        if not isinstance(checksums, dict):
            raise DamagedCheckpoint(f"{self._state_file(step)}: lacks the checksums of the other files")
        for name, expected in checksums.items():
            path = folder / name
            if name == OPTIMIZER_FILE and not path.exists():
                continue  # pruned
            if not path.exists() or _sha256(path) != expected:
                raise DamagedCheckpoint(f"{path}: missing or changed since it was written")

    def position(self, step: int) -> dict[str, Any]:
        """The `position` that the checkpoint of `step` was saved with; empty if there was none."""
        return dict(self._state(step).get("position") or {})

    def load_weights(self, step: int, model: PreTrainedModel) -> None:
        """Loads the weights of the checkpoint of `step` into `model`.

        Raises:
            DamagedCheckpoint: the checkpoint is damaged, or of another model.
        """
        self.verify(step)
        adapters = self.path(step) / ADAPTER_FILE
        if adapters.exists():
            if not load_adapters(model, adapters):
                raise DamagedCheckpoint(f"{adapters}: is of another model, or of other adapters")
            return
        tensors: dict[str, Tensor] = {}
        for path in sorted(self.path(step).glob("model*.safetensors")):
            tensors |= load_file(path)
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        tied = set(getattr(model, "_tied_weights_keys", None) or ())
        if unexpected or set(missing) - tied:
            raise DamagedCheckpoint(f"{self.path(step)}: is of another model ({[*missing, *unexpected][0]})")

    def load_optimizer(self, step: int, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
        """Loads the optimiser's state at `step` into `optimizer`, which must be built over `model`'s parameters."""
        tensors = load_file(self.path(step) / OPTIMIZER_FILE)
        for name, parameter in model.named_parameters():
            moments = {k.split("|")[1]: v for k, v in tensors.items() if k.split("|")[0] == name}
            if moments:
                optimizer.state[parameter] = {k: _restored(v, parameter) for k, v in moments.items()}


def _restored(value: Tensor, parameter: Tensor) -> Tensor | int:
    """One entry of the optimiser's state, distributed as `parameter` is.

    An integer scalar becomes an `int`, which is what 8-bit AdamW keeps as its step count.
    """
    if value.dim():
        return distribute_like(value, parameter)
    # The fused AdamW expects its step count on the parameter's device.
    return value.to(parameter.device) if value.is_floating_point() else int(value)


def optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as full tensors, by `parameter|entry`. Under sharding every rank must call this."""
    states: Mapping[Tensor, dict[str, Any]] = optimizer.state
    return {
        f"{name}|{key}": full_tensor(torch.as_tensor(value)).contiguous()
        for name, parameter in model.named_parameters()
        for key, value in states.get(parameter, {}).items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
