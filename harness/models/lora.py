"""Low-rank adapters inside a model: put in, switched off, merged for rollout engines, saved and loaded.

An adapter adds (alpha / r) · B·A to the weight of its layer, with B zero at first (arXiv 2106.09685, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.spec.errors import SpecError
from harness.spec.recipe import LoraSpec

ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # what peft's own files call the model inside its wrapper
_ADAPTER = "default"


def add_adapters(model: PreTrainedModel, spec: LoraSpec, *, seed: int) -> None:
    """Puts adapters into the named linear layers, in place, and freezes everything else.

    Args:
        model: the model, on its device.
        spec: rank, scale and layers.
        seed: of the first factor; the second is zero, so that the model computes what it did.

    Raises:
        SpecError: peft is not installed, or the model has no layer of these names.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise SpecError("model.lora needs peft", hint="pip install peft") from None
    ends = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    if absent := [target for target in spec.targets if target not in ends]:
        raise SpecError(
            f"model.lora.targets: the model has no linear layer {absent[0]!r}",
            hint=f"it has {', '.join(sorted(ends))}",
        )
    # peft divides by the rank in floating point, and says int.
    alpha: Any = spec.alpha
    config = LoraConfig(
        r=spec.r, lora_alpha=alpha, target_modules=list(spec.targets), lora_dropout=0.0, bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was here."""
    return next(_adapted(model), None) is not None


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as it was before its adapters, for as long as the context lasts."""
    for _, layer in _adapted(model):
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for _, layer in _adapted(model):
            layer.enable_adapters(True)


@torch.no_grad()
def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the state dict that a model without adapters would need to compute the same.

    One tensor at a time, so that the merged model never exists at once. Of a model without adapters, its state dict.
    """
    layers = dict(_adapted(model))
    for name, tensor in model.state_dict().items():
        if "lora_" in name:
            continue
        owner, found, rest = name.partition(".base_layer.")
        if found and rest == "weight":
            yield f"{owner}.weight", tensor + layers[owner].get_delta_weight(_ADAPTER).to(tensor.dtype)
        else:
            yield name.replace(".base_layer.", "."), tensor


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors by the names that peft's files give them."""
    return {
        _PREFIX + name.replace(f".{_ADAPTER}.", "."): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if "lora_" in name
    }


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Writes weights and configuration in Hugging Face format; of a model with adapters only these, in peft's."""
    if not has_adapters(model):
        model.save_pretrained(folder)
        return
    save_file(adapter_tensors(model), folder / ADAPTER_FILE)
    configs: Any = model.peft_config
    config = configs[_ADAPTER]
    config.base_model_name_or_path = model.name_or_path
    config.save_pretrained(folder)


def load_adapters(model: nn.Module, path: Path) -> bool:
    """Puts the adapters of a file into a model that has some; False if they are not this model's."""
    return set_adapters(model, load_file(path))


@torch.no_grad()
def set_adapters(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Puts tensors named as by `adapter_tensors` into a model; False, changing nothing, if they are not its own."""
    mine = {
        _PREFIX + name.replace(f".{_ADAPTER}.", "."): tensor
        for name, tensor in model.state_dict().items()
        if "lora_" in name
    }
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in tensors.items()}:
        return False
    for name, tensor in mine.items():
        tensor.copy_(tensors[name])
    return True
