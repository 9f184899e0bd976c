"""One policy update from a step's samples: loss, gradient and optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.meters.clock import PhaseClock
from harness.models.lora import has_adapters, without_adapters
from harness.models.precision import compute_dtype
from harness.spec.recipe import Recipe
from harness.training.batch import MicroBatch, Sample, micro_batches
from harness.training.packing import Mode, choose_packing, packed_attention
from harness.training.parallel import Alone, whole
from kernels.grpo_loss import (
    GrpoLoss,
    Normalizer,
    Objective,
    Partials,
    entropy_threshold,
    grpo_loss,
    merge_partials,
    metrics_of,
)


class Diverged(RuntimeError):
    """Training does not go on: a detector's policy ends the run, which is a result."""


@dataclass(frozen=True)
class UpdateResult:
    """Figures of one step's update.

    Attributes:
        metrics: the loss kernel's metrics over everything trained on, with `loss` and `grad_norm` averaged over
            the step's optimiser updates.
        trained: indices of the samples that went through forward and backward.
        measured: for each pass without gradient (old or reference log-probs), the indices of the samples that went
            through it.
        updates: optimiser updates.
        non_finite: whether a loss or gradient was NaN or infinite, which ends the step before the optimiser sees it.
    """

    metrics: dict[str, float]
    trained: list[int]
    measured: list[list[int]]
    updates: int
    non_finite: bool = False


@dataclass(frozen=True)
class _Fixed:
    """What is measured once per step, before the first update: [T] rows by sample index."""

    old: dict[int, Tensor]
    reference: dict[int, Tensor]
    entropy: dict[int, Tensor]


