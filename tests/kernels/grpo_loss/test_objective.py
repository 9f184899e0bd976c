"""What an objective refuses, and what a call refuses."""

from __future__ import annotations

import pytest
import torch

from kernels.grpo_loss import Objective, grpo_loss


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip_low": 1.5}, "`clip_low` must be in [0, 1), got 1.5"),
        ({"clip_high": -0.1}, "`clip_high` must be >= 0, got -0.1"),
        ({"clip_high": "0.2"}, "`clip_high` must be a finite number, got '0.2'"),
        ({"beta": float("nan")}, "`beta` must be a finite number, got nan"),
        ({"beta": True}, "`beta` must be a finite number, got True"),
        ({"loss": "gpro"}, "`loss` must be one of grpo, bnpo,"),
        ({"kl": "k4"}, "`kl` must be one of k1, k2, k3, abs, got 'k4'"),
        ({"kl_ratio": 1}, "`kl_ratio` must be true or false, got 1"),
        ({"delta": 1.1}, "`delta` must be > 1 + clip_high = 1.2, got 1.1"),
        ({"delta": 3.0, "loss": "cispo"}, "`delta` must be null for loss cispo"),
        ({"loss": "gspo", "ratio_level": "token"}, "`ratio_level` must be sequence for loss gspo"),
        ({"loss": "dr_grpo"}, "`max_length` must be set for loss dr_grpo"),
        ({"aggregation": "fixed_length"}, "`max_length` must be set for loss dapo"),
        ({"max_length": 0}, "`max_length` must be a whole number ≥ 1, got 0"),
        ({"importance_cap": 0}, "`importance_cap` must be > 0, got 0"),
        ({"sapo_tau_pos": 0.0}, "`sapo_tau_pos` must be > 0, got 0.0"),
        ({"vespo_k_neg": -1.0}, "`vespo_k_neg` must be > 0, got -1.0"),
        ({"top_entropy_quantile": 0.0}, "`top_entropy_quantile` must be in (0, 1], got 0.0"),
    ],
)
def test_a_bad_field_is_named_with_its_rule_and_value(fields, message):
    with pytest.raises(ValueError, match="must be") as error:
        Objective(**fields)
    assert message in str(error.value)


def test_resolved_replaces_auto_by_what_the_variant_means():
    resolved = Objective(loss="luspo").resolved()
    assert (resolved.ratio_level, resolved.aggregation) == ("sequence", "sequence_sum")
    chosen = Objective(loss="grpo", ratio_level="sequence", aggregation="token_mean").resolved()
    assert (chosen.ratio_level, chosen.aggregation) == ("sequence", "token_mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(2, 4)}, "`mask` must have shape [2, 3], got [2, 4]"),
        ({"advantages": torch.ones(3)}, "`advantages` must have shape [2] or [2, 3], got [3]"),
        ({"logprob": torch.ones(2, 3, dtype=torch.long)}, "`logprob` must be a floating-point tensor [B, T]"),
        ({"old_logprob": torch.ones(2, 1)}, "`old_logprob` must have shape [2, 3], got [2, 1]"),
        ({"mask": torch.ones(2, 3, device="meta")}, "`mask` must be on cpu like `logprob`, got meta"),
        ({"objective": Objective(beta=0.1)}, "`reference_logprob` must be given when `beta` is 0.1"),
        (
            {"objective": Objective(importance="token_mask")},
            "`rollout_logprob` must be given when `importance` is token_mask",
        ),
        ({"objective": Objective(entropy_bonus=0.1)}, "`entropy` must be given when `entropy_bonus` is 0.1"),
        (
            {"objective": Objective(top_entropy_quantile=0.5)},
            "`entropy` must be given when `top_entropy_quantile` is 0.5",
        ),
        (
            {"objective": Objective(mask_truncated=True)},
            "`truncated` must be given when `mask_truncated` is True",
        ),
        ({"objective": {"loss": "grpo"}}, "`objective` must be an Objective, got dict"),
        ({"implementation": "cuda"}, "`implementation` must be auto, torch or fused, got 'cuda'"),
        (
            {"logprob": torch.ones(2, 3, dtype=torch.float64), "implementation": "fused"},
            "`logprob` must be fp16, bf16 or fp32 for the fused pass",
        ),
    ],
)
def test_a_bad_argument_is_named_with_its_rule_and_value(change, message):
    arguments = {
        "logprob": torch.zeros(2, 3),
        "advantages": torch.ones(2),
        "mask": torch.ones(2, 3),
        "objective": Objective(),
    } | change
    with pytest.raises(ValueError, match="must") as error:
        grpo_loss(**arguments)
    assert message in str(error.value)
