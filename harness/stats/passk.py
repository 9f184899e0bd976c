"""The unbiased estimator of pass@k."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = int | npt.ArrayLike


def pass_at_k(samples: Counts, correct: Counts, k: int) -> npt.NDArray[np.float64]:
    """Probability that at least one of k samples is right, per question: 1 − C(n−c, k) / C(n, k).

    Source: Chen et al. 2021, arXiv 2107.03374, equation 1.

    Args:
        samples: n, samples drawn per question; scalar or array.
        correct: c, right ones among them; broadcast against `samples`.
        k: number of tries, 1 ≤ k ≤ every n.

    Returns:
        Fractions, of the broadcast shape. Average them for a benchmark's pass@k.

    Raises:
        ValueError: k, samples or correct out of range.
    """
    n, c = np.broadcast_arrays(np.asarray(samples, dtype=np.int64), np.asarray(correct, dtype=np.int64))
    if k < 1 or (n.size and k > n.min()):
        least = int(n.min()) if n.size else 0
        raise ValueError(f"`k` must be between 1 and the number of samples ({least}), got {k}")
    if n.size and (c.min() < 0 or (c > n).any()):
        raise ValueError("`correct` must be between 0 and `samples`")
    # C(n−c, k) / C(n, k) = Π_{i<k} (n−c−i) / (n−i): products of ratios never overflow. Where n−c < k one
    # factor is zero and the later, negative ones are harmless.
    tries = np.arange(k)
    ratios = (n[..., None] - c[..., None] - tries) / (n[..., None] - tries)
    return np.asarray(1.0 - np.prod(np.maximum(ratios, 0.0), axis=-1))
