"""The fused kernels inside trl's GRPOTrainer: call `use_fused_loss(trainer)` once, before `trainer.train()`.

Log-probs are then computed by `kernels.token_logprob`, which never materialises the batch's logits, and the loss by
`kernels.grpo_loss`. Data, rollouts, optimiser and metrics stay trl's. Needs the `peers` extra.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.spec.errors import SpecError
from harness.training.policy import logit_divisor, softcap
from kernels.grpo_loss import Objective, grpo_loss
from kernels.token_logprob import token_logprob

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import GRPOTrainer

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
"""Loss types that trl and `kernels.grpo_loss` define alike."""


class NotSupported(ValueError):
    """The trainer uses a loss type or an option that the fused kernels do not compute."""


def use_fused_loss(trainer: GRPOTrainer) -> GRPOTrainer:
    """Makes a `GRPOTrainer` (trl 1.16) compute log-probs and loss with the fused kernels.

    Args:
        trainer: a trainer of a text model, not yet training.

    Returns:
        The same trainer.

    Raises:
        NotSupported: it uses a loss type or an option that the kernels do not compute; the trainer is unchanged.
    """
    objective = objective_of(trainer)
    _check(trainer)
    try:
        divisor = logit_divisor(_plain(trainer, trainer.model))
    except SpecError as error:
        raise NotSupported(str(error)) from None
    vars(trainer).update(
        _fused_objective=objective,
        _fused_divisor=divisor,
        _get_per_token_logps_and_entropies=types.MethodType(_logprobs, trainer),
        _compute_loss=types.MethodType(_loss, trainer),
    )
    return trainer


def objective_of(trainer: GRPOTrainer) -> Objective:
    """The objective of `kernels.grpo_loss` that equals the trainer's settings.

    Raises:
        NotSupported: `loss_type` is not in `LOSSES`.
    """
    if trainer.loss_type not in LOSSES:
        raise NotSupported(f"`loss_type` must be one of {', '.join(LOSSES)}, got {trainer.loss_type!r}")
    # trl annotates `args` with its base class; it is a GRPOConfig.
    args: Any = trainer.args
    loss: Any = trainer.loss_type
    level: Any = trainer.importance_sampling_level
    clipped = {"clip_low": trainer.epsilon_low, "clip_high": trainer.epsilon_high}
    specific: dict[str, dict[str, Any]] = {
        "dr_grpo": {"max_length": trainer.max_completion_length},
        "cispo": {"cispo_max": trainer.epsilon_high},
        "sapo": {"sapo_tau_pos": args.sapo_temperature_pos, "sapo_tau_neg": args.sapo_temperature_neg},
    }
    fields = {} if trainer.loss_type in ("cispo", "sapo") else {**clipped, "delta": args.delta}
    return Objective(
        loss=loss,
        ratio_level=level,
        beta=trainer.beta,
        kl="k3",
        kl_ratio=args.use_bias_correction_kl,
        **fields,
        **specific.get(trainer.loss_type, {}),
    )


def _check(trainer: GRPOTrainer) -> None:
    """Raises `NotSupported` for options that change trl's loss and that the kernels do not have."""
    unsupported = {
        "top_entropy_quantile": trainer.top_entropy_quantile < 1.0,
        "off_policy_mask_threshold": trainer.off_policy_mask_threshold is not None,
        "use_liger_kernel": bool(trainer.args.use_liger_kernel),
        "entropy_coef": bool(trainer._entropy_bonus_enabled),
        "vLLM's importance sampling correction": bool(
            trainer.use_vllm and trainer.vllm_importance_sampling_correction
        ),
        "training in several processes": trainer.accelerator.num_processes > 1,
        "router_aux_loss_coef": bool(trainer.aux_loss_enabled),
    }
    for name, used in unsupported.items():
        if used:
            raise NotSupported(f"{name} has no counterpart in the fused loss; switch it off")


def _plain(trainer: GRPOTrainer, model: Any) -> PreTrainedModel:
    """The model inside accelerate's and peft's wrappers."""
    plain: Any = trainer.accelerator.unwrap_model(model)
    if hasattr(plain, "get_base_model"):  # peft patches adapters into the layers of the model that it wraps
        plain = plain.get_base_model()
    return plain


