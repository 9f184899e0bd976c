"""The policy update of one step: loss, gradient and optimiser, over mini-batches and micro-batches."""

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
from harness.training.data_parallel import Parallelism, SingleProcess, full_tensor
from harness.training.packing import Mode, choose_packing, packed_attention
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


@dataclass(frozen=True)
class UpdateResult:
    """Figures of one step's update.

    Attributes:
        metrics: the loss kernel's metrics over all samples trained on, and `loss` and `grad_norm` averaged over the
            step's optimiser updates.
        trained: indices of the samples that went through forward and backward.
        measured: for each pass without gradient (old or reference log-probs), the indices of its samples.
        updates: number of optimiser updates.
        non_finite: whether a loss or gradient was NaN or infinite. The optimiser then skips that update, and the
            step's remaining updates are not made.
    """

    metrics: dict[str, float]
    trained: list[int]
    measured: list[list[int]]
    updates: int
    non_finite: bool = False


@dataclass(frozen=True)
class _FrozenLogprobs:
    """Log-probs and entropies that stay fixed during a step, measured before its first update: [T] by sample index.

    Attributes:
        old: log-probs under the policy that the step starts from; empty where every update is on-policy.
        reference: log-probs under the reference policy; empty without a KL term.
        entropy: entropies under the policy that the step starts from; filled together with `old`.
    """

    old: dict[int, Tensor]
    reference: dict[int, Tensor]
    entropy: dict[int, Tensor]


