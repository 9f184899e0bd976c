"""One long evaluation serves every smaller cap: what each completion would have been under it, exactly.

A completion under a cap of c tokens is the first c tokens of the same completion under a larger cap, whenever a token
depends on the request and on what precedes it alone. That holds for greedy decoding, and for engines that draw by
request and position (`harness.rollout.sampling`), at any temperature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def truncated_to(samples: pd.DataFrame, cap: int, tokenizer: Any) -> pd.DataFrame:
    """The samples as they would be under a cap of `cap` tokens, not scored yet.

    Completions of at most `cap` tokens stay as they are; of the others the first `cap` tokens are decoded anew, and
    count as truncated. Their log-prob is not known and becomes NaN.

    Args:
        samples: with `token_ids`.
        cap: tokens, the end token included; no more than the cap of the samples.
        tokenizer: of the model that sampled.

    Raises:
        ValueError: `cap` is < 1, or the samples hold no tokens.
    """
    if cap < 1:
        raise ValueError(f"`cap` must be >= 1, got {cap}")
    if "token_ids" not in samples.columns:
        raise ValueError("`samples` hold no tokens: they were written by an older version")
    ids = [np.asarray(row, dtype=np.int32) for row in samples["token_ids"]]
    cut = np.array([len(row) > cap for row in ids], dtype=bool)
    prefixes = [row[:cap] for row in ids]
    texts = samples["text"].tolist()
    decoded = tokenizer.batch_decode(
        [prefixes[i].tolist() for i in np.flatnonzero(cut)], skip_special_tokens=True
    )
    for place, text in zip(np.flatnonzero(cut), decoded):
        texts[place] = text
    return samples.assign(
        text=texts,
        token_ids=pd.Series(prefixes, index=samples.index, dtype=object),
        tokens=np.array([len(row) for row in prefixes], dtype=np.int64),
        truncated=samples["truncated"].to_numpy(dtype=bool) | cut,
        logprob=np.where(cut, np.nan, samples["logprob"].to_numpy(dtype=np.float64)),
    )
