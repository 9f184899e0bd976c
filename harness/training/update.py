"""One policy update from a step's samples: loss, gradient and optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.meters.clock import PhaseClock
from harness.spec.recipe import Recipe
from harness.training.batch import MicroBatch, Sample, micro_batches
from harness.training.packing import Mode, choose_packing
from harness.training.policy import completion_logprobs
from kernels.grpo_loss import (
    Normalizer,
    Objective,
    Partials,
    entropy_threshold,
    grpo_loss,
    merge_partials,
    metrics_of,
)


class Diverged(RuntimeError):
    """The loss or its gradient is NaN or infinite."""


@dataclass(frozen=True)
class UpdateResult:
    """Figures of one step's update.

    Attributes:
        metrics: the loss kernel's metrics over everything trained on, with `loss` and `grad_norm` averaged over
            the step's optimiser updates.
        trained: indices of the samples that went through forward and backward.
        forward_passes: passes without gradient over all samples (old and reference log-probs).
        updates: optimiser updates.
    """

    metrics: dict[str, float]
    trained: list[int]
    forward_passes: int
    updates: int


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
        reference: the frozen reference policy, where the objective has a KL term.
        optimizer: over the policy's parameters.
        recipe: the run's recipe.
        clock: receives the phases `logprob`, `update` and `optimizer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        clock: PhaseClock,
    ) -> None:
        self._model = model
        self._reference = reference
        self._optimizer = optimizer
        self._recipe = recipe
        self._clock = clock
        self._bf16 = recipe.model.dtype == "bfloat16"
        self.packing: Mode = choose_packing(model, recipe.training.packing)
        objective = recipe.objective.objective(cap=recipe.rollout.max_completion_tokens).resolved()
        # The tokens of this process are the local batch, however they are split into micro-batches.
        local = objective.aggregation == "local_token_mean"
        self.objective: Objective = replace(objective, aggregation="token_mean") if local else objective

    def update(self, samples: Sequence[Sample]) -> UpdateResult:
        """One step: `inner_epochs` passes over the samples in `minibatches` updates each.

        Samples whose gradient is exactly zero (no advantage, and neither a KL nor an entropy term) are left out
        of forward and backward; they still count in the means.

        Raises:
            Diverged: before the optimiser is touched with a non-finite gradient.
        """
        training = self._recipe.training
        fixed, passes = self._measure(samples)
        partials: list[Partials] = []
        losses, norms, trained = [], [], set()
        for _ in range(training.inner_epochs):
            for chosen in _minibatches(len(samples), training.minibatches):
                loss, rows, found = self._backward(samples, chosen, fixed)
                norms.append(self._apply())
                losses.append(loss)
                partials += found
                trained.update(rows)
        metrics = {k: float(v) for k, v in metrics_of(merge_partials(partials)).items()} if partials else {}
        metrics["loss"] = sum(losses) / len(losses)
        metrics["grad_norm"] = sum(norms) / len(norms)
        return UpdateResult(metrics, sorted(trained), passes, len(losses))

    def _batches(self, samples: Sequence[Sample], rows: Sequence[int]) -> list[MicroBatch]:
        budget = self._recipe.training.microbatch_tokens
        device = self._model.device
        return micro_batches(samples, rows, budget_tokens=budget, device=device, mode=self.packing)

    def _learns(self, sample: Sample) -> bool:
        o = self.objective
        if o.mask_truncated and sample.truncated:
            return False
        return sample.advantage != 0 or o.beta > 0 or o.entropy_bonus > 0

    def _measure(self, samples: Sequence[Sample]) -> tuple[_Fixed, int]:
        """Old and reference log-probs and old entropies, where the objective needs them."""
        several = self._recipe.training.inner_epochs * self._recipe.training.minibatches > 1
        quantile = self.objective.top_entropy_quantile is not None
        fixed = _Fixed({}, {}, {})
        passes = 0
        temperature = self._recipe.logprob_temperature
        everything = range(len(samples))
        with self._clock.phase("logprob"), torch.no_grad():
            if several or quantile:
                passes += 1
                for batch in self._batches(samples, everything):
                    logprob, entropy = completion_logprobs(
                        self._model, batch, temperature=temperature, bf16=self._bf16
                    )
                    fixed.old.update(zip(batch.rows, logprob))
                    fixed.entropy.update(zip(batch.rows, entropy))
            if self._reference is not None:
                passes += 1
                learning = [i for i in everything if self._learns(samples[i])]
                for batch in self._batches(samples, learning):
                    logprob, _ = completion_logprobs(
                        self._reference, batch, temperature=temperature, bf16=self._bf16
                    )
                    fixed.reference.update(zip(batch.rows, logprob))
        return fixed, passes

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
        total, found = 0.0, []
        with self._clock.phase("update"):
            for batch in self._batches(samples, rows):
                logprob, entropy = completion_logprobs(
                    self._model, batch, temperature=self._recipe.logprob_temperature, bf16=self._bf16
                )
                out = grpo_loss(
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
                out.loss.backward()
                total += float(out.loss.detach())
                found.append(out.partials)
        return total, rows, found

    def _threshold(self, samples: Sequence[Sample], chosen: Sequence[int], fixed: _Fixed) -> Tensor | None:
        if self.objective.top_entropy_quantile is None:
            return None
        kept = [i for i in chosen if not (self.objective.mask_truncated and samples[i].truncated)]
        values = torch.cat([fixed.entropy[i][: len(samples[i].completion_ids)] for i in kept])
        return entropy_threshold(values, torch.ones_like(values, dtype=torch.bool), self.objective)

    def _apply(self) -> float:
        """Clips the gradient, steps the optimiser and returns the gradient norm before clipping."""
        with self._clock.phase("optimizer"):
            limit = self._recipe.optimizer.max_grad_norm or math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit))
            if not math.isfinite(norm):
                raise Diverged(f"the gradient norm is {norm}; lower the learning rate or look at the rewards")
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return norm


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
