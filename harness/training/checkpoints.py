"""Checkpoints: whole or not there, checked when read.

A checkpoint is a folder `step-000010` in Hugging Face format, so that every tool loads it, plus the optimiser's
moments and `state.json` with the checksums of all files. Draws and data order have no state (they derive from
seed and step), so nothing else is needed to go on.
"""

from __future__ import annotations

import hashlib
import json
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
from harness.store.schema import VERSIONS, current
from harness.training.parallel import like, whole


class DamagedCheckpoint(RuntimeError):
    """A checkpoint whose files are not the ones that were written."""


class Checkpoints(CheckpointFolder):
    """The checkpoints of one run, with what is in them.

    Args:
        folder: where they are; made when the first one is saved.
        stage: where they are written before they are moved there; a writer that lost its run no longer has it.
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
        keep: frozenset[int],
        position: Mapping[str, Any] | None = None,
        whole: frozenset[int] = frozenset(),
    ) -> None:
        """Writes the checkpoint of `step`, then thins out the older ones.

        Steps in `keep` keep their weights, those in `whole` the optimiser's moments too, which else stay in the two
        latest checkpoints, so that a damaged one has a predecessor; all else is removed. `optimizer` may be given as
        its `optimizer_tensors`; `position` is what else training needs to go on (JSON).
        """
        temporary = self._staged(step)
        save_weights(model, temporary)
        tokenizer.save_pretrained(temporary)
        moments = optimizer if isinstance(optimizer, Mapping) else optimizer_tensors(model, optimizer)
        save_file(dict(moments), temporary / OPTIMIZER_FILE)
        files = sorted(p.name for p in temporary.iterdir())
        state = {
            "schema": VERSIONS["checkpoint"],
            "step": step,
            "sha256": {name: _sha256(temporary / name) for name in files},
            **({"position": dict(position)} if position else {}),
        }
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        self._publish(temporary, step)
        self.thin(keep, whole, at=step)

    def take_over(self, other: Checkpoints, step: int, *, first: Callable[[], None]) -> None:
        """Makes the checkpoint of `step` of another run one of this run's, by hard links where they can be made.

        Args:
            other: the checkpoints of the other run.
            step: which of them.
            first: called when it is known to be whole, before it counts as this run's.

        Raises:
            DamagedCheckpoint: it is not there, not whole, or lacks the optimiser's moments.
        """
        source = other.path(step)
        if step not in other.resumable():
            raise DamagedCheckpoint(f"{source}: is not there, or without the optimiser's moments")
        other.verify(step)
        first()
        temporary = self._staged(step)
        for path in source.iterdir():
            try:
                os.link(path, temporary / path.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, temporary / path.name)
        self._publish(temporary, step)

    def _staged(self, step: int) -> Path:
        """An empty folder for the checkpoint of `step` to be made in."""
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True)
            sync_path(self._folder.parent)
        self.sweep()
        temporary = self._stage / f".{self.path(step).name}.{os.getpid()}"
        temporary.mkdir()
        return temporary

    def _publish(self, temporary: Path, step: int) -> None:
        """Moves a whole checkpoint to its place."""
        for path in sorted(temporary.iterdir()):
            sync_path(path)
        sync_path(temporary)
        if self.path(step).exists():
            self._set_aside(step)
        temporary.rename(self.path(step))
        sync_path(self._folder)
        self.sweep()

    def verify(self, step: int) -> None:
        """Compares every file with its checksum.

        Raises:
            DamagedCheckpoint: naming the file.
            StoreError: a newer version wrote it.
            OSError: it cannot be read now, which does not say that it is damaged.
        """
        folder = self.path(step)
        try:
            state = json.loads((folder / "state.json").read_text())
            checksums: dict[str, str] = state["sha256"]
        except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
            raise DamagedCheckpoint(f"{folder}: state.json cannot be read ({error})") from None
        current(state, "checkpoint", folder / "state.json")
        for name, expected in checksums.items():
            path = folder / name
            if name == OPTIMIZER_FILE and not path.exists():
                continue  # thinned out
            if not path.exists() or _sha256(path) != expected:
                raise DamagedCheckpoint(f"{path}: missing or changed since it was written")

    def position(self, step: int) -> dict[str, Any]:
        """The `position` that the checkpoint of `step` was saved with; empty if there was none."""
        state = json.loads((self.path(step) / "state.json").read_text())
        return dict(state.get("position") or {})

    def load_weights(self, step: int, model: PreTrainedModel) -> None:
        """Puts the weights after `step` steps into `model`; raises `DamagedCheckpoint`."""
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
        """Puts the optimiser's moments after `step` steps into `optimizer`, built over `model`'s parameters."""
        tensors = load_file(self.path(step) / OPTIMIZER_FILE)
        for name, parameter in model.named_parameters():
            moments = {k.split("|")[1]: v for k, v in tensors.items() if k.split("|")[0] == name}
            if moments:
                optimizer.state[parameter] = {k: _restored(v, parameter) for k, v in moments.items()}


def _restored(value: Tensor, parameter: Tensor) -> Tensor | int:
    """One entry of the optimiser's state, as `parameter` lies; whole numbers were numbers (8-bit AdamW's step)."""
    if value.dim():
        return like(value, parameter)
    # The fused AdamW wants its count of steps where the parameter is.
    return value.to(parameter.device) if value.is_floating_point() else int(value)


def optimizer_tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by parameter, whole; where parameters are sharded, every rank must call this."""
    states: Mapping[Tensor, dict[str, Any]] = optimizer.state
    return {
        f"{name}|{key}": whole(torch.as_tensor(value)).contiguous()
        for name, parameter in model.named_parameters()
        for key, value in states.get(parameter, {}).items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