class Updater:
    """Turns samples into optimiser updates.

    Args:
        model: the policy, fp32 weights.
        reference: the frozen reference policy, where the objective has a KL term. None if there is none, or if the
            policy without its adapters is the reference.
        optimizer: over the policy's parameters.
        recipe: the run's recipe.
        clock: measures the phases `logprob`, `update` and `optimizer`.
        parallel: how training is spread over processes; a single one unless given.
        logit_divisor: what the model itself divides its logits by (see `policy.logit_divisor`).
        vocab_size: rows of the head that are tokens; None for all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        clock: PhaseClock,
        parallel: Parallelism | None = None,
        logit_divisor: float = 1.0,
        vocab_size: int | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._temperature = recipe.logprob_temperature * logit_divisor
        self._parallel = parallel or SingleProcess()
        self._model = model
        self._reference = reference
        self._adapters = has_adapters(model)
        # transformers recomputes activations in training mode alone, which `_backward` sets. Dropout is 0.
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
        # "Local" means this process, not the micro-batch, so the mean over its tokens is `token_mean`.
        local = objective.aggregation == "local_token_mean"
        self.objective: Objective = replace(objective, aggregation="token_mean") if local else objective

    def update(self, samples: Sequence[Sample]) -> UpdateResult:
        """Updates the policy on one step's samples: `inner_epochs` passes of `minibatches` optimiser updates each.

        Samples whose gradient is exactly zero (no advantage, and neither a KL nor an entropy term) skip forward and
        backward. They still count in the normalisers of the loss. Every rank must call this with the same samples.
        """
        training = self._recipe.training
        fixed, measured = self._frozen_logprobs(samples)
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
        budget = self._parallel.microbatch_tokens(tokens, self._recipe.training.microbatch_tokens)
        device = self._model.device
        return micro_batches(samples, rows, budget_tokens=budget, device=device, mode=self.packing)

    def _has_gradient(self, sample: Sample) -> bool:
        o = self.objective
        if o.mask_truncated and sample.truncated:
            return False
        return sample.advantage != 0 or o.beta > 0 or o.entropy_bonus > 0

    def _frozen_logprobs(self, samples: Sequence[Sample]) -> tuple[_FrozenLogprobs, list[list[int]]]:
        """Measures what the objective needs of the frozen policies; also returns `UpdateResult.measured`."""
        several = self._recipe.training.inner_epochs * self._recipe.training.minibatches > 1
        quantile = self.objective.top_entropy_quantile is not None
        fixed = _FrozenLogprobs({}, {}, {})
        measured = []
        everything = list(range(len(samples)))
        with self._clock.phase("logprob"), torch.no_grad():
            if several or quantile:
                measured.append(everything)
                for row, logprob, entropy in self._forward_logprobs(self._model, samples, everything):
                    fixed.old[row], fixed.entropy[row] = logprob, entropy
            if self._reference is not None or (self.objective.beta > 0 and self._adapters):
                needed = [i for i in everything if self._has_gradient(samples[i])]
                measured.append(needed)
                model = self._reference
                plain: AbstractContextManager[None] = nullcontext()
                if model is None:
                    model, plain = self._model, without_adapters(self._model)
                with plain:
                    for row, logprob, _ in self._forward_logprobs(model, samples, needed):
                        fixed.reference[row] = logprob
        return fixed, measured

    def _forward_logprobs(
        self, model: PreTrainedModel, samples: Sequence[Sample], rows: Sequence[int]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Index, log-probs [T] and entropies [T] of each sample at `rows`; every rank gets all of them."""
        batches, found = self._batches(samples, rows), []
        for batch, _ in self._parallel.local_batches(batches):
            logprob, entropy = self._logprobs(model, batch)
            found.append((batch.rows, logprob, entropy))
        for of_batch, logprob, entropy in self._parallel.gather_batches(found, len(batches)):
            device = self._model.device
            yield from zip(of_batch, logprob.to(device), entropy.to(device))

    def _logprobs(self, model: PreTrainedModel, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return self._parallel.logprobs(
            model, batch, temperature=self._temperature, bf16=self._bf16, vocab_size=self._vocab_size
        )

    def _backward(
        self, samples: Sequence[Sample], chosen: Sequence[int], fixed: _FrozenLogprobs
    ) -> tuple[float, list[int], list[Partials]]:
        """Accumulates the gradient of the loss over `chosen`; returns loss, trained rows and metric partials."""
        rows = [i for i in chosen if self._has_gradient(samples[i])]
        counted = [
            s for s in (samples[i] for i in chosen) if not (self.objective.mask_truncated and s.truncated)
        ]
        normalizer = Normalizer(sequences=len(chosen), tokens=sum(len(s.completion_ids) for s in counted))
        threshold = self._threshold(samples, chosen, fixed)
        batches = self._batches(samples, rows)
        found: list[tuple[float, Partials]] = []
        self._model.train(self._recompute)
        with self._clock.phase("update"):
            for batch, factor in self._parallel.local_batches(batches):
                # The backward pass stays inside: gradient checkpointing recomputes the attention there.
                with packed_attention(self._model, batch.layout):
                    out = self._loss(batch, fixed, normalizer, threshold)
                    (out.loss * factor).backward()
                found.append((float(out.loss.detach()), out.partials))
            found = self._parallel.gather_batches(found, len(batches))
        self._model.eval()
        return sum(loss for loss, _ in found), rows, [partials for _, partials in found]

    def _loss(
        self, batch: MicroBatch, fixed: _FrozenLogprobs, normalizer: Normalizer, threshold: Tensor | None
    ) -> GrpoLoss:
        logprob, entropy = self._logprobs(self._model, batch)
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

    def _threshold(
        self, samples: Sequence[Sample], chosen: Sequence[int], fixed: _FrozenLogprobs
    ) -> Tensor | None:
        if self.objective.top_entropy_quantile is None:
            return None
        kept = [i for i in chosen if not (self.objective.mask_truncated and samples[i].truncated)]
        if not kept:
            return None  # nothing is trained on
        values = torch.cat([fixed.entropy[i][: len(samples[i].completion_ids)] for i in kept])
        return entropy_threshold(values, torch.ones_like(values, dtype=torch.bool), self.objective)

    def _apply(self, loss: float) -> float:
        """Clips the gradient and steps the optimiser; skips the step if the loss or the gradient is not finite.

        Returns:
            The gradient norm before clipping; NaN if the step was skipped.
        """
        with self._clock.phase("optimizer"):
            limit = self._recipe.optimizer.max_grad_norm or math.inf
            norm = float(full_tensor(torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit)))
            finite = math.isfinite(norm) and math.isfinite(loss)
            if finite:
                self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return norm if finite else math.nan


def _minibatches(count: int, parts: int) -> list[range]:
    """Splits `range(count)` into contiguous parts of nearly equal size."""
    bounds = [count * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in zip(bounds, bounds[1:]) if b > a]


def _stacked(values: dict[int, Tensor], batch: MicroBatch) -> Tensor | None:
    """Measured [T] rows as [B, T] of this batch, whose padded width may differ from that of the measurement."""
    if not values:
        return None
    out = torch.zeros(batch.mask.shape, device=batch.mask.device)
    for i, row in enumerate(batch.rows):
        width = min(out.shape[1], len(values[row]))
        out[i, :width] = values[row][:width]
    return out