class Updater:
    """Turns samples into optimiser updates.

    Args:
        model: the policy, fp32 weights.
        reference: the frozen reference policy, where the objective has a KL term; None for the policy without its
            adapters, if it has some.
        optimizer: over the policy's parameters.
        recipe: the run's recipe.
        clock: receives the phases `logprob`, `update` and `optimizer`.
        ranks: the processes that share the work, if there are several.
        logit_divisor: the model's own, by which its head's output is divided before the temperature.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        clock: PhaseClock,
        ranks: Alone | None = None,
        logit_divisor: float = 1.0,
    ) -> None:
        self._temperature = recipe.logprob_temperature * logit_divisor
        self._ranks = ranks or Alone()
        self._model = model
        self._reference = reference
        self._adapters = has_adapters(model)
        # transformers recomputes in training mode only, which `_backward` sets; dropout is off in either mode.
        self._recompute = recipe.training.gradient_checkpointing
        if self._recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._optimizer = optimizer
        self._recipe = recipe
        self._clock = clock
        bf16 = recipe.model.dtype == "bfloat16"
        self._bf16 = compute_dtype(bf16=bf16, device=model.device) == torch.bfloat16
        self.packing: Mode = choose_packing(model, recipe.training.packing)
        objective = recipe.objective.objective(cap=recipe.rollout.max_completion_tokens).resolved()
        # The tokens of this process are the local batch, however they are split into micro-batches.
        local = objective.aggregation == "local_token_mean"
        self.objective: Objective = replace(objective, aggregation="token_mean") if local else objective

    def update(self, samples: Sequence[Sample]) -> UpdateResult:
        """One step: `inner_epochs` passes over the samples in `minibatches` updates each.

        Samples whose gradient is exactly zero (no advantage, and neither a KL nor an entropy term) are left out
        of forward and backward; they still count in the means.
        """
        training = self._recipe.training
        fixed, measured = self._measure(samples)
        partials: list[Partials] = []
        losses, norms, trained = [], [], set()
        updates = 0
        parts = _minibatches(len(samples), training.minibatches)
        for chosen in parts * training.inner_epochs:
            loss, rows, found = self._backward(samples, chosen, fixed)
            norms.append(self._apply(loss))
            losses.append(loss)
            partials += found
            trained.update(rows)
            if not math.isfinite(norms[-1]):
                break
            updates += 1
        metrics = {k: float(v) for k, v in metrics_of(merge_partials(partials)).items()} if partials else {}
        metrics["loss"] = sum(losses) / max(1, len(losses))
        metrics["grad_norm"] = sum(norms) / max(1, len(norms))
        return UpdateResult(metrics, sorted(trained), measured, updates, non_finite=updates < len(losses))

    def _batches(self, samples: Sequence[Sample], rows: Sequence[int]) -> list[MicroBatch]:
        tokens = sum(samples[i].length for i in rows)
        budget = self._ranks.budget(tokens, self._recipe.training.microbatch_tokens)
        device = self._model.device
        return micro_batches(samples, rows, budget_tokens=budget, device=device, mode=self.packing)

    def _learns(self, sample: Sample) -> bool:
        o = self.objective
        if o.mask_truncated and sample.truncated:
            return False
        return sample.advantage != 0 or o.beta > 0 or o.entropy_bonus > 0

    def _measure(self, samples: Sequence[Sample]) -> tuple[_Fixed, list[list[int]]]:
        """Old and reference log-probs and old entropies, where the objective needs them, and who was passed."""
        several = self._recipe.training.inner_epochs * self._recipe.training.minibatches > 1
        quantile = self.objective.top_entropy_quantile is not None
        fixed = _Fixed({}, {}, {})
        measured = []
        everything = list(range(len(samples)))
        with self._clock.phase("logprob"), torch.no_grad():
            if several or quantile:
                measured.append(everything)
                for row, logprob, entropy in self._passed(self._model, samples, everything):
                    fixed.old[row], fixed.entropy[row] = logprob, entropy
            if self._reference is not None or (self.objective.beta > 0 and self._adapters):
                learning = [i for i in everything if self._learns(samples[i])]
                measured.append(learning)
                model = self._reference
                plain: AbstractContextManager[None] = nullcontext()
                if model is None:
                    model, plain = self._model, without_adapters(self._model)
                with plain:
                    for row, logprob, _ in self._passed(model, samples, learning):
                        fixed.reference[row] = logprob
        return fixed, measured

    def _passed(
        self, model: PreTrainedModel, samples: Sequence[Sample], rows: Sequence[int]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Row, log-probs [T] and entropies [T] of the samples at `rows`, all of them on every rank."""
        batches, found = self._batches(samples, rows), []
        for batch, _ in self._ranks.shares(batches):
            logprob, entropy = self._ranks.logprobs(
                model, batch, temperature=self._temperature, bf16=self._bf16
            )
            found.append((batch.rows, logprob, entropy))
        for of_batch, logprob, entropy in self._ranks.merged(found, len(batches)):
            device = self._model.device
            yield from zip(of_batch, logprob.to(device), entropy.to(device))

    def _backward(
        self, samples: Sequence[Sample], chosen: Sequence[int], fixed: _Fixed
    ) -> tuple[float, list[int], list[Partials]]:
        """Accumulates the gradient of the mean over `chosen`; returns loss, trained rows and statistics."""
        rows = [i for i in chosen if self._learns(samples[i])]
        counted = [
            s for s in (samples[i] for i in chosen) if not (self.objective.mask_truncated and s.truncated)
        ]
        normalizer = Normalizer(sequences=len(chosen), tokens=sum(len(s.completion_ids) for s in counted))
        threshold = self._threshold(samples, chosen, fixed)
        batches = self._batches(samples, rows)
        found: list[tuple[float, Partials]] = []
        self._model.train(self._recompute)
        with self._clock.phase("update"):
            for batch, factor in self._ranks.shares(batches):
                # Recomputation in the backward pass must find the attention of the forward pass.
                with packed_attention(self._model, batch.layout):
                    out = self._loss(batch, fixed, normalizer, threshold)
                    (out.loss * factor).backward()
                found.append((float(out.loss.detach()), out.partials))
            found = self._ranks.merged(found, len(batches))
        self._model.eval()
        return sum(loss for loss, _ in found), rows, [partials for _, partials in found]

    def _loss(
        self, batch: MicroBatch, fixed: _Fixed, normalizer: Normalizer, threshold: Tensor | None
    ) -> GrpoLoss:
        logprob, entropy = self._ranks.logprobs(
            self._model, batch, temperature=self._temperature, bf16=self._bf16
        )
        return grpo_loss(
            logprob,
            batch.advantages,
            batch.mask,
            objective=self.objective,
            old_logprob=_stacked(fixed.old, batch),
            reference_logprob=_stacked(fixed.reference, batch),
            rollout_logprob=batch.rollout_logprob,
            entropy=entropy,
            truncated=batch.truncated,
            normalizer=normalizer,
            entropy_threshold=threshold,
        )

    def _threshold(self, samples: Sequence[Sample], chosen: Sequence[int], fixed: _Fixed) -> Tensor | None:
        if self.objective.top_entropy_quantile is None:
            return None
        kept = [i for i in chosen if not (self.objective.mask_truncated and samples[i].truncated)]
        if not kept:
            return None  # and nothing to train on
        values = torch.cat([fixed.entropy[i][: len(samples[i].completion_ids)] for i in kept])
        return entropy_threshold(values, torch.ones_like(values, dtype=torch.bool), self.objective)

    def _apply(self, loss: float) -> float:
        """Clips the gradient and steps the optimiser, unless loss or gradient is not finite.

        Returns:
            The gradient norm before clipping; NaN if that or the loss is not finite.
        """
        with self._clock.phase("optimizer"):
            limit = self._recipe.optimizer.max_grad_norm or math.inf
            norm = float(whole(torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit)))
            finite = math.isfinite(norm) and math.isfinite(loss)
            if finite:
                self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return norm if finite else math.nan


def _minibatches(count: int, parts: int) -> list[range]:
    """Contiguous, near-equal parts of the sample indices; groups stay in order."""
    bounds = [count * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in zip(bounds, bounds[1:]) if b > a]


def _stacked(values: dict[int, Tensor], batch: MicroBatch) -> Tensor | None:
    """Rows of earlier measurements as [B, T] of this batch, whose padded width may differ."""
    if not values:
        return None
    out = torch.zeros(batch.mask.shape, device=batch.mask.device)
    for i, row in enumerate(batch.rows):
        width = min(out.shape[1], len(values[row]))
        out[i, :width] = values[row][:width]
    return out
