"""What a GRPO loss variant is: the table of variants and the frozen `Objective` that selects and tunes one.

Torch-free, so that a recipe can be checked and planned on a machine without torch. The formulas that these
fields name are in `reference.py` (torch) and `fused.py` (Triton); both read the same `Variant` table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple, get_args

Loss = Literal["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "gspo", "sapo", "luspo", "vespo"]
RatioLevel = Literal["auto", "token", "sequence"]
Aggregation = Literal[
    "auto", "sequence_mean", "token_mean", "local_token_mean", "fixed_length", "sequence_sum"
]
Kl = Literal["k1", "k2", "k3", "abs"]
Importance = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Surrogate = Literal["clip", "cispo", "sapo", "vespo"]


class Variant(NamedTuple):
    """What a loss name stands for."""

    surrogate: Surrogate
    """The policy term of one token."""
    ratio_level: Literal["token", "sequence"]
    """Where the importance ratio to the old policy is taken unless `Objective.ratio_level` says otherwise."""
    aggregation: Aggregation
    """How token losses become one number unless `Objective.aggregation` says otherwise."""
    source: str
    """Paper and equation."""


VARIANTS: dict[str, Variant] = {
    "grpo": Variant("clip", "token", "sequence_mean", "DeepSeekMath, arXiv 2402.03300, eq. 3"),
    "bnpo": Variant(
        "clip", "token", "local_token_mean", "TRL `bnpo`: mean over the tokens of the local batch"
    ),
    "dapo": Variant("clip", "token", "token_mean", "DAPO, arXiv 2503.14476, eq. 8"),
    "dr_grpo": Variant("clip", "token", "fixed_length", "Dr. GRPO, arXiv 2503.20783, section 3.2"),
    "cispo": Variant(
        "cispo", "token", "token_mean", "MiniMax-M1, arXiv 2506.13585, eq. 4; cap: ScaleRL, 2510.13786"
    ),
    "gspo": Variant("clip", "sequence", "sequence_mean", "GSPO, arXiv 2507.18071, eq. 5 and 7"),
    "sapo": Variant("sapo", "token", "sequence_mean", "SAPO, arXiv 2511.20347"),
    "luspo": Variant("clip", "sequence", "sequence_sum", "LUSPO, arXiv 2602.05261: GSPO times the length"),
    "vespo": Variant("vespo", "token", "token_mean", "VESPO, arXiv 2602.10693, gamma weighting"),
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One GRPO objective: surrogate, clipping, KL, aggregation and off-policy correction.

    Notation: ρ is the ratio of the policy to the old policy, A the advantage, B sequences, T positions.
    Raises `ValueError` on construction when a field is out of range or would be ignored.
    """

    loss: Loss = "dapo"
    """The variant; sets the surrogate and the meaning of `auto` below."""
    ratio_level: RatioLevel = "auto"
    """`token`: ρ_t = π/π_old. `sequence`: the geometric mean of ρ_t over the sequence, shared by its tokens.
    VESPO's own weight is always the product over the sequence; there this sets only the KL ratio factor."""
    aggregation: Aggregation = "auto"
    """`sequence_mean`: mean over sequences of token means. `token_mean`: mean over the tokens of the whole
    batch. `local_token_mean`: mean over the tokens of each micro-batch. `fixed_length`: sum / (B · L_max).
    `sequence_sum`: mean over sequences of token sums."""
    max_length: int | None = None
    """L_max of `fixed_length` (dr_grpo): the completion cap, not the padded length."""
    clip_low: float = 0.2
    """ε_low of the clipped surrogate: for A < 0, ρ is bounded from below by 1 − ε_low."""
    clip_high: float = 0.2
    """ε_high of the clipped surrogate: for A > 0, ρ is bounded from above by 1 + ε_high."""
    delta: float | None = None
    """Two-sided cap of the clipped surrogate: for A < 0, ρ ≤ delta (INTELLECT-2, arXiv 2505.07291)."""
    cispo_max: float = 5.0
    """ε_max of CISPO: the detached weight is min(ρ, ε_max)."""
    sapo_tau_pos: float = 1.0
    """Temperature of SAPO's gate for A > 0."""
    sapo_tau_neg: float = 1.05
    """Temperature of SAPO's gate for A ≤ 0."""
    vespo_k_pos: float = 2.0
    """Exponent k of VESPO's weight e^λ w^k e^(−λw) for A ≥ 0."""
    vespo_lambda_pos: float = 3.0
    """Rate λ of VESPO's weight for A ≥ 0."""
    vespo_k_neg: float = 3.0
    """Exponent k of VESPO's weight for A < 0."""
    vespo_lambda_neg: float = 2.0
    """Rate λ of VESPO's weight for A < 0."""
    beta: float = 0.0
    """Coefficient of the KL penalty to the reference policy; with 0 the KL is only measured."""
    kl: Kl = "k3"
    """Estimator, with Δ = log π − log π_ref: k1 Δ, k2 Δ²/2, k3 e^(−Δ) + Δ − 1, abs |Δ|. As a loss, k1 has the
    gradient of log π alone, whose expectation on-policy is zero: it needs `kl_ratio` to act."""
    kl_ratio: bool = False
    """Multiply the KL by ρ, gradient through both (DeepSeek-V3.2, arXiv 2512.02556, eq. 7)."""
    importance: Importance = "none"
    """Correction with w = π_old / π_rollout of the policy term, by token or by the product over the sequence:
    `truncate` uses min(w, cap), `mask` drops w > cap."""
    importance_cap: float = 3.0
    """Cap C of the importance weight."""
    entropy_bonus: float = 0.0
    """Coefficient c of − c · (mean entropy over all loss tokens of the batch)."""
    top_entropy_quantile: float | None = None
    """Share of tokens, highest entropy first, that keep their policy term (arXiv 2506.01939); None: all."""
    mask_truncated: bool = False
    """Leave truncated completions out of the loss and of its token counts (DAPO, overlong filtering)."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check_ranges(self)
        _check_combinations(self)

    @property
    def variant(self) -> Variant:
        """The row of `VARIANTS` that `loss` names."""
        return VARIANTS[self.loss]

    def resolved(self) -> Objective:
        """The same objective with every `auto` replaced by what the variant means by it."""
        variant = self.variant
        return replace(
            self,
            ratio_level=variant.ratio_level if self.ratio_level == "auto" else self.ratio_level,
            aggregation=variant.aggregation if self.aggregation == "auto" else self.aggregation,
        )


_CHOICES: dict[str, tuple[str, ...]] = {
    "loss": get_args(Loss),
    "ratio_level": get_args(RatioLevel),
    "aggregation": get_args(Aggregation),
    "kl": get_args(Kl),
    "importance": get_args(Importance),
}
_OPTIONAL = ("delta", "max_length", "top_entropy_quantile")
_FLAGS = ("kl_ratio", "mask_truncated")


def _fail(name: str, rule: str, value: object) -> None:
    raise ValueError(f"`{name}` must be {rule}, got {value!r}")


def _check_types(objective: Objective) -> None:
    for field in fields(objective):
        name, value = field.name, getattr(objective, field.name)
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                _fail(name, f"one of {', '.join(_CHOICES[name])}", value)
        elif name in _FLAGS:
            if not isinstance(value, bool):
                _fail(name, "true or false", value)
        elif name == "max_length":
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                _fail(name, "a whole number ≥ 1", value)
        elif not (value is None and name in _OPTIONAL):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                _fail(name, "a finite number", value)


def _check_ranges(objective: Objective) -> None:
    o = objective
    if not 0 <= o.clip_low < 1:
        _fail("clip_low", "in [0, 1)", o.clip_low)
    positive = ("cispo_max", "sapo_tau_pos", "sapo_tau_neg", "vespo_k_pos", "vespo_lambda_pos")
    for name in (*positive, "vespo_k_neg", "vespo_lambda_neg", "importance_cap"):
        if not getattr(o, name) > 0:
            _fail(name, "> 0", getattr(o, name))
    for name in ("clip_high", "beta", "entropy_bonus"):
        if not getattr(o, name) >= 0:
            _fail(name, ">= 0", getattr(o, name))
    # Below 1 + clip_high the cap would bite inside the trust region, where the clipped term ignores it.
    if o.delta is not None and not o.delta > 1 + o.clip_high:
        _fail("delta", f"> 1 + clip_high = {1 + o.clip_high:g}", o.delta)
    if o.top_entropy_quantile is not None and not 0 < o.top_entropy_quantile <= 1:
        _fail("top_entropy_quantile", "in (0, 1]", o.top_entropy_quantile)


def _check_combinations(objective: Objective) -> None:
    """Refuse what the chosen variant would ignore: a run must not train something else than it says."""
    o = objective
    if o.delta is not None and o.variant.surrogate != "clip":
        _fail("delta", f"null for loss {o.loss}, which does not clip ρ·A", o.delta)
    if o.loss == "gspo" and o.ratio_level == "token":
        _fail("ratio_level", "sequence for loss gspo (with token it is grpo)", o.ratio_level)
    aggregation = o.variant.aggregation if o.aggregation == "auto" else o.aggregation
    if aggregation == "fixed_length" and o.max_length is None:
        _fail("max_length", f"set for loss {o.loss} with aggregation fixed_length", o.max_length)
