"""The GRPO loss: every published variant behind one objective, in torch and in one fused Triton pass.

`Objective` is plain data and imports without torch; the operators are imported on first use. To read in order:
`objective` (the variants), `reference` (the definition in torch), `statistics` (metrics), `fused_terms` and `fused`
(the Triton kernel), `launch`, `autograd`, `api` (the public functions), `cases` (launch configurations for the
footprint check).
"""

from typing import TYPE_CHECKING, Any

from .objective import Objective

if TYPE_CHECKING:
    from .api import GrpoLoss, Normalizer, Partials, entropy_threshold, grpo_loss, merge_partials, metrics_of

__all__ = [
    "GrpoLoss",
    "Normalizer",
    "Objective",
    "Partials",
    "entropy_threshold",
    "grpo_loss",
    "merge_partials",
    "metrics_of",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