def _logprobs(
    self: GRPOTrainer,
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    batch_size: int | None = None,
    compute_entropy: bool = False,
    compute_aux_loss: bool = False,
    **inputs: Any,
) -> tuple[Tensor, Tensor | None, None]:
    """Log-probs and entropies [B, T] of the last T = `logits_to_keep` tokens of `input_ids` [B, S]."""
    if any(value is not None for value in inputs.values()):
        raise NotSupported("the fused loss takes text alone, the batch holds images")
    plain = _plain(self, model)
    head = plain.get_output_embeddings()
    size = batch_size or len(input_ids)
    logprobs, entropies = [], []
    for start in range(0, len(input_ids), size):
        ids = input_ids[start : start + size]
        with self.accelerator.autocast():
            hidden = plain.base_model(
                input_ids=ids, attention_mask=attention_mask[start : start + size], use_cache=False
            ).last_hidden_state
            if torch.is_autocast_enabled(ids.device.type):
                hidden = hidden.to(torch.get_autocast_dtype(ids.device.type))
        hidden = hidden[:, -logits_to_keep - 1 : -1]
        out = token_logprob(
            hidden.flatten(0, 1),
            head.weight,
            ids[:, -logits_to_keep:].flatten(),
            bias=getattr(head, "bias", None),
            temperature=self.temperature * vars(self)["_fused_divisor"],
            softcap=softcap(plain),
            return_entropy=compute_entropy,
        )
        logprobs.append(out.logprob.view(hidden.shape[:2]))
        if out.entropy is not None:
            entropies.append(out.entropy.view(hidden.shape[:2]))
    return torch.cat(logprobs), torch.cat(entropies) if compute_entropy else None, None


def _loss(self: GRPOTrainer, model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    """Replaces trl's `_compute_loss`: the scaled loss of a micro-batch; logs its metrics as trl does."""
    mask = inputs["completion_mask"]
    if "tool_mask" in inputs:
        mask = mask * inputs["tool_mask"]
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    logprob, entropy, _ = self._get_per_token_logps_and_entropies(
        model, ids, attention, mask.shape[1], compute_entropy=True
    )
    mode = "train" if model.training else "eval"
    out = grpo_loss(
        logprob,
        inputs["advantages"],
        mask.bool(),
        objective=vars(self)["_fused_objective"],
        old_logprob=inputs.get("old_per_token_logps"),
        reference_logprob=inputs.get("ref_per_token_logps") if self.beta else None,
        entropy=None if entropy is None else entropy.detach(),
    )
    _log(self, out.metrics, mode, mask)
    return out.loss * _scale(self, inputs, mask, mode)


def _scale(trainer: GRPOTrainer, inputs: dict[str, Any], mask: Tensor, mode: str) -> float | Tensor:
    """Factor from the micro-batch's mean loss to trl's: per token of the batch, or per accumulation step."""
    accumulated = trainer.current_gradient_accumulation_steps if mode == "train" else 1
    if trainer.loss_type not in ("cispo", "dapo"):
        return 1 / accumulated
    args: Any = trainer.args
    items = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
    if (
        mode == "train"
    ):  # `num_items_in_batch` counts the generation batch, which spans several optimiser steps
        items = items * accumulated / args.steps_per_generation
    return mask.sum() / items


def _log(trainer: GRPOTrainer, metrics: dict[str, Tensor], mode: str, mask: Tensor) -> None:
    """Logs the kernel's metrics under trl's names; like trl, logs 0 where the micro-batch has no token."""
    names = {
        "kl": "kl",
        "entropy": "entropy",
        "clip_ratio/low_mean": "clip_fraction_low",
        "clip_ratio/high_mean": "clip_fraction_high",
        "clip_ratio/region_mean": "clip_fraction",
    }
    for theirs, ours in names.items():
        if ours in metrics:
            value = torch.where(mask.any(), metrics[ours].float(), 0.0).to(trainer.accelerator.device)
            trainer._metrics[mode][theirs].append(trainer.accelerator.gather(value).nanmean().item())
