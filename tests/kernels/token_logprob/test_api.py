"""What the public function refuses, and what it promises beside its values."""

from __future__ import annotations

import pytest
import torch

from kernels.token_logprob import IGNORE_INDEX, epilogue, plan, token_logprob
from kernels.token_logprob.plan import plan_slabs

HIDDEN, WEIGHT, TARGETS = torch.randn(5, 8), torch.randn(11, 8), torch.tensor([0, 1, 2, 10, 4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.randn(5)}, r"`hidden` must have shape \[N, H\], got \[5\]"),
        ({"weight": torch.randn(11, 7)}, r"`weight` must have shape \[V, 8\], got \[11, 7\]"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, r"`targets` must have shape \[5\], got \[4\]"),
        ({"targets": TARGETS.int()}, "`targets` must be int64, got torch.int32"),
        ({"targets": TARGETS + 1}, r"`targets` must be in \[0, 11\) or -100, got 11"),
        ({"targets": TARGETS - 1}, r"`targets` must be in \[0, 11\) or -100, got -1"),
        ({"hidden": HIDDEN.long()}, "`hidden` must be fp16, bf16, fp32 or fp64, got torch.int64"),
        ({"bias": torch.randn(10)}, r"`bias` must have shape \[11\], got \[10\]"),
        ({"temperature": -1.0}, "`temperature` must be > 0 and finite, got -1.0"),
        ({"temperature": float("nan")}, "`temperature` must be > 0 and finite, got nan"),
        ({"softcap": 0.0}, "`softcap` must be > 0 and finite, got 0.0"),
        ({"vocab_size": 12}, r"`vocab_size` must be in \[1, 11\] \(rows of `weight`\), got 12"),
        ({"vocab_size": 10}, r"`targets` must be in \[0, 10\) or -100, got 10"),
        (
            {"lora": (torch.randn(2, 8), torch.randn(11, 3), 1.0)},
            r"`lora.b` must have shape \[11, 2\], got \[11, 3\]",
        ),
        (
            {"implementation": "triton"},
            "`implementation` must be one of auto, reference, slabs, fused, got triton",
        ),
        ({"logit_bytes": -1}, "`logit_bytes` must be >= 0, got -1"),
        ({"weight": WEIGHT.to("meta")}, "`weight` must be on cpu like `hidden`, got meta"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"hidden": HIDDEN, "weight": WEIGHT, "targets": TARGETS} | change
    with pytest.raises(ValueError, match=message):
        token_logprob(arguments.pop("hidden"), arguments.pop("weight"), arguments.pop("targets"), **arguments)


def test_entropy_only_when_asked_for():
    for implementation in ("reference", "slabs", "fused"):
        for rows in (0, 5):
            out = token_logprob(HIDDEN[:rows], WEIGHT, TARGETS[:rows], implementation=implementation)
            assert out.entropy is None
            assert out.logprob.dtype == torch.float32


def test_ignored_rows_are_zero_and_never_read():
    hidden = HIDDEN.clone()
    targets = TARGETS.clone()
    targets[2] = IGNORE_INDEX
    hidden[2] = torch.nan
    hidden.requires_grad_()
    out = token_logprob(hidden, WEIGHT, targets, return_entropy=True, implementation="slabs")
    assert out.logprob[2] == 0
    assert out.entropy[2] == 0
    (out.logprob.sum() + out.entropy.sum()).backward()
    assert hidden.grad.isfinite().all()
    assert not hidden.grad[2].any()


def test_nothing_is_kept_without_gradients():
    hidden = HIDDEN.clone().requires_grad_()
    with torch.no_grad():
        out = token_logprob(hidden, WEIGHT, TARGETS)
    assert not out.logprob.requires_grad


def test_fused_without_gpu_or_interpreter_says_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        RuntimeError, match="`implementation` fused needs a GPU or TRITON_INTERPRET=1, got cpu"
    ):
        token_logprob(HIDDEN, WEIGHT, TARGETS, implementation="fused")


def test_scratch_depends_on_neither_tokens_nor_vocabulary():
    cpu = torch.device("cpu")
    plans = [
        plan_slabs(tokens, vocab, torch.float32, cpu, 0)
        for tokens in (2048, 8192, 65536)
        for vocab in (49152, 151936, 262144)
    ]
    assert {p.slab_columns * p.tile_rows for p in plans} == {plan.TILE_ELEMENTS}
    assert all(p.kept_slabs == 0 for p in plans)


def test_plan_keeps_what_the_budget_holds():
    cpu = torch.device("cpu")
    all_logits = 2048 * 49152 * 4
    full = plan_slabs(2048, 49152, torch.float32, cpu, all_logits)
    half = plan_slabs(2048, 49152, torch.float32, cpu, all_logits // 2)
    assert full.kept_slabs * full.slab_columns >= 49152
    assert half.kept_slabs == full.kept_slabs // 2


def test_small_problems_are_not_compiled():
    assert not plan_slabs(2048, 26, torch.float32, torch.device("cpu"), None).compile_epilogue
    assert plan_slabs(2048, 49152, torch.float32, torch.device("cpu"), None).compile_epilogue


def test_a_broken_compiler_falls_back_to_plain_torch(monkeypatch):
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    epilogue.compiled.cache_clear()
    stats = epilogue.compiled(epilogue.tile_stats)
    logits = torch.randn(4, 9)
    found = stats(logits, None, True)
    epilogue.compiled.cache_clear()
    for value, expected in zip(found, epilogue.tile_stats(logits, None, True)):
        assert torch.equal(value, expected)
