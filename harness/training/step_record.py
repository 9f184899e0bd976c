"""The parts of a training step's record: rewards, completions, tokens, and the detectors' figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from harness.rewards.composite import Scores
from harness.rollout.engine import Completion
from harness.store.records import CompletionFigures, RewardFigures, RewardFunctionFigures, StepTokens
from harness.training.advantages import zero_spread
from harness.training.batch import Sample
from harness.training.detectors import Figures
from harness.training.update import UpdateResult


def _zero_spread_share(values: Sequence[float], groups: int) -> float:
    """Share of the groups whose completions all have the same value."""
    return float(zero_spread(torch.tensor(values, dtype=torch.float64).view(groups, -1)).double().mean())


def reward_figures(rewards: torch.Tensor, scores: Scores) -> RewardFigures:
    """Statistics of the total reward and of each reward function.

    Args:
        rewards: total rewards, fp64 [P, G].
        scores: of the P·G completions.
    """
    return RewardFigures(
        mean=statistics.fmean(scores.total),
        std=statistics.pstdev(scores.total),
        zero_spread_share=_zero_spread_share(scores.total, len(rewards)),
        functions={
            name: RewardFunctionFigures(
                mean=statistics.fmean(values),
                std=statistics.pstdev(values),
                zero_spread_share=_zero_spread_share(values, len(rewards)),
            )
            for name, values in scores.by_function.items()
        },
    )


def completion_figures(
    completions: Sequence[Completion], *, loop_share: float, foreign_script_share: float
) -> CompletionFigures:
    """Completion lengths in tokens, truncated share, and sampled entropy in nats.

    Args:
        completions: everything that was sampled.
        loop_share: see `CompletionFigures`.
        foreign_script_share: likewise.
    """
    lengths = np.array([len(c.token_ids) for c in completions])
    p10, p25, median, p75, p90 = np.quantile(lengths, (0.1, 0.25, 0.5, 0.75, 0.9)).tolist()
    logprobs = [value for c in completions for value in c.logprobs]
    # Estimates the policy's entropy from all sampled tokens, whether or not they are trained on.
    entropy = -statistics.fmean(logprobs)
    return CompletionFigures(
        mean_tokens=float(lengths.mean()),
        p10=p10,
        p25=p25,
        median_tokens=median,
        p75=p75,
        p90=p90,
        max_tokens=int(lengths.max()),
        truncated_share=statistics.fmean(float(c.truncated) for c in completions),
        sampled_entropy=entropy if math.isfinite(entropy) else None,
        loop_share=loop_share,
        foreign_script_share=foreign_script_share,
    )


def token_figures(samples: Sequence[Sample], batch: Sequence[Sample], result: UpdateResult) -> StepTokens:
    """Token counts of a step.

    Args:
        samples: everything that was sampled.
        batch: the samples that were given to the update.
        result: says which of `batch` went through forward and backward.
    """
    return StepTokens(
        prompt=sum(len(s.prompt_ids) for s in samples),
        completion=sum(len(s.completion_ids) for s in samples),
        trained=sum(batch[i].length for i in result.trained),
        skipped_samples=len(samples) - len(result.trained),
    )


def detector_figures(completion: CompletionFigures, result: UpdateResult) -> Figures:
    """The detectors' figures. Without a reference policy, `kl` is the KL between rollout and training policy."""
    metrics = result.metrics
    kl = metrics.get("kl", abs(metrics.get("rollout_kl", 0.0)))
    return Figures(
        # Under a policy of NaNs every completion gets the same reward, so no loss is computed that could be NaN.
        non_finite=result.non_finite or completion.sampled_entropy is None,
        mean_tokens=completion.mean_tokens,
        sampled_entropy=completion.sampled_entropy,
        loop_share=completion.loop_share or 0.0,
        foreign_script_share=completion.foreign_script_share or 0.0,
        kl=kl if math.isfinite(kl) else None,
    )


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics for JSON, which has no NaN: numbers that are not finite become None."""
    return {k: v if math.isfinite(v) else None for k, v in metrics.items()}
