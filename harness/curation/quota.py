"""The last cut: so many items of each kind, drawn by seed."""

from __future__ import annotations

from collections.abc import Sequence

from harness.curation.items import KEEP, Decision, Item
from harness.data.mix import quotas as in_proportion
from harness.data.seeding import seeded_rng
from harness.spec.curation import QuotaStage


def by_quotas(items: Sequence[Item], spec: QuotaStage) -> list[Decision]:
    """Keeps at most the quota of each kind, and at most `total` in all, in proportion to what the quotas leave.

    Which ones is a seeded draw within each kind; the order of the items stays.
    """
    kinds: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        kinds.setdefault(str(getattr(item, spec.by)), []).append(index)
    reasons: dict[int, str] = {}
    kept: dict[str, list[int]] = {}
    for kind, indices in kinds.items():
        drawn = list(indices)
        seeded_rng("quota", spec.seed, spec.by, kind).shuffle(drawn)
        most = spec.quotas.get(kind, len(drawn))
        kept[kind] = drawn[:most]
        reasons |= dict.fromkeys(drawn[most:], f"over the quota of {spec.by} {kind or 'unknown'}")
    there = {kind: indices for kind, indices in kept.items() if indices}
    if spec.total is not None and sum(map(len, there.values())) > spec.total:
        shares = in_proportion([float(len(indices)) for indices in there.values()], spec.total)
        for indices, share in zip(there.values(), shares, strict=True):
            reasons |= dict.fromkeys(indices[share:], "over the total")
    return [Decision(reasons[i]) if i in reasons else KEEP for i in range(len(items))]
