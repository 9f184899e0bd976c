"""A gain split into what the untrained model already reached within k samples, and what it did not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.stats.passk import pass_at_k

FloatArray = npt.NDArray[np.float64]


def newly_reached(
    base_samples: npt.ArrayLike, base_correct: npt.ArrayLike, share: npt.ArrayLike, k: int
) -> tuple[FloatArray, FloatArray]:
    """A checkpoint's gain on questions that the untrained model does, and does not, reach within k samples.

    Of questions that the untrained model never answered it scores zero by choice, and a second evaluation of it would
    gain on them: a split by what was seen shows progress where there is none. Here both sides are expectations over k
    samples drawn anew. With p the untrained model's rate and q the checkpoint's, the gain where k samples all fail is
    (1 − p)^k (q − p), of which 1 − pass@k(c) estimates the first factor without bias and

        c/n · C(n − c, k) / C(n − 1, k)

    estimates p (1 − p)^k: one of n samples is right, and k of the others are wrong.

    Args:
        base_samples: n, samples of the untrained model by question, more than k [Q].
        base_correct: c, right ones among them [Q].
        share: of right samples of the checkpoint, drawn independently of those [..., Q].
        k: samples within which the untrained model counts as reaching a question.

    Returns:
        The gain on what it reached and on what it did not, by question [..., Q]: they add up to `share − c/n`.

    Raises:
        ValueError: k is not below every n.
    """
    n, c = (np.asarray(v, dtype=np.int64) for v in (base_samples, base_correct))
    if k < 1 or (n.size and k >= n.min()):
        raise ValueError(f"`k` must be between 1 and one less than the samples ({n.min(initial=0)}), got {k}")
    never = 1 - pass_at_k(n, c, k)
    # C(n − c, k) / C(n − 1, k) is 1 − pass@k of n − 1 samples with c − 1 right ones.
    own = np.where(c > 0, c / n * (1 - pass_at_k(n - 1, np.maximum(c - 1, 0), k)), 0.0)
    new = np.asarray(share, dtype=np.float64) * never - own
    return np.asarray(share) - c / n - new, new
